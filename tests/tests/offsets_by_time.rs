//! Where a reader begins: at the earliest or latest offset, at a number, or at a time.

use catena_client::{Client, OffsetSpec, Record, StartOffset, TopicConfig};
use catena_tests::broker::{Broker, Settings};
use catena_tests::{reading, wait};

const HOUR_MS: i64 = 3_600_000;
const FIRST_MS: i64 = 1_800_000_000_000;

/// Ten records an hour apart, each in a batch of its own.
async fn hourly(client: &Client, partitions: u32) {
    let admin = client.admin();
    admin
        .create_topic("hourly", partitions, TopicConfig::default())
        .await
        .expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    for hour in 0..10 {
        for partition in 0..partitions {
            let record = Record::to("hourly")
                .partition(partition)
                .timestamp_ms(FIRST_MS + hour * HOUR_MS)
                .value(format!("hour {hour}"));
            producer.send_and_wait(record).await.expect("an ack");
        }
    }
}

async fn check_offsets(client: &Client) {
    let admin = client.admin();
    for (spec, offset, timestamp_ms) in [
        (OffsetSpec::Earliest, 0, None),
        (OffsetSpec::Latest, 10, None),
        (OffsetSpec::Time(0), 0, Some(FIRST_MS)),
        (OffsetSpec::Time(FIRST_MS), 0, Some(FIRST_MS)),
        (OffsetSpec::Time(FIRST_MS + 1), 1, Some(FIRST_MS + HOUR_MS)),
        (
            OffsetSpec::Time(FIRST_MS + 4 * HOUR_MS),
            4,
            Some(FIRST_MS + 4 * HOUR_MS),
        ),
        (
            OffsetSpec::Time(FIRST_MS + 9 * HOUR_MS),
            9,
            Some(FIRST_MS + 9 * HOUR_MS),
        ),
        (OffsetSpec::Time(FIRST_MS + 9 * HOUR_MS + 1), 10, None),
        (OffsetSpec::Time(i64::MAX), 10, None),
    ] {
        let found = admin.list_offsets("hourly", spec).await.expect("offsets");
        assert_eq!(found.len(), 3);
        for found in found {
            assert_eq!(found.offset, offset, "{spec:?} of {}", found.partition);
            if matches!(spec, OffsetSpec::Time(_)) {
                assert_eq!(found.timestamp_ms, timestamp_ms, "{spec:?}");
            }
        }
    }
}

#[tokio::test]
async fn offsets_are_found_by_time_also_after_a_kill() {
    let mut broker = Broker::start_with(Settings::shards(2));
    let client = broker.client().await;
    hourly(&client, 3).await;
    check_offsets(&client).await;
    broker.kill();
    broker.start_again();
    check_offsets(&broker.client().await).await;
    broker.stop();
}

#[tokio::test]
async fn an_empty_topic_has_offset_0_for_everything() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic("empty", 2, TopicConfig::default())
        .await
        .expect("a topic");
    for spec in [
        OffsetSpec::Earliest,
        OffsetSpec::Latest,
        OffsetSpec::Time(FIRST_MS),
    ] {
        let found = admin.list_offsets("empty", spec).await.expect("offsets");
        assert!(
            found.iter().all(|found| found.offset == 0),
            "{spec:?}: {found:?}"
        );
    }
    assert!(
        reading::contents(&client, "empty")
            .await
            .values()
            .all(Vec::is_empty)
    );
    broker.stop();
}

#[tokio::test]
async fn a_consumer_begins_where_it_was_told_to() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    hourly(&client, 1).await;
    for (start, expected) in [
        (StartOffset::Earliest, 0),
        (StartOffset::Offset(7), 7),
        (StartOffset::Timestamp(FIRST_MS + 3 * HOUR_MS), 3),
        (StartOffset::Timestamp(FIRST_MS + 3 * HOUR_MS + 1), 4),
        (StartOffset::Latest, 10),
        (StartOffset::Timestamp(i64::MAX), 11),
    ] {
        let consumer = client.consumer().topic("hourly").start(start).build().await;
        let mut consumer = consumer.expect("a consumer");
        if expected >= 10 {
            let producer = client.producer().build().await.expect("a producer");
            let record = Record::to("hourly").value("new");
            let written = producer.send_and_wait(record).await.expect("an ack");
            assert_eq!(written.offset, Some(expected));
        }
        let batch = wait::within_limit("a batch", consumer.next_batch()).await;
        assert_eq!(
            batch.expect("a batch").start_offset(),
            expected,
            "{start:?}"
        );
    }
    broker.stop();
}
