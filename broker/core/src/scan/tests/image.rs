//! A journal in memory: written as the broker writes one, damaged as disks and crashes do, and
//! scanned back.

use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::ids::{ChainEpoch, ChainId, Offset, PartitionId, TopicId, TopicPartition};
use catena_protocol::record::Record;

use crate::block::{BatchPlace, BlockSeal, BlockWriter, FrameStamp, body_offset, seal_block};
use crate::entry::EntryView;
use crate::ids::{BlockLocation, JournalId, JournalPos, Lsn, SegmentSeq};
use crate::layout::{to_u32, to_usize};
use crate::ledger::LedgerSlot;
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::scan::{JournalScan, ScanInput, ScanOutcome, ScanStep};
use crate::segment::{PreviousSegment, SegmentHeader};

pub(super) const JOURNAL: JournalId = JournalId(3);
pub(super) const SEGMENT_BYTES: u32 = 4 << 20;
pub(super) const PAGE: u32 = 4096;

pub(super) const TP: TopicPartition = TopicPartition {
    topic: TopicId(1),
    partition: PartitionId(2),
};

/// A batch with one record whose value is `bytes` long.
pub(super) fn batch(bytes: usize) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value = vec![b'v'; bytes];
    builder
        .push(&Record::from_value(&value))
        .expect("the record fits a batch");
    builder
        .finish()
        .expect("a batch without codec can be built")
        .to_vec()
}

/// A block that was written, and the LSN of its one frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Written {
    pub(super) lsn: u64,
    pub(super) at: BlockLocation,
    pub(super) crc: u32,
}

impl Written {
    pub(super) fn start(&self) -> u32 {
        self.at.offset
    }

    pub(super) fn end(&self) -> u32 {
        self.at.offset + self.at.bytes
    }
}

#[derive(Clone)]
struct File {
    header: SegmentHeader,
    bytes: Vec<u8>,
}

/// The journal, with a cursor where the next group goes.
#[derive(Clone)]
pub(super) struct Image {
    files: Vec<File>,
    pub(super) end: JournalPos,
    pub(super) ledger: Option<LedgerSlot>,
    /// Ranges whose reads fail, as (segment, start, end).
    pub(super) unreadable: Vec<(u32, u32, u32)>,
    pub(super) next_group_seq: u64,
    salt: u64,
    next_lsn: u64,
    last_block_crc: u32,
}

/// What a scan gave back.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) outcome: ScanOutcome,
    pub(super) lsns: Vec<u64>,
    pub(super) blocks: Vec<BlockLocation>,
    pub(super) reads: usize,
}

impl Image {
    /// One open segment of zeros.
    pub(super) fn new() -> Self {
        Self::with_salt(0x5A17_0000_0000_0000)
    }

    /// The same, in a store that drew other salts.
    pub(super) fn with_salt(salt: u64) -> Self {
        let mut image = Self {
            files: Vec::new(),
            end: JournalPos::default(),
            ledger: None,
            unreadable: Vec::new(),
            next_group_seq: 1,
            salt,
            next_lsn: 1,
            last_block_crc: 0,
        };
        image.open_segment(1, None, vec![0; to_usize(SEGMENT_BYTES)]);
        image
    }

    fn open_segment(&mut self, seq: u32, previous: Option<PreviousSegment>, bytes: Vec<u8>) {
        let header = SegmentHeader {
            store_uuid: [7; 16],
            journal: JOURNAL,
            segment: SegmentSeq(seq),
            salt: self.salt | u64::from(seq),
            segment_bytes: to_u32(bytes.len()),
            previous,
            created_ms: 0,
        };
        self.end = header.first_block();
        self.last_block_crc = 0;
        self.files.push(File { header, bytes });
    }

    /// Rolls to the next segment, in a file that holds `bytes` from an earlier life.
    pub(super) fn roll_into(&mut self, bytes: Vec<u8>) {
        let previous = PreviousSegment {
            segment: self.end.segment,
            end: self.end.offset,
            last_block_crc: self.last_block_crc,
        };
        self.open_segment(self.end.segment.0 + 1, Some(previous), bytes);
    }

    pub(super) fn roll(&mut self) {
        self.roll_into(vec![0; to_usize(SEGMENT_BYTES)]);
    }

    /// Opens the segment that recovery opens after `outcome`.
    pub(super) fn reopen(&mut self, outcome: &ScanOutcome) {
        let seq = outcome.next_segment().0;
        self.open_segment(seq, outcome.previous(), vec![0; to_usize(SEGMENT_BYTES)]);
        self.next_group_seq = outcome.next_group_seq;
    }

    /// Writes a group of blocks, each with a batch of the given size, as if it were flushed.
    pub(super) fn write_group(&mut self, batch_bytes: &[usize]) -> Vec<Written> {
        let group_count = u16::try_from(batch_bytes.len()).expect("groups of tests are small");
        let flushed = self.end;
        let blocks = (0..group_count).zip(batch_bytes);
        let written = blocks
            .map(|(group_index, &bytes)| {
                let (salt, segment) = (self.last_file().header.salt, self.end.segment);
                let seal = BlockSeal {
                    salt,
                    segment,
                    position: self.end.offset,
                    group_seq: self.next_group_seq,
                    group_index,
                    group_count,
                    flushed,
                };
                self.write_block(&seal, bytes)
            })
            .collect();
        self.next_group_seq += 1;
        written
    }

