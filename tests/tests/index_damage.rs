//! An index page with more wrong bits than can be corrected is built anew from the journal: nothing
//! that is intact is lost, and nothing wrong is served.

use std::ops::Range;
use std::process::Command;

use catena_client::{Client, Record, TopicConfig};
use catena_core::block::BLOCK_HEADER_BYTES;
use catena_core::ids::BlockLocation;
use catena_core::index::run::PageEntry;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, Offset, PartitionId, TopicPartition};
use catena_tests::broker::{Broker, Settings};
use catena_tests::peer::{self, Peer};
use catena_tests::{filler, index_pages, programs, reading, wait};

const TOPIC: &str = "kept";

/// Each in a block of its own, so that the index has an extent for each: several pages of them.
const RECORDS: u64 = 4_000;

fn small_space() -> Settings {
    Settings {
        space: "64MiB".to_owned(),
        ..Settings::default()
    }
}

/// The block of a partition's first record.
fn first_block(broker: &Broker, tp: TopicPartition) -> BlockLocation {
    let runs = index_pages::runs(broker);
    let page = index_pages::read(broker, &runs[0].pages[0]);
    let first = page.extents(tp, Offset(0)).next();
    first.expect("the partition is in it").block
}

/// Reads everything: only the offsets in `lost` are missing, each range in one piece, and all else
/// is right.
async fn check(client: &Client, lost: &[Range<u64>], end: u64) {
    let (records, damaged) = reading::readable(client, TOPIC, 0).await;
    assert_eq!(damaged, lost);
    let offsets = records.iter().map(|record| record.offset);
    let is_lost = |offset: &u64| lost.iter().any(|range| range.contains(offset));
    let expected = (0..end).filter(|offset| !is_lost(offset));
    assert!(offsets.eq(expected), "all others are read");
    for record in &records {
        let value = format!("record {}", record.offset);
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
    }
}

/// A store with one partition, of whose index several pages are in runs.
fn filled(settings: Settings) -> (Broker, TopicPartition) {
    let mut broker = Broker::start_with(settings);
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic(TOPIC, 1, TopicConfig::default());
    for number in 0..RECORDS {
        let value = format!("record {number}");
        let ack = peer.produce(
            topic,
            Durability::Durable,
            &peer::batch(&[value.as_bytes()]),
        );
        assert_eq!(ack.error, ErrorCode::None);
    }
    broker.stop();
    (broker, TopicPartition::new(topic, PartitionId(0)))
}

/// A page of the middle of the partition.
fn middle_page(broker: &Broker, tp: TopicPartition) -> PageEntry {
    let in_the_middle = |page: &PageEntry| {
        page.first.0 == tp && page.last.0 == tp && page.first.1.0 > 0 && page.last.1.0 < RECORDS
    };
    let runs = index_pages::runs(broker).into_iter();
    let found = runs.flat_map(|run| run.pages).find(in_the_middle);
    found.expect("several pages")
}

/// Writes one more record.
async fn append(client: &Client, number: u64) {
    let producer = client.producer().build().await.expect("a producer");
    let record = Record::to(TOPIC).partition(0);
    let sent = producer.send_and_wait(record.value(format!("record {number}")));
    let written = sent.await.expect("an ack");
    assert_eq!(written.offset, Some(number), "no offset is given out again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_is_built_anew() {
    let (mut broker, tp) = filled(small_space());
    index_pages::damage(&broker, &middle_page(&broker, tp));

    let mut end = RECORDS;
    for start in 0..2 {
        broker.start_again();
        if start == 0 {
            wait::until("the page is built anew", || {
                broker.metric("catena_index_pages_rebuilt_total") == 1
            });
        }
        let client = broker.client().await;
        check(&client, &[], end).await;
        append(&client, end).await;
        end += 1;
        check(&client, &[], end).await;
        // A clean end, whose checkpoint names the new page.
        broker.stop();
    }
    let runs = index_pages::runs(&broker);
    for page in runs.iter().flat_map(|run| &run.pages) {
        index_pages::read(&broker, page);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_damaged_while_the_broker_runs_is_built_anew() {
    let small_cache = Settings {
        cache: "8MiB".to_owned(),
        ..Settings::default()
    };
    let (mut broker, tp) = filled(small_cache);
    // A start writes what it found as a run, and the checkpoint at the end names it.
    broker.start_again();
    wait::until("a run is written", || {
        broker.metric("catena_index_runs") > 0
    });
    broker.stop();
    broker.start_again();
    let client = broker.client().await;
    let admin = client.admin();
    let created = admin.create_topic("filler", 1, TopicConfig::default());
    created.await.expect("a topic");
    // More than is cached, the pages among it.
    filler::produce(&client, "filler", 400).await;
    let live = || broker.metric("catena_live_bytes");
    let wanted = broker.metric("catena_produce_bytes_total");
    wait::until("everything is counted", || live() > wanted);
    let live_before = live();

    let runs = index_pages::runs(&broker);
    let of_partition = |page: &&PageEntry| page.first.0 == tp;
    for page in runs.iter().flat_map(|run| &run.pages).filter(of_partition) {
        index_pages::damage(&broker, page);
    }
    check(&client, &[], RECORDS).await;
    wait::until("the pages are built anew", || {
        broker.metric("catena_index_pages_rebuilt_total") > 0
    });
    wait::until("the same is wanted", || live() == live_before);
    broker.stop();
    broker.start_again();
    check(&broker.client().await, &[], RECORDS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_a_page_that_is_built_anew() {
    let (mut broker, tp) = filled(small_space());
    index_pages::damage(&broker, &middle_page(&broker, tp));
    for _ in 0..2 {
        broker.start_again();
        // At once: it must not be told that anything is lost.
        check(&broker.client().await, &[], RECORDS).await;
        broker.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_a_damaged_block_is_lost_and_the_rest_is_found_again() {
    let (mut broker, tp) = filled(small_space());
    let page = middle_page(&broker, tp);
    index_pages::damage(&broker, &page);
    // In the head of its entry.
    let entry = u32::try_from(BLOCK_HEADER_BYTES).expect("a small number");
    index_pages::damage_at(&broker, first_block(&broker, tp), entry);

    let mut end = RECORDS;
    for _ in 0..2 {
        broker.start_again();
        let client = broker.client().await;
        check(&client, std::slice::from_ref(&(0..1)), end).await;
        append(&client, end).await;
        end += 1;
        check(&client, std::slice::from_ref(&(0..1)), end).await;
        broker.kill();
    }

    let verify = Command::new(programs::catena())
        .args(["journal", "verify"])
        .arg(broker.data_dir())
        .output()
        .expect("catena can be run");
    let said = String::from_utf8_lossy(&verify.stdout);
    assert_eq!(verify.status.code(), Some(5), "{said}");
    let block = page.place.block;
    let problem = format!("PROBLEM segment {} [{}, ", block.segment.0, block.offset);
    assert!(said.contains(&problem), "{said}");
}
