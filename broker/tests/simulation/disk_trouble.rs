//! Single parts of the broker on a disk that fails in one way: what is read again, what counts as
//! damaged, and what is not trusted any more.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use catena_broker::cache::BlockCache;
use catena_broker::journal::{Journal, JournalConfig, JournalTail, SegmentSet};
use catena_broker::metrics::ShardMetrics;
use catena_broker::runtime::clock;
use catena_broker::runtime::file::FileAgent;
use catena_broker::runtime::simulated::disk::{Disk, Fault};
use catena_broker::runtime::simulated::{self, Options, Simulation};
use catena_broker::shard::checkpointer;
use catena_broker::shard::files::SegmentFiles;
use catena_broker::shard::outbox::ParkedSlice;
use catena_broker::shard::reader::{BlockReader, ReadError};
use catena_core::block::{BatchPlace, BlockSeal, BlockWriter, FrameStamp, seal_block};
use catena_core::ids::{BlockLocation, JournalId, JournalPos, Lsn, SegmentSeq};
use catena_core::index::Extent;
use catena_core::segment::{PreviousSegment, SegmentHeader};
use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::ids::{ChainEpoch, ChainId, Offset, PartitionId, TopicId, TopicPartition};
use catena_protocol::record::Record;
use futures_util::future::join_all;

pub(crate) const JOURNALS: &str = "/data/journals";
pub(crate) const JOURNAL: JournalId = JournalId(0);
pub(crate) const SEGMENT: SegmentSeq = SegmentSeq(1);
const SALT: u64 = 7;
pub(crate) const BLOCK_BYTES: u32 = 4096;
const RECORD_BYTES: usize = 1000;

pub(crate) fn run<F: Future<Output = ()> + 'static>(main: impl FnOnce() -> F + 'static) {
    let simulation = Simulation::new(Options::with_seed(1));
    let ran = simulation.run(async {
        simulated::with_disk(|disk| disk.create_dir(&PathBuf::from(JOURNALS).join("000")));
        main().await;
    });
    ran.expect("nothing panics");
}

fn segment_path() -> PathBuf {
    Path::new(JOURNALS).join("000/0000000001.seg")
}

fn place(block: u32) -> BlockLocation {
    BlockLocation {
        journal: JOURNAL,
        segment: SEGMENT,
        offset: (block + 1) * BLOCK_BYTES,
        bytes: BLOCK_BYTES,
    }
}

fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = vec![b'x'; RECORD_BYTES];
    let record = Record {
        value: Some(&value),
        ..Record::default()
    };
    builder.push(&record).expect("it fits");
    builder.finish().expect("a batch").to_vec()
}

/// A block of a segment with two batches of one partition, and its extent.
fn block(segment: SegmentSeq, number: u32, partition: u32) -> (Vec<u8>, Extent) {
    let mut bytes = vec![0; BLOCK_BYTES as usize];
    let batch = batch();
    let batch_place = |base| BatchPlace {
        tp: self::partition(partition),
        base_offset: Offset(base),
        append_time_ms: 1,
        bytes: batch.len(),
    };
    let base = u64::from(number) * 2;
    let stamp = FrameStamp {
        chain: ChainId(1),
        epoch: ChainEpoch(1),
        lsn: Lsn(u64::from(number) + 1),
        prev_frame_crc: 0,
        commit_lsn_hint: Lsn(0),
    };
    let mut writer = BlockWriter::new(&mut bytes);
    let both = [
        (batch_place(base), &batch[..]),
        (batch_place(base + 1), &batch[..]),
    ];
    let placed = writer.push_batches(&stamp, &both);
    let (used, entries) = (writer.used(), writer.entry_count());
    let seal = BlockSeal {
        salt: SALT,
        segment,
        position: place(number).offset,
        group_seq: u64::from(number) + 1,
        group_index: 0,
        group_count: 1,
        flushed: JournalPos::default(),
    };
    seal_block(&mut bytes, &seal, used, entries);
    let row = placed.rows[0];
    let extent = Extent {
        base_offset: row.base_offset,
        end_offset: row.end_offset,
        block: place(number),
        offset_in_block: row.offset_in_block,
        bytes: row.bytes,
        max_timestamp_ms: row.max_timestamp_ms,
    };
    (bytes, extent)
}

