//! Extents of a partition that follow each other, and what compaction makes of them.
//!
//! Invariant: what comes out covers whole extents, so that the index may take it in their place;
//! a stretch of which nothing goes is left where it is.

use catena_protocol::batch::{BatchHeader, BatchRewriter, Records, RewriteError};
use catena_protocol::ids::TopicPartition;

use super::Verdicts;
use crate::cleaner::MovedExtent;
use crate::index::Extent;
use crate::limits::RELOCATED_BYTES_MAX;

/// A stretch that was written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// What takes the place of `from`.
    pub moved: MovedExtent,
    /// Batches in it.
    pub batch_count: u32,
    /// The extents as they were.
    pub from: Vec<Extent>,
    /// Records that are left out.
    pub dropped: u64,
}

impl Compacted {
    /// Bytes before.
    pub fn bytes_before(&self) -> u64 {
        self.from.iter().map(|extent| u64::from(extent.bytes)).sum()
    }

    /// Bytes after.
    pub fn bytes_after(&self) -> u64 {
        u64::try_from(self.moved.bytes.len()).expect("usize fits u64")
    }
}

/// What became of a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing goes: these extents are best left where they are.
    Unchanged(Vec<Extent>),
    /// It was written anew.
    Compacted(Compacted),
    /// Something should go, but what is left does not fit into one block.
    Stuck(Vec<Extent>),
}

/// A stretch that is being put together.
#[derive(Debug)]
pub struct Stretch {
    tp: TopicPartition,
    rewriter: BatchRewriter,
    from: Vec<Extent>,
    dropped: u64,
    bytes_max: usize,
    join_ms: u64,
}

impl Stretch {
    /// An empty stretch that ends once it has `bytes_max` bytes. Extents go together if their
    /// timestamps are no further apart than `join_ms`: they will be dropped together.
    pub fn new(tp: TopicPartition, bytes_max: usize, join_ms: u64) -> Self {
        Self {
            tp,
            rewriter: BatchRewriter::new(tp),
            from: Vec::new(),
            dropped: 0,
            bytes_max,
            join_ms,
        }
    }

    /// Whether the next extent may be added; else the stretch has to be
    /// [finished](Self::finish) first.
    pub fn takes(&self, extent: &Extent) -> bool {
        let Some((first, last)) = self.from.first().zip(self.from.last()) else {
            return true;
        };
        let bytes = usize::try_from(extent.bytes).expect("u32 fits usize");
        let apart_ms = extent.max_timestamp_ms.abs_diff(first.max_timestamp_ms);
        last.end_offset == extent.base_offset
            && self.rewriter.bytes() + bytes <= self.bytes_max
            && apart_ms <= self.join_ms
    }

    /// Begins an extent; its batches follow, in order and all of them.
    pub fn begin_extent(&mut self, extent: &Extent) {
        self.from.push(*extent);
    }

    /// A batch of which all records stay.
    pub fn copy(&mut self, header: &BatchHeader, batch: &[u8]) {
        self.rewriter.copy(header, batch);
    }

    /// Begins a batch of which some records go: the others are [kept](Self::keep).
    ///
    /// # Errors
    /// [`RewriteError`]; the stretch is worthless then.
    pub fn begin_batch(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), RewriteError> {
        self.rewriter.begin(header, batch)
    }

    /// Takes up to `most` further records, of which those stay that `verdicts` says, from the
    /// record number `from` on; gives whether there were so many.
    ///
    /// # Errors
    /// [`RewriteError`]; the stretch is worthless then.
    pub fn keep(
        &mut self,
        records: &mut Records<'_>,
        most: usize,
        (verdicts, from): (&Verdicts, usize),
    ) -> Result<bool, RewriteError> {
        let mut taken = 0;
        for record in records.by_ref().take(most) {
            let record = record.map_err(catena_protocol::batch::BatchError::from)?;
            if verdicts.stays[from + taken] {
                self.rewriter.keep(&record)?;
            }
            taken += 1;
        }
        Ok(taken == most)
    }

    /// Ends the batch.
    ///
    /// # Errors
    /// [`RewriteError`]; the stretch is worthless then.
    pub fn end_batch(&mut self, verdicts: &Verdicts) -> Result<(), RewriteError> {
        self.dropped += verdicts.dropped;
        self.rewriter.end()
    }

    /// Ends the stretch, which is empty again.
    pub fn finish(&mut self) -> Outcome {
        let from = std::mem::take(&mut self.from);
        let dropped = std::mem::take(&mut self.dropped);
        let Some((rewritten, first)) = self.rewriter.finish().zip(from.first()) else {
            return Outcome::Unchanged(from);
        };
        let before: u64 = from.iter().map(|extent| u64::from(extent.bytes)).sum();
        let after = u64::try_from(rewritten.bytes.len()).expect("usize fits u64");
        if dropped == 0 && after >= before {
            return Outcome::Unchanged(from);
        }
        // Without the records before them those that stay carry their offsets, some bytes each.
        if rewritten.bytes.len() > RELOCATED_BYTES_MAX {
            return Outcome::Stuck(from);
        }
        let extent = Extent {
            base_offset: rewritten.base_offset,
            end_offset: rewritten.end_offset,
            max_timestamp_ms: rewritten.max_timestamp_ms,
            ..*first
        };
        Outcome::Compacted(Compacted {
            moved: MovedExtent {
                tp: self.tp,
                extent,
                bytes: rewritten.bytes,
                join_ms: self.join_ms,
            },
            batch_count: rewritten.batch_count,
            from,
            dropped,
        })
    }

    /// Gives up what was begun, and the extents of it.
    pub fn abandon(&mut self) -> Vec<Extent> {
        self.rewriter.clear();
        self.dropped = 0;
        std::mem::take(&mut self.from)
    }

    /// Whether nothing was begun.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty()
    }
}
