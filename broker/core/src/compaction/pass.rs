//! One pass over a partition: how far it has come, and what is known when it is over.
//!
//! Invariant: a pass ends with everything below [`Pass::end`] judged by the keys that were noted;
//! what had to stay although something of it should go is remembered as the place from which on no
//! tombstone counts its time. A pass that is given up leaves nothing behind. Pure; any thread.

use std::collections::BTreeSet;

use catena_protocol::batch::Records;
use catena_protocol::ids::{Offset, TopicPartition};

use super::{CompactedPartition, CompactionPolicy, Judge, JudgeError, KeyHasher, KeyMap, NotedTo};
use crate::index::Extent;
use crate::limits::COMPACTION_LEFT_MAX;
use crate::planted::{self, Bug};

/// What a pass does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Keys are noted.
    Noting,
    /// What is superseded is left out.
    Rewriting,
}

/// A pass over a partition.
#[derive(Debug)]
pub struct Pass {
    /// The partition.
    pub tp: TopicPartition,
    /// Decides about records.
    pub judge: Judge,
    /// Records appended after this, in milliseconds since 1970, are too young.
    pub appended_before_ms: i64,
    phase: Phase,
    /// The next offset to look at.
    at: Offset,
    start: Offset,
    end: Offset,
    expires: bool,
    /// Where extents begin whose keys could not all be noted.
    unnoted: BTreeSet<Offset>,
    /// The first offset of what had to be left as it is.
    left_from: Option<Offset>,
    clean_bytes: u64,
    has_tombstones: bool,
}

impl Pass {
    /// A pass over a partition of which `known` is known, at `now_ms` (milliseconds since 1970).
    /// `secret` is 128 random bits, `records` at least how many records may be noted.
    pub fn new(
        tp: TopicPartition,
        known: &CompactedPartition,
        policy: &CompactionPolicy,
        now_ms: i64,
        (secret, records): ([u64; 2], u64),
    ) -> Self {
        Self::with_keys(tp, known, policy, now_ms, (secret, KeyMap::new(records)))
    }

    pub(super) fn with_keys(
        tp: TopicPartition,
        known: &CompactedPartition,
        policy: &CompactionPolicy,
        now_ms: i64,
        (secret, keys): ([u64; 2], KeyMap),
    ) -> Self {
        let tombstones_below = known.tombstones_below(policy, now_ms);
        Self {
            tp,
            judge: Judge::new(KeyHasher::new(secret), keys, tombstones_below),
            appended_before_ms: now_ms.saturating_sub_unsigned(policy.lag_ms),
            phase: Phase::Noting,
            at: known.clean_to,
            start: known.clean_to,
            end: known.clean_to,
            expires: known.tombstones_are_due(policy, now_ms),
            unnoted: BTreeSet::new(),
            left_from: None,
            clean_bytes: 0,
            has_tombstones: false,
        }
    }

    /// What it does now.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The next offset to look at, given the log start.
    pub fn at(&self, log_start: Offset) -> Offset {
        self.at.max(log_start)
    }

    /// Where it ends: known once it is rewriting.
    pub const fn end(&self) -> Offset {
        self.end
    }

    /// Notes the keys of up to `most` further records of a batch; gives whether there were so many,
    /// and more may follow.
    ///
    /// # Errors
    /// The outer one if a record cannot be read. The inner one if the map is full: noting
    /// [ends](Self::end_noting) there.
    pub fn note(
        &mut self,
        records: &mut Records<'_>,
        most: usize,
    ) -> Result<Result<bool, NotedTo>, JudgeError> {
        self.judge.note(records, most, self.start)
    }

    /// All keys of an extent were noted that can be read.
    pub fn noted(&mut self, extent: &Extent) {
        self.at = extent.end_offset;
    }

    /// Some keys of this extent cannot be noted. False if there are too many such extents already:
    /// the pass has to end before it.
    #[must_use]
    pub fn pass_over(&mut self, extent: &Extent) -> bool {
        let has_room = self.unnoted.len() < COMPACTION_LEFT_MAX;
        if has_room {
            self.unnoted.insert(extent.base_offset);
            self.leave(extent);
        }
        has_room
    }

    /// Whether an extent that can be written anew is one whose keys could not be noted: then the
    /// read lied in one of the cases, and the pass has to be given up.
    pub fn contradicts(&self, extent: &Extent) -> bool {
        let mut inside = self.unnoted.range(extent.base_offset..extent.end_offset);
        inside.next().is_some()
    }

    /// Ends noting before the offset `at`, or behind the last extent that was noted.
    pub fn end_noting(&mut self, at: Option<Offset>) {
        self.end = at.unwrap_or(self.at).max(self.start);
        self.at = Offset(0);
        self.phase = Phase::Rewriting;
    }

    /// Whether anything can go: new keys were noted, or tombstones' time is over.
    pub fn is_of_use(&self) -> bool {
        self.end > self.start || self.expires
    }

    /// Something of this extent should go, or cannot be known, and stays. That is remembered for
    /// good: the next pass notes other keys, and may find nothing wrong with it.
    pub fn leave(&mut self, extent: &Extent) {
        if planted::is(Bug::TombstoneLeavesOlder) {
            return;
        }
        self.left_from = lower(self.left_from, Some(extent.base_offset));
    }

    /// Extents up to `end_offset` were looked at; `bytes` of batches are left of them.
    pub fn rewritten(&mut self, end_offset: Offset, bytes: u64) {
        self.at = end_offset;
        self.clean_bytes += bytes;
    }

    /// A tombstone stays.
    pub fn note_tombstones(&mut self) {
        self.has_tombstones = true;
    }

    /// What is known of the partition now that the pass is over, given what was `known` a moment
    /// ago: bytes were saved meanwhile. Batches that were trimmed after the pass had come by count
    /// as clean until the next one.
    pub fn finish(self, known: CompactedPartition, now_ms: i64) -> CompactedPartition {
        let left_from = lower(self.left_from, known.left_from);
        let mut known = CompactedPartition {
            clean_to: self.end.max(known.clean_to),
            clean_bytes: self.clean_bytes,
            has_tombstones: self.has_tombstones,
            left_from,
            ..known
        };
        let below = left_from.map_or(self.end, |left| left.min(self.end));
        known.note_cleaning(below, now_ms);
        known
    }
}

/// The lower of two offsets, as far as they are there.
fn lower(one: Option<Offset>, two: Option<Offset>) -> Option<Offset> {
    one.into_iter().chain(two).min()
}
