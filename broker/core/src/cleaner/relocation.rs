//! Puts moved batches together as the body of a relocation record.
//!
//! Invariant: the batches are copied byte for byte, so their checksums hold where they are now; an
//! extent is never split, and extents are joined only if they follow each other, so that each
//! joined extent covers whole extents of the index before.

use catena_protocol::ids::TopicPartition;

use crate::entry::{ENTRY_HEADER_BYTES, ROW_BYTES, write_row};
use crate::ids::BlockLocation;
use crate::index::Extent;
use crate::layout::to_u32;

/// An extent that moves, with its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedExtent {
    /// Its partition.
    pub tp: TopicPartition,
    /// Where it is now.
    pub extent: Extent,
    /// Its batches.
    pub bytes: Vec<u8>,
    /// It may be joined with its neighbour if their timestamps are no further apart, in
    /// milliseconds: an extent is dropped as a whole when the last of it is too old.
    pub join_ms: u64,
}

/// A record that is ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// Rows of the directory.
    pub row_count: u16,
    /// Directory and batches.
    pub body: Vec<u8>,
    /// The extents; `offset_in_block` counts from the start of the batches.
    parts: Vec<(TopicPartition, Extent)>,
}

impl Relocation {
    /// The extents as they are once the record's entry lies at `entry_offset` of `block`.
    pub fn placed(
        &self,
        block: BlockLocation,
        entry_offset: u32,
    ) -> impl Iterator<Item = (TopicPartition, Extent)> {
        let heads = ENTRY_HEADER_BYTES + usize::from(self.row_count) * ROW_BYTES;
        let batches_at = entry_offset + to_u32(heads);
        self.parts.iter().map(move |(tp, extent)| {
            let offset_in_block = batches_at + extent.offset_in_block;
            let extent = Extent {
                block,
                offset_in_block,
                ..*extent
            };
            (*tp, extent)
        })
    }
}

#[derive(Debug)]
struct Row {
    tp: TopicPartition,
    batch_count: u32,
    bytes: u32,
}

/// Fills relocation records, one after the other.
#[derive(Debug)]
pub struct RelocationBuilder {
    bytes_max: usize,
    rows: Vec<Row>,
    batches: Vec<u8>,
    parts: Vec<(TopicPartition, Extent)>,
    /// The timestamp that the last part began with.
    part_began_ms: i64,
}

impl RelocationBuilder {
    /// Records of about `bytes_max` bytes; a larger extent gets one of its own.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            rows: Vec::new(),
            batches: Vec::new(),
            parts: Vec::new(),
            part_began_ms: 0,
        }
    }

    /// Adds an extent of `batch_count` batches; returns the record before it when that is full.
    /// Extents of one partition come in offset order.
    pub fn push(&mut self, moved: &MovedExtent, batch_count: u32) -> Option<Relocation> {
        let is_full = self.batches.len() + moved.bytes.len() > self.bytes_max
            || self.rows.len() == usize::from(u16::MAX);
        let full = if is_full { self.finish() } else { None };
        let offset = to_u32(self.batches.len());
        let bytes = to_u32(moved.bytes.len());
        self.batches.extend_from_slice(&moved.bytes);
        match self.rows.last_mut() {
            Some(row) if row.tp == moved.tp => {
                row.batch_count += batch_count;
                row.bytes += bytes;
            }
            _ => self.rows.push(Row {
                tp: moved.tp,
                batch_count,
                bytes,
            }),
        }
        self.push_part(moved, offset, bytes);
        full
    }

    fn push_part(&mut self, moved: &MovedExtent, offset: u32, bytes: u32) {
        let timestamp_ms = moved.extent.max_timestamp_ms;
        let apart_ms = timestamp_ms.abs_diff(self.part_began_ms);
        match self.parts.last_mut() {
            Some((tp, part))
                if *tp == moved.tp
                    && part.end_offset == moved.extent.base_offset
                    && apart_ms <= moved.join_ms =>
            {
                part.end_offset = moved.extent.end_offset;
                part.bytes += bytes;
                part.max_timestamp_ms = part.max_timestamp_ms.max(timestamp_ms);
            }
            _ => {
                self.part_began_ms = timestamp_ms;
                let part = Extent {
                    offset_in_block: offset,
                    bytes,
                    ..moved.extent
                };
                self.parts.push((moved.tp, part));
            }
        }
    }

    /// The last record, if anything is in it. The builder is empty again afterwards.
    pub fn finish(&mut self) -> Option<Relocation> {
        if self.rows.is_empty() {
            return None;
        }
        let rows = std::mem::take(&mut self.rows);
        let batches = std::mem::take(&mut self.batches);
        let mut body = vec![0; rows.len() * ROW_BYTES];
        body.reserve(batches.len());
        for (out, row) in body.chunks_exact_mut(ROW_BYTES).zip(&rows) {
            write_row(out, row.tp, row.batch_count, row.bytes);
        }
        body.extend_from_slice(&batches);
        Some(Relocation {
            row_count: u16::try_from(rows.len()).expect("rows are bounded when they are added"),
            body,
            parts: std::mem::take(&mut self.parts),
        })
    }
}
