//! Reads extents of a partition, past the cache: only the pages they lie in, near ones together.
//!
//! A batch is vouched for by its own two checksums, so the block around it is not needed. Runs on
//! the shard's executor.

use std::rc::Rc;

use catena_core::ids::BlockLocation;
use catena_core::index::Extent;
use catena_core::limits::{BLOCK_ALIGN, BLOCK_ALIGN_U32, BLOCK_BYTES_MAX_U32};
use catena_protocol::batch::{BatchError, BatchHeader, split, verify_body, verify_header};
use catena_protocol::ids::{Offset, TopicPartition};

use crate::cache::CachedBytes;
use crate::limits::READ_GAP_BYTES_MAX;
use crate::runtime::buffer;
use crate::shard::Shard;
use crate::shard::reader::ReadError;

/// An extent and its batches, as they were read.
pub(super) struct Found {
    pub(super) extent: Extent,
    pub(super) bytes: CachedBytes,
}

/// Cuts extents that follow each other into runs that are read at once. Ends before the first that
/// is not wanted.
pub(super) fn coalesce(
    extents: &[Extent],
    is_wanted: impl Fn(&Extent) -> bool,
) -> impl Iterator<Item = &[Extent]> {
    let wanted = extents
        .iter()
        .take_while(|extent| is_wanted(extent))
        .count();
    let mut rest = &extents[..wanted];
    std::iter::from_fn(move || {
        let (first, others) = rest.split_first()?;
        let start = place(first).0;
        let mut end = place(first).1;
        let along = others.iter().take_while(|next| {
            let (next_start, next_end) = place(next);
            let is_near = next.block.segment_key() == first.block.segment_key()
                && next_start >= end
                && next_start - end <= READ_GAP_BYTES_MAX
                && next_end - start <= BLOCK_BYTES_MAX_U32;
            if is_near {
                end = next_end;
            }
            is_near
        });
        let count = 1 + along.count();
        let (read, left) = rest.split_at(count);
        rest = left;
        Some(read)
    })
}

/// The pages of an extent, as positions in its segment.
fn place(extent: &Extent) -> (u32, u32) {
    let start = extent.block.offset + extent.offset_in_block;
    let end = start + extent.bytes;
    (
        start - start % BLOCK_ALIGN_U32,
        end.next_multiple_of(BLOCK_ALIGN_U32),
    )
}

