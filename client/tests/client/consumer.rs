//! What a consumer promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catena_client::{
    Client, Codec, ConsumeError, Consumer, ConsumerRecord, ErrorCode, Record, ResetPolicy,
    StartOffset,
};
use catena_protocol::ids::ChainId;
use futures_util::StreamExt;

use crate::support::{Broker, FetchFault, in_time, record};

/// Writes `0..count` to the partition, ten records a batch.
async fn fill(client: &Client, partition: u32, count: u32) {
    let producer = client
        .producer()
        .batch_records_max(10)
        .build()
        .await
        .expect("built");
    for number in 0..count {
        let at_ms = 1_000 + i64::from(number);
        let record = record(number.to_string())
            .partition(partition)
            .timestamp_ms(at_ms);
        drop(in_time(producer.send(record)).await.expect("accepted"));
    }
    in_time(producer.flush()).await;
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<ConsumerRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        let next = in_time(consumer.next())
            .await
            .expect("the stream does not end");
        records.push(next.expect("a record"));
    }
    records
}

fn value(record: &ConsumerRecord) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

fn values(records: &[ConsumerRecord]) -> Vec<String> {
    records.iter().map(value).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_consumer_reads_what_is_there_and_then_what_comes() {
    let (_broker, client) = Broker::with_topic(4).await;
    fill(&client, 1, 100).await;
    let mut consumer = client.consumer().topic("t").build().await.expect("built");
    let records = take(&mut consumer, 100).await;
    assert_eq!(values(&records), numbers(0..100));
    assert!(
        records
            .iter()
            .zip(0..)
            .all(|(r, o)| (r.partition, r.offset) == (1, o))
    );
    fill(&client, 2, 10).await;
    let records = take(&mut consumer, 10).await;
    assert!(records.iter().all(|record| record.partition == 2));
    assert_eq!(consumer.position("t", 1).expect("assigned"), 100);
    assert_eq!(consumer.high_watermark("t", 2).expect("assigned"), 10);
    assert!(matches!(
        consumer.position("t", 9),
        Err(ConsumeError::NotAssigned { .. })
    ));
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_sent() {
    let (_broker, client) = Broker::with_topic(1).await;
    let producer = client
        .producer()
        .compression(Codec::Zstd)
        .build()
        .await
        .expect("built");
    let sent = [
        Record::to("t").timestamp_ms(5),
        Record::to("t").timestamp_ms(6).key("").value(""),
        Record::to("t")
            .timestamp_ms(4)
            .key("k")
            .value("v")
            .header("h", "x")
            .header("h", ""),
    ];
    in_time(producer.send_all(sent.to_vec()).await.expect("accepted"))
        .await
        .expect("written");
    let mut consumer = client.consumer().topic("t").build().await.expect("built");
    let got = take(&mut consumer, 3).await;
    assert_eq!(
        (&got[0].key, &got[0].value, got[0].timestamp_ms),
        (&None, &None, 5)
    );
    assert_eq!(got[1].key.as_deref(), Some(&b""[..]));
    assert_eq!(got[1].value.as_deref(), Some(&b""[..]));
    assert_eq!(got[2].timestamp_ms, 4);
    let headers: Vec<_> = got[2]
        .headers
        .iter()
        .map(|h| (&*h.name, h.value.as_deref()))
        .collect();
    assert_eq!(headers, [("h", Some(&b"x"[..])), ("h", Some(&b""[..]))]);
}

#[tokio::test]
async fn a_start_is_an_end_an_offset_or_a_time() {
    let (_broker, client) = Broker::with_topic(1).await;
    fill(&client, 0, 100).await;
    let starts = [
        (StartOffset::Earliest, 0),
        (StartOffset::Offset(37), 37),
        (StartOffset::Timestamp(1_055), 50),
    ];
    for (start, first) in starts {
        let mut consumer = client
            .consumer()
            .topic("t")
            .start(start)
            .build()
            .await
            .expect("built");
        let records = take(&mut consumer, 5).await;
        assert_eq!(records[0].offset, first, "{start:?}");
    }
    let latest = client
        .consumer()
        .topic("t")
        .partitions([0])
        .start(StartOffset::Latest);
    let mut consumer = latest.build().await.expect("built");
    fill(&client, 0, 1).await;
    assert_eq!(take(&mut consumer, 1).await[0].offset, 100);
}

#[tokio::test]
async fn batches_are_given_whole_also_from_the_middle_of_a_stream() {
    let (_broker, client) = Broker::with_topic(1).await;
    fill(&client, 0, 50).await;
    let mut consumer = client
        .consumer()
        .topic("t")
        .start(StartOffset::Offset(3))
        .build()
        .await
        .expect("built");
    assert_eq!(values(&take(&mut consumer, 4).await), numbers(3..7));
    assert_eq!(consumer.position("t", 0).expect("assigned"), 7);
    let mut offset = 7;
    while offset < 50 {
        let batch = in_time(consumer.next_batch()).await.expect("a batch");
        assert_eq!(batch.start_offset(), offset);
        let records = batch.records().expect("good records");
        let mut visited = 0;
        batch.for_each(|_| visited += 1).expect("good records");
        assert_eq!(visited, records.len());
        assert_eq!(records[0].offset, offset);
        offset = batch.next_offset();
    }
    assert_eq!(offset, 50);
}

#[tokio::test]
async fn a_seek_moves_and_drops_what_was_fetched() {
    for (applies_changes_late, targets) in [(false, &[90, 0, 55, 55, 99][..]), (true, &[90, 0])] {
        let (broker, client) = Broker::with_topic(2).await;
        broker.lock().applies_changes_late = applies_changes_late;
        fill(&client, 0, 100).await;
        let consumer = client.consumer().topic("t").partitions([0, 1]);
        let mut consumer = consumer.build().await.expect("built");
        for target in targets {
            take(&mut consumer, 1).await;
            consumer.seek("t", 0, *target).expect("assigned");
            let records = take(&mut consumer, 1).await;
            assert_eq!(records[0].offset, *target);
        }
        consumer.seek("t", 0, 0).expect("assigned");
        assert_eq!(values(&take(&mut consumer, 100).await), numbers(0..100));
    }
}

#[tokio::test]
async fn a_paused_partition_gives_nothing_until_it_is_resumed() {
    let (_broker, client) = Broker::with_topic(2).await;
    fill(&client, 0, 30).await;
    let mut consumer = client.consumer().topic("t").build().await.expect("built");
    assert_eq!(values(&take(&mut consumer, 5).await), numbers(0..5));
    consumer.pause("t", 0).expect("assigned");
    fill(&client, 1, 10).await;
    let records = take(&mut consumer, 10).await;
    assert!(records.iter().all(|record| record.partition == 1));
    consumer.resume("t", 0).expect("assigned");
    assert_eq!(values(&take(&mut consumer, 25).await), numbers(5..30));
}

#[tokio::test]
async fn an_offset_out_of_range_follows_the_policy() {
    let (broker, client) = Broker::with_topic(1).await;
    fill(&client, 0, 100).await;
    {
        let mut state = broker.lock();
        let place = state.log.place("t", 0);
        state.log.trim(place, 20);
    }
    let consumer = async |reset| {
        let builder = client
            .consumer()
            .topic("t")
            .start(StartOffset::Offset(5))
            .reset(reset);
        builder.build().await.expect("built")
    };
    let reached = Arc::new(AtomicU64::new(0));
    let highest = Arc::clone(&reached);
    broker.on_fetch(move |_, position| {
        highest.fetch_max(position, Ordering::Relaxed);
        None
    });
    // The first, since the others come to the end, too.
    let mut latest = consumer(ResetPolicy::Latest).await;
    broker
        .until(|_| reached.load(Ordering::Relaxed) >= 100)
        .await;
    assert!(
        tokio::time::timeout(Duration::from_millis(300), latest.next())
            .await
            .is_err()
    );
    let mut earliest = consumer(ResetPolicy::Earliest).await;
    assert_eq!(take(&mut earliest, 1).await[0].offset, 20);
    let mut by_time = consumer(ResetPolicy::Timestamp(1_072)).await;
    assert_eq!(take(&mut by_time, 1).await[0].offset, 70);
    let mut reporting = consumer(ResetPolicy::Error).await;
    let error = in_time(reporting.next())
        .await
        .expect("no end")
        .expect_err("out of range");
    let expected = (5, 20, 100);
    assert!(
        matches!(error, ConsumeError::OffsetOutOfRange { offset, log_start, high_watermark, .. }
            if (offset, log_start, high_watermark) == expected),
        "{error}"
    );
    reporting.seek("t", 0, 30).expect("assigned");
    assert_eq!(take(&mut reporting, 1).await[0].offset, 30);
    fill(&client, 0, 1).await;
    assert_eq!(take(&mut latest, 1).await[0].offset, 100);
}

#[tokio::test]
async fn a_damaged_range_is_named_and_reading_goes_on_behind_it() {
    let (broker, client) = Broker::with_topic(1).await;
    fill(&client, 0, 100).await;
    broker.on_fetch(|_, position| {
        let is_inside = (40..60).contains(&position);
        is_inside.then_some(FetchFault::Refuse(ErrorCode::DataCorrupt, 60))
    });
    let mut consumer = client
        .consumer()
        .topic("t")
        .start(StartOffset::Offset(40))
        .build()
        .await
        .expect("built");
    let error = in_time(consumer.next())
        .await
        .expect("no end")
        .expect_err("damaged");
    assert!(
        matches!(
            error,
            ConsumeError::DataCorrupt {
                partition: 0,
                offset: 40,
                next_offset: 60,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(consumer.position("t", 0).expect("assigned"), 60);
    assert_eq!(values(&take(&mut consumer, 40).await), numbers(60..100));
}

#[tokio::test]
async fn a_batch_damaged_on_its_way_is_reported_and_fetched_again() {
    let (broker, client) = Broker::with_topic(1).await;
    fill(&client, 0, 100).await;
    let mut has_failed = false;
    broker.on_fetch(move |_, _| {
        (!std::mem::replace(&mut has_failed, true)).then_some(FetchFault::Corrupt)
    });
    let mut consumer = client.consumer().topic("t").build().await.expect("built");
    let error = in_time(consumer.next())
        .await
        .expect("no end")
        .expect_err("damaged");
    assert!(
        matches!(error, ConsumeError::BatchCorrupt { offset: 0, .. }),
        "{error}"
    );
    assert_eq!(values(&take(&mut consumer, 100).await), numbers(0..100));
}

#[tokio::test]
async fn nothing_is_lost_or_repeated_when_connections_end() {
    let (broker, client) = Broker::with_topic(4).await;
    for partition in 0..4 {
        fill(&client, partition, 500).await;
    }
    let mut count = 0_u32;
    broker.on_fetch(move |_, _| {
        count += 1;
        (count.is_multiple_of(7) && count < 200).then_some(FetchFault::Drop)
    });
    let builder = client.consumer().topic("t").fetch_bytes_max(64 << 10);
    let mut consumer = builder.build().await.expect("built");
    let records = take(&mut consumer, 2_000).await;
    for partition in 0..4 {
        let of_it = records
            .iter()
            .filter(|record| record.partition == partition);
        let got: Vec<_> = of_it.map(value).collect();
        assert!(got == numbers(0..500), "partition {partition}");
    }
}

#[tokio::test]
async fn an_owner_that_moved_is_followed() {
    let (broker, client) = Broker::with_topic(1).await;
    fill(&client, 0, 10).await;
    let mut consumer = client.consumer().topic("t").build().await.expect("built");
    take(&mut consumer, 10).await;
    broker.lock().moved.push((ChainId(1), 0));
    fill(&client, 0, 10).await;
    let records = take(&mut consumer, 10).await;
    assert_eq!(records[9].offset, 19);
}

#[tokio::test]
async fn prefetch_is_bounded() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    for _ in 0..200 {
        let record = Record::to("t").value(vec![b'v'; 100_000]);
        drop(in_time(producer.send(record)).await.expect("accepted"));
    }
    in_time(producer.flush()).await;
    let budget = 1 << 20;
    let builder = client.consumer().topic("t").prefetch_bytes_max(budget);
    let mut consumer = builder.build().await.expect("built");
    take(&mut consumer, 1).await;
    // All that can be in flight has arrived once nothing more comes.
    let mut sent = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = broker.lock().fetch_bytes_sent;
        if now == sent {
            break;
        }
        sent = now;
    }
    assert!(sent <= 2 * budget + (1 << 20), "{sent} bytes");
    assert_eq!(take(&mut consumer, 199).await.len(), 199);
}

#[tokio::test]
async fn a_topic_that_is_gone_is_reported() {
    let (broker, client) = Broker::with_topic(1).await;
    fill(&client, 0, 1).await;
    let mut consumer = client.consumer().topic("t").build().await.expect("built");
    take(&mut consumer, 1).await;
    broker.lock().log.delete("t").expect("it exists");
    let error = in_time(consumer.next())
        .await
        .expect("no end")
        .expect_err("gone");
    let code = ErrorCode::TopicNotFound;
    assert!(
        matches!(error, ConsumeError::Refused { code: c, .. } if c == code),
        "{error}"
    );
}

#[tokio::test]
async fn an_assignment_has_to_exist() {
    let (_broker, client) = Broker::with_topic(2).await;
    assert!(client.consumer().build().await.is_err());
    assert!(client.consumer().topic("nope").build().await.is_err());
    assert!(
        client
            .consumer()
            .topic("t")
            .partitions([2])
            .build()
            .await
            .is_err()
    );
    assert!(
        client
            .consumer()
            .partitions([0])
            .topic("t")
            .build()
            .await
            .is_err()
    );
    let consumer = client
        .consumer()
        .topic("t")
        .partitions([1, 1])
        .build()
        .await
        .expect("built");
    assert_eq!(consumer.assignment().collect::<Vec<_>>(), [("t", 1)]);
}
