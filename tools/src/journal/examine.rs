//! Everything that can be found out about one journal by reading all of it: what `verify` reports
//! and `repair` plans by.

use catena_core::block::BlockView;
use catena_core::entry::EntryView;
use catena_core::ids::{BlockLocation, JournalPos, SegmentSeq};
use catena_core::limits::GROUP_BYTES_MAX;
use catena_core::one_bit::{self, FlippedBit};
use catena_core::scan::{CorruptRange, Damage, ScanOutcome};

use super::audit::{Audit, Counts, Gap};
use super::checkpoints::{self, Checkpoint};
use super::files::JournalFiles;
use super::names::{self, BadSnapshot};
use super::report::Lost;
use super::verify::{self, Ledger};
use super::walk::{self, BadSegment, Segment};

/// One journal, read whole.
#[derive(Debug)]
pub(crate) struct Examined {
    pub(crate) ledger: Ledger,
    pub(crate) checkpoints: Vec<Checkpoint>,
    pub(crate) bad_snapshots: Vec<BadSnapshot>,
    pub(crate) segments: Vec<Segment>,
    /// Files that hold data of which nothing can be read.
    pub(crate) bad: Vec<BadSegment>,
    /// Files that were prepared and never started.
    pub(crate) unstarted: Vec<SegmentSeq>,
    pub(crate) outcome: ScanOutcome,
    pub(crate) counts: Counts,
    pub(crate) gaps: Vec<Gap>,
    pub(crate) bytes_read: u64,
    /// Damaged blocks that one flipped bit explains.
    pub(crate) corrections: Vec<Correction>,
}

/// A block that becomes good again if one bit is flipped back.
#[derive(Debug, Clone)]
pub(crate) struct Correction {
    pub(crate) block: BlockLocation,
    /// Byte of the segment file.
    pub(crate) at: u64,
    pub(crate) bit: u8,
    /// What the block holds.
    pub(crate) holds: Vec<Lost>,
}

/// Reads a journal whole.
pub(crate) fn examine(journal: &JournalFiles) -> anyhow::Result<Examined> {
    let ledger = verify::read_ledger(journal)?;
    let checkpoints = checkpoints::read(journal)?;
    let walk::Segments { good, bad } = walk::open(journal)?;
    let from = checkpoints::newest_scan_from(&checkpoints);
    let mut audit = Audit::new(from.segment);
    let scanned = walk::scan(journal.id, &good, ledger.newest, &mut |location, view| {
        audit.block(&location, view);
    });
    let outcome = scanned.outcome;
    let (unstarted, bad): (Vec<BadSegment>, Vec<BadSegment>) = bad
        .into_iter()
        .partition(|bad| bad.segment > outcome.end.segment);
    let corrections = outcome
        .corrupt
        .iter()
        .flat_map(|range| corrections(journal, &good, range))
        .collect();
    Ok(Examined {
        ledger,
        checkpoints,
        bad_snapshots: names::bad_snapshots(journal)?,
        segments: good,
        bad,
        unstarted: unstarted.iter().map(|bad| bad.segment).collect(),
        outcome,
        counts: audit.counts,
        gaps: audit.gaps,
        bytes_read: scanned.bytes_read,
        corrections,
    })
}

impl Examined {
    /// Where recovery would start.
    pub(crate) fn scan_from(&self) -> JournalPos {
        checkpoints::newest_scan_from(&self.checkpoints)
    }

    /// Whether the journal is there from its beginning, as far as headers tell.
    pub(crate) fn is_whole(&self) -> bool {
        let first = self.segments.first();
        first.is_none_or(|first| first.header.previous.is_none())
    }

    /// What is damaged, without the holes that freed segments leave.
    pub(crate) fn corrupt(&self) -> impl Iterator<Item = &CorruptRange> {
        let from = self.scan_from();
        let freed = move |range: &CorruptRange| match range.what {
            Damage::SegmentMissing { through } => JournalPos::new(through, range.end) <= from,
            _ => false,
        };
        self.outcome
            .corrupt
            .iter()
            .filter(move |range| !freed(range))
    }

    /// The corrections that lie in a range.
    pub(crate) fn corrections_of(&self, range: &CorruptRange) -> impl Iterator<Item = &Correction> {
        self.corrections.iter().filter(move |correction| {
            correction.block.segment == range.segment
                && (range.start..range.end).contains(&correction.block.offset)
        })
    }

    /// Whether correcting bits gives back all of a range.
    pub(crate) fn is_correctable(&self, range: &CorruptRange) -> bool {
        let corrected: u32 = self.corrections_of(range).map(|it| it.block.bytes).sum();
        corrected > 0 && corrected == range.end - range.start
    }
}

fn corrections(
    journal: &JournalFiles,
    segments: &[Segment],
    range: &CorruptRange,
) -> Vec<Correction> {
    let mut found = Vec::new();
    let segment = segments
        .iter()
        .find(|segment| segment.header.segment == range.segment);
    let (Damage::Head(_), Some(segment)) = (&range.what, segment) else {
        return found;
    };
    let is_small = range.end.saturating_sub(range.start) as usize <= GROUP_BYTES_MAX;
    let bytes = segment.bytes(range.start, range.end);
    let Some(mut bytes) = bytes.filter(|_| is_small) else {
        return found;
    };
    let place = (journal.id, range.segment, range.start);
    let salt = segment.header.salt;
    let mut visit = |block: BlockLocation, view: &BlockView<'_>, flip: FlippedBit| {
        found.push(Correction {
            block,
            at: u64::from(block.offset) + flip.at as u64,
            bit: flip.bit,
            holds: holds(view),
        });
    };
    one_bit::visit_corrected(&mut bytes, salt, place, &mut visit);
    found
}

/// The messages in a block.
fn holds(view: &BlockView<'_>) -> Vec<Lost> {
    let rows = view.entries().filter_map(|entry| match entry {
        EntryView::Batches(_, rows) | EntryView::Relocation(_, rows) => Some(rows),
        _ => None,
    });
    let batches = rows.flat_map(|rows| rows.batches());
    batches
        .map(|batch| Lost {
            topic: batch.tp.topic.0,
            name: None,
            partition: batch.tp.partition.0,
            from: batch.header.base_offset.0,
            to: batch.header.next_offset().0,
        })
        .collect()
}
