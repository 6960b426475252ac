//! Filling a block with entries, in a buffer that the caller owns and that may hold stale bytes.

use catena_protocol::batch::{self, BatchHeader};
use catena_protocol::ids::{ChainEpoch, ChainId, TopicPartition};

use super::{BLOCK_HEADER_BYTES, BatchPlace, FrameStamp, PlacedEntry, PlacedFrame, PlacedRow};
use super::{body_offset, frame_bytes};
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, EntryKind, FrameKind, ROW_BYTES, RecordKind};
use crate::entry::{entry_bytes, seal_entry, write_row};
use crate::ids::Lsn;
use crate::layout::{to_u32, to_usize};
use crate::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX, FRAME_ROWS_MAX};

/// Directory rows that batches of these partitions need: one for each run of equal neighbours.
pub fn count_rows(tps: impl Iterator<Item = TopicPartition>) -> usize {
    let mut last = None;
    tps.filter(|tp| last.replace(*tp) != Some(*tp)).count()
}

/// Writes entries into a block, one behind the other. The block's own header is written last, by
/// [`super::seal_block`].
///
/// ```
/// use catena_core::block::{BlockSeal, BlockWriter, parse_block, seal_block};
/// use catena_core::entry::RecordKind;
/// use catena_core::ids::{JournalPos, SegmentSeq};
/// use catena_protocol::ids::{ChainEpoch, ChainId};
///
/// let mut buf = vec![0xAA; 8192]; // stale bytes are fine
/// let mut writer = BlockWriter::new(&mut buf);
/// writer.push_record(RecordKind::Promise, ChainId(1), ChainEpoch(2), &[]);
/// let (used, entries) = (writer.used(), writer.entry_count());
///
/// let segment = SegmentSeq(1);
/// let flushed = JournalPos::new(segment, 4096);
/// let seal = BlockSeal {
///     salt: 77, segment, position: 4096, group_seq: 1, group_index: 0, group_count: 1, flushed,
/// };
/// let sealed = seal_block(&mut buf, &seal, used, entries);
/// assert_eq!(sealed.length, 4096);
/// let view = parse_block(&buf, 77, segment, 4096).expect("the block was just sealed");
/// assert_eq!(view.entries().count(), 1);
/// ```
#[derive(Debug)]
pub struct BlockWriter<'a> {
    buf: &'a mut [u8],
    used: usize,
    entries: u32,
}

