//! What readers of interleaved partitions read from the disk: not much more than they are sent.

use bytes::Bytes;
use catena_client::{Client, Record, TopicConfig};
use catena_tests::broker::{Broker, Settings};

const TOPIC: &str = "interleaved";
const PARTITIONS: u32 = 64;
const ROUNDS: usize = 96;
const VALUE_BYTES: usize = 20 << 10;

/// Several times the cache of the broker, dealt to the partitions in turn.
async fn produce(client: &Client) {
    let topic = TopicConfig::default();
    let created = client.admin().create_topic(TOPIC, PARTITIONS, topic).await;
    created.expect("a new topic");
    let producer = client.producer().build().await.expect("a producer");
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    for _ in 0..ROUNDS {
        let mut handles = Vec::new();
        for partition in 0..PARTITIONS {
            let record = Record::to(TOPIC).partition(partition).value(value.clone());
            handles.push(producer.send(record).await.expect("it is accepted"));
        }
        for handle in handles {
            handle.await.expect("an ack");
        }
    }
}

/// Reads all there is of some partitions; gives the bytes of the values.
async fn replay(client: &Client, partitions: impl IntoIterator<Item = u32> + Clone) -> u64 {
    let records = partitions.clone().into_iter().count() * ROUNDS;
    let consumer = client.consumer().topic(TOPIC).partitions(partitions);
    let mut consumer = consumer.build().await.expect("a consumer");
    let (mut seen, mut bytes) = (0, 0);
    while seen < records {
        let batch = consumer.next_batch().await.expect("it can be read");
        for record in batch.records().expect("it is intact") {
            seen += 1;
            bytes += record.value.expect("a value").len() as u64;
        }
    }
    bytes
}

#[tokio::test]
async fn a_replay_reads_little_more_than_it_is_sent() {
    let mut broker = Broker::start_with(Settings {
        cache: "32MiB".to_owned(),
        ..Settings::default()
    });
    produce(&broker.client().await).await;
    broker.stop();
    broker.start_again();
    let client = broker.client().await;
    let read_bytes = || broker.metric("catena_fetch_cold_bytes_total");
    let all = 0..PARTITIONS;
    for partitions in [7..8, 40..41, all] {
        let before = read_bytes();
        let sent = replay(&client, partitions.clone()).await;
        let read = read_bytes() - before;
        println!("partitions {partitions:?}: {read} bytes read, {sent} bytes sent");
        assert!(read <= sent + sent / 2, "{partitions:?}: {read} for {sent}");
    }
    broker.stop();
}
