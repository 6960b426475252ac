//! Reading a journal back after a crash: which blocks count, where the journal ends, what is lost.
//!
//! A block is *bad* if its header, an entry head or a batch body does not verify, or its bytes
//! cannot be read. Whether that is damage or only an unfinished write is decided by one position,
//! F, up to which the journal is known to have been flushed: the highest of the flush ledger, the
//! known-flushed position in any valid header ahead of the bad block, and the end of a segment that
//! has a valid successor. Below F a bad block is *corrupt*: it was acknowledged, so it is named and
//! stepped over, and what follows still counts. At or above F it is *torn*: nobody was told of it,
//! and it is cut with everything behind it.
//!
//! Invariants. Bytes are judged, never trusted: no input panics, and the scan always ends. A block
//! below F is never cut. Nothing behind a cut is visited, in this scan or a later one, because the
//! caller opens a new segment whose header records the cut (see [`ScanOutcome::previous`]). Memory
//! does not grow with the journal: bytes are judged in the caller's read buffer, and a look ahead
//! keeps only the highest known-flushed position.
//!
//! The scan does no reading of its own: it asks for reads and is supplied with bytes.

mod plan;
mod walk;

use std::collections::VecDeque;

use self::plan::Part;
use self::walk::Walk;
use crate::block::{BlockError, BlockView, BodyError, plausible_length};
use crate::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};
use crate::ledger::LedgerSlot;
use crate::limits::{SCAN_CORRUPT_RANGES_MAX, SEGMENT_HEADER_BYTES};
use crate::segment::{PreviousSegment, SegmentHeader};

/// What is known before the scan.
#[derive(Clone, Debug)]
pub struct ScanInput {
    pub journal: JournalId,
    /// Every segment file of the journal whose header is valid, in order.
    pub segments: Vec<SegmentHeader>,
    /// The newest valid slot of the flush ledger.
    pub ledger: Option<LedgerSlot>,
    /// Where to start: a block boundary that a checkpoint vouches for. None: at the first segment.
    pub start: Option<JournalPos>,
}

/// What the scan wants next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScanStep {
    /// Read `bytes` at `offset` of the segment's file (both multiples of 4 KiB, at most 1 MiB),
    /// then call [`JournalScan::supply`] or [`JournalScan::read_failed`].
    Read {
        segment: SegmentSeq,
        offset: u32,
        bytes: u32,
    },
    /// The scan is over.
    Done(ScanOutcome),
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ScanOutcome {
    /// Where the journal ends: behind the last block that counts, and never below F. Segment 0,
    /// which never exists, if the journal is empty.
    pub end: JournalPos,
    /// Crc of the block that ends at `end`; 0 if none does.
    pub last_block_crc: u32,
    /// Above every group seen, cut ones included.
    pub next_group_seq: u64,
    /// The unfinished write that was cut, if there was a trace of one.
    pub torn: Option<TornTail>,
    /// What was acknowledged and is damaged, in journal order. Above
    /// `SCAN_CORRUPT_RANGES_MAX` of them, one range stands for several of a segment.
    pub corrupt: Vec<CorruptRange>,
    /// Segments that no later header leads to: left over from openings that a crash undid. Nothing
    /// in them counts; their files may be reused.
    pub unlinked: Vec<SegmentSeq>,
}

impl ScanOutcome {
    /// What the header of the segment that is opened next records. Recovery flushes the segment it
    /// cut before it writes that header, because the header states that everything below `end` is
    /// flushed.
    pub fn previous(&self) -> Option<PreviousSegment> {
        let JournalPos {
            segment,
            offset: end,
        } = self.end;
        let last_block_crc = self.last_block_crc;
        (segment > SegmentSeq(0)).then_some(PreviousSegment {
            segment,
            end,
            last_block_crc,
        })
    }

    /// The segment to open next. Recovery never writes to one that it has scanned.
    pub fn next_segment(&self) -> SegmentSeq {
        self.end.segment.next()
    }
}

/// An unfinished write at the end of the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// Where the journal was cut.
    pub at: JournalPos,
    /// How far behind the cut blocks of this segment's life were seen; 0 if only the rest of a
    /// group is missing.
    pub bytes: u32,
}

/// Bytes that were acknowledged and are damaged: `[start, end)` of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CorruptRange {
    pub segment: SegmentSeq,
    pub start: u32,
    pub end: u32,
    pub what: Damage,
}

/// What is wrong with a corrupt range. For a range of several blocks: with its first.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// A block cannot be told; its entries are lost.
    #[error(transparent)]
    Head(#[from] BlockError),
    /// One batch is lost. The rest of its block counts and was visited.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The device did not give the bytes.
    #[error("the device could not read it")]
    Read,
    /// No valid header was found for the segments from the range's own to this one.
    #[error("no segment with a valid header, up to segment {through}")]
    SegmentMissing { through: SegmentSeq },
}

