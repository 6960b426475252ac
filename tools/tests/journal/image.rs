//! Builds data directories as a broker leaves them, with the broker's own formats.

use std::fs;
use std::path::{Path, PathBuf};

use catena_core::block::{BatchPlace, BlockSeal, BlockWriter, FrameStamp, seal_block};
use catena_core::checkpoint::{ChainSection, ShardCheckpoint};
use catena_core::ids::{JournalId, JournalPos, Lsn, SegmentSeq};
use catena_core::ledger::{LEDGER_BYTES, LedgerSlot};
use catena_core::metadata::{Command, MetadataState};
use catena_core::segment::{PreviousSegment, SegmentHeader};
use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::ids::{ChainEpoch, ChainId, Offset, PartitionId, TopicId, TopicPartition};
use catena_protocol::messages::TopicConfig;
use catena_protocol::record::Record;
use tempfile::TempDir;

/// Blocks in the images are of this length: one page.
pub(crate) const BLOCK_BYTES: u32 = 4096;
/// Every batch holds this many records.
pub(crate) const RECORDS: u64 = 10;
const SEGMENT_BYTES: u32 = 4 << 20;
const APPEND_TIME_MS: i64 = 1_769_839_200_000;

/// The partition that the images fill.
pub(crate) const PARTITION: TopicPartition = TopicPartition {
    topic: TopicId(7),
    partition: PartitionId(3),
};

/// A data directory with one journal, filled block by block.
pub(crate) struct Image {
    dir: TempDir,
    journal: JournalId,
    segment: u32,
    bytes: Vec<u8>,
    position: u32,
    group: u64,
    lsn: u64,
    frame_crc: u32,
    block_crc: u32,
}

impl Image {
    pub(crate) fn new() -> Self {
        Self::of(JournalId(0))
    }

    /// The same with another journal.
    pub(crate) fn of(journal: JournalId) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(in_journal(dir.path(), journal, "")).expect("directories");
        fs::write(dir.path().join("LOCK"), "").expect("the lock file");
        let mut image = Self {
            dir,
            journal,
            segment: 0,
            bytes: Vec::new(),
            position: 0,
            group: 0,
            lsn: 0,
            frame_crc: 0,
            block_crc: 0,
        };
        image.open_segment(1, None);
        image
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn segment_path(&self, segment: u32) -> PathBuf {
        self.in_journal(&format!("{segment:010}.seg"))
    }

    fn in_journal(&self, name: &str) -> PathBuf {
        in_journal(self.path(), self.journal, name)
    }

    /// Ends the segment and opens its successor, which records the end.
    pub(crate) fn roll(&mut self) {
        let previous = PreviousSegment {
            segment: SegmentSeq(self.segment),
            end: self.position,
            last_block_crc: self.block_crc,
        };
        self.write_segment();
        self.open_segment(self.segment + 1, Some(previous));
    }

    fn open_segment(&mut self, segment: u32, previous: Option<PreviousSegment>) {
        let header = SegmentHeader {
            store_uuid: [9; 16],
            journal: self.journal,
            segment: SegmentSeq(segment),
            salt: salt(segment),
            segment_bytes: SEGMENT_BYTES,
            previous,
            created_ms: APPEND_TIME_MS,
        };
        self.bytes = header.encode().to_vec();
        self.bytes.resize(
            usize::try_from(SEGMENT_BYTES).expect("segments fit memory"),
            0,
        );
        (self.segment, self.position) = (segment, BLOCK_BYTES);
    }

