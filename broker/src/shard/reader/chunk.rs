//! Chunks: what is read at once, and how it is checked.
//!
//! Most are runs of blocks, of which every byte is checked. Where a reader wants little of the
//! blocks and few others are there, it reads its extents alone, a *part* of a block each: they are
//! checked by the checksums of their batches, which cover the partition they belong to.
//!
//! Invariant: a chunk of blocks starts and ends where a block does. Pure, but for the yields of a
//! check.

use catena_core::block::parse_block;
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::index::Extent;
use catena_core::limits::{BLOCK_ALIGN_U32, BLOCK_BYTES_MAX_U32};
use catena_protocol::batch::{split, verify_body, verify_header};
use catena_protocol::ids::TopicPartition;

use super::{ReadError, corrupt, to_usize};
use crate::limits::READ_GAP_BYTES_MAX;
use crate::runtime::buffer::Buffer;
use crate::runtime::executor;
use crate::shard::files::OpenSegment;

/// Where a chunk starts.
pub(super) type ChunkStart = (JournalId, SegmentSeq, u32);

/// Some bytes of a segment to read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) journal: JournalId,
    pub(super) segment: SegmentSeq,
    pub(super) start: u32,
    pub(super) bytes: u32,
    /// The extent that it consists of, if not of blocks.
    pub(super) part: Option<(TopicPartition, Extent)>,
}

impl Chunk {
    pub(super) const fn of(block: BlockLocation) -> Chunk {
        Chunk {
            journal: block.journal,
            segment: block.segment,
            start: block.offset,
            bytes: block.bytes,
            part: None,
        }
    }

