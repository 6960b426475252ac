//! Key compaction: writes the batches of compacted topics anew without the records that a newer
//! one of their key supersedes. What goes, and when, is decided by [`catena_core::compaction`].
//!
//! A partition at a time, a step of it in each round of the maintenance. A step either notes keys
//! or writes a piece anew. Such a piece goes the way of the cleaner ([`super::cleaner`]): the new
//! batches are relocation records, an index run names them in the place of the old extents, and
//! the segments that held those are pinned until two more checkpoints are durable. So a crash
//! between any two steps leaves either the old batches or the new ones, and copies that nothing
//! names. What is known of the partition lies in the checkpoint beside the runs, and comes back
//! with them.
//!
//! Only batches of this journal below the frame floor are touched, which are committed, in index
//! runs, and never folded again. The rest of the partition, damage included, stays as it is.
//!
//! Invariant: between two steps the index names whole, durable batches for every offset. Runs on
//! the shard's executor, in its maintenance, in steps that yield.

mod noting;
mod piece;
mod reading;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use catena_core::cleaner::Pressure;
use catena_core::compaction::{
    CompactedPartition, CompactionPolicy, Judge, JudgeError, Pass, Phase,
};
use catena_core::ids::JournalPos;
use catena_core::index::Extent;
use catena_core::limits::BLOCK_BYTES_MAX_U32;
use catena_core::log::PartitionState;
use catena_protocol::batch::{BatchHeader, Decompressor};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Offset, TopicId, TopicPartition};
use tracing::{debug, warn};

use super::Shard;
use super::maintenance::Piece;
use super::reader::ReadError;
use crate::journal::JournalError;
use crate::limits::{
    CLEANER_EXTENTS_AHEAD, COMPACTION_PIECE_BYTES_MIN, COMPACTION_RETRY_US, COMPACTION_STEP_BYTES,
};
use crate::runtime::clock;
use crate::runtime::random;

/// State of compaction on a shard.
pub struct Compaction {
    policy: CompactionPolicy,
    pass: RefCell<Option<Pass>>,
    /// Partitions that had nothing to compact below the frame floor of that moment, and when to
    /// look again although it has not moved.
    tried: RefCell<BTreeMap<TopicPartition, (JournalPos, u64)>>,
    /// When the frame floor was raised last.
    raised_at_us: Cell<Option<u64>>,
    decompressor: RefCell<Decompressor>,
}

impl Compaction {
    /// Nothing under way.
    pub fn new(policy: CompactionPolicy) -> Compaction {
        Compaction {
            policy,
            pass: RefCell::default(),
            tried: RefCell::default(),
            raised_at_us: Cell::new(None),
            decompressor: RefCell::default(),
        }
    }

    /// How long what was put off waits. Who wants nothing to wait long wants no long pause.
    fn retry_us(&self) -> u64 {
        let lag_max_us = self.policy.lag_max_ms.saturating_mul(1000);
        lag_max_us.min(COMPACTION_RETRY_US)
    }
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The pass goes on.
    More,
    /// The pass is over.
    Over,
    /// It has to wait until more may be written.
    Waits,
    /// It is given up, and begun anew when the frame floor has moved.
    GivenUp,
    /// As `GivenUp`, since everything new lies above the floor.
    AboveFloor,
}

impl Shard {
    /// Takes one step of compaction if any partition calls for it.
    ///
    /// Not cancellation safe in what it counts, harmless in what it writes: the maintenance runs it
    /// to its end.
    ///
    /// # Errors
    /// [`JournalError`]: the journal is latched.
    pub async fn compact(self: &Rc<Self>) -> Result<Piece, JournalError> {
        if !self.index.live.borrow().is_complete() {
            return Ok(Piece::Nothing);
        }
        let pass = self.compaction.pass.take();
        let pass = pass.filter(|pass| self.is_compacted(pass.tp));
        let Some(mut pass) = pass.or_else(|| self.begin_pass()) else {
            return Ok(Piece::Nothing);
        };
        // A produce that comes meanwhile makes one of its own.
        let mut decompressor = self.compaction.decompressor.take();
        let step = match pass.phase() {
            Phase::Noting => Ok(self.note_keys(&mut pass, &mut decompressor).await),
            Phase::Rewriting => self.write_piece(&mut pass, &mut decompressor).await,
        };
        *self.compaction.decompressor.borrow_mut() = decompressor;
        Ok(self.end_step(pass, step?))
    }

