//! Reads whole partitions through the client, and checks what holds for any partition.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use catena_client::{Client, ConsumeError, ConsumerRecord, OffsetSpec};

use crate::wait;

/// The records of a topic, by partition, in the order of their offsets.
pub type Contents = BTreeMap<u32, Vec<ConsumerRecord>>;

/// Log start and high watermark of each partition.
pub async fn ends(client: &Client, topic: &str) -> BTreeMap<u32, (u64, u64)> {
    let admin = client.admin();
    let starts = admin.list_offsets(topic, OffsetSpec::Earliest).await;
    let ends = admin.list_offsets(topic, OffsetSpec::Latest).await;
    let starts = starts.expect("the log starts are known").into_iter();
    let ends = ends.expect("the high watermarks are known");
    starts
        .zip(ends)
        .map(|(start, end)| {
            assert_eq!(start.partition, end.partition);
            (start.partition, (start.offset, end.offset))
        })
        .collect()
}

/// Log start of a topic's first partition.
pub async fn log_start(client: &Client, topic: &str) -> u64 {
    ends(client, topic).await[&0].0
}

/// The values of records that have one.
pub fn values(records: &[ConsumerRecord]) -> Vec<Bytes> {
    let values = records.iter().map(|record| record.value.clone());
    values.flatten().collect()
}

/// Everything that a topic holds now.
///
/// # Panics
/// If offsets are missing, come twice, or cannot be read.
pub async fn contents(client: &Client, topic: &str) -> Contents {
    let ends = ends(client, topic).await;
    let mut contents: Contents = ends
        .keys()
        .map(|partition| (*partition, Vec::new()))
        .collect();
    let consumer = client.consumer().topic(topic).build().await;
    let mut consumer = consumer.expect("a consumer");
    let behind = |contents: &Contents| {
        ends.iter().any(|(partition, (start, end))| {
            let next = contents[partition]
                .last()
                .map_or(*start, |last| last.offset + 1);
            next < *end
        })
    };
    while behind(&contents) {
        let batch = wait::within_limit("the next batch", consumer.next_batch()).await;
        let batch = batch.expect("a batch");
        let read = contents
            .get_mut(&batch.partition())
            .expect("a partition of the topic");
        for record in batch.records().expect("readable records") {
            let start = ends[&record.partition].0;
            let expected = read.last().map_or(start, |last| last.offset + 1);
            assert_eq!(record.offset, expected, "partition {}", record.partition);
            read.push(record);
        }
    }
    contents
}

/// What a partition holds now, and the ranges of offsets that were answered as damaged.
///
/// # Panics
/// If something is read twice, or cannot be read for another reason.
pub async fn readable(
    client: &Client,
    topic: &str,
    partition: u32,
) -> (Vec<ConsumerRecord>, Vec<Range<u64>>) {
    let (start, end) = ends(client, topic).await[&partition];
    let consumer = client.consumer().topic(topic).partitions([partition]);
    let mut consumer = consumer.build().await.expect("a consumer");
    let (mut records, mut damaged, mut at) = (Vec::new(), Vec::new(), start);
    while at < end {
        match wait::within_limit("the next batch", consumer.next_batch()).await {
            Ok(batch) => {
                assert_eq!(batch.start_offset(), at, "partition {partition}");
                at = batch.next_offset();
                records.extend(batch.records().expect("readable records"));
            }
            Err(ConsumeError::DataCorrupt {
                offset,
                next_offset,
                ..
            }) => {
                damaged.push(offset..next_offset);
                at = next_offset;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (records, damaged)
}
