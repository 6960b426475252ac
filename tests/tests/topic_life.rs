//! Topics: made, listed, described, changed, deleted, and made again.

use std::collections::BTreeSet;

use catena_client::{Client, Durability, Record, TopicChange, TopicConfig};
use catena_protocol::ids::TopicId;
use catena_tests::broker::{Broker, Settings};
use catena_tests::reading;

#[tokio::test]
async fn a_topic_is_listed_and_described_as_it_was_made_also_after_a_kill() {
    let mut broker = Broker::start_with(Settings::shards(2));
    let client = broker.client().await;
    let admin = client.admin();
    let config = TopicConfig {
        retention_bytes: Some(1 << 30),
        retention_ms: Some(3_600_000),
        min_durability: Durability::Received,
        ..TopicConfig::default()
    };
    let orders = admin
        .create_topic("orders", 12, config.clone())
        .await
        .expect("a topic");
    admin
        .create_topic("audit", 1, TopicConfig::default())
        .await
        .expect("a topic");
    broker.kill();
    broker.start_again();

    let client = broker.client().await;
    let admin = client.admin();
    let listed = admin.list_topics().await.expect("a list");
    let names: Vec<_> = listed.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["audit", "orders"]);
    assert_eq!((listed[1].id, listed[1].partitions), (orders, 12));
    let described = admin.describe_topic("orders").await.expect("a description");
    assert_eq!(described.topic.id, orders);
    assert_eq!(described.topic.partitions, 12);
    assert_eq!(
        described.topic.config.retention_bytes,
        config.retention_bytes
    );
    assert_eq!(described.topic.config.retention_ms, config.retention_ms);
    assert_eq!(described.topic.config.min_durability, config.min_durability);
    let covered: u32 = described
        .ranges
        .iter()
        .map(|range| range.partition_count)
        .sum();
    assert_eq!(covered, 12, "every partition lives somewhere");
    broker.stop();
}

#[tokio::test]
async fn added_partitions_are_empty_usable_and_leave_the_others_as_they_are() {
    let mut broker = Broker::start_with(Settings::shards(2));
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic("orders", 2, TopicConfig::default())
        .await
        .expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    for partition in 0..2 {
        let record = Record::to("orders").partition(partition).value("before");
        producer.send_and_wait(record).await.expect("an ack");
    }
    let grow = TopicChange {
        partitions: Some(70),
        ..TopicChange::default()
    };
    admin
        .alter_topic("orders", grow)
        .await
        .expect("partitions are added");
    for partition in 0..70 {
        let record = Record::to("orders").partition(partition).value("after");
        let written = producer.send_and_wait(record).await.expect("an ack");
        assert_eq!(
            written.offset,
            Some(u64::from(partition < 2)),
            "partition {partition}"
        );
    }
    broker.kill();
    broker.start_again();
    let client = broker.client().await;
    let contents = reading::contents(&client, "orders").await;
    assert_eq!(contents.len(), 70);
    for (partition, records) in contents {
        let values = reading::values(&records);
        let expected = if partition < 2 {
            vec!["before", "after"]
        } else {
            vec!["after"]
        };
        assert_eq!(values, expected, "partition {partition}");
    }
    broker.stop();
}

#[tokio::test]
async fn a_topic_made_again_under_the_same_name_is_another_one_and_empty() {
    let mut broker = Broker::start();
    let mut ids = Vec::new();
    for round in 0..ROUNDS {
        let client = broker.client().await;
        ids.push(make_and_use(&client, round).await);
        if round == 2 {
            broker.kill();
            broker.start_again();
        }
    }
    check_last(broker, ids).await;
}

#[tokio::test]
async fn a_client_that_makes_a_topic_again_finds_it_empty() {
    let broker = Broker::start();
    let client = broker.client().await;
    let mut ids = Vec::new();
    for round in 0..ROUNDS {
        ids.push(make_and_use(&client, round).await);
    }
    check_last(broker, ids).await;
}

/// How often a topic of the same name is made; all but the last are deleted.
const ROUNDS: usize = 4;

async fn make_and_use(client: &Client, round: usize) -> TopicId {
    let admin = client.admin();
    let made = admin.create_topic("orders", 3, TopicConfig::default());
    let id = made.await.expect("a topic");
    let ends = reading::ends(client, "orders").await;
    assert!(ends.values().all(|end| *end == (0, 0)), "empty: {ends:?}");
    let producer = client.producer().build().await.expect("a producer");
    for partition in 0..3 {
        let value = format!("round {round}");
        let record = Record::to("orders").partition(partition).value(value);
        let written = producer.send_and_wait(record).await.expect("an ack");
        assert_eq!(written.offset, Some(0), "round {round}");
    }
    if round + 1 < ROUNDS {
        let deleted = admin.delete_topic("orders").await;
        deleted.expect("the topic is deleted");
    }
    id
}

async fn check_last(mut broker: Broker, ids: Vec<TopicId>) {
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "ids are never used twice");
    broker.kill();
    broker.start_again();
    let client = broker.client().await;
    for records in reading::contents(&client, "orders").await.values() {
        assert_eq!(reading::values(records), ["round 3"]);
    }
    broker.stop();
}
