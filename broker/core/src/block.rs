//! Commit blocks: the unit of writing and of recovery. A block is a 64-byte header, entries, and
//! zeros up to a multiple of 4 KiB; one or more blocks make a group, which shares one flush.
//!
//! ```text
//!  0 magic u32            4 version u16        6 flags u16        8 segment u32
//! 12 position u32        16 group_seq u64     24 group_index u16 26 group_count u16
//! 28 length u32          32 entry_count u32   36 used u32
//! 40 flushed_segment u32 44 flushed_offset u32
//! 48 reserved [12]       60 crc u32
//! ```
//!
//! `crc` covers the segment's salt (8 bytes, little-endian), header bytes 0..60, then the 48-byte
//! header of each entry. An entry's header holds a crc over the entry's heads, and those hold the
//! crcs of the batch bodies, so the block crc stands for the whole block while every payload byte
//! is hashed once. The salt is drawn anew whenever a segment file is reused: a block that an
//! earlier life of the file left behind can never pass.
//!
//! Writing is on a shard's hot path; nothing here allocates but the row lists handed back.

mod view;
mod writer;

#[cfg(test)]
mod tests;

use catena_protocol::ids::{ChainEpoch, ChainId, Offset, TopicPartition};
use crc32fast::Hasher;

pub use self::view::{BlockError, BlockView, BodyError, Entries, parse_block};
pub(crate) use self::view::{check_block_crc, plausible_length};
pub use self::writer::{BlockWriter, count_rows};
use crate::entry::{ENTRY_HEADER_BYTES, ROW_BYTES, entry_bytes};
use crate::ids::{JournalPos, Lsn, SegmentSeq};
use crate::layout::{put_u16, put_u32, put_u64, to_u32, to_usize, u16_at, u32_at, u64_at};
use crate::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX};

/// Length of a block's header.
pub const BLOCK_HEADER_BYTES: usize = 64;

/// First four bytes of a block: `CtBk`.
pub const BLOCK_MAGIC: u32 = u32::from_le_bytes(*b"CtBk");

/// Version of the block format; equal to the version of the segment that holds the block.
pub const BLOCK_VERSION: u16 = 1;

/// Where the crc lies in the header; it covers what is before.
const CRC_AT: usize = 60;

/// Bytes of a `Batches` frame with that many rows: header, directory, batches. A multiple of 8
/// whenever the batches are.
pub const fn frame_bytes(rows: usize, batch_bytes: usize) -> usize {
    entry_bytes(rows * ROW_BYTES + batch_bytes)
}

/// Where the first batch lies in a block that holds one `Batches` frame of that many rows and
/// nothing else: the place to receive into when batches are to be written without a copy.
pub const fn body_offset(rows: usize) -> usize {
    BLOCK_HEADER_BYTES + ENTRY_HEADER_BYTES + rows * ROW_BYTES
}

/// What the chain's owner decides about a frame before it is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameStamp {
    pub chain: ChainId,
    pub epoch: ChainEpoch,
    pub lsn: Lsn,
    /// [`PlacedFrame::crc`] of the chain's frame before this one, 0 for the first.
    pub prev_frame_crc: u32,
    pub commit_lsn_hint: Lsn,
}

/// Where one batch goes in its partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchPlace {
    pub tp: TopicPartition,
    pub base_offset: Offset,
    pub append_time_ms: i64,
    /// Length of the batch, header included; a multiple of 8.
    pub bytes: usize,
}

/// A frame that was written into a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlacedFrame {
    /// What the chain's next frame carries as `prev_frame_crc`.
    pub crc: u32,
    /// Where the frame starts, from the start of the block.
    pub offset: u32,
    /// Whole frame.
    pub bytes: u32,
    /// One row for each run of batches of one partition; empty for control frames.
    pub rows: Vec<PlacedRow>,
}

/// The batches of one partition in a frame that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedRow {
    pub tp: TopicPartition,
    /// Where the first batch starts, from the start of the block.
    pub offset_in_block: u32,
    /// All batches of the row.
    pub bytes: u32,
    pub base_offset: Offset,
    /// One above the last offset of the last batch.
    pub end_offset: Offset,
    /// The highest record timestamp in the row.
    pub max_timestamp_ms: i64,
}

/// A journal record that was written into a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlacedEntry {
    /// Where the entry (not its body) starts, from the start of the block.
    pub offset_in_block: u32,
    /// Whole entry, as [`crate::entry::EntryView::parse`] takes it.
    pub bytes: u32,
}

/// What is known of a block only when its group starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSeal {
    /// The salt of the segment.
    pub salt: u64,
    pub segment: SegmentSeq,
    /// Where the block goes in the segment; a multiple of 4 KiB.
    pub position: u32,
    /// Rises by at least one with each group of a segment.
    pub group_seq: u64,
    pub group_index: u16,
    pub group_count: u16,
    /// Everything before this position was known flushed before the group began.
    pub flushed: JournalPos,
}

