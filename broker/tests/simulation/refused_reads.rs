//! Starts on a disk that refuses to give something: for a moment, for good, or at all.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use catena_broker::journal::SegmentSet;
use catena_broker::journal::recovery::{self, Scanned};
use catena_broker::metrics::ShardMetrics;
use catena_broker::runtime::file::FileAgent;
use catena_broker::runtime::simulated;
use catena_broker::runtime::simulated::disk::{Disk, Fault};
use catena_broker::shard::checkpointer;
use catena_core::checkpoint::ShardCheckpoint;
use catena_core::ids::{JournalPos, SegmentSeq};
use catena_core::ledger::LedgerSlot;
use catena_core::recover::ScannedFrames;
use catena_core::segment::PreviousSegment;

use crate::disk_trouble::{BLOCK_BYTES, JOURNAL, JOURNALS, SEGMENT, image, journal_config, run};

const BLOCKS: u32 = 8;
const NEXT: SegmentSeq = SegmentSeq(2);

fn dir() -> PathBuf {
    Path::new(JOURNALS).join("000")
}

fn segment_path(segment: SegmentSeq) -> PathBuf {
    dir().join(format!("{:010}.seg", segment.get()))
}

/// A segment whose blocks are all known to be flushed, and one behind it of which the ledger says
/// nothing yet.
async fn write_journal() -> Rc<FileAgent> {
    let agent = Rc::new(FileAgent::start().expect("a simulated agent"));
    let end = (BLOCKS + 1) * BLOCK_BYTES;
    let first = PreviousSegment {
        segment: SEGMENT,
        end,
        last_block_crc: 0,
    };
    for (header, blocks) in [((SEGMENT, None), BLOCKS), ((NEXT, Some(first)), 1)] {
        let bytes = image(header, blocks, 1).0;
        let written = agent.write_atomic(segment_path(header.0), bytes).await;
        written.expect("room");
    }
    let slot = LedgerSlot {
        journal: JOURNAL,
        sequence: 1,
        flushed: JournalPos::new(SEGMENT, end),
        group_seq: u64::from(BLOCKS),
    };
    let mut ledger = slot.encode().to_vec();
    ledger.resize(8192, 0);
    let written = agent.write_atomic(recovery::ledger_path(&dir()), ledger);
    written.await.expect("room");
    agent
}

async fn scan(agent: &Rc<FileAgent>) -> std::io::Result<(Scanned, ScannedFrames)> {
    let mut found = ScannedFrames::default();
    let scanned = recovery::scan(agent, &dir(), JOURNAL, None, &mut found).await?;
    Ok((scanned, found))
}

/// Lets the next so many reads fail.
fn refuse(reads: u32) {
    simulated::with_disk(|disk| {
        for _ in 0..reads {
            disk.plan_fault(disk.ios(), Fault::ReadError);
        }
    });
}

fn spoil(segment: SegmentSeq, block: u32) {
    let at = u64::from(block * BLOCK_BYTES);
    simulated::with_disk(|disk| disk.spoil(&segment_path(segment), at));
}

fn names() -> Vec<String> {
    let files = simulated::with_disk(Disk::files);
    let name = |(path, _): &(PathBuf, u64)| path.display().to_string();
    files.iter().map(name).collect()
}

async fn open_segments(agent: &Rc<FileAgent>, scanned: &Scanned) {
    let config = journal_config(BLOCK_BYTES);
    let metrics = Arc::new(ShardMetrics::default());
    let set = SegmentSet::open(&config, &scanned.tail, Rc::clone(agent), metrics).await;
    set.expect("the directory can be read").stop().await;
}

#[test]
fn what_the_disk_refuses_for_a_moment_costs_a_start_nothing() {
    for reads in [1, 3, 6, 9, 12, 15] {
        run(move || async move {
            let agent = write_journal().await;
            refuse(reads);
            let (scanned, found) = scan(&agent).await.expect("the disk is back in time");
            assert_eq!(scanned.corrupt, [], "{reads} reads were refused");
            assert_eq!(found.unknown, [], "{reads} reads were refused");
            assert_eq!(found.frames.len(), (BLOCKS + 1) as usize);
            assert_eq!(scanned.tail.highest_segment, Some(NEXT));
        });
    }
}

