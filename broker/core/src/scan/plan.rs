//! Which segments a scan visits, in which order, and where each ends.
//!
//! The newest segment is taken as it is. From there the links of the headers lead back: a segment
//! that a later header names ends where that header says. One that is skipped by the links was
//! opened and abandoned. One that is named but not there is lost.

use std::collections::VecDeque;

use super::{CorruptRange, Damage, ScanInput};
use crate::ids::{JournalPos, SegmentSeq};
use crate::limits::{BLOCK_ALIGN_U32, SEGMENT_HEADER_BYTES};
use crate::segment::{PreviousSegment, SegmentHeader};

/// One step of the scan.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Missing(CorruptRange),
    Span(Span),
}

/// A segment to scan from `from` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) header: SegmentHeader,
    pub(super) from: u32,
    pub(super) end: SpanEnd,
}

/// What is known of a segment's end.
#[derive(Clone, Copy, Debug)]
pub(super) enum SpanEnd {
    /// The successor recorded it; everything below is flushed.
    Recorded(PreviousSegment),
    /// There was a successor, but its header is lost. Nothing in this segment can be torn.
    Lost,
    /// The newest segment, flushed at least up to here.
    Open { flushed: u32 },
}

#[derive(Debug)]
pub(super) struct Plan {
    /// In journal order.
    pub(super) parts: VecDeque<Part>,
    pub(super) unlinked: Vec<SegmentSeq>,
    /// The journal does not end below this, whatever the segments hold.
    pub(super) floor: JournalPos,
}

/// Plans the scan.
pub(super) fn plan(input: ScanInput) -> Plan {
    let ScanInput {
        mut segments,
        ledger,
        start,
        ..
    } = input;
    let ledger_end = ledger.map_or(JournalPos::default(), |slot| slot.flushed);
    let floor = align_up(ledger_end.max(start.unwrap_or_default()));
    let first = start.unwrap_or_default().segment;
    segments.retain(|header| header.segment >= first);
    segments.sort_by_key(|header| header.segment);

    let mut plan = Plan {
        parts: VecDeque::new(),
        unlinked: Vec::new(),
        floor,
    };
    let newest = segments
        .last()
        .map_or(SegmentSeq(0), |header| header.segment);
    if newest < floor.segment {
        plan.missing(newest.next().max(first), floor);
    }
    let mut link = Link::Newest;
    for header in segments.into_iter().rev() {
        let end = match link {
            Link::Newest if header.segment < floor.segment => SpanEnd::Lost,
            Link::Newest => {
                let here = floor.segment == header.segment;
                SpanEnd::Open {
                    flushed: if here { floor.offset } else { 0 },
                }
            }
            Link::To(Some(named)) if header.segment == named.segment => SpanEnd::Recorded(named),
            Link::To(Some(named)) if header.segment < named.segment => {
                plan.missing(header.segment.next(), named.at());
                SpanEnd::Lost
            }
            Link::To(_) => {
                plan.unlinked.push(header.segment);
                continue;
            }
        };
        let from = match start {
            Some(start) if start.segment == header.segment => start.offset,
            _ => SEGMENT_HEADER_BYTES,
        };
        let from = (from - from % BLOCK_ALIGN_U32).max(SEGMENT_HEADER_BYTES);
        plan.parts
            .push_front(Part::Span(Span { header, from, end }));
        link = Link::To(header.previous);
    }
    // Without a start, what came before the oldest file may have been freed.
    if let (Link::To(Some(named)), Some(start)) = (link, start)
        && named.at() > start
    {
        plan.missing(start.segment, named.at());
    }
    plan.unlinked.reverse();
    plan
}

/// What the header of the segment behind says of the one before.
#[derive(Clone, Copy, Debug)]
enum Link {
    Newest,
    To(Option<PreviousSegment>),
}

impl PreviousSegment {
    const fn at(&self) -> JournalPos {
        JournalPos::new(self.segment, self.end)
    }
}

impl Plan {
    /// Notes, in front of what is planned so far, that the segments from `first` up to `end` are
    /// not there.
    fn missing(&mut self, first: SegmentSeq, end: JournalPos) {
        let what = Damage::SegmentMissing {
            through: end.segment,
        };
        let range = CorruptRange {
            segment: first,
            start: 0,
            end: end.offset,
            what,
        };
        self.parts.push_front(Part::Missing(range));
    }
}

/// Positions on disk are aligned; one that is not can only be a bug, and must not stop the scan.
fn align_up(at: JournalPos) -> JournalPos {
    let offset = at.offset.checked_next_multiple_of(BLOCK_ALIGN_U32);
    JournalPos::new(
        at.segment,
        offset.unwrap_or(u32::MAX - (BLOCK_ALIGN_U32 - 1)),
    )
}