/// A segment of so many blocks, dealt to partitions in turn, and the extents of each partition.
pub(crate) fn image(
    (segment, previous): (SegmentSeq, Option<PreviousSegment>),
    blocks: u32,
    partitions: u32,
) -> (Vec<u8>, Vec<Vec<Extent>>) {
    let header = SegmentHeader {
        store_uuid: [7; 16],
        journal: JOURNAL,
        segment,
        salt: SALT,
        segment_bytes: (blocks + 1) * BLOCK_BYTES,
        previous,
        created_ms: 0,
    };
    let mut image = header.encode().to_vec();
    let mut extents = vec![Vec::new(); partitions as usize];
    for number in 0..blocks {
        let (bytes, extent) = block(segment, number, number % partitions);
        image.extend(bytes);
        extents[(number % partitions) as usize].push(extent);
    }
    (image, extents)
}

/// Writes the segment that the tests read, and a ledger; gives its extents.
async fn write_segment(blocks: u32, partitions: u32) -> Vec<Vec<Extent>> {
    let (image, extents) = image((SEGMENT, None), blocks, partitions);
    let agent = FileAgent::start().expect("a simulated agent");
    agent
        .write_atomic(segment_path(), image)
        .await
        .expect("room");
    let ledger = Path::new(JOURNALS).join("000/ledger");
    agent
        .write_atomic(ledger, vec![0; 8192])
        .await
        .expect("room");
    extents
}

fn reader(cache_bytes: usize) -> (Rc<BlockReader>, Arc<ShardMetrics>) {
    let metrics = Arc::new(ShardMetrics::default());
    let cache = Rc::new(RefCell::new(BlockCache::new(cache_bytes)));
    let files = SegmentFiles::new(PathBuf::from(JOURNALS));
    let probe = Path::new(JOURNALS).join("000/ledger");
    let reader = BlockReader::new(files, probe, cache, Arc::clone(&metrics));
    (reader, metrics)
}

fn spoil(block: u32) {
    simulated::with_disk(|disk| disk.spoil(&segment_path(), place(block).offset.into()));
}

#[test]
fn one_reader_of_interleaved_partitions_reads_its_own_and_all_read_each_byte_once() {
    run(|| async {
        const BLOCKS: u32 = 2048;
        let extents = write_segment(BLOCKS, 16).await;
        let (reader, metrics) = reader(64 << 20);
        let follow = async |partition: u32, extents: &[Extent]| {
            let tp = self::partition(partition);
            for at in 0..extents.len() {
                let ahead = extents[at..].iter().take(64).copied();
                let read = reader
                    .extent(owned_by(tp, ahead))
                    .await
                    .expect("it can be read");
                assert_eq!(read.bytes, extents[at].bytes as usize);
            }
        };
        follow(3, &extents[3]).await;
        let all = u64::from(BLOCKS * BLOCK_BYTES);
        assert_eq!(metrics.fetch_cold_bytes.get(), all / 16, "by the first");
        let readers = (0..).zip(&extents);
        join_all(readers.map(|(partition, extents)| follow(partition, extents))).await;
        let by_all = metrics.fetch_cold_bytes.get();
        assert!(
            by_all <= all + all / 8,
            "by all together: {by_all} of {all}"
        );
    });
}

fn owned_by(
    tp: TopicPartition,
    extents: impl Iterator<Item = Extent> + Clone,
) -> impl Iterator<Item = (TopicPartition, Extent)> + Clone {
    extents.map(move |extent| (tp, extent))
}

fn partition(number: u32) -> TopicPartition {
    TopicPartition::new(TopicId(1), PartitionId(number))
}

