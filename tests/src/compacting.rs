//! What tests of compacted topics share: a broker that does not wait for long, batches with keys,
//! and a reader that goes over what is gone.

use std::collections::BTreeMap;

use catena_client::{Cleanup, Client, ConsumeError, ConsumerRecord, StartOffset, TopicConfig};
use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::compression::Codec;
use catena_protocol::record::Record;

use crate::broker::Settings;
use crate::{reading, wait};

/// A broker of one shard that compacts soon.
pub fn settings() -> Settings {
    let more = ["--compaction-lag-max", "100ms"];
    Settings {
        space: "256MiB".to_owned(),
        more: more.map(str::to_owned).to_vec(),
        ..Settings::default()
    }
}

/// The settings of a topic with that cleanup.
pub fn cleaned_by(cleanup: Cleanup) -> TopicConfig {
    TopicConfig {
        cleanup,
        ..TopicConfig::default()
    }
}

/// A key and what is stored under it; `None` deletes it.
pub type Change<'a> = (&'a str, Option<&'a str>);

/// A batch of such changes.
pub fn batch(changes: &[Change<'_>], codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        ..BatchOptions::default()
    });
    for (key, value) in changes {
        let record = Record {
            timestamp_ms: 1,
            key: Some(key.as_bytes()),
            value: value.map(str::as_bytes),
            ..Record::default()
        };
        builder.push(&record).expect("a small batch");
    }
    builder.finish().expect("a batch").to_vec()
}

/// The records of partition 0 that are there, up to where the log ends now.
///
/// # Panics
/// If the reader gets stuck, goes back, or is told of an error.
pub async fn contents(client: &Client, topic: &str) -> Vec<ConsumerRecord> {
    contents_of(client, topic, 0).await
}

/// As [`contents`], of any partition.
///
/// # Panics
/// As [`contents`].
pub async fn contents_of(client: &Client, topic: &str, partition: u32) -> Vec<ConsumerRecord> {
    let found = contents_unless_overtaken(client, topic, partition).await;
    found.expect("retention leaves alone what is read")
}

/// As [`contents_of`]; `None` if the log start moves past the reader.
///
/// # Panics
/// As [`contents`].
pub async fn contents_unless_overtaken(
    client: &Client,
    topic: &str,
    partition: u32,
) -> Option<Vec<ConsumerRecord>> {
    let (start, end) = reading::ends(client, topic).await[&partition];
    let consumer = client.consumer().topic(topic).partitions([partition]);
    let consumer = consumer.start(StartOffset::Offset(start));
    let mut consumer = consumer.build().await.expect("a consumer");
    let (mut next, mut found) = (start, Vec::new());
    while next < end {
        let batch = wait::within_limit("the next batch", consumer.next_batch()).await;
        let batch = match batch {
            Err(ConsumeError::OffsetOutOfRange { log_start, .. }) if log_start > next => {
                return None;
            }
            batch => batch.expect("a batch"),
        };
        assert_eq!(batch.start_offset(), next, "no hole between batches");
        let records = batch.records().expect("readable records");
        assert!(records.iter().all(|record| record.offset >= next));
        found.extend(records);
        next = batch.next_offset();
    }
    assert!(found.is_sorted_by(|one, two| one.offset < two.offset));
    Some(found)
}

/// Waits until a topic's partition 0 holds no more than so many records, and gives them.
///
/// # Panics
/// As [`contents`], except that retention may move the log start meanwhile.
pub async fn shrunk(client: &Client, topic: &str, records_max: usize) -> Vec<ConsumerRecord> {
    wait::until_some_async("older records are dropped", async || {
        let found = contents_unless_overtaken(client, topic, 0).await?;
        (found.len() <= records_max).then_some(found)
    })
    .await
}

/// What a reader of all records ends with.
pub fn replayed(records: &[ConsumerRecord]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let mut map = BTreeMap::new();
    for record in records {
        let key = text(record.key.as_deref().expect("every record has a key"));
        match record.value.as_deref() {
            Some(value) => drop(map.insert(key, text(value))),
            None => drop(map.remove(&key)),
        }
    }
    map
}
