//! The cleaner: copies what is wanted out of segments that hold little of it, so that they can be
//! freed. Which segments, and at what cost, is decided by [`catena_core::cleaner`].
//!
//! One piece of a segment at a time, in this order:
//!
//! 1. its batches are read, checked, and written to the journal as relocation records, grouped by
//!    partition; each is on stable storage when its append returns;
//! 2. an index run that names the new places is written, whole;
//! 3. in one step without waiting, the run becomes the newest of the index, the wanted bytes are
//!    counted at the new places, and the source is pinned;
//! 4. two checkpoints later both kept ones name the run, the pin is gone, and the source is freed
//!    like any segment that holds nothing wanted, once nobody reads it.
//!
//! A crash before 3 has become part of a checkpoint leaves the source as it was, and copies that
//! nothing names: dead bytes. A crash after it leaves both, and the source is freed later. No step
//! needs to be undone or done again. Only segments wholly below the frame floor are touched: the
//! scan of neither kept checkpoint begins in them or before them, so no frame in them is folded
//! again.
//!
//! A piece that cannot be read or does not verify stays where it is, and its segment with it.
//!
//! Invariant: a batch that the index names is on stable storage where it says. Runs on the shard's
//! executor, in its maintenance, one thing after the other with runs, trims and checkpoints.

mod moving;
mod walk;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use catena_core::cleaner::{
    Pressure, SegmentFacts, WriteCredit, choose_interleaved, choose_victim,
};
use catena_core::ids::{JournalPos, SegmentSeq};
use tracing::{debug, warn};

use super::Shard;
use super::maintenance::Piece;
use crate::journal::JournalError;
use crate::journal::segments::SealedSegment;
use crate::limits::{
    CLEANER_ALLOWANCE_DIVISOR, CLEANER_CREDIT_DIVISOR, CLEANER_EXTENT_BYTES_MAX,
    CLEANER_IDLE_BYTES_MAX, CLEANER_IDLE_US, CLEANER_REGROUP_GAIN_MIN,
};
use crate::runtime::clock;

pub(super) use moving::Located;
use walk::Walk;

/// Why a segment is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To get its space back.
    Reclaim,
    /// To put the batches of each partition together.
    Regroup,
}

/// State of the cleaner.
pub struct Cleaner {
    credit: RefCell<WriteCredit>,
    walk: RefCell<Option<Walk>>,
    /// Segments of which something could not be moved.
    stuck: RefCell<BTreeSet<SegmentSeq>>,
    /// Segments that would not be better in another order.
    in_order: RefCell<BTreeSet<SegmentSeq>>,
    /// Journal bytes that have been looked at for credit.
    seen_bytes: Cell<u64>,
    /// Of those that have not, the cleaner's own.
    own_bytes: Cell<u64>,
    /// When others wrote much last.
    busy_at_us: Cell<u64>,
}

impl Cleaner {
    /// A cleaner that has done nothing, for a journal of `space_bytes`.
    pub fn new(space_bytes: u64) -> Cleaner {
        let allowance = space_bytes / CLEANER_ALLOWANCE_DIVISOR;
        let most = space_bytes / CLEANER_CREDIT_DIVISOR;
        Cleaner {
            credit: RefCell::new(WriteCredit::new(allowance, most)),
            walk: RefCell::default(),
            stuck: RefCell::default(),
            in_order: RefCell::default(),
            seen_bytes: Cell::new(0),
            own_bytes: Cell::new(0),
            busy_at_us: Cell::new(0),
        }
    }

    /// Notes what was written to the journal since the last time, by whom it was.
    fn note_written(&self, total_bytes: u64) {
        let written = total_bytes - self.seen_bytes.replace(total_bytes);
        let own = self.own_bytes.replace(0);
        let by_others = written.saturating_sub(own);
        self.credit.borrow_mut().earn(by_others);
        if by_others > CLEANER_IDLE_BYTES_MAX {
            self.busy_at_us.set(clock::now_us());
        }
    }

    /// Bytes that may be written now.
    pub fn credit_bytes(&self) -> u64 {
        self.credit.borrow().available()
    }

    fn spend(&self, bytes: u64) {
        self.own_bytes.set(self.own_bytes.get() + bytes);
        self.credit.borrow_mut().spend(bytes);
    }

    /// Lets segments be tried again of which something could not be moved.
    pub fn forget_stuck(&self) {
        self.stuck.borrow_mut().clear();
    }

    fn is_idle(&self) -> bool {
        clock::now_us().saturating_sub(self.busy_at_us.get()) >= CLEANER_IDLE_US
    }
}

impl Shard {
    /// Does one piece of cleaning if any is worth it.
    ///
    /// Not cancellation safe in what it counts, harmless in what it writes: the maintenance runs it
    /// to its end.
    ///
    /// # Errors
    /// [`JournalError`]: the journal is latched.
    pub async fn clean(self: &Rc<Self>) -> Result<Piece, JournalError> {
        if !self.index.live.borrow().is_complete() {
            return Ok(Piece::Nothing);
        }
        self.cleaner.note_written(self.journal.written_bytes());
        let pressure = self.pressure();
        let walk = self.cleaner.walk.take();
        let walk = walk.filter(|walk| self.is_cleanable(walk.segment) && self.has_room_for(walk));
        let Some(mut walk) = walk.or_else(|| self.begin_walk(pressure)) else {
            return Ok(self.unless_floor_is_low(pressure));
        };
        let found = match self.read_piece(&mut walk).await {
            Ok(found) => self.locate(found).await,
            Err(error) => {
                warn!(segment = walk.segment.segment.get(), %error, "a segment cannot be emptied");
                self.cleaner.stuck.borrow_mut().insert(walk.segment.segment);
                return Ok(Piece::Some);
            }
        };
        if walk.purpose == Purpose::Regroup && !gains_by_order(&found) {
            self.cleaner
                .in_order
                .borrow_mut()
                .insert(walk.segment.segment);
            return Ok(Piece::Some);
        }
        if !self.relocate(found, pressure).await? {
            return Ok(Piece::Nothing);
        }
        self.end_piece(walk);
        Ok(Piece::Some)
    }

