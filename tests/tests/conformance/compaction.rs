//! Compacted topics: of each key the newest record stays, what was deleted stays deleted, offsets
//! stay, and every record has a key.
//!
//! What lies near the end of the journal may wait for a day, in every home. So these cases write on
//! until their first records lie well before it.

use std::collections::BTreeMap;

use bytes::Bytes;
use catena_client::{
    Cleanup, Client, ConsumerRecord, ErrorCode, ProduceError, Record, StartOffset,
};
use catena_protocol::compression::Codec;
use catena_protocol::ids::Durability;
use catena_tests::compacting::{Change, batch, cleaned_by, contents, replayed};
use catena_tests::home::Home;
use catena_tests::{reading, wait};

const TOPIC: &str = "state";

/// What is appended first, a batch each.
const CHANGES: [&[Change<'static>]; 3] = [
    &[
        ("kept", Some("first")),
        ("changed", Some("first")),
        ("deleted", Some("first")),
        ("restored", Some("first")),
    ],
    &[
        ("changed", Some("second")),
        ("deleted", None),
        ("restored", None),
    ],
    &[("restored", Some("third"))],
];

/// The offset behind them.
const CHANGES_END: u64 = 8;

/// What compaction leaves of them.
const LEFT: [(u64, Change<'static>); 4] = [
    (0, ("kept", Some("first"))),
    (4, ("changed", Some("second"))),
    (5, ("deleted", None)),
    (7, ("restored", Some("third"))),
];

/// The key of all that is written on, a few MiB at a time.
const PUSH: &str = "push";
const PUSH_RECORDS: usize = 16;
const PUSH_BYTES: usize = 256 << 10;

/// A client of a home that has a compacted topic with these changes.
async fn changed(home: &Home) -> Client {
    let mut peer = home.peer().await;
    let topic = peer.create_topic(TOPIC, 1, cleaned_by(Cleanup::Compact));
    for changes in CHANGES {
        let ack = peer.produce(topic, Durability::Durable, &batch(changes, Codec::None));
        assert_eq!(ack.error, ErrorCode::None);
    }
    home.client().await
}

async fn push(client: &Client) {
    let producer = client.producer().build().await.expect("a producer");
    let value = Bytes::from(vec![b'p'; PUSH_BYTES]);
    let mut handles = Vec::new();
    for _ in 0..PUSH_RECORDS {
        let record = Record::to(TOPIC).partition(0).key(PUSH);
        let record = record.value(value.clone());
        handles.push(producer.send(record).await.expect("it is accepted"));
    }
    for handle in handles {
        handle.await.expect("an ack");
    }
}

/// The records that are there of the changes.
fn of_changes(found: &[ConsumerRecord]) -> impl Iterator<Item = &ConsumerRecord> {
    found.iter().filter(|record| record.offset < CHANGES_END)
}

/// Writes on until the changes are compacted; gives all records that are there.
async fn compacted(client: &Client) -> Vec<ConsumerRecord> {
    let found = wait::until_some_async("what was superseded is gone", async || {
        push(client).await;
        let found = contents(client, TOPIC).await;
        (of_changes(&found).count() <= LEFT.len()).then_some(found)
    })
    .await;
    let left = of_changes(&found).map(|record| {
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        (record.offset, key, value)
    });
    let left: Vec<_> = left.collect();
    let expected =
        LEFT.map(|(offset, (key, value))| (offset, Some(key.as_bytes()), value.map(str::as_bytes)));
    assert_eq!(left, expected);
    found
}

/// A reader of everything ends with the newest value of each key, compacted or not.
fn check_newest(found: &[ConsumerRecord]) {
    let mut state = replayed(found);
    state.remove(PUSH);
    let newest = [
        ("kept", "first"),
        ("changed", "second"),
        ("restored", "third"),
    ];
    let newest = newest.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(state, BTreeMap::from(newest));
}

pub(crate) async fn of_each_key_the_newest_record_stays_also_after_a_restart(home: &mut Home) {
    let client = changed(home).await;
    check_newest(&contents(&client, TOPIC).await);
    check_newest(&compacted(&client).await);
    home.bounce().await;
    let client = home.client().await;
    check_newest(&contents(&client, TOPIC).await);
    check_newest(&compacted(&client).await);
}

/// The offset of the first record that a consumer gets which begins at an offset.
async fn first_from(client: &Client, offset: u64) -> u64 {
    let consumer = client.consumer().topic(TOPIC);
    let consumer = consumer.start(StartOffset::Offset(offset)).build().await;
    let mut consumer = consumer.expect("a consumer");
    loop {
        let batch = wait::within_limit("a batch", consumer.next_batch()).await;
        let records = batch.expect("a batch").records().expect("readable records");
        if let Some(first) = records.first() {
            return first.offset;
        }
    }
}

pub(crate) async fn offsets_stay_where_records_are_gone(home: &mut Home) {
    let client = changed(home).await;
    let found = compacted(&client).await;
    let end = found.last().expect("the last push is there").offset + 1;
    assert_eq!(reading::ends(&client, TOPIC).await[&0], (0, end));
    for (offset, expected) in [(0, 0), (1, 4), (4, 4), (6, 7)] {
        let first = first_from(&client, offset).await;
        assert_eq!(first, expected, "from {offset}");
    }
    let producer = client.producer().build().await.expect("a producer");
    let record = Record::to(TOPIC).partition(0).key("kept").value("again");
    let written = producer.send_and_wait(record).await.expect("an ack");
    assert_eq!(written.offset, Some(end));
}

pub(crate) async fn a_record_without_a_key_is_refused_where_keys_count(home: &mut Home) {
    let client = home.client().await;
    let admin = client.admin();
    let made = admin.create_topic(TOPIC, 1, cleaned_by(Cleanup::Compact));
    made.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let keyless = Record::to(TOPIC).partition(0).value("no key");
    let refused = producer.send_and_wait(keyless).await.expect_err("no key");
    let is_final = matches!(
        refused,
        ProduceError::Refused {
            code: ErrorCode::KeyRequired,
            ..
        }
    );
    assert!(is_final, "{refused}");
    let keyed = Record::to(TOPIC).partition(0).key("k").value("v");
    let written = producer.send_and_wait(keyed).await.expect("an ack");
    assert_eq!(written.offset, Some(0), "nothing was written before");
    assert_eq!(reading::contents(&client, TOPIC).await[&0].len(), 1);
}
