//! What is wanted of a segment does not keep the rest of it on disk.

use std::fs;
use std::path::Path;
use std::time::Duration;

use catena_client::{Client, ErrorCode, Record, TopicConfig};
use catena_protocol::ids::{Durability, TopicId};
use catena_tests::broker::{Broker, Settings};
use catena_tests::peer::{Peer, batch};
use catena_tests::{filler, reading, wait};

const MIB: u64 = 1 << 20;
const SPACE_BYTES: u64 = 64 * MIB;

fn small_space() -> Settings {
    Settings {
        space: SPACE_BYTES.to_string(),
        ..Settings::default()
    }
}

fn limited_to(bytes: u64) -> TopicConfig {
    TopicConfig {
        retention_bytes: Some(bytes),
        ..TopicConfig::default()
    }
}

async fn create(client: &Client, topic: &str, partitions: u32, config: TopicConfig) {
    let created = client.admin().create_topic(topic, partitions, config).await;
    created.expect("a topic");
}

/// Sends batches of one record each over one connection, `at_once` without waiting for the answers:
/// those share a flush.
struct Sender {
    peer: Peer,
    topic: TopicId,
}

impl Sender {
    fn new(broker: &Broker, topic: TopicId) -> Self {
        let peer = Peer::connect(broker.addr());
        Self { peer, topic }
    }

    fn send(&mut self, value: &[u8]) -> ErrorCode {
        let one = batch(&[value]);
        self.peer
            .produce(self.topic, Durability::Durable, &one)
            .error
    }

    /// Sends once there is space.
    fn append(&mut self, value: &[u8]) {
        let ack = filler::append(&mut self.peer, self.topic, &batch(&[value]));
        assert_eq!(ack.error, ErrorCode::None);
    }

    /// Sends until the store is full; gives how many values were taken.
    fn fill(&mut self, value: &[u8]) -> usize {
        for taken in 0..10_000 {
            match self.send(value) {
                ErrorCode::None => {}
                ErrorCode::StorageFull => return taken,
                other => panic!("{other:?}"),
            }
        }
        panic!("the store is never full");
    }
}

/// Bytes that segments take in a journal, spares and prepared ones included.
fn journal_bytes(broker: &Broker) -> u64 {
    disk_bytes(&broker.data_dir().join("journals/000"))
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("a directory");
    // A file may be renamed or removed meanwhile.
    let sizes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    sizes.sum()
}