    /// How urgent space is.
    pub(super) fn pressure(&self) -> Pressure {
        let segments = self.journal.segments();
        let used = segments.used_bytes();
        Pressure::new(used, self.journal.space_bytes(), segments.out_of_space())
    }

    /// Whether what is left of a segment can be written: others write meanwhile, too.
    fn has_room_for(&self, walk: &Walk) -> bool {
        let key = (self.journal.id(), walk.segment.segment);
        self.index.live.borrow().of(key).bytes <= self.journal.cleaning_room()
    }

    fn begin_walk(&self, pressure: Pressure) -> Option<Walk> {
        let credit = *self.cleaner.credit.borrow();
        let is_sealed = |segment: &SegmentSeq| self.journal.segments().is_sealed(*segment);
        self.cleaner.in_order.borrow_mut().retain(is_sealed);
        self.cleaner.stuck.borrow_mut().retain(is_sealed);
        let facts = self.cleanable();
        let room = self.journal.cleaning_room();
        let dead = choose_victim(facts.iter().copied(), pressure, &credit, room);
        let mixed = || {
            let is_time = pressure == Pressure::Easy && self.cleaner.is_idle();
            let in_order = self.cleaner.in_order.borrow();
            let others = facts.iter().filter(|f| !in_order.contains(&f.segment));
            is_time
                .then(|| choose_interleaved(others.copied(), &credit, CLEANER_EXTENT_BYTES_MAX))
                .flatten()
        };
        let (segment, purpose) = match dead {
            Some(segment) => (segment, Purpose::Reclaim),
            None => (mixed()?, Purpose::Regroup),
        };
        debug!(
            segment = segment.get(),
            ?purpose,
            ?pressure,
            "emptying a segment"
        );
        let sealed = self.journal.segments().sealed();
        let sealed = sealed
            .into_iter()
            .find(|sealed| sealed.segment == segment)?;
        Some(Walk::new(sealed, purpose))
    }

    /// The segments that may be emptied now.
    fn cleanable(&self) -> Vec<SegmentFacts> {
        let sealed = self.journal.segments().sealed().into_iter();
        sealed
            .filter(|sealed| self.is_cleanable(*sealed))
            .map(|sealed| self.facts(sealed))
            .collect()
    }

    fn facts(&self, sealed: SealedSegment) -> SegmentFacts {
        let key = (self.journal.id(), sealed.segment);
        let live = self.index.live.borrow().of(key);
        let active = self.journal.active_segment();
        SegmentFacts {
            segment: sealed.segment,
            file_bytes: sealed.file_bytes.into(),
            live_bytes: live.bytes,
            live_extents: live.extents,
            age: u64::from(active.get().saturating_sub(sealed.segment.get())),
        }
    }

    fn is_cleanable(&self, sealed: SealedSegment) -> bool {
        let end = JournalPos::new(sealed.segment, sealed.end);
        self.is_known_alone(sealed) && end <= self.recovery_start.get()
    }

    /// Whether all that is wanted of a segment is known, and wanted by this shard.
    fn is_known_alone(&self, sealed: SealedSegment) -> bool {
        let key = (self.journal.id(), sealed.segment);
        let live = self.index.live.borrow();
        live.of(key).bytes > 0
            && !live.may_be_named(key)
            && !self.claims.borrow().is_claimed(key)
            && !self.cleaner.stuck.borrow().contains(&sealed.segment)
            && self.journal.segments().is_sealed(sealed.segment)
    }

    fn unless_floor_is_low(&self, pressure: Pressure) -> Piece {
        if pressure < Pressure::Full {
            return Piece::Nothing;
        }
        let credit = *self.cleaner.credit.borrow();
        let sealed = self.journal.segments().sealed().into_iter();
        let known = sealed.filter(|sealed| self.is_known_alone(*sealed));
        let facts: Vec<SegmentFacts> = known.map(|sealed| self.facts(sealed)).collect();
        let room = self.journal.cleaning_room();
        match choose_victim(facts, pressure, &credit, room) {
            Some(_) => Piece::FloorIsLow,
            None => Piece::Nothing,
        }
    }

    fn end_piece(&self, walk: Walk) {
        let segment = walk.segment.segment;
        if !walk.is_over() {
            *self.cleaner.walk.borrow_mut() = Some(walk);
            return;
        }
        let live = self.index.live.borrow().of((self.journal.id(), segment));
        if live.bytes == 0 {
            let is_regrouped = walk.purpose == Purpose::Regroup;
            self.metrics.cleaner_segments.add(1);
            self.metrics.cleaner_regrouped.add(u64::from(is_regrouped));
        } else {
            warn!(
                segment = segment.get(),
                bytes = live.bytes,
                "a part of a segment cannot be moved; the segment stays"
            );
            self.cleaner.stuck.borrow_mut().insert(segment);
        }
    }
}

/// Whether the extents of most partitions would become fewer.
fn gains_by_order(found: &[Located]) -> bool {
    let partitions: BTreeSet<_> = found.iter().map(|located| located.moved.tp).collect();
    found.len() >= CLEANER_REGROUP_GAIN_MIN * partitions.len().max(1)
}