#[test]
fn a_disk_that_gives_nothing_at_all_ends_the_start_and_nothing_is_changed() {
    run(|| async {
        let agent = write_journal().await;
        let before = names();
        refuse(10_000);
        let refused = scan(&agent).await.map(drop).expect_err("nothing is known");
        let text = refused.to_string();
        assert!(text.contains("start again"), "{text}");
        let opened = recovery::open_ledger(&agent, &dir(), JOURNAL).await;
        assert!(opened.is_err(), "a ledger that could not be read is kept");
        assert_eq!(names(), before);
    });
}

#[test]
fn a_page_that_is_refused_for_good_is_damage_and_the_rest_counts() {
    run(|| async {
        let agent = write_journal().await;
        spoil(SEGMENT, 3);
        let (scanned, found) = scan(&agent).await.expect("the rest can be read");
        let [range] = &scanned.corrupt[..] else {
            panic!("one block is damaged: {:?}", scanned.corrupt)
        };
        let place = (range.segment, range.start, range.end);
        assert_eq!(place, (SEGMENT, 3 * BLOCK_BYTES, 4 * BLOCK_BYTES));
        assert_eq!(found.frames.len(), BLOCKS as usize);
    });
}

#[test]
fn a_segment_whose_header_is_refused_for_good_is_kept_and_named() {
    run(|| async {
        let agent = write_journal().await;
        spoil(NEXT, 0);
        let (scanned, found) = scan(&agent).await.expect("the rest can be read");
        let lost: Vec<_> = scanned.corrupt.iter().map(|range| range.segment).collect();
        assert_eq!(lost, [NEXT], "it holds a block that may be acknowledged");
        assert_eq!(found.unknown.len(), 1);
        assert_eq!(scanned.tail.highest_segment, Some(NEXT));
        open_segments(&agent, &scanned).await;
        assert!(names().contains(&segment_path(NEXT).display().to_string()));
    });
}

#[test]
fn a_prepared_segment_whose_header_is_refused_for_good_lost_nothing() {
    run(|| async {
        let agent = write_journal().await;
        let prepared = vec![0; 2 * BLOCK_BYTES as usize];
        let written = agent.write_atomic(segment_path(NEXT), prepared).await;
        written.expect("room");
        spoil(NEXT, 0);
        let (scanned, found) = scan(&agent).await.expect("the rest can be read");
        assert_eq!(scanned.corrupt, []);
        assert_eq!(found.unknown, []);
        assert_eq!(scanned.tail.highest_segment, Some(NEXT), "it is not used");
        open_segments(&agent, &scanned).await;
        assert!(names().contains(&segment_path(NEXT).display().to_string()));
    });
}

#[test]
fn a_checkpoint_that_is_refused_for_a_moment_counts() {
    run(|| async {
        let agent = write_journal().await;
        let checkpoint = ShardCheckpoint {
            store_uuid: [7; 16],
            sequence: 5,
            ..ShardCheckpoint::default()
        };
        let path = checkpointer::checkpoint_path(&dir(), 5);
        let written = agent.write_atomic(&path, checkpoint.encode()).await;
        written.expect("room");
        let load = async || checkpointer::load_all(&agent, &dir(), [7; 16]).await;
        refuse(5);
        let found = load().await.expect("the disk is back in time");
        assert_eq!(found.len(), 1);
        refuse(10_000);
        load().await.expect_err("nothing is known");
        simulated::with_disk(Disk::heal);
        simulated::with_disk(|disk| disk.spoil(&path, 0));
        let found = load().await.expect("it is damaged, and passed over");
        assert_eq!(found.len(), 0);
    });
}