/// A block ready to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedBlock {
    /// Bytes to write: a multiple of 4 KiB.
    pub length: u32,
    /// The block's crc; the next segment's header records that of the last block.
    pub crc: u32,
}

/// The header of a block as it lies on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    pub magic: u32,
    pub version: u16,
    pub flags: u16,
    pub segment: SegmentSeq,
    pub position: u32,
    pub group_seq: u64,
    pub group_index: u16,
    pub group_count: u16,
    /// Header, entries and padding; a multiple of 4 KiB.
    pub length: u32,
    pub entry_count: u32,
    /// Header and entries.
    pub used: u32,
    pub flushed: JournalPos,
    pub crc: u32,
}

impl BlockHeader {
    /// Reads the fields; nothing is checked.
    ///
    /// # Panics
    /// If `bytes` is shorter than [`BLOCK_HEADER_BYTES`].
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            magic: u32_at(bytes, 0),
            version: u16_at(bytes, 4),
            flags: u16_at(bytes, 6),
            segment: SegmentSeq(u32_at(bytes, 8)),
            position: u32_at(bytes, 12),
            group_seq: u64_at(bytes, 16),
            group_index: u16_at(bytes, 24),
            group_count: u16_at(bytes, 26),
            length: u32_at(bytes, 28),
            entry_count: u32_at(bytes, 32),
            used: u32_at(bytes, 36),
            flushed: JournalPos::new(SegmentSeq(u32_at(bytes, 40)), u32_at(bytes, 44)),
            crc: u32_at(bytes, CRC_AT),
        }
    }

    fn encode_into(&self, out: &mut [u8]) {
        out[..BLOCK_HEADER_BYTES].fill(0);
        put_u32(out, 0, self.magic);
        put_u16(out, 4, self.version);
        put_u16(out, 6, self.flags);
        put_u32(out, 8, self.segment.0);
        put_u32(out, 12, self.position);
        put_u64(out, 16, self.group_seq);
        put_u16(out, 24, self.group_index);
        put_u16(out, 26, self.group_count);
        put_u32(out, 28, self.length);
        put_u32(out, 32, self.entry_count);
        put_u32(out, 36, self.used);
        put_u32(out, 40, self.flushed.segment.0);
        put_u32(out, 44, self.flushed.offset);
        put_u32(out, CRC_AT, self.crc);
    }
}

/// Finishes a block: writes its header, zeros its padding and computes its crc from the entry
/// headers. `buf` may hold anything behind `used`. The group's shape is known only when the group
/// starts, which is why this is apart from writing the entries.
///
/// # Panics
/// If `used` and `entry_count` are not what a [`BlockWriter`] over `buf` ended with, or the seal's
/// position is not aligned: bugs of the caller.
pub fn seal_block(buf: &mut [u8], seal: &BlockSeal, used: usize, entry_count: u32) -> SealedBlock {
    let length = used.next_multiple_of(BLOCK_ALIGN);
    assert!(used >= BLOCK_HEADER_BYTES && length <= buf.len() && length <= BLOCK_BYTES_MAX);
    assert!(
        to_usize(seal.position).is_multiple_of(BLOCK_ALIGN),
        "blocks lie on whole pages"
    );
    assert!(
        seal.group_index < seal.group_count,
        "a block belongs to its group"
    );
    buf[used..length].fill(0);
    let mut header = BlockHeader {
        magic: BLOCK_MAGIC,
        version: BLOCK_VERSION,
        flags: 0,
        segment: seal.segment,
        position: seal.position,
        group_seq: seal.group_seq,
        group_index: seal.group_index,
        group_count: seal.group_count,
        length: to_u32(length),
        entry_count,
        used: to_u32(used),
        flushed: seal.flushed,
        crc: 0,
    };
    header.encode_into(buf);
    let crc = block_crc(&buf[..used], seal.salt, entry_count);
    header.crc = crc.expect("the entries of a block being sealed were written by a BlockWriter");
    put_u32(buf, CRC_AT, header.crc);
    SealedBlock {
        length: header.length,
        crc: header.crc,
    }
}

/// The crc of the block in `bytes` (header and entries, without padding), or `None` if its entries
/// do not tile it.
fn block_crc(bytes: &[u8], salt: u64, entry_count: u32) -> Option<u32> {
    let mut hasher = Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&bytes[..CRC_AT]);
    let mut rest = &bytes[BLOCK_HEADER_BYTES..];
    for _ in 0..entry_count {
        let header = rest.get(..ENTRY_HEADER_BYTES)?;
        hasher.update(header);
        let length = to_usize(u32_at(header, 4));
        if length < ENTRY_HEADER_BYTES {
            return None;
        }
        rest = rest.get(length..)?;
    }
    rest.is_empty().then(|| hasher.finalize())
}