impl Shard {
    /// Reads some extents at once. Of those that cannot be read there are no bytes.
    pub(super) async fn read_along(&self, extents: &[Extent]) -> Result<Vec<Found>, ReadError> {
        match self.read_together(extents).await {
            // Which of them is damaged only shows when each is read by itself.
            Err(ReadError::Corrupt { .. }) => {}
            read => return read,
        }
        let mut found = Vec::with_capacity(extents.len());
        for extent in extents {
            match self.read_together(std::slice::from_ref(extent)).await {
                Ok(read) => found.extend(read),
                Err(ReadError::Corrupt { .. }) => found.push(Found::nothing(extent)),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn read_together(&self, extents: &[Extent]) -> Result<Vec<Found>, ReadError> {
        let Some((first, last)) = extents.first().zip(extents.last()) else {
            return Ok(Vec::new());
        };
        let (start, end) = (place(first).0, place(last).1);
        let pages = BlockLocation {
            offset: start,
            bytes: end - start,
            ..first.block
        };
        let buffer = Rc::new(self.reader.pages(pages).await?);
        self.metrics
            .compaction_bytes_read
            .add(u64::from(pages.bytes));
        let found = extents.iter().map(|extent| Found {
            extent: *extent,
            bytes: CachedBytes {
                buffer: Rc::clone(&buffer),
                start: to_usize(extent.block.offset + extent.offset_in_block - start),
                bytes: to_usize(extent.bytes),
            },
        });
        Ok(found.collect())
    }
}

impl Found {
    fn nothing(extent: &Extent) -> Found {
        Found {
            extent: *extent,
            bytes: CachedBytes {
                buffer: Rc::new(buffer::allocate(BLOCK_ALIGN)),
                start: 0,
                bytes: 0,
            },
        }
    }
}

fn to_usize(bytes: u32) -> usize {
    usize::try_from(bytes).expect("u32 fits usize")
}

/// The batches of an extent, each verified. One whose body is damaged is an error of its own; what
/// follows a damaged header cannot be told. An extent that could not be read is an error.
pub(super) fn batches_of(
    tp: TopicPartition,
    found: &Found,
) -> impl Iterator<Item = Result<(BatchHeader, &[u8]), BatchError>> {
    let (actual, expected) = (found.bytes.bytes, to_usize(found.extent.bytes));
    let unread = (actual == 0).then_some(Err(BatchError::Truncated { actual, expected }));
    let mut is_lost = false;
    split(found.bytes.as_slice())
        .take_while(move |batch| {
            let was_lost = is_lost;
            is_lost |= batch
                .as_ref()
                .is_ok_and(|(_, batch)| verify_head(batch, tp).is_err());
            !was_lost
        })
        .map(move |batch| {
            let (header, batch) = batch?;
            verify_head(batch, tp)?;
            verify_body(batch)?;
            Ok((header, batch))
        })
        .chain(unread)
}

/// Whether the batches of an extent follow each other from its first offset to its end.
pub(super) struct Tiles {
    next: Offset,
    end: Offset,
}

/// A batch begins elsewhere than where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a batch or the end of the extent is at {found}, and what is before it ends at {next}")]
pub(super) struct Untiled {
    pub(super) found: Offset,
    pub(super) next: Offset,
}

impl Tiles {
    pub(super) const fn of(extent: &Extent) -> Tiles {
        Tiles {
            next: extent.base_offset,
            end: extent.end_offset,
        }
    }

    /// Takes the next batch.
    pub(super) fn take(&mut self, header: &BatchHeader) -> Result<(), Untiled> {
        self.follow(header.base_offset)?;
        self.next = header.next_offset();
        Ok(())
    }

    /// No batch follows.
    pub(super) fn end(self) -> Result<(), Untiled> {
        self.follow(self.end)
    }

    fn follow(&self, found: Offset) -> Result<(), Untiled> {
        let next = self.next;
        if found == next {
            Ok(())
        } else {
            Err(Untiled { found, next })
        }
    }
}

fn verify_head(batch: &[u8], tp: TopicPartition) -> Result<(), BatchError> {
    let head = batch.first_chunk().expect("split gives whole batches");
    verify_header(head, tp)
}

#[cfg(test)]
mod tests {
    use catena_core::ids::{JournalId, SegmentSeq};

    use super::*;

    fn extent(segment: u32, offset: u32, bytes: u32) -> Extent {
        Extent {
            base_offset: Offset::new(0),
            end_offset: Offset::new(1),
            block: BlockLocation {
                journal: JournalId::new(0),
                segment: SegmentSeq::new(segment),
                offset,
                bytes: 1 << 20,
            },
            offset_in_block: 128,
            bytes,
            max_timestamp_ms: 0,
        }
    }

    #[test]
    fn near_extents_are_read_together_and_far_ones_alone() {
        let extents = [
            extent(1, 4096, 100),
            extent(1, 8192, 100),
            extent(1, 8192 + (64 << 10), 5000),
            extent(1, 2 << 20, 100),
            extent(2, (2 << 20) + 4096, 100),
            extent(2, 4096, 100),
        ];
        let runs: Vec<usize> = coalesce(&extents, |_| true).map(<[Extent]>::len).collect();
        assert_eq!(runs, [3, 1, 1, 1]);
        let runs: Vec<usize> = coalesce(&extents, |e| e.bytes == 100)
            .map(<[Extent]>::len)
            .collect();
        assert_eq!(runs, [2], "nothing behind what is not wanted");
    }

    #[test]
    fn a_read_never_exceeds_what_can_be_read_at_once() {
        let extents: Vec<Extent> = (1..40)
            .map(|n| extent(1, n * (60 << 10), 50 << 10))
            .collect();
        let mut count = 0;
        for run in coalesce(&extents, |_| true) {
            let bytes = place(&run[run.len() - 1]).1 - place(&run[0]).0;
            assert!(bytes <= BLOCK_BYTES_MAX_U32);
            count += run.len();
        }
        assert_eq!(count, extents.len());
    }

    #[test]
    fn batches_that_do_not_follow_each_other_do_not_tile_their_extent() {
        let span = |base: u64, end: u64| BatchHeader {
            base_offset: Offset(base),
            last_offset_delta: u16::try_from(end - base - 1).expect("a few"),
            ..BatchHeader::default()
        };
        let whole = Extent {
            base_offset: Offset(4),
            end_offset: Offset(10),
            ..extent(1, 4096, 100)
        };
        let tile = |batches: &[(u64, u64)]| {
            let mut tiles = Tiles::of(&whole);
            for (base, end) in batches {
                tiles.take(&span(*base, *end))?;
            }
            tiles.end()
        };
        let untiled = |found, next| {
            Err(Untiled {
                found: Offset(found),
                next: Offset(next),
            })
        };
        assert_eq!(tile(&[(4, 6), (6, 10)]), Ok(()));
        assert_eq!(tile(&[(4, 6), (7, 10)]), untiled(7, 6), "a hole");
        assert_eq!(tile(&[(4, 8), (6, 10)]), untiled(6, 8), "one twice");
        assert_eq!(tile(&[(0, 6), (6, 10)]), untiled(0, 4), "another place");
        assert_eq!(tile(&[(4, 6), (6, 8)]), untiled(10, 8), "too few");
        assert_eq!(tile(&[]), untiled(10, 4), "none");
    }

    #[test]
    fn an_extent_that_could_not_be_read_is_an_error_and_not_empty() {
        let found = Found::nothing(&extent(1, 4096, 100));
        let mut batches = batches_of(TopicPartition::default(), &found);
        let error = batches.next().expect("an error").map(drop);
        assert!(
            matches!(error, Err(BatchError::Truncated { .. })),
            "{error:?}"
        );
        assert!(batches.next().is_none());
    }
}
