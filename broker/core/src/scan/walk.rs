//! Walking through one segment, block by block, in pieces as they are supplied.
//!
//! Two phases. *Forward* visits blocks that count. The first bad block at or above F makes the walk
//! look *ahead* once, over the rest of the segment, for headers that know of a later flush; then it
//! goes forward again from the bad block, with F final.

use super::plan::{Span, SpanEnd};
use super::{CorruptRange, CorruptRanges, Damage, TornTail};
use crate::block::plausible_length;
use crate::block::{BlockError, BlockHeader, BlockView, check_block_crc, parse_block};
use crate::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};
use crate::layout::{to_u32, to_usize};
use crate::limits::{BLOCK_ALIGN, BLOCK_ALIGN_U32, SCAN_READ_BYTES_MAX};
use crate::planted::{self, Bug};

#[derive(Debug)]
pub(super) struct Walk {
    journal: JournalId,
    span: Span,
    /// Nothing is read at or behind this.
    limit: u32,
    /// F, as far as it concerns this segment.
    flushed: u32,
    phase: Phase,
    /// The next block to judge in the forward phase.
    cursor: u32,
    /// Where the damage that the cursor is stepping over began, and with what.
    damage: Option<(u32, Damage)>,
    last: Option<LastBlock>,
    /// Whether something of this segment's life lies behind the cut, and up to where.
    trace_end: Option<u32>,
    group_seq_max: u64,
    /// How much to read at once; drops when the device refuses, grows again.
    read_bytes: u32,
    /// What the block at the front is known to need; 0 if its header was not seen.
    need_bytes: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// `looked`: F is final.
    Forward {
        looked: bool,
    },
    Ahead {
        at: u32,
    },
    Ended,
}

/// The last block that counts.
#[derive(Clone, Copy, Debug)]
struct LastBlock {
    end: u32,
    header: BlockHeader,
}

/// How a segment ended.
#[derive(Debug)]
pub(super) struct WalkEnd {
    pub(super) end: JournalPos,
    pub(super) last_block_crc: u32,
    pub(super) torn: Option<TornTail>,
    pub(super) group_seq_max: u64,
}

/// What lies at a position.
enum Found<T> {
    Good(T),
    Bad(Damage),
    /// A block may start here, but so many bytes are needed to tell.
    NeedsBytes(u32),
}

impl Walk {
    pub(super) fn new(journal: JournalId, span: Span) -> Self {
        let segment_bytes = span.header.segment_bytes;
        let (limit, flushed) = match span.end {
            SpanEnd::Recorded(named) => (named.end.min(segment_bytes), named.end),
            SpanEnd::Lost => (segment_bytes, segment_bytes),
            SpanEnd::Open { flushed } => (segment_bytes, flushed),
        };
        Self {
            journal,
            span,
            limit,
            flushed,
            phase: Phase::Forward { looked: false },
            cursor: span.from,
            damage: None,
            last: None,
            trace_end: None,
            group_seq_max: 0,
            read_bytes: SCAN_READ_BYTES_MAX,
            need_bytes: 0,
        }
    }

    pub(super) const fn segment(&self) -> SegmentSeq {
        self.span.header.segment
    }

    /// The read that is wanted, as (offset, bytes), or None when the segment is done.
    pub(super) fn wanted(&self) -> Option<(u32, u32)> {
        let at = self.position()?;
        let room = self.limit.saturating_sub(at) / BLOCK_ALIGN_U32 * BLOCK_ALIGN_U32;
        let bytes = self.read_bytes.max(self.need_bytes).min(room);
        (bytes > 0).then_some((at, bytes))
    }

    fn position(&self) -> Option<u32> {
        match self.phase {
            Phase::Forward { .. } => Some(self.cursor),
            Phase::Ahead { at } => Some(at),
            Phase::Ended => None,
        }
    }

    pub(super) fn supply(
        &mut self,
        data: &[u8],
        corrupt: &mut CorruptRanges,
        visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
    ) {
        let (base, asked) = self.wanted().expect("bytes answer a read");
        let whole_pages = (data.len() / BLOCK_ALIGN * BLOCK_ALIGN).min(to_usize(asked));
        let data = &data[..whole_pages];
        if whole_pages < to_usize(asked) {
            self.limit = base + to_u32(whole_pages);
        }
        self.read_bytes = self.read_bytes.saturating_mul(2).min(SCAN_READ_BYTES_MAX);
        // A block that was read whole and needs more than before is not the same block any more.
        let mut was_whole = std::mem::take(&mut self.need_bytes) > 0;
        let phase_before = self.is_ahead();
        while self.is_ahead() == phase_before
            && let Some(at) = self.position()
            && at < self.limit
        {
            let window = data.get(to_usize(at - base)..).unwrap_or_default();
            if window.is_empty() {
                break;
            }
            let needs = match self.phase {
                Phase::Ahead { at } => self.step_ahead(at, window),
                _ => self.step_forward(window, corrupt, visit),
            };
            match needs {
                Some(bytes) if was_whole => self.bad(Damage::Head(BlockError::Length {
                    length: bytes,
                    used: 0,
                    available: window.len(),
                })),
                Some(bytes) => {
                    self.need_bytes = bytes;
                    break;
                }
                None => {}
            }
            was_whole = false;
        }
        self.end_look_ahead();
    }