async fn values(client: &Client, topic: &str) -> Vec<bytes::Bytes> {
    let found = reading::contents(client, topic).await;
    let records = found.into_values().flatten();
    records.filter_map(|record| record.value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_record_beside_much_traffic_does_not_pin_the_disk() {
    let mut broker = Broker::start_with(small_space());
    let client = broker.client().await;
    create(&client, "old", 2, TopicConfig::default()).await;
    let mut peer = Peer::connect(broker.addr());
    let traffic = peer.create_topic("traffic", 1, limited_to(2 * MIB));
    let producer = client.producer().build().await.expect("a producer");
    let mut sender = Sender::new(&broker, traffic);
    let value = vec![b't'; 256 << 10];
    // One record that stays for each segment: without cleaning none of them could be freed.
    for round in 0..45 {
        let old = Record::to("old").partition(round % 2);
        let old = old.value(format!("record {round}"));
        producer.send_and_wait(old).await.expect("an ack");
        for _ in 0..16 {
            sender.append(&value);
        }
        let on_disk = journal_bytes(&broker);
        assert!(on_disk <= SPACE_BYTES + 4 * MIB, "{on_disk} bytes on disk");
        if round % 15 == 14 {
            broker.kill();
            broker.start_again();
            sender = Sender::new(&broker, traffic);
            let mut found = values(&broker.client().await, "old").await;
            found.sort();
            let mut expected: Vec<String> = (0..=round).map(|n| format!("record {n}")).collect();
            expected.sort();
            assert_eq!(found, expected, "after {round} rounds");
        }
    }
    drop(producer);
    broker.stop();
}

/// Lets the frame floor rise: `mib` MiB that nobody wants for long.
fn pass_by(broker: &Broker, mib: usize) {
    let mut peer = Peer::connect(broker.addr());
    let traffic = peer.create_topic("passing-by", 1, limited_to(MIB));
    let mut sender = Sender::new(broker, traffic);
    let value = vec![b'p'; 512 << 10];
    for _ in 0..2 * mib {
        sender.append(&value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_padding_of_small_commits_is_reclaimed() {
    let mut broker = Broker::start_with(small_space());
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("small", 1, TopicConfig::default());
    let mut sender = Sender::new(&broker, topic);
    // A page for each: four segments for less than 1 MiB of batches.
    let records = 4 << 10;
    for number in 0..records {
        let value = format!("record {number:060}");
        assert_eq!(sender.send(value.as_bytes()), ErrorCode::None, "{number}");
    }
    assert!(broker.metric("catena_journal_bytes_total") >= 16 * MIB);
    pass_by(&broker, 40);
    wait::until("the segments are emptied", || {
        broker.metric("catena_cleaner_segments_total") >= 4
    });
    assert!(broker.metric("catena_cleaner_bytes_total") < 2 * MIB);
    for start_again in [false, true] {
        if start_again {
            broker.kill();
            broker.start_again();
        }
        let found = values(&broker.client().await, "small").await;
        let expected: Vec<String> = (0..records).map(|n| format!("record {n:060}")).collect();
        assert_eq!(found, expected);
    }
    broker.stop();
}

/// Fills a store with two topics, a record of the small one after each of the large one.
fn fill_mixed(broker: &Broker, kept: TopicId, filler: TopicId) -> usize {
    let mut kept_sender = Sender::new(broker, kept);
    let mut filler_sender = Sender::new(broker, filler);
    let large = vec![b'f'; 200 << 10];
    for number in 0..1000 {
        let full = ErrorCode::StorageFull;
        if kept_sender.send(format!("record {number}").as_bytes()) == full {
            return number;
        }
        if filler_sender.send(&large) == full {
            // The rest, to the last byte that producers get.
            filler_sender.fill(&[b'f'; 1000]);
            return number + 1;
        }
    }
    panic!("the store is never full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_is_cleaned_and_takes_producers_again_by_itself() {
    let mut broker = Broker::start_with(small_space());
    let client = broker.client().await;
    let mut peer = Peer::connect(broker.addr());
    let kept = peer.create_topic("kept", 1, TopicConfig::default());
    let filler = peer.create_topic("filler", 1, TopicConfig::default());
    let records = fill_mixed(&broker, kept, filler);
    let producer = client.producer().delivery_timeout(Duration::from_secs(120));
    let producer = producer.build().await.expect("a producer");
    let blocked = Record::to("kept").value(vec![b'b'; 900 << 10]);
    let blocked = producer.send(blocked).await.expect("it is accepted");
    assert!(broker.metric("catena_storage_full") > 0);

    // Nearly every segment holds a record of `kept`, so deleting the other topic frees next to
    // nothing by itself.
    let deleted = client.admin().delete_topic("filler").await;
    deleted.expect("a full store deletes");
    wait::within_limit("the blocked producer resumes", blocked)
        .await
        .expect("an ack");
    wait::until("the store has space", || {
        broker.metric("catena_storage_full") == 0
    });
    assert!(broker.metric("catena_cleaner_segments_total") > 0);
    for start_again in [false, true] {
        if start_again {
            broker.kill();
            broker.start_again();
        }
        let found = values(&broker.client().await, "kept").await;
        let expected: Vec<String> = (0..records).map(|n| format!("record {n}")).collect();
        assert_eq!(found[..records], expected[..]);
        assert_eq!(found.len(), records + 1);
    }
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interleaved_partitions_are_put_in_order_when_nothing_else_is_to_do() {
    const PARTITIONS: u32 = 16;
    let mut broker = Broker::start_with(small_space());
    let client = broker.client().await;
    create(&client, "mixed", PARTITIONS, TopicConfig::default()).await;
    let producer = client.producer().build().await.expect("a producer");
    let value = bytes::Bytes::from(vec![b'm'; 2 << 10]);
    // Three segments, in groups of all partitions.
    for _ in 0..(12 << 20) / (64 << 10) {
        let mut handles = Vec::new();
        for partition in 0..2 * PARTITIONS {
            let record = Record::to("mixed").partition(partition % PARTITIONS);
            let record = record.value(value.clone());
            handles.push(producer.send(record).await.expect("it is accepted"));
        }
        for handle in handles {
            handle.await.expect("an ack");
        }
    }
    let before = reading::contents(&client, "mixed").await;
    pass_by(&broker, 40);
    wait::until("segments are put in order", || {
        broker.metric("catena_cleaner_regrouped_total") >= 2
    });
    assert_eq!(reading::contents(&client, "mixed").await, before);
    broker.kill();
    broker.start_again();
    let client = broker.client().await;
    assert_eq!(reading::contents(&client, "mixed").await, before);
    broker.stop();
}