#[test]
fn an_extent_that_is_read_without_its_block_is_checked() {
    run(|| async {
        let extents = write_segment(64, 16).await.remove(3);
        let damaged = extents[1].place();
        simulated::with_disk(|disk| {
            let byte = damaged.offset + damaged.bytes - 10;
            disk.flip_bit(&segment_path(), byte.into(), 3);
        });
        let (reader, metrics) = reader(1 << 20);
        let read = async |tp, from: usize| {
            let read = reader
                .extent(owned_by(tp, extents[from..].iter().copied()))
                .await;
            read.map(drop)
        };
        read(partition(3), 0).await.expect("it is good");
        let refused = read(partition(3), 1)
            .await
            .expect_err("a batch of it is damaged");
        let is_damaged = |error: &ReadError| {
            matches!(error, ReadError::Corrupt { place, .. }
            if *place == extents[1].block)
        };
        assert!(is_damaged(&refused), "{refused}");
        read(partition(3), 2).await.expect("it is good");
        // Four extents, and the damaged one's block, twice more.
        let reads = metrics.fetch_cold_reads.get();
        assert!((5..=6).contains(&reads), "{reads}");

        // What belongs to somebody else, or to other offsets, is not taken from its batches alone.
        let of = |change: fn(&mut Extent)| {
            extents.iter().copied().map(move |mut extent| {
                change(&mut extent);
                extent
            })
        };
        for (tp, extents) in [
            (partition(4), of(|_| ()).collect::<Vec<_>>()),
            (
                partition(3),
                of(|extent| extent.base_offset.0 += 1).collect(),
            ),
            (
                partition(3),
                of(|extent| extent.end_offset.0 += 1).collect(),
            ),
        ] {
            let (reader, metrics) = self::reader(0);
            reader
                .extent(owned_by(tp, extents[2..].iter().copied()))
                .await
                .expect("its block is good");
            assert!(
                metrics.fetch_cold_reads.get() >= 2,
                "its block was read, too"
            );
        }
    });
}

#[test]
fn what_the_disk_refuses_for_good_is_damaged_and_the_rest_is_read() {
    run(|| async {
        let extents = write_segment(64, 1).await.remove(0);
        let (reader, _) = reader(1 << 20);
        for bad in [5, 9] {
            spoil(bad);
        }
        let mut damaged = Vec::new();
        let started_us = clock::now_us();
        for (number, at) in (0_u32..).zip(0..extents.len()) {
            match reader
                .extent(owned_by(partition(0), extents[at..].iter().copied()))
                .await
            {
                Ok(_) => {}
                Err(ReadError::Corrupt { place: at, .. }) if at == place(number) => {
                    damaged.push(number);
                }
                Err(other) => panic!("block {number}: {other}"),
            }
        }
        assert_eq!(damaged, [5, 9]);
        let waited_us = clock::now_us() - started_us;
        assert!(waited_us >= 2_600_000, "the first is tried for a while");
        assert!(waited_us < 4_000_000, "the second is not");
    });
}

#[test]
fn what_the_disk_refuses_for_a_moment_is_not_damaged() {
    run(|| async {
        let extents = write_segment(8, 1).await.remove(0);
        let (reader, _) = reader(1 << 20);
        simulated::with_disk(|disk| {
            for _ in 0..2 {
                disk.plan_fault(disk.ios(), Fault::ReadError);
            }
        });
        reader
            .extent(owned_by(partition(0), extents.into_iter()))
            .await
            .expect("it heals");
    });
}

#[test]
fn a_disk_that_gives_nothing_at_all_is_away_and_nothing_on_it_is_damaged() {
    run(|| async {
        let extents = write_segment(8, 1).await.remove(0);
        let (reader, _) = reader(1 << 20);
        simulated::with_disk(|disk| {
            for _ in 0..100 {
                disk.plan_fault(disk.ios(), Fault::ReadError);
            }
        });
        let read = reader
            .extent(owned_by(partition(0), extents.iter().copied()))
            .await
            .map(drop);
        assert!(matches!(read, Err(ReadError::Io { .. })), "{read:?}");
        simulated::with_disk(Disk::heal);
        reader
            .extent(owned_by(partition(0), extents.into_iter()))
            .await
            .expect("it is back");
    });
}

#[test]
fn a_damaged_header_makes_its_segment_damaged_at_once() {
    run(|| async {
        let extents = write_segment(8, 1).await.remove(0);
        let (reader, _) = reader(1 << 20);
        for byte in 20..40 {
            simulated::with_disk(|disk| disk.flip_bit(&segment_path(), byte, 3));
        }
        let read = reader
            .extent(owned_by(partition(0), extents.into_iter()))
            .await
            .map(drop);
        assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
    });
}