    fn end_step(&self, pass: Pass, step: Step) -> Piece {
        match step {
            Step::More => {
                *self.compaction.pass.borrow_mut() = Some(pass);
                return Piece::Some;
            }
            Step::Waits => {
                *self.compaction.pass.borrow_mut() = Some(pass);
                return Piece::Nothing;
            }
            Step::Over => self.end_pass(pass),
            Step::GivenUp => self.put_off(pass.tp),
            Step::AboveFloor => {
                self.put_off(pass.tp);
                if self.may_raise_floor(pass.tp) {
                    return Piece::FloorIsLow;
                }
            }
        }
        Piece::Some
    }

    fn put_off(&self, tp: TopicPartition) {
        let floor = self.recovery_start.get();
        let again_us = clock::now_us() + self.compaction.retry_us();
        let mut tried = self.compaction.tried.borrow_mut();
        tried.insert(tp, (floor, again_us));
    }

    /// Whether a partition has waited for so long that checkpoints are worth it.
    fn may_raise_floor(&self, tp: TopicPartition) -> bool {
        let log = self.log.borrow();
        let Some(state) = log.partition(tp) else {
            return false;
        };
        let known = log.compacted(tp).cloned().unwrap_or_default();
        let (policy, now_ms) = (&self.compaction.policy, clock::wall_ms());
        let is_late = known.is_late(
            policy,
            now_ms,
            log.stored_bytes(state),
            state.first_timestamp_ms,
        );
        let now_us = clock::now_us();
        let raised_at_us = self.compaction.raised_at_us.get();
        let has_rested = raised_at_us.is_none_or(|at| now_us >= at + self.compaction.retry_us());
        if is_late && has_rested {
            self.compaction.raised_at_us.set(Some(now_us));
        }
        is_late && has_rested
    }

    fn end_pass(&self, pass: Pass) {
        let tp = pass.tp;
        let mut log = self.log.borrow_mut();
        let before = log.compacted(tp).cloned().unwrap_or_default();
        let (clean_before, keys) = (before.clean_to, pass.judge.keys());
        let known = pass.finish(before, clock::wall_ms());
        debug!(
            partition = %tp,
            from = clean_before.get(),
            to = known.clean_to.get(),
            keys,
            bytes = known.clean_bytes,
            "compacted by key"
        );
        log.note_compacted(tp, known);
        self.metrics.compaction_passes.add(1);
    }

    /// Whether every record of a batch that is to be appended has a key.
    ///
    /// # Errors
    /// The code that the producer is answered with.
    pub fn check_keys(&self, header: &BatchHeader, batch: &[u8]) -> Result<(), ErrorCode> {
        let mut decompressor = self.compaction.decompressor.borrow_mut();
        let records = Judge::open(header, batch, &mut decompressor).map_err(|e| e.code())?;
        for record in records {
            let record = record.map_err(|error| JudgeError::from(error).code())?;
            if record.key.is_none() {
                return Err(ErrorCode::KeyRequired);
            }
        }
        Ok(())
    }

    /// Whether the topic of a partition of this shard is compacted by key.
    fn is_compacted(&self, tp: TopicPartition) -> bool {
        let metadata = self.metadata.borrow();
        let topic = metadata.topic(tp.topic);
        topic.is_some_and(|topic| topic.config.cleanup.compacts())
            && self.log.borrow().partition(tp).is_some()
    }

    /// Begins with the partition that has most to compact, of those that call for it.
    fn begin_pass(&self) -> Option<Pass> {
        let now_ms = clock::wall_ms();
        let tp = self.choose_partition(now_ms)?;
        let log = self.log.borrow();
        let known = log.compacted(tp).cloned().unwrap_or_default();
        let state = log.partition(tp)?;
        let from = known.clean_to.max(state.log_start);
        let records = state.high_watermark.get() - from.get();
        let secret = [random::u64(), random::u64()];
        let policy = &self.compaction.policy;
        Some(Pass::new(tp, &known, policy, now_ms, (secret, records)))
    }

