//! A topic with a record per hour, to look offsets up by time.

use catena_client::{Client, OffsetSpec, Record, TopicConfig};

/// An hour.
pub const HOUR_MS: i64 = 3_600_000;
/// The time of the first record.
pub const FIRST_MS: i64 = 1_800_000_000_000;

/// Makes the topic `hourly`: ten records an hour apart, each in a batch of its own.
///
/// # Panics
/// If the broker refuses anything.
pub async fn produce(client: &Client, partitions: u32) {
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

/// Asks for the offsets of times in it.
///
/// # Panics
/// If any is not what it should be.
pub async fn check_offsets(client: &Client, partitions: usize) {
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
        assert_eq!(found.len(), partitions);
        for found in found {
            assert_eq!(found.offset, offset, "{spec:?} of {}", found.partition);
            if matches!(spec, OffsetSpec::Time(_)) {
                assert_eq!(found.timestamp_ms, timestamp_ms, "{spec:?}");
            }
        }
    }
}
