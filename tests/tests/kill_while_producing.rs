//! `kill -9` in the middle of producing: acknowledged records are there, in order, once.

use catena_client::TopicConfig;
use catena_tests::broker::{Broker, Settings};
use catena_tests::load::Load;
use catena_tests::reading;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_partition_keeps_what_was_acknowledged_through_kills() {
    kill_rounds(Settings::default(), 1, 4, SMALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_partitions_keep_what_was_acknowledged_through_kills() {
    kill_rounds(Settings::shards(2), 16, 3, SMALL).await;
}

/// Large requests are received straight into their own blocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_records_are_kept_as_they_were_acknowledged_through_kills() {
    kill_rounds(Settings::shards(2), 4, 3, LARGE).await;
}

/// Bytes of the largest value, and how many records are acknowledged between two kills.
type Size = (usize, u64);
const SMALL: Size = (320, 5_000);
const LARGE: Size = (900 << 10, 60);

/// One producer goes on through all rounds; in each the broker is killed under load.
async fn kill_rounds(settings: Settings, partitions: u32, rounds: usize, size: Size) {
    let (value_bytes_max, between_kills) = size;
    let mut broker = Broker::start_with(settings);
    let client = broker.client().await;
    let admin = client.admin();
    let made = admin.create_topic("orders", partitions, TopicConfig::default());
    made.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let load = Load::start_with(producer, "orders", partitions, value_bytes_max);
    for _ in 0..rounds {
        load.until_acknowledged(between_kills).await;
        broker.kill();
        broker.start_again();
    }
    load.until_acknowledged(between_kills).await;
    let account = load.finish().await;
    broker.kill();
    broker.start_again();

    let client = broker.client().await;
    account.check(&reading::contents(&client, "orders").await);
    assert!(
        account.failed.is_empty(),
        "restarts within the delivery timeout fail no send: {:?}",
        account.failed.iter().next()
    );
    broker.stop();
}
