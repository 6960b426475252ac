//! An index page with more wrong bits than can be corrected: what only it could find is answered as
//! damaged, nothing wrong is served, and everything else goes on.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use catena_client::{Client, Record, TopicConfig};
use catena_core::checkpoint::ShardCheckpoint;
use catena_core::ids::JournalId;
use catena_core::index::run::{PageEntry, PagePlace};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, PartitionId, TopicPartition};
use catena_tests::broker::{Broker, Settings};
use catena_tests::flips::places::JournalBytes;
use catena_tests::peer::{self, Peer};
use catena_tests::{programs, reading, wait};

const TOPIC: &str = "kept";

/// Each in a block of its own, so that the index has an extent for each: several pages of them.
const RECORDS: u64 = 4_000;

fn small_space() -> Settings {
    Settings {
        space: "64MiB".to_owned(),
        ..Settings::default()
    }
}

/// The pages of the index runs that the newest checkpoint names.
fn pages(broker: &Broker) -> Vec<PageEntry> {
    let journal = JournalBytes::read(&broker.data_dir(), JournalId(0));
    let checkpoints = journal.numbered("checkpoint-", "");
    let (_, _, newest) = checkpoints.last().expect("a checkpoint");
    let checkpoint = ShardCheckpoint::decode(newest).expect("an intact checkpoint");
    let runs = checkpoint.runs.into_iter();
    runs.flat_map(|run| run.pages).collect()
}

/// Flips two bits of a page.
fn damage(broker: &Broker, page: PagePlace) {
    let journal = JournalBytes::read(&broker.data_dir(), page.block.journal);
    let path = journal.segment_file(page.block.segment);
    let path = broker.data_dir().join(path);
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("the segment is there");
    let at = u64::from(page.block.offset + page.offset_in_block) + 24;
    let mut bytes = [0; 2];
    file.read_exact_at(&mut bytes, at)
        .expect("the page is there");
    let flipped = [bytes[0] ^ 0x10, bytes[1] ^ 0x80];
    file.write_all_at(&flipped, at).expect("it can be written");
}

/// Reads everything: only the offsets in `lost` are missing, in one piece, and all else is right.
async fn check(client: &Client, lost: &Range<u64>, end: u64) {
    let (records, damaged) = reading::readable(client, TOPIC, 0).await;
    assert_eq!(damaged, std::slice::from_ref(lost));
    let offsets = records.iter().map(|record| record.offset);
    let expected = (0..end).filter(|offset| !lost.contains(offset));
    assert!(offsets.eq(expected), "all others are read");
    for record in &records {
        let value = format!("record {}", record.offset);
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_damaged_page_does_not_name_is_served() {
    let mut broker = Broker::start_with(small_space());
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
    drop(peer);
    broker.stop();

    let tp = TopicPartition::new(topic, PartitionId(0));
    let pages = pages(&broker);
    let in_the_middle = |page: &&PageEntry| {
        page.first.0 == tp && page.last.0 == tp && page.first.1.0 > 0 && page.last.1.0 < RECORDS
    };
    let page = pages.iter().find(in_the_middle).expect("several pages");
    let lost = page.first.1.0..page.last.1.0;
    damage(&broker, page.place);

    let mut end = RECORDS;
    for _ in 0..2 {
        broker.start_again();
        wait::until("the page is noticed", || {
            broker.metric("catena_index_pages_unreadable_total") > 0
        });
        let client = broker.client().await;
        check(&client, &lost, end).await;
        let producer = client.producer().build().await.expect("a producer");
        let record = Record::to(TOPIC).partition(0);
        let sent = producer.send_and_wait(record.value(format!("record {end}")));
        let written = sent.await.expect("an ack");
        assert_eq!(written.offset, Some(end), "no offset is given out again");
        end += 1;
        check(&client, &lost, end).await;
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
