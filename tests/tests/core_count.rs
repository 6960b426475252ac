//! A node that gets more or fewer cores keeps all data and goes on where it was.

use catena_client::TopicConfig;
use catena_tests::broker::{Broker, Settings};
use catena_tests::load::Load;
use catena_tests::reading;

const PARTITIONS: u32 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_core_count_loses_nothing_after_a_clean_stop() {
    change_core_count(Broker::stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_core_count_loses_nothing_after_a_kill() {
    change_core_count(Broker::kill).await;
}

async fn change_core_count(mut end: impl FnMut(&mut Broker)) {
    let mut broker = Broker::start_with(Settings::shards(2));
    let client = broker.client().await;
    let admin = client.admin();
    let made = admin.create_topic("orders", PARTITIONS, TopicConfig::default());
    made.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let load = Load::start(producer, "orders", PARTITIONS);
    for shards in [1, 2, 1] {
        load.until_acknowledged(3_000).await;
        end(&mut broker);
        broker.start_again_with(Settings::shards(shards));
    }
    load.until_acknowledged(3_000).await;
    let account = load.finish().await;
    assert!(
        account.failed.is_empty(),
        "{:?}",
        account.failed.iter().next()
    );

    let before = reading::ends(&client, "orders").await;
    end(&mut broker);
    broker.start_again_with(Settings::shards(2));
    let client = broker.client().await;
    assert_eq!(
        reading::ends(&client, "orders").await,
        before,
        "offsets stay"
    );
    account.check(&reading::contents(&client, "orders").await);

    let producer = client.producer().build().await.expect("a producer");
    for (partition, (_, end)) in before {
        let record = catena_client::Record::to("orders")
            .partition(partition)
            .value("next");
        let written = producer.send_and_wait(record).await.expect("an ack");
        assert_eq!(written.offset, Some(end), "partition {partition} goes on");
    }
    broker.stop();
}
