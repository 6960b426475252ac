//! `kill -9` in the middle of producing: acknowledged records are there, in order, once.

use catena_client::TopicConfig;
use catena_tests::broker::{Broker, Settings};
use catena_tests::load::Load;
use catena_tests::reading;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_partition_keeps_what_was_acknowledged_through_kills() {
    kill_rounds(Settings::default(), 1, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_partitions_keep_what_was_acknowledged_through_kills() {
    kill_rounds(Settings::shards(2), 16, 3).await;
}

/// One producer goes on through all rounds; in each the broker is killed under load.
async fn kill_rounds(settings: Settings, partitions: u32, rounds: usize) {
    let mut broker = Broker::start_with(settings);
    let client = broker.client().await;
    let admin = client.admin();
    let made = admin.create_topic("orders", partitions, TopicConfig::default());
    made.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let load = Load::start(producer, "orders", partitions);
    for _ in 0..rounds {
        load.until_acknowledged(5_000).await;
        broker.kill();
        broker.start_again();
    }
    load.until_acknowledged(5_000).await;
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