    /// Writes a block with one frame of one batch of [`RECORDS`] records.
    pub(crate) fn block(&mut self) {
        let flushed = JournalPos::new(SegmentSeq(self.segment), self.position);
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for index in 0..RECORDS {
            let value = format!("value {index} of block {}", self.lsn);
            builder
                .push(&Record::from_value(value.as_bytes()))
                .expect("the batch has room");
        }
        let batch = builder.finish().expect("the batch is not empty");
        let place = BatchPlace {
            tp: PARTITION,
            base_offset: Offset(self.lsn * RECORDS),
            append_time_ms: APPEND_TIME_MS,
            bytes: batch.len(),
        };
        self.lsn += 1;
        self.group += 1;
        let stamp = FrameStamp {
            chain: ChainId(4),
            epoch: ChainEpoch(1),
            lsn: Lsn(self.lsn),
            prev_frame_crc: self.frame_crc,
            commit_lsn_hint: Lsn(self.lsn - 1),
        };
        let mut block = vec![0; usize::try_from(BLOCK_BYTES).expect("a block is small")];
        let mut writer = BlockWriter::new(&mut block);
        self.frame_crc = writer.push_batches(&stamp, &[(place, &batch)]).crc;
        let (used, entries) = (writer.used(), writer.entry_count());
        let seal = BlockSeal {
            salt: salt(self.segment),
            segment: SegmentSeq(self.segment),
            position: self.position,
            group_seq: self.group,
            group_index: 0,
            group_count: 1,
            flushed,
        };
        self.block_crc = seal_block(&mut block, &seal, used, entries).crc;
        let at = usize::try_from(self.position).expect("segments fit memory");
        self.bytes[at..at + block.len()].copy_from_slice(&block);
        self.position += BLOCK_BYTES;
    }

    /// Says that everything written so far is flushed.
    pub(crate) fn ledger(&self) {
        let slot = LedgerSlot {
            journal: self.journal,
            sequence: 2,
            flushed: JournalPos::new(SegmentSeq(self.segment), self.position),
            group_seq: self.group,
        };
        let mut file = slot.encode().to_vec();
        file.resize(LEDGER_BYTES, 0);
        fs::write(self.in_journal("ledger"), file).expect("the ledger");
    }

    /// Writes a checkpoint that lets recovery start at the first block of a segment.
    pub(crate) fn checkpoint(&self, sequence: u64, scan_from: u32) -> PathBuf {
        let checkpoint = ShardCheckpoint {
            store_uuid: [9; 16],
            journal: self.journal,
            sequence,
            scan_from: JournalPos::new(SegmentSeq(scan_from), BLOCK_BYTES),
            ..ShardCheckpoint::default()
        };
        let path = self.in_journal(&format!("checkpoint-{sequence:010}"));
        fs::write(&path, checkpoint.encode()).expect("the checkpoint");
        path
    }

    /// Writes the snapshot of metadata that belongs to a checkpoint.
    pub(crate) fn snapshot(&self, sequence: u64) {
        let path = self.in_journal(&format!("metadata-{sequence:010}"));
        let mut state = MetadataState::default();
        state.apply(&Command::InitCluster {
            cluster_id: [1; 16],
        });
        fs::write(path, state.encode()).expect("the snapshot");
    }

    /// Writes a metadata snapshot in which [`PARTITION`]'s topic has a name.
    pub(crate) fn name_topic(&self, name: &str) {
        let mut state = MetadataState::default();
        state.apply(&Command::InitCluster {
            cluster_id: [1; 16],
        });
        for id in 1..=PARTITION.topic.0 {
            let is_ours = id == PARTITION.topic.0;
            let name = if is_ours {
                name.to_owned()
            } else {
                format!("other-{id}")
            };
            let config = TopicConfig::default();
            state.apply(&Command::CreateTopic {
                name,
                partitions: 4,
                config,
                created_ms: 0,
            });
        }
        let checkpoint = ShardCheckpoint {
            journal: JournalId(999),
            sequence: 1,
            chains: vec![ChainSection::fresh(ChainId(0))],
            ..ShardCheckpoint::default()
        };
        let dir = self.dir.path().join("journals/999");
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("checkpoint-0000000001"), checkpoint.encode()).expect("the checkpoint");
        fs::write(dir.join("metadata-0000000001"), state.encode()).expect("the snapshot");
    }

    /// Writes the segment that is being filled.
    pub(crate) fn write_segment(&self) {
        fs::write(self.segment_path(self.segment), &self.bytes).expect("the segment");
    }

    /// Flips a bit of a segment file.
    pub(crate) fn flip(&self, segment: u32, at: u32) {
        let path = self.segment_path(segment);
        let mut bytes = fs::read(&path).expect("the segment is there");
        bytes[usize::try_from(at).expect("segments fit memory")] ^= 1;
        fs::write(path, bytes).expect("the segment");
    }
}

fn in_journal(store: &Path, journal: JournalId, name: &str) -> PathBuf {
    store.join(format!("journals/{:03}", journal.0)).join(name)
}

fn salt(segment: u32) -> u64 {
    0x5A17 + u64::from(segment)
}