/// Damage, bounded in number.
#[derive(Clone, Debug, Default)]
struct CorruptRanges(Vec<CorruptRange>);

impl CorruptRanges {
    fn push(&mut self, range: CorruptRange) {
        if self.0.len() >= SCAN_CORRUPT_RANGES_MAX
            && let Some(last) = self.0.last_mut()
            && last.segment == range.segment
        {
            last.end = last.end.max(range.end);
            return;
        }
        self.0.push(range);
    }
}

/// The scan of one journal.
///
/// ```
/// use catena_core::ids::JournalId;
/// use catena_core::scan::{JournalScan, ScanInput, ScanStep};
///
/// let journal = JournalId(0);
/// let input = ScanInput { journal, segments: Vec::new(), ledger: None, start: None };
/// let mut scan = JournalScan::new(input);
/// let outcome = loop {
///     match scan.next() {
///         ScanStep::Read { .. } => scan.read_failed(), // or read, then `supply`
///         ScanStep::Done(outcome) => break outcome,
///     }
/// };
/// assert_eq!(outcome.next_segment().get(), 1);
/// assert_eq!(outcome.previous(), None);
/// ```
#[derive(Debug)]
pub struct JournalScan {
    journal: JournalId,
    parts: VecDeque<Part>,
    walk: Option<Walk>,
    corrupt: CorruptRanges,
    outcome: ScanOutcome,
    group_seq_max: u64,
}

impl JournalScan {
    /// A scan that has read nothing.
    pub fn new(input: ScanInput) -> Self {
        let group_seq_max = input.ledger.map_or(0, |slot| slot.group_seq);
        let journal = input.journal;
        let plan = plan::plan(input);
        let outcome = ScanOutcome {
            end: plan.floor,
            unlinked: plan.unlinked,
            ..ScanOutcome::default()
        };
        Self {
            journal,
            parts: plan.parts,
            walk: None,
            corrupt: CorruptRanges::default(),
            outcome,
            group_seq_max,
        }
    }

    /// What is wanted now. Asking again without an answer gives the same step.
    #[expect(
        clippy::should_implement_trait,
        reason = "a scan is answered between its steps"
    )]
    pub fn next(&mut self) -> ScanStep {
        loop {
            if let Some(walk) = &self.walk {
                if let Some((offset, bytes)) = walk.wanted() {
                    return ScanStep::Read {
                        segment: walk.segment(),
                        offset,
                        bytes,
                    };
                }
                self.end_segment();
            }
            match self.parts.pop_front() {
                Some(Part::Missing(range)) => self.corrupt.push(range),
                Some(Part::Span(span)) => self.walk = Some(Walk::new(self.journal, span)),
                None => return ScanStep::Done(self.finish()),
            }
        }
    }

    /// Answers a read. Fewer bytes than asked mean that the file ends there. `visit` is called for
    /// each block that counts, in journal order, with its place. Batch bodies were verified; those
    /// that are damaged below F are in [`ScanOutcome::corrupt`] and their block is still visited,
    /// so that everything else in it counts.
    ///
    /// # Panics
    /// If no read was asked for.
    pub fn supply(&mut self, data: &[u8], visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>)) {
        let walk = self.walk.as_mut().expect("bytes answer a read");
        walk.supply(data, &mut self.corrupt, visit);
    }

    /// Answers a read that the device refused. Smaller ones will be asked for, until single pages
    /// that cannot be read count as bad.
    ///
    /// # Panics
    /// If no read was asked for.
    pub fn read_failed(&mut self) {
        let walk = self.walk.as_mut().expect("a failure answers a read");
        walk.read_failed();
    }

    /// What was acknowledged and is damaged in the segments that are over, for who does not go on
    /// to the end.
    pub fn corrupt(&self) -> &[CorruptRange] {
        &self.corrupt.0
    }

    fn end_segment(&mut self) {
        let Some(walk) = self.walk.take() else { return };
        let end = walk.finish(&mut self.corrupt);
        self.group_seq_max = self.group_seq_max.max(end.group_seq_max);
        self.outcome.torn = end.torn;
        if end.end >= self.outcome.end {
            self.outcome.end = end.end;
            self.outcome.last_block_crc = end.last_block_crc;
        }
    }

    fn finish(&mut self) -> ScanOutcome {
        self.outcome.corrupt = self.corrupt.0.clone();
        self.outcome.next_group_seq = self.group_seq_max.saturating_add(1);
        self.outcome.clone()
    }
}

/// Whether a segment was started, judged by the page behind its header when that cannot be read:
/// whether a block of this very segment seems to begin there.
pub fn is_started(first_page: &[u8], segment: SegmentSeq) -> bool {
    plausible_length(first_page, segment, SEGMENT_HEADER_BYTES).is_ok()
}

#[cfg(test)]
mod tests;
