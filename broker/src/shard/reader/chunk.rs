//! Chunks: runs of blocks that are read at once, and how they are checked.
//!
//! Invariant: a chunk starts and ends where a block does. Pure, but for the yields of a check.

use catena_core::block::parse_block;
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::index::Extent;
use catena_core::limits::BLOCK_BYTES_MAX_U32;

use super::{ReadError, corrupt, to_usize};
use crate::limits::READ_GAP_BYTES_MAX;
use crate::runtime::buffer::Buffer;
use crate::runtime::executor;
use crate::shard::files::OpenSegment;

/// Where a chunk starts.
pub(super) type ChunkStart = (JournalId, SegmentSeq, u32);

/// A run of blocks to read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) journal: JournalId,
    pub(super) segment: SegmentSeq,
    pub(super) start: u32,
    pub(super) bytes: u32,
}

impl Chunk {
    pub(super) const fn of(block: BlockLocation) -> Chunk {
        Chunk {
            journal: block.journal,
            segment: block.segment,
            start: block.offset,
            bytes: block.bytes,
        }
    }

    pub(super) const fn key(self) -> ChunkStart {
        (self.journal, self.segment, self.start)
    }

    pub(super) const fn place(self) -> BlockLocation {
        BlockLocation {
            journal: self.journal,
            segment: self.segment,
            offset: self.start,
            bytes: self.bytes,
        }
    }

    pub(super) const fn end(self) -> u32 {
        self.start + self.bytes
    }

    pub(super) fn covers(self, place: BlockLocation) -> bool {
        (self.journal, self.segment) == (place.journal, place.segment)
            && self.start <= place.offset
            && place.offset + place.bytes <= self.end()
    }

    /// The part of it before `end`.
    pub(super) fn before(self, end: u32) -> Chunk {
        let bytes = end.min(self.end()) - self.start;
        Chunk { bytes, ..self }
    }

    /// The chunk that also covers `block`, if that is worth one read.
    fn extended(self, block: BlockLocation) -> Option<Chunk> {
        if self.covers(block) {
            return Some(self);
        }
        if (block.journal, block.segment) != (self.journal, self.segment) {
            return None;
        }
        let gap = block.offset.checked_sub(self.end())?;
        let bytes = block.offset + block.bytes - self.start;
        (gap <= READ_GAP_BYTES_MAX && bytes <= BLOCK_BYTES_MAX_U32)
            .then_some(Chunk { bytes, ..self })
    }

    /// Checks every block of the chunk, heads and bodies, and that they tile it.
    pub(super) async fn check(
        self,
        segment: &OpenSegment,
        buffer: &Buffer,
    ) -> Result<(), ReadError> {
        let mut at = 0;
        let end = to_usize(self.bytes);
        if buffer.len() < end {
            return Err(corrupt(self.place(), &"the file ends before it"));
        }
        while at < end {
            let position = self.start + u32::try_from(at).expect("a chunk is at most 1 MiB");
            let place = BlockLocation {
                offset: position,
                ..self.place()
            };
            let header = &segment.header;
            let view = parse_block(&buffer[at..end], header.salt, header.segment, position)
                .map_err(|error| corrupt(place, &error))?;
            view.verify_bodies()
                .map_err(|error| corrupt(place, &error))?;
            at += to_usize(view.header().length);
            executor::yield_if_needed().await;
        }
        Ok(())
    }
}

/// The first `count` chunks that hold the blocks of `extents`.
pub(super) fn plan(extents: impl Iterator<Item = Extent>, count: usize) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::with_capacity(count);
    for extent in extents {
        let longer = chunks.last().and_then(|last| last.extended(extent.block));
        if let Some(longer) = longer {
            chunks.pop();
            chunks.push(longer);
        } else if chunks.len() == count {
            break;
        } else {
            chunks.push(Chunk::of(extent.block));
        }
    }
    chunks
}