    fn choose_partition(&self, now_ms: i64) -> Option<TopicPartition> {
        let topics: BTreeSet<TopicId> = {
            let metadata = self.metadata.borrow();
            let compacted = metadata.topics().filter(|t| t.config.cleanup.compacts());
            compacted.map(|topic| topic.id).collect()
        };
        let mut tried = self.compaction.tried.borrow_mut();
        if topics.is_empty() {
            tried.clear();
            self.metrics.compaction_dirty_bytes.set(0);
            return None;
        }
        let floor = self.recovery_start.get();
        let now_us = clock::now_us();
        tried.retain(|_, (at_floor, again_us)| *at_floor == floor && now_us < *again_us);
        let log = self.log.borrow();
        let nothing = CompactedPartition::default();
        let (mut dirty_bytes, mut best) = (0, None);
        for state in log.partitions_unsorted() {
            if !topics.contains(&state.tp.topic) || state.is_empty() {
                continue;
            }
            let known = log.compacted(state.tp).unwrap_or(&nothing);
            let bytes = log.stored_bytes(state);
            let dirty = known.dirty_bytes(bytes);
            dirty_bytes += dirty;
            let policy = &self.compaction.policy;
            if known.is_due(policy, now_ms, bytes, state.first_timestamp_ms)
                && !tried.contains_key(&state.tp)
            {
                // The order of the partitions is that of a hash map: the number decides.
                best = best.max(Some((dirty, std::cmp::Reverse(state.tp))));
            }
        }
        self.metrics.compaction_dirty_bytes.set(dirty_bytes);
        best.map(|(_, tp)| tp.0)
    }

    /// The next extents of a pass, those that begin below `end`.
    async fn next_extents(
        self: &Rc<Self>,
        pass: &Pass,
        end: Offset,
    ) -> Result<Vec<Extent>, ReadError> {
        let log_start = self.log.borrow().partition(pass.tp).map(|p| p.log_start);
        let Some(log_start) = log_start else {
            return Ok(Vec::new());
        };
        let at = pass.at(log_start);
        let mut found = self
            .extents_from(pass.tp, at, CLEANER_EXTENTS_AHEAD)
            .await?;
        found.retain(|extent| extent.base_offset < end);
        Ok(found)
    }

    /// Whether an extent may be written anew: it is of this journal, in an index run, and no frame
    /// of its block is folded again.
    fn is_below_floor(&self, extent: &Extent) -> bool {
        self.is_settled(extent) || self.is_foreign(extent)
    }

    fn is_settled(&self, extent: &Extent) -> bool {
        let block = extent.block;
        let end = JournalPos::new(block.segment, block.offset + block.bytes);
        block.journal == self.journal.id() && end <= self.recovery_start.get()
    }

    /// Whether it lies in a journal that an earlier number of shards wrote: read, but not moved.
    fn is_foreign(&self, extent: &Extent) -> bool {
        extent.block.journal != self.journal.id()
    }

    fn note_left(&self, pass: &Pass, extent: &Extent, error: &dyn std::fmt::Display) {
        warn!(
            partition = %pass.tp,
            offset = extent.base_offset.get(),
            at = %extent.block,
            %error,
            "not compacted: these records stay as they are"
        );
        self.metrics.compaction_extents_left.add(1);
    }

    /// How many bytes of batches the next piece may be made of, if it may be written now: within
    /// the cleaner's credit, but for a full store, and with the room that it takes before anything
    /// is freed. A full store has little room, and its pieces are small.
    fn piece_bytes(&self, state: &PartitionState) -> Option<usize> {
        let credit = match self.pressure() {
            Pressure::Full => u64::MAX,
            Pressure::Easy | Pressure::Tight => self.cleaner.credit_bytes(),
        };
        // The last read of a piece may be longer than what is left of it.
        let one_read = u64::from(BLOCK_BYTES_MAX_U32);
        let room = self.journal.cleaning_room().saturating_sub(one_read);
        let allowed = usize::try_from(credit.min(room)).unwrap_or(usize::MAX);
        let bytes = usize::try_from(self.log.borrow().stored_bytes(state)).unwrap_or(usize::MAX);
        let is_worth_it = allowed >= bytes.min(COMPACTION_PIECE_BYTES_MIN);
        is_worth_it.then(|| allowed.clamp(1, COMPACTION_STEP_BYTES))
    }
}

fn give_up(pass: &Pass, error: &ReadError) -> Step {
    warn!(partition = %pass.tp, %error, "compaction is put off");
    Step::GivenUp
}