#[test]
fn a_parked_slice_that_is_damaged_meanwhile_is_not_sent() {
    run(|| async {
        let extent = write_segment(1, 1).await[0][0];
        // Too small to keep anything.
        let (reader, _) = reader(0);
        let start = extent.block.offset + extent.offset_in_block;
        let batch_bytes = extent.bytes / 2;
        let segment = reader.segment(extent.block).await.expect("it is there");
        let parked = |number: u32| ParkedSlice {
            segment: Rc::clone(&segment),
            tp: partition(0),
            extent,
            offset: start + number * batch_bytes,
            bytes: batch_bytes as usize,
        };
        for number in 0..2 {
            let slice = reader
                .read_back(&parked(number))
                .await
                .expect("it is intact");
            assert_eq!(slice.bytes.bytes, batch_bytes as usize);
        }
        let in_second = u64::from(start + batch_bytes + 100);
        simulated::with_disk(|disk| assert!(disk.flip_bit(&segment_path(), in_second, 0)));
        let first = reader.read_back(&parked(0)).await;
        first.expect("the batch before the damaged one is intact");
        let second = reader.read_back(&parked(1)).await.map(drop);
        assert!(
            matches!(second, Err(ReadError::Corrupt { .. })),
            "{second:?}"
        );
    });
}

pub(crate) fn journal_config(segment_bytes: u32) -> JournalConfig {
    JournalConfig {
        id: JOURNAL,
        dir: Path::new(JOURNALS).join("000"),
        store: [7; 16],
        segment_bytes_min: segment_bytes,
        segment_bytes_max: 1 << 20,
        space_bytes: 64 << 20,
        prepared_target: 2,
    }
}

#[test]
fn a_directory_that_cannot_be_flushed_latches_the_journal_and_no_one_waits_for_ever() {
    run(|| async {
        let config = journal_config(1 << 20);
        let agent = Rc::new(FileAgent::start().expect("a simulated agent"));
        let spare = config.dir.join("spare-0001.seg");
        agent
            .create_zeroed(spare, 1 << 20, None)
            .await
            .expect("room");
        let metrics = Arc::new(ShardMetrics::default());
        let tail = JournalTail::default();
        let set = SegmentSet::open(&config, &tail, agent, Arc::clone(&metrics)).await;
        let set = set.expect("the directory can be read");
        simulated::with_disk(|disk| disk.plan_fault(disk.ios(), Fault::FlushError));
        // The spare is renamed, and its new name may be lost.
        let taken = set.take_prepared(true).await.map(drop);
        let refused = taken.expect_err("the journal is latched").to_string();
        assert!(refused.contains("flush /data/journals/000"), "{refused}");
        assert_eq!(metrics.journal_failed.get(), 1);
        assert!(!set.out_of_space(), "no want of space");
        set.stop().await;
    });
}

#[test]
fn a_checkpoint_whose_name_may_be_lost_or_come_back_latches_the_journal() {
    // How many operations come before the flush of the directory.
    for (is_removed, before) in [(false, 4), (true, 1)] {
        run(move || async move {
            let agent = Rc::new(FileAgent::start().expect("a simulated agent"));
            let metrics = Arc::new(ShardMetrics::default());
            let tail = JournalTail::default();
            let journal = Journal::open(journal_config(1 << 20), tail, agent, metrics).await;
            let journal = journal.expect("a fresh journal");
            let path = checkpointer::checkpoint_path(journal.dir(), 1);
            let written = checkpointer::write(&journal, &path, vec![1]).await;
            written.expect("room");
            simulated::with_disk(|disk| disk.plan_fault(disk.ios() + before, Fault::FlushError));
            let failed = if is_removed {
                checkpointer::remove(&journal, &path).await
            } else {
                checkpointer::write(&journal, &path, vec![2]).await
            };
            let text = failed
                .expect_err("its directory is not flushed")
                .to_string();
            assert!(text.contains("flush /data/journals/000"), "{text}");
            assert!(journal.is_latched());
        });
    }
}