    fn write_block(&mut self, seal: &BlockSeal, batch_bytes: usize) -> Written {
        let batch = batch(batch_bytes);
        let lsn = self.next_lsn;
        let stamp = FrameStamp {
            chain: ChainId(1),
            epoch: ChainEpoch(1),
            lsn: Lsn(lsn),
            prev_frame_crc: 0,
            commit_lsn_hint: Lsn(0),
        };
        let place = BatchPlace {
            tp: TP,
            base_offset: Offset(lsn),
            append_time_ms: 5,
            bytes: batch.len(),
        };
        let capacity = body_offset(1) + batch.len();
        let mut buf = vec![0xEE; capacity.next_multiple_of(4096)];
        let mut writer = BlockWriter::new(&mut buf);
        writer.push_batches(&stamp, &[(place, &batch)]);
        let (used, entries) = (writer.used(), writer.entry_count());
        let sealed = seal_block(&mut buf, seal, used, entries);
        let at = BlockLocation {
            journal: JOURNAL,
            segment: seal.segment,
            offset: seal.position,
            bytes: sealed.length,
        };
        let start = to_usize(seal.position);
        let length = to_usize(sealed.length);
        self.files.last_mut().expect("a segment is open").bytes[start..start + length]
            .copy_from_slice(&buf[..length]);
        self.end.offset += sealed.length;
        self.next_lsn += 1;
        self.last_block_crc = sealed.crc;
        Written {
            lsn,
            at,
            crc: sealed.crc,
        }
    }

    fn last_file(&self) -> &File {
        self.files.last().expect("a segment is open")
    }

    /// The bytes of a segment.
    pub(super) fn bytes(&mut self, segment: u32) -> &mut Vec<u8> {
        let file = self
            .files
            .iter_mut()
            .find(|file| file.header.segment.0 == segment);
        &mut file.expect("the test names a segment it wrote").bytes
    }

    /// Loses a segment's header.
    pub(super) fn lose_segment(&mut self, segment: u32) {
        self.files.retain(|file| file.header.segment.0 != segment);
    }

    /// Makes a segment's header name another predecessor.
    pub(super) fn relink(&mut self, segment: u32, previous: Option<PreviousSegment>) {
        let file = self
            .files
            .iter_mut()
            .find(|file| file.header.segment.0 == segment);
        file.expect("the test names a segment it wrote")
            .header
            .previous = previous;
    }

    /// Flips a bit `offset` bytes into a block.
    pub(super) fn flip(&mut self, block: &Written, offset: u32) {
        let at = to_usize(block.at.offset + offset);
        self.bytes(block.at.segment.0)[at] ^= 0x10;
    }

    /// The block never reached the disk.
    pub(super) fn drop_block(&mut self, block: &Written) {
        let range = to_usize(block.start())..to_usize(block.end());
        self.bytes(block.at.segment.0)[range].fill(0);
    }

    pub(super) fn set_ledger(&mut self, flushed: JournalPos) {
        let slot = LedgerSlot {
            journal: JOURNAL,
            sequence: 1,
            flushed,
            group_seq: 1,
        };
        self.ledger = Some(slot);
    }

    pub(super) fn scan(&self) -> Scanned {
        self.scan_from(None)
    }

    pub(super) fn scan_from(&self, start: Option<JournalPos>) -> Scanned {
        let segments = self.files.iter().map(|file| file.header).collect();
        let input = ScanInput {
            journal: JOURNAL,
            segments,
            ledger: self.ledger,
            start,
        };
        let mut scan = JournalScan::new(input);
        let (mut lsns, mut blocks, mut reads) = (Vec::new(), Vec::new(), 0);
        loop {
            let (segment, offset, bytes) = match scan.next() {
                ScanStep::Done(outcome) => {
                    return Scanned {
                        outcome,
                        lsns,
                        blocks,
                        reads,
                    };
                }
                ScanStep::Read {
                    segment,
                    offset,
                    bytes,
                } => (segment, offset, bytes),
            };
            reads += 1;
            assert!(reads < 100_000, "the scan ends");
            assert!(bytes > 0 && bytes <= 1 << 20 && bytes.is_multiple_of(PAGE));
            assert!(offset >= SEGMENT_HEADER_BYTES && offset.is_multiple_of(PAGE));
            let fails = self.unreadable.iter().any(|&(bad, start, end)| {
                bad == segment.0 && offset < end && start < offset + bytes
            });
            if fails {
                scan.read_failed();
                continue;
            }
            let file = self
                .files
                .iter()
                .find(|file| file.header.segment == segment);
            let file = &file.expect("only known segments are read").bytes;
            let start = to_usize(offset).min(file.len());
            let end = to_usize(offset + bytes).min(file.len());
            scan.supply(&file[start..end], &mut |location, view| {
                blocks.push(location);
                assert_eq!(view.header().position, location.offset);
                lsns.extend(view.entries().map(|entry| match entry {
                    EntryView::Batches(frame, _) => frame.lsn.0,
                    other => panic!("the image holds batches only, found {other:?}"),
                }));
            });
        }
    }
}

/// The LSNs of blocks.
pub(super) fn lsns<'a>(blocks: impl IntoIterator<Item = &'a Written>) -> Vec<u64> {
    blocks.into_iter().map(|block| block.lsn).collect()
}