    pub(super) fn read_failed(&mut self) {
        let (_, asked) = self.wanted().expect("a failure answers a read");
        if asked > self.need_bytes.max(BLOCK_ALIGN_U32) {
            self.read_bytes = BLOCK_ALIGN_U32;
            return;
        }
        self.need_bytes = 0;
        self.read_bytes = BLOCK_ALIGN_U32;
        self.bad(Damage::Read);
        self.end_look_ahead();
    }

    const fn is_ahead(&self) -> bool {
        matches!(self.phase, Phase::Ahead { .. })
    }

    /// Back to the bad block once the rest of the segment was seen.
    fn end_look_ahead(&mut self) {
        if let Phase::Ahead { at } = self.phase
            && at >= self.limit
        {
            self.phase = Phase::Forward { looked: true };
        }
    }

    /// Judges the block at the cursor. Gives the bytes it needs if `window` is too short.
    fn step_forward(
        &mut self,
        window: &[u8],
        corrupt: &mut CorruptRanges,
        visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
    ) -> Option<u32> {
        let view = match self.judge(window, self.cursor, parse_block) {
            Found::Good(view) => view,
            Found::NeedsBytes(bytes) => return Some(bytes),
            Found::Bad(damage) => {
                self.bad(damage);
                return None;
            }
        };
        if let Err(damage) = self.check_place(view.header()) {
            self.bad(damage.into());
            return None;
        }
        let length = view.header().length;
        let at = self.cursor;
        if let Err(damage) = view.verify_bodies() {
            if at >= self.flushed || planted::is(Bug::TruncateAtBadBlock) {
                self.bad(damage.into());
                return None;
            }
            self.close_damage(at, corrupt);
            self.report_bodies(&view, corrupt);
        }
        self.close_damage(at, corrupt);
        let (journal, segment) = (self.journal, self.segment());
        visit(
            BlockLocation {
                journal,
                segment,
                offset: at,
                bytes: length,
            },
            &view,
        );
        self.cursor += length;
        self.last = Some(LastBlock {
            end: self.cursor,
            header: *view.header(),
        });
        self.group_seq_max = self.group_seq_max.max(view.header().group_seq);
        None
    }

    /// Names the damaged batches of the block at the cursor, which counts otherwise.
    fn report_bodies(&self, view: &BlockView<'_>, corrupt: &mut CorruptRanges) {
        for body in view.damaged_batches() {
            let start = self.cursor + body.offset_in_block;
            let end = start + body.bytes;
            corrupt.push(CorruptRange {
                segment: self.segment(),
                start,
                end,
                what: body.into(),
            });
        }
    }

    /// Looks at `at` for a valid header and learns from it.
    fn step_ahead(&mut self, at: u32, window: &[u8]) -> Option<u32> {
        match self.judge(window, at, check_block_crc) {
            Found::NeedsBytes(bytes) => return Some(bytes),
            Found::Good(header) if !self.is_behind(&header) => {
                let end = at + header.length;
                if header.flushed.segment == self.segment() {
                    self.flushed = self.flushed.max(header.flushed.offset.min(self.limit));
                }
                self.group_seq_max = self.group_seq_max.max(header.group_seq);
                self.trace_end = self.trace_end.max(Some(end));
                self.phase = Phase::Ahead { at: end };
            }
            Found::Good(_) => {
                self.phase = Phase::Ahead {
                    at: at + BLOCK_ALIGN_U32,
                }
            }
            Found::Bad(damage) => self.bad(damage),
        }
        None
    }

    /// Runs one of the block checks at a position, once enough bytes are there.
    fn judge<'d, T>(
        &self,
        window: &'d [u8],
        at: u32,
        check: impl FnOnce(&'d [u8], u64, SegmentSeq, u32) -> Result<T, BlockError>,
    ) -> Found<T> {
        let segment = self.segment();
        let length = match plausible_length(window, segment, at) {
            Ok(length) => length,
            Err(error) => return Found::Bad(error.into()),
        };
        if length > self.limit - at {
            let available = to_usize(self.limit - at);
            return Found::Bad(
                BlockError::Length {
                    length,
                    used: 0,
                    available,
                }
                .into(),
            );
        }
        if to_usize(length) > window.len() {
            return Found::NeedsBytes(length);
        }
        match check(window, self.span.header.salt, segment, at) {
            Ok(checked) => Found::Good(checked),
            Err(error) => Found::Bad(error.into()),
        }
    }

