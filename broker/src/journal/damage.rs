//! Finds out what damaged parts of a journal held, and says so in the log.
//!
//! Heads that one flipped bit explains are known again: which partitions and offsets the block
//! holds. It is still not served, for a reader gets what lies on disk or an error; `catena journal
//! repair` writes the bit back. What stays unknown is handed on, so that no offset of it is given
//! out again. Changes nothing on disk. Runs on the executor that will own the journal.

use std::io;

use catena_core::block::BlockView;
use catena_core::entry::EntryView;
use catena_core::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};
use catena_core::ledger::LedgerSlot;
use catena_core::limits::GROUP_BYTES_MAX;
use catena_core::one_bit::{self, FlippedBit};
use catena_core::recover::UnknownLoss;
use catena_core::scan::{CorruptRange, Damage, ScanOutcome};
use catena_core::segment::SegmentHeader;
use tracing::{info, warn};

use super::source::Source;

/// Logs what a scan found wrong.
pub(super) fn report(journal: JournalId, outcome: &ScanOutcome) {
    if let Some(torn) = outcome.torn {
        info!(
            journal = journal.get(),
            segment = torn.at.segment.get(),
            offset = torn.at.offset,
            bytes = torn.bytes,
            "cut an unfinished write at the end; nothing of it was acknowledged"
        );
    }
    for range in &outcome.corrupt {
        warn!(
            journal = journal.get(),
            segment = range.segment.get(),
            start = range.start,
            end = range.end,
            damage = %range.what,
            "acknowledged data is damaged; the rest is served"
        );
    }
}

/// What the page at `at` of a flush ledger says; logs if that is nothing although something was
/// written to it.
pub(super) fn ledger_slot(journal: JournalId, at: u64, page: &[u8]) -> Option<LedgerSlot> {
    let slot = LedgerSlot::newest(page, journal);
    let is_written = page.iter().any(|byte| *byte != 0);
    if is_written && slot.is_none() {
        warn!(
            journal = journal.get(),
            at, "a page of the flush ledger is not readable: torn by a power cut, or damaged"
        );
    }
    slot
}

/// What was lost with segments behind the end of the journal whose headers cannot be read, but for
/// those that were never started.
pub(super) async fn behind_the_end(
    source: &Source,
    unreadable: &[(SegmentSeq, u32)],
) -> io::Result<Vec<CorruptRange>> {
    let mut lost = Vec::new();
    for &(segment, end) in unreadable {
        if source.may_be_started(segment).await? {
            lost.push(CorruptRange {
                segment,
                start: 0,
                end,
                what: Damage::Read,
            });
        }
    }
    Ok(lost)
}

/// Visits the blocks of a damaged range of a journal that are known again, and gives the parts of
/// which nothing is. `header` is that of the range's segment.
pub(super) async fn examine(
    source: &Source,
    header: Option<&SegmentHeader>,
    range: &CorruptRange,
    visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
) -> io::Result<Vec<UnknownLoss>> {
    let at = JournalPos::new(range.segment, range.start);
    let bytes = range.end.saturating_sub(range.start);
    let unknown = UnknownLoss {
        journal: source.journal(),
        at,
        bytes: bytes.into(),
    };
    let bytes = usize::try_from(bytes).expect("u32 fits usize");
    match (&range.what, header) {
        // The heads of its block are good and were visited.
        (Damage::Body(_), _) => Ok(Vec::new()),
        (Damage::Head(_), Some(header)) if bytes <= GROUP_BYTES_MAX => {
            match source.read_range(at, bytes).await? {
                Some(held) => Ok(correct(held, unknown, header, visit)),
                None => Ok(vec![unknown]),
            }
        }
        _ => Ok(vec![unknown]),
    }
}

fn correct(
    mut held: Vec<u8>,
    range: UnknownLoss,
    header: &SegmentHeader,
    visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
) -> Vec<UnknownLoss> {
    let UnknownLoss { journal, at, .. } = range;
    let place = (journal, at.segment, at.offset);
    let mut visit = |place: BlockLocation, view: &BlockView<'_>, flip: FlippedBit| {
        report_corrected(place, view, flip);
        visit(place, view);
    };
    let unknown = one_bit::visit_corrected(&mut held, header.salt, place, &mut visit);
    let unknown = unknown.into_iter().map(|part| UnknownLoss {
        journal,
        at: JournalPos::new(at.segment, part.start),
        bytes: u64::from(part.end - part.start),
    });
    unknown.collect()
}

/// Says what a block holds that is known again and not served.
fn report_corrected(place: BlockLocation, view: &BlockView<'_>, flip: FlippedBit) {
    warn!(
        %place,
        byte = flip.at,
        bit = flip.bit,
        "one bit of a block's heads is flipped: `catena journal repair` can write it back"
    );
    for entry in view.entries() {
        let (EntryView::Batches(_, rows) | EntryView::Relocation(_, rows)) = entry else {
            continue;
        };
        for row in rows.iter() {
            let mut batches = row.batches();
            let Some(first) = batches.next() else {
                continue;
            };
            let last = batches.last().unwrap_or(first);
            warn!(
                topic = row.tp.topic.get(),
                partition = row.tp.partition.get(),
                from = first.header.base_offset.get(),
                to = last.header.next_offset().get(),
                "offsets cannot be read until the block is repaired"
            );
        }
    }
}
