//! What was wanted is never freed: whichever checkpoint a start has to use, whatever is trimmed and
//! deleted at once, and although a part of the index cannot be read.

use std::fs;
use std::path::PathBuf;

use catena_client::{Client, Record, TopicConfig};
use catena_core::index::run::PageEntry;
use catena_tests::broker::{Broker, Settings};
use catena_tests::{index_pages, reading, wait};

const MIB: u64 = 1 << 20;
const KEPT_PARTITIONS: u32 = 4;

fn small_space() -> Settings {
    Settings {
        space: "64MiB".to_owned(),
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

/// Produces `mib` MiB that nobody wants for long, in records of 64 KiB.
async fn churn(client: &Client, topic: &str, mib: usize) {
    let producer = client.producer().build().await.expect("a producer");
    let value = bytes::Bytes::from(vec![b'c'; 64 << 10]);
    for _ in 0..mib {
        let mut handles = Vec::new();
        for _ in 0..16 {
            let record = Record::to(topic).partition(0).value(value.clone());
            handles.push(producer.send(record).await.expect("the record is accepted"));
        }
        for handle in handles {
            handle.await.expect("an ack");
        }
    }
}

/// Produces `records` small records that are kept for good, each flushed by itself.
async fn keep(client: &Client, from: usize, records: usize) {
    let producer = client.producer().build().await.expect("a producer");
    for number in from..from + records {
        let partition = u32::try_from(number).expect("few records") % KEPT_PARTITIONS;
        let record = Record::to("kept")
            .partition(partition)
            .value(format!("record {number}"));
        producer.send_and_wait(record).await.expect("an ack");
    }
}

/// Checks that exactly the first `records` records are there.
async fn check_kept(client: &Client, records: usize) {
    let kept = reading::contents(client, "kept").await;
    let mut values: Vec<bytes::Bytes> = kept
        .values()
        .flatten()
        .filter_map(|record| record.value.clone())
        .collect();
    values.sort();
    let mut expected: Vec<String> = (0..records).map(|n| format!("record {n}")).collect();
    expected.sort();
    assert_eq!(values, expected);
}

/// The segments whose names begin so.
fn segments(broker: &Broker, prefix: &str) -> Vec<PathBuf> {
    let dir = broker.data_dir().join("journals/000");
    let entries = fs::read_dir(dir).expect("the journal's directory");
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            let begins_so = name.is_some_and(|name| name.starts_with(prefix));
            begins_so && path.extension().is_some_and(|extension| extension == "seg")
        })
        .collect();
    found.sort();
    found
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = fs::read(path).expect("the file");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("the file is writable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_from_the_older_checkpoint_finds_all_that_it_names() {
    let mut broker = Broker::start_with(small_space());
    let client = broker.client().await;
    create(&client, "kept", KEPT_PARTITIONS, TopicConfig::default()).await;
    create(&client, "churn", 1, limited_to(2 * MIB)).await;
    let mut records = 0;
    for round in 0..3 {
        let client = broker.client().await;
        keep(&client, records, 20).await;
        records += 20;
        // Index runs are written every 4 MiB, checkpoints every 8 MiB.
        churn(&client, "churn", 20 + 5 * round).await;
        if round > 0 {
            wait::until("segments are freed: the store is small", || {
                broker.metric("catena_segments_freed_total") > 0
            });
        }
        wait::until("a checkpoint is taken", || !broker.checkpoints().is_empty());
        broker.kill();
        let newest = broker.checkpoints().pop();
        flip(&newest.expect("a checkpoint"), 100);
        broker.start_again();
        let client = broker.client().await;
        check_kept(&client, records).await;
    }
    wait::until("the log says that the older one was used", || {
        broker.log().contains("a damaged checkpoint is passed over")
    });
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_that_are_trimmed_and_deleted_at_once_leave_the_count_of_others_alone() {
    let mut broker = Broker::start_with(small_space());
    let client = broker.client().await;
    create(&client, "kept", KEPT_PARTITIONS, TopicConfig::default()).await;
    keep(&client, 0, 40).await;
    let wanted = broker.metric("catena_produce_bytes_total");
    wait::until("the records are counted", || {
        broker.metric("catena_live_bytes") == wanted
    });
    for round in 0..8 {
        let topic = format!("brief-{round}");
        create(&client, &topic, 1, limited_to(64 << 10)).await;
        churn(&client, &topic, 3).await;
        let deleted = client.admin().delete_topic(&topic).await;
        deleted.expect("the topic is deleted");
        if round == 4 {
            broker.kill();
            broker.start_again();
        }
    }
    wait::until("the rest is not counted any more", || {
        broker.metric("catena_live_bytes") == wanted
    });
    check_kept(&broker.client().await, 40).await;
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn index_pages_that_cannot_be_read_are_built_anew_and_keep_no_space() {
    let mut broker = Broker::start_with(small_space());
    let client = broker.client().await;
    create(&client, "kept", KEPT_PARTITIONS, TopicConfig::default()).await;
    keep(&client, 0, 40).await;
    create(&client, "old", 1, limited_to(2 * MIB)).await;
    churn(&client, "old", 12).await;
    broker.stop();
    let runs = index_pages::runs(&broker);
    let (_, older) = runs.split_last().expect("runs were written");
    let older: Vec<&PageEntry> = older.iter().flat_map(|run| &run.pages).collect();
    for page in &older {
        index_pages::damage(&broker, page);
    }

    broker.start_again();
    let client = broker.client().await;
    wait::until("the pages are built anew", || {
        broker.metric("catena_index_pages_rebuilt_total") == older.len() as u64
    });
    create(&client, "fresh", 1, limited_to(2 * MIB)).await;
    // More than the store holds.
    churn(&client, "fresh", 80).await;
    assert!(broker.metric("catena_segments_freed_total") > 0);
    check_kept(&client, 40).await;
    wait::until(
        "the first segment, of which most is dead, is emptied",
        || segments(&broker, "0000000001").is_empty(),
    );
}