    /// Whether a header is of a group before the last one that counts.
    fn is_behind(&self, header: &BlockHeader) -> bool {
        self.last
            .is_some_and(|last| header.group_seq < last.header.group_seq)
    }

    /// Checks what a block cannot know by itself.
    fn check_place(&self, header: &BlockHeader) -> Result<(), BlockError> {
        if let Some(last) = self.last
            && self.is_behind(header)
        {
            let (found, last) = (header.group_seq, last.header.group_seq);
            return Err(BlockError::GroupOrder { found, last });
        }
        if let SpanEnd::Recorded(named) = self.span.end
            && named.last_block_crc != 0
            && self.cursor + header.length == named.end
            && header.crc != named.last_block_crc
        {
            let (found, recorded) = (header.crc, named.last_block_crc);
            return Err(BlockError::NotTheRecordedLast { found, recorded });
        }
        Ok(())
    }

    /// There is no good block at the position of the current phase.
    fn bad(&mut self, damage: Damage) {
        let next = |at: u32| at.saturating_add(BLOCK_ALIGN_U32);
        match self.phase {
            Phase::Ended => {}
            Phase::Ahead { at } => {
                self.note_trace(at, &damage);
                self.phase = Phase::Ahead { at: next(at) };
            }
            Phase::Forward { .. }
                if self.cursor < self.flushed && !planted::is(Bug::TruncateAtBadBlock) =>
            {
                self.damage.get_or_insert((self.cursor, damage));
                self.cursor = next(self.cursor);
            }
            Phase::Forward { looked: false } => {
                self.note_trace(self.cursor, &damage);
                // From the block itself: if only a body is bad, its header gives its length.
                self.phase = Phase::Ahead { at: self.cursor };
            }
            Phase::Forward { looked: true } => {
                self.note_trace(self.cursor, &damage);
                self.phase = Phase::Ended;
            }
        }
    }

    /// Remembers that a bad block is one of this segment's life and not what was there before.
    fn note_trace(&mut self, at: u32, damage: &Damage) {
        use BlockError::{Misplaced, NoBlock, Version};
        let foreign = matches!(
            damage,
            Damage::Head(NoBlock | Version { .. } | Misplaced { .. })
        );
        if !foreign {
            self.trace_end = self.trace_end.max(Some(at.saturating_add(BLOCK_ALIGN_U32)));
        }
    }

    /// Ends the damage that the cursor was stepping over, if any.
    fn close_damage(&mut self, end: u32, corrupt: &mut CorruptRanges) {
        if let Some((start, what)) = self.damage.take() {
            corrupt.push(CorruptRange {
                segment: self.segment(),
                start,
                end,
                what,
            });
        }
    }

    pub(super) fn finish(mut self, corrupt: &mut CorruptRanges) -> WalkEnd {
        let open = matches!(self.span.end, SpanEnd::Open { .. });
        if matches!(self.span.end, SpanEnd::Lost) {
            // Where the blocks of this segment end is not known, so neither is whether the bytes
            // behind the last one were ever written. That its successor is missing is reported.
            self.damage = None;
        } else if self.cursor < self.flushed {
            // The file is shorter than what was flushed into it.
            self.damage.get_or_insert((self.cursor, Damage::Read));
        }
        self.close_damage(self.flushed, corrupt);
        let last_end = self.last.map_or(0, |last| last.end);
        let end = match self.span.end {
            SpanEnd::Recorded(named) => named.end,
            SpanEnd::Lost => last_end.max(self.span.from),
            SpanEnd::Open { .. } if planted::is(Bug::TruncateAtBadBlock) => self.cursor,
            SpanEnd::Open { .. } => self.cursor.max(self.flushed),
        };
        let last_is_at_end = self.last.filter(|last| last.end == end);
        WalkEnd {
            end: JournalPos::new(self.segment(), end),
            last_block_crc: last_is_at_end.map_or(0, |last| last.header.crc),
            torn: if open { self.torn(end) } else { None },
            group_seq_max: self.group_seq_max,
        }
    }

    /// The unfinished write behind `end`, if there is a trace of one.
    fn torn(&self, end: u32) -> Option<TornTail> {
        let unfinished = self.last.is_some_and(|last| {
            last.end == end && last.header.group_index + 1 < last.header.group_count
        });
        let trace_end = self.trace_end.filter(|&trace_end| trace_end > end);
        let bytes = trace_end.map_or(0, |trace_end| trace_end - end);
        let at = JournalPos::new(self.segment(), end);
        (unfinished || trace_end.is_some()).then_some(TornTail { at, bytes })
    }
}