    const fn of_part(tp: TopicPartition, extent: Extent) -> Chunk {
        let part = Some((tp, extent));
        Chunk {
            part,
            ..Chunk::of(extent.place())
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

    /// The pages that hold it.
    pub(super) const fn pages(self) -> BlockLocation {
        let offset = self.start - self.skip();
        BlockLocation {
            offset,
            bytes: (self.end() - offset).next_multiple_of(BLOCK_ALIGN_U32),
            ..self.place()
        }
    }

    /// Bytes of its first page before it.
    pub(super) const fn skip(self) -> u32 {
        self.start % BLOCK_ALIGN_U32
    }

    pub(super) const fn end(self) -> u32 {
        self.start + self.bytes
    }

    pub(super) fn covers(self, place: BlockLocation) -> bool {
        (self.journal, self.segment) == (place.journal, place.segment)
            && self.start <= place.offset
            && place.offset + place.bytes <= self.end()
    }

    /// Its first page, if it consists of blocks: with it comes the rest.
    pub(super) fn beginning(self) -> BlockLocation {
        match self.part {
            Some(_) => self.place(),
            None => self.before(self.start + BLOCK_ALIGN_U32).place(),
        }
    }

    /// The blocks of it before `end`.
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

    /// Checks what was read into `buffer`: every byte of the chunk, heads and bodies.
    pub(super) async fn check(
        self,
        segment: &OpenSegment,
        buffer: &Buffer,
    ) -> Result<(), ReadError> {
        let skip = to_usize(self.skip());
        let Some(bytes) = buffer.get(skip..skip + to_usize(self.bytes)) else {
            return Err(corrupt(self.place(), &"the file ends before it"));
        };
        match self.part {
            None => self.check_blocks(segment, bytes).await,
            Some((tp, extent)) => {
                check_part(tp, &extent, bytes).map_err(|reason| corrupt(extent.block, &reason))
            }
        }
    }

    /// Checks every block, and that they tile the chunk.
    async fn check_blocks(self, segment: &OpenSegment, bytes: &[u8]) -> Result<(), ReadError> {
        let mut at = 0;
        while at < bytes.len() {
            let position = self.start + u32::try_from(at).expect("a chunk is at most 1 MiB");
            let place = BlockLocation {
                offset: position,
                ..self.place()
            };
            let header = &segment.header;
            let view = parse_block(&bytes[at..], header.salt, header.segment, position)
                .map_err(|error| corrupt(place, &error))?;
            view.verify_bodies()
                .map_err(|error| corrupt(place, &error))?;
            at += to_usize(view.header().length);
            executor::yield_if_needed().await;
        }
        Ok(())
    }
}

/// Checks that these are the batches of the extent.
fn check_part(tp: TopicPartition, extent: &Extent, bytes: &[u8]) -> Result<(), String> {
    let mut next = extent.base_offset;
    for batch in split(bytes) {
        let (header, batch) = batch.map_err(|error| error.to_string())?;
        let head = batch.first_chunk().expect("split gives whole batches");
        verify_header(head, tp).map_err(|error| error.to_string())?;
        verify_body(batch).map_err(|error| error.to_string())?;
        if header.base_offset != next {
            return Err(format!(
                "offset {} where {next} should be",
                header.base_offset
            ));
        }
        next = header.next_offset();
    }
    if next == extent.end_offset {
        Ok(())
    } else {
        Err(format!(
            "it ends at offset {next}, not {}",
            extent.end_offset
        ))
    }
}

/// Extents that can be read as one run of blocks.
struct Run {
    chunk: Chunk,
    extents: Vec<(TopicPartition, Extent)>,
    /// Pages that hold the extents.
    wanted_bytes: u32,
}

impl Run {
    fn of(tp: TopicPartition, extent: Extent) -> Run {
        Run {
            chunk: Chunk::of(extent.block),
            extents: vec![(tp, extent)],
            wanted_bytes: Chunk::of_part(tp, extent).pages().bytes,
        }
    }

    /// Takes another extent in, if that is worth one read.
    fn takes(&mut self, tp: TopicPartition, extent: Extent) -> bool {
        let Some(chunk) = self.chunk.extended(extent.block) else {
            return false;
        };
        self.chunk = chunk;
        self.extents.push((tp, extent));
        self.wanted_bytes += Chunk::of_part(tp, extent).pages().bytes;
        true
    }

    /// Whether less than two thirds of the blocks are wanted.
    fn is_sparse(&self) -> bool {
        u64::from(self.wanted_bytes) * 3 < u64::from(self.chunk.bytes) * 2
    }
}

/// How to read extents: the first `count` runs of blocks that hold them, but
/// the extents alone of a run of which little is wanted, unless readers `are_many` there.
pub(super) fn plan(
    extents: impl Iterator<Item = (TopicPartition, Extent)>,
    count: usize,
    are_many: impl Fn(Chunk) -> bool,
) -> Vec<Chunk> {
    let mut runs: Vec<Run> = Vec::with_capacity(count);
    for (tp, extent) in extents {
        if !runs.last_mut().is_some_and(|run| run.takes(tp, extent)) {
            if runs.len() == count {
                break;
            }
            runs.push(Run::of(tp, extent));
        }
    }
    let mut chunks = Vec::with_capacity(count);
    for run in runs {
        if run.is_sparse() && !are_many(run.chunk) {
            let parts = run.extents.iter();
            chunks.extend(parts.map(|(tp, extent)| Chunk::of_part(*tp, *extent)));
        } else {
            chunks.push(run.chunk);
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use catena_protocol::ids::{Offset, PartitionId, TopicId};

    use super::*;

    const KIB: u32 = 1 << 10;

    fn tp() -> TopicPartition {
        let (topic, partition) = (TopicId(1), PartitionId(0));
        TopicPartition { topic, partition }
    }

    /// So many bytes in the middle of a block.
    fn extent(block_at: u32, block_bytes: u32, bytes: u32) -> Extent {
        let block = BlockLocation {
            journal: JournalId(0),
            segment: SegmentSeq(1),
            offset: block_at,
            bytes: block_bytes,
        };
        Extent {
            base_offset: Offset(0),
            end_offset: Offset(1),
            block,
            offset_in_block: block_bytes / 2 + 200,
            bytes,
            max_timestamp_ms: 0,
        }
    }

    fn planned(extents: &[Extent], are_many: bool) -> Vec<Chunk> {
        plan(extents.iter().map(|extent| (tp(), *extent)), 2, |_| {
            are_many
        })
    }

    #[test]
    fn little_of_a_block_is_read_alone_unless_many_are_there() {
        let sparse = extent(4096, 64 * KIB, 20 * KIB);
        let [chunk] = planned(&[sparse], false)[..] else {
            panic!("one read")
        };
        assert_eq!(chunk, Chunk::of_part(tp(), sparse));
        assert_eq!((chunk.skip(), chunk.bytes), (200, 20 * KIB));
        let pages = (chunk.pages().offset, chunk.pages().bytes);
        assert_eq!(pages, (4096 + 32 * KIB, 24 * KIB));
        assert_eq!(planned(&[sparse], true), [Chunk::of(sparse.block)]);
    }

    #[test]
    fn two_thirds_of_the_pages_are_worth_the_block() {
        let at_start = |bytes| Extent {
            offset_in_block: 200,
            ..extent(4096, 24 * KIB, bytes)
        };
        assert!(planned(&[at_start(11 * KIB)], false)[0].part.is_some());
        let enough = at_start(13 * KIB);
        assert_eq!(Chunk::of_part(tp(), enough).pages().bytes, 16 * KIB);
        assert_eq!(planned(&[enough], false), [Chunk::of(enough.block)]);
    }

    #[test]
    fn blocks_beside_each_other_are_one_run() {
        let page = 4096;
        let near: Vec<Extent> = (1..4).map(|n| extent(n * 3 * page, page, 500)).collect();
        assert_eq!(planned(&near, false).len(), 3, "each alone");
        let [run] = planned(&near, true)[..] else {
            panic!("one read")
        };
        assert_eq!((run.start, run.bytes), (3 * page, 7 * page));
        let far: Vec<Extent> = (1..9).map(|n| extent(n << 20, page, 500)).collect();
        assert_eq!(planned(&far, true).len(), 2, "no more runs than asked for");
    }
}
