//! Damage at the very end of a journal: what was flushed is never cut, and offsets of records that
//! are destroyed without a trace are never given out again. What was not flushed is cut.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use catena_client::{Client, Record, TopicConfig};
use catena_core::entry::EntryView;
use catena_core::ids::{BlockLocation, JournalId};
use catena_core::segment::SegmentHeader;
use catena_tests::broker::{Broker, Settings};
use catena_tests::flips::places::JournalBytes;
use catena_tests::flips::store::until_noted;
use catena_tests::reading;
use catena_tests::wait::{until, within_limit};

const TOPIC: &str = "orders";

/// A broker that was killed after `count` acknowledged records, the ledger up to date.
async fn killed_after(count: u64) -> Broker {
    let mut broker = Broker::start_with(Settings::default());
    let client = broker.client().await;
    let admin = client.admin();
    let made = admin.create_topic(TOPIC, 2, TopicConfig::default()).await;
    made.expect("a topic");
    for number in 0..count {
        assert_eq!(send(&client, number).await, number);
    }
    until_noted(&broker.data_dir());
    broker.kill();
    broker
}

async fn send(client: &Client, number: u64) -> u64 {
    let producer = client.producer().build().await.expect("a producer");
    let record = Record::to(TOPIC)
        .partition(0)
        .value(number.to_string().into_bytes());
    let handle = producer.send(record).await.expect("it is taken");
    let told = within_limit("an ack", handle).await.expect("acknowledged");
    told.offset.expect("durable acks tell the offset")
}

/// The last block of the data journal that holds batches, and where the journal ends.
fn last_block(broker: &Broker) -> (BlockLocation, u32) {
    let journal = JournalBytes::read(&broker.data_dir(), JournalId(0));
    let segments = journal.numbered("", ".seg").into_iter();
    let headers = segments.filter_map(|(number, _, bytes)| {
        let header = SegmentHeader::decode(&bytes[..4096]).ok()?;
        (u64::from(header.segment.0) == number).then_some(header)
    });
    let mut last = None;
    let outcome = journal.scan(headers.collect(), None, &mut |at, view| {
        let has_batches = view
            .entries()
            .any(|entry| matches!(entry, EntryView::Batches(..)));
        last = if has_batches { Some(at) } else { last };
    });
    (last.expect("batches were written"), outcome.end.offset)
}

fn overwrite(broker: &Broker, block: BlockLocation, offset: u32, bytes: &[u8]) {
    let journal = JournalBytes::read(&broker.data_dir(), JournalId(0));
    let path = broker.data_dir().join(journal.segment_file(block.segment));
    let file = File::options().write(true).open(path);
    let file = file.expect("the segment is there");
    file.write_all_at(bytes, offset.into())
        .expect("it can be written");
}

/// Partition 0 up to its end: values, and the ranges that were refused.
async fn read(client: &Client) -> (Vec<String>, Vec<Range<u64>>) {
    let (records, refused) = reading::readable(client, TOPIC, 0).await;
    let values = reading::values(&records).into_iter();
    let values = values.map(|value| String::from_utf8(value.to_vec()).expect("text"));
    (values.collect(), refused)
}

fn numbers(range: Range<u64>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_a_destroyed_last_block_are_never_given_out_again() {
    let mut broker = killed_after(10).await;
    let (block, _) = last_block(&broker);
    let bytes = usize::try_from(block.bytes).expect("u32 fits usize");
    overwrite(&broker, block, block.offset, &vec![0x55; bytes]);
    broker.start_again();
    let client = broker.client().await;
    let (values, refused) = read(&client).await;
    assert_eq!(values, numbers(0..9));
    let [
        Range {
            start: 9,
            end: next,
        },
    ] = refused[..]
    else {
        panic!("one range from the destroyed record on: {refused:?}")
    };
    assert!(next >= 1 << 40, "{next}");
    assert_eq!(send(&client, 10).await, next);
    // The partition that was never written to may have had its first record in that block.
    assert!(reading::ends(&client, TOPIC).await[&1].1 >= 1 << 40);
    until("it is logged", || {
        broker.log().contains("the end of a partition is unknown")
    });

    // It stays so, whatever happens next.
    broker.kill();
    broker.start_again();
    let client = broker.client().await;
    let (values, refused) = read(&client).await;
    assert_eq!(values.last().map(String::as_str), Some("10"));
    let lost = Range {
        start: 9,
        end: next,
    };
    assert_eq!(refused, [lost]);
    assert_eq!(send(&client, 11).await, next + 1);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfinished_write_behind_the_end_is_cut() {
    let mut broker = killed_after(10).await;
    let (block, end) = last_block(&broker);
    // A copy of an earlier block is what a write to a wrong place leaves.
    let journal = JournalBytes::read(&broker.data_dir(), JournalId(0));
    let file = &journal.files[&journal.segment_file(block.segment)];
    let start = usize::try_from(block.offset).expect("u32 fits usize");
    let bytes = usize::try_from(block.bytes).expect("u32 fits usize");
    let mut copy = file[start..start + bytes].to_vec();
    copy[12..16].copy_from_slice(&end.to_le_bytes());
    overwrite(&broker, block, end, &copy);
    broker.start_again();
    let client = broker.client().await;
    assert_eq!(read(&client).await, (numbers(0..10), Vec::new()));
    assert_eq!(send(&client, 10).await, 10);
    until("it is logged", || {
        broker.log().contains("cut an unfinished write")
    });
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flipped_bit_in_the_last_block_costs_no_offset() {
    let mut broker = killed_after(10).await;
    let (block, _) = last_block(&broker);
    let journal = JournalBytes::read(&broker.data_dir(), JournalId(0));
    let file = &journal.files[&journal.segment_file(block.segment)];
    let at = block.offset + 20;
    let byte = file[usize::try_from(at).expect("u32 fits usize")];
    overwrite(&broker, block, at, &[byte ^ 8]);
    broker.start_again();
    let client = broker.client().await;
    let lost = Range { start: 9, end: 10 };
    assert_eq!(read(&client).await, (numbers(0..9), vec![lost]));
    assert_eq!(send(&client, 10).await, 10);
    broker.stop();
}