impl<'a> BlockWriter<'a> {
    /// An empty block over `buf`, whose length is the block's capacity.
    ///
    /// # Panics
    /// If the capacity is 0, above 1 MiB or not a multiple of 4 KiB.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self::open(buf, BLOCK_HEADER_BYTES, 0)
    }

    /// Goes on with a block that an earlier writer over the same buffer left at `used` bytes and
    /// `entries` entries.
    ///
    /// # Panics
    /// As [`BlockWriter::new`], and if `used` lies outside the buffer.
    pub fn open(buf: &'a mut [u8], used: usize, entries: u32) -> Self {
        assert!(!buf.is_empty() && buf.len() <= BLOCK_BYTES_MAX);
        assert!(
            buf.len().is_multiple_of(BLOCK_ALIGN),
            "a block is whole pages"
        );
        assert!(used >= BLOCK_HEADER_BYTES && used <= buf.len());
        Self { buf, used, entries }
    }

    /// Whether an entry of that length (see [`frame_bytes`], [`entry_bytes`]) fits behind the
    /// others.
    pub fn fits(&self, entry_bytes: usize) -> bool {
        entry_bytes <= self.buf.len() - self.used
    }

    /// Bytes used so far, the block's header included.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Entries written so far.
    pub const fn entry_count(&self) -> u32 {
        self.entries
    }

    /// Copies batches into a new frame and stamps each with its place. The batches of one partition
    /// must be neighbours, in offset order; each run of them becomes a row.
    ///
    /// # Panics
    /// If there is no batch, a batch is not as long as its place says, or the frame does not fit.
    pub fn push_batches(
        &mut self,
        stamp: &FrameStamp,
        batches: &[(BatchPlace, &[u8])],
    ) -> PlacedFrame {
        let rows = count_rows(batches.iter().map(|(place, _)| place.tp));
        let mut at = self.used + ENTRY_HEADER_BYTES + rows * ROW_BYTES;
        for (place, bytes) in batches {
            assert_eq!(bytes.len(), place.bytes, "a place is as long as its batch");
            self.buf[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        }
        self.finish_batches(stamp, rows, batches.iter().map(|(place, _)| place))
    }

    /// Makes a frame of batches that already lie in the buffer at [`body_offset`] of the number of
    /// rows, one behind the other in the order of `places`: stamps them and writes the heads.
    /// The frame must be the block's first entry.
    ///
    /// # Panics
    /// If there is no batch, another entry was written before, or the frame does not fit.
    pub fn place_batches(&mut self, stamp: &FrameStamp, places: &[BatchPlace]) -> PlacedFrame {
        assert_eq!(
            self.used, BLOCK_HEADER_BYTES,
            "batches in place are the first entry"
        );
        let rows = count_rows(places.iter().map(|place| place.tp));
        debug_assert_eq!(
            body_offset(rows),
            self.used + ENTRY_HEADER_BYTES + rows * ROW_BYTES
        );
        self.finish_batches(stamp, rows, places.iter())
    }

    /// Stamps the batches that lie behind the directory of the frame at `used`, and writes its
    /// heads.
    fn finish_batches<'p>(
        &mut self,
        stamp: &FrameStamp,
        row_count: usize,
        places: impl Iterator<Item = &'p BatchPlace>,
    ) -> PlacedFrame {
        assert!(row_count > 0 && row_count <= FRAME_ROWS_MAX);
        let frame_at = self.used;
        let directory_at = frame_at + ENTRY_HEADER_BYTES;
        let mut at = directory_at + row_count * ROW_BYTES;
        let mut rows: Vec<PlacedRow> = Vec::with_capacity(row_count);
        let mut batches_in_row = 0;
        for place in places {
            let bytes = &mut self.buf[at..at + place.bytes];
            let placed = stamp_batch(bytes, place, stamp.epoch, at);
            match rows.last_mut() {
                Some(row) if row.tp == placed.tp => {
                    extend_row(row, &placed);
                    batches_in_row += 1;
                }
                _ => {
                    rows.push(placed);
                    batches_in_row = 1;
                }
            }
            let row = rows.last().expect("a row was just written");
            let row_at = directory_at + (rows.len() - 1) * ROW_BYTES;
            write_row(&mut self.buf[row_at..], row.tp, batches_in_row, row.bytes);
            at += place.bytes;
        }
        assert_eq!(
            rows.len(),
            row_count,
            "rows were counted over the same batches"
        );
        let crc = self.finish_frame(FrameKind::Batches, stamp, at - directory_at, row_count);
        debug_assert_eq!(self.used, frame_at + frame_bytes(0, at - directory_at));
        PlacedFrame {
            crc,
            offset: to_u32(frame_at),
            bytes: to_u32(self.used - frame_at),
            rows,
        }
    }

    /// Writes a control frame with its body.
    ///
    /// # Panics
    /// If `kind` is `Batches` or the frame does not fit.
    pub fn push_frame(&mut self, kind: FrameKind, stamp: &FrameStamp, body: &[u8]) -> PlacedFrame {
        assert_ne!(
            kind,
            FrameKind::Batches,
            "batches have their own entry points"
        );
        let offset = self.used;
        self.copy_body(body);
        let crc = self.finish_frame(kind, stamp, body.len(), 0);
        let bytes = to_u32(self.used - offset);
        PlacedFrame {
            crc,
            offset: to_u32(offset),
            bytes,
            rows: Vec::new(),
        }
    }

    /// Writes a journal record with its body.
    ///
    /// # Panics
    /// If the record does not fit.
    pub fn push_record(
        &mut self,
        kind: RecordKind,
        chain: ChainId,
        epoch: ChainEpoch,
        body: &[u8],
    ) -> PlacedEntry {
        assert_ne!(
            kind,
            RecordKind::Relocation,
            "relocations have their own entry point"
        );
        self.finish_record(kind, chain, epoch, 0, body)
    }

    /// Writes a relocation record. `body` is a directory of `row_count` rows and the batches that
    /// tile it, as [`crate::cleaner::RelocationBuilder`] makes it; the batches are not touched.
    ///
    /// # Panics
    /// If there is no row, or the record does not fit.
    pub fn push_relocation(&mut self, row_count: u16, body: &[u8]) -> PlacedEntry {
        assert!(row_count > 0, "a relocation moves something");
        let no_chain = (ChainId(0), ChainEpoch(0));
        let kind = RecordKind::Relocation;
        self.finish_record(kind, no_chain.0, no_chain.1, row_count.into(), body)
    }

    fn finish_record(
        &mut self,
        kind: RecordKind,
        chain: ChainId,
        epoch: ChainEpoch,
        row_count: usize,
        body: &[u8],
    ) -> PlacedEntry {
        let offset = self.used;
        self.copy_body(body);
        let stamp = FrameStamp {
            chain,
            epoch,
            lsn: Lsn::ZERO,
            prev_frame_crc: 0,
            commit_lsn_hint: Lsn::ZERO,
        };
        self.finish_entry(EntryKind::Record(kind), &stamp, body.len(), row_count);
        PlacedEntry {
            offset_in_block: to_u32(offset),
            bytes: to_u32(self.used - offset),
        }
    }

    fn copy_body(&mut self, body: &[u8]) {
        let at = self.used + ENTRY_HEADER_BYTES;
        self.buf[at..at + body.len()].copy_from_slice(body);
    }

    fn finish_frame(
        &mut self,
        kind: FrameKind,
        stamp: &FrameStamp,
        body_bytes: usize,
        row_count: usize,
    ) -> u32 {
        self.finish_entry(EntryKind::Frame(kind), stamp, body_bytes, row_count)
    }

    /// Writes header, pad and crc of the entry at `used`, whose body is in place.
    fn finish_entry(
        &mut self,
        kind: EntryKind,
        stamp: &FrameStamp,
        body_bytes: usize,
        row_count: usize,
    ) -> u32 {
        let length = entry_bytes(body_bytes);
        let row_count = u16::try_from(row_count).expect("rows of a frame are bounded");
        let header = EntryHeader {
            kind,
            flags: 0,
            length: to_u32(length),
            chain: stamp.chain,
            epoch: stamp.epoch,
            lsn: stamp.lsn,
            commit_lsn_hint: stamp.commit_lsn_hint,
            prev_frame_crc: stamp.prev_frame_crc,
            body_bytes: to_u32(body_bytes),
            row_count,
            crc: 0,
        };
        let entry = &mut self.buf[self.used..self.used + length];
        header.encode_into(entry);
        entry[ENTRY_HEADER_BYTES + body_bytes..].fill(0);
        let crc = seal_entry(entry, row_count);
        self.used += length;
        self.entries += 1;
        crc
    }
}

/// Stamps the batch in `bytes`, which lies at `at` in the block, and describes it as a row of one.
fn stamp_batch(bytes: &mut [u8], place: &BatchPlace, epoch: ChainEpoch, at: usize) -> PlacedRow {
    batch::stamp(
        bytes,
        place.base_offset,
        place.append_time_ms,
        epoch,
        place.tp,
    );
    let header = BatchHeader::decode(bytes).expect("batches are validated before they are placed");
    assert_eq!(
        to_usize(header.length),
        place.bytes,
        "a batch knows its own length"
    );
    PlacedRow {
        tp: place.tp,
        offset_in_block: to_u32(at),
        bytes: header.length,
        base_offset: place.base_offset,
        end_offset: header.next_offset(),
        max_timestamp_ms: header.max_timestamp_ms(),
    }
}

fn extend_row(row: &mut PlacedRow, batch: &PlacedRow) {
    debug_assert!(
        row.end_offset <= batch.base_offset,
        "batches of a row are in offset order"
    );
    row.bytes += batch.bytes;
    row.end_offset = batch.end_offset;
    row.max_timestamp_ms = row.max_timestamp_ms.max(batch.max_timestamp_ms);
}
