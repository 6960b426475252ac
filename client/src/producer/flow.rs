//! What is in flight for one partition: sequences, order, retries, producer epochs. Sans-IO.
//!
//! Batches are transmitted in order, many at a time. A refusal that may be retried stops the
//! partition; when every outstanding transmission has its answer (or the connection is lost), all
//! unresolved batches are transmitted again from the first, under the numbers they had.
//!
//! Invariants:
//! - Batches reach the log in the order they were pushed, each at most once. A batch is numbered
//!   anew only if every transmission of it was answered by a refusal; one with a transmission
//!   whose answer was lost keeps its number until it is resolved, or fails as "may have been
//!   written".
//! - A sequence is given at the first transmission, so a batch that expires unsent leaves no gap.
//! - After a gap (a numbered batch left the queue unwritten) the rest goes on in the next
//!   producer epoch from sequence 0, which also fences whatever of the old epoch is still under
//!   way.
//!
//! Runs under the partition's lock, on whichever thread touches the partition.

use std::collections::VecDeque;
use std::time::Instant;

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{ProducerEpoch, ProducerId, Sequence};

use crate::backoff::Backoff;

/// How much may be under way at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowLimits {
    pub(crate) batches: usize,
    pub(crate) bytes: usize,
}

/// What identifies a batch to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) producer: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) sequence: Sequence,
}

/// Names a batch in its flow, in order of pushing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BatchId(pub(crate) u64);

/// What a transmission was answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Written, now or by an earlier transmission. Without an offset if it is not known.
    Written { base_offset: Option<u64> },
    /// Not this time. `uncertain`: the batch may be written all the same.
    Retry {
        code: ErrorCode,
        pause: bool,
        uncertain: bool,
    },
    /// Refused since records before it are missing; the broker expects this sequence.
    OutOfOrder { expected: Sequence },
    /// The broker knows nothing of this producer in this partition.
    UnknownProducer,
    /// Records acknowledged after this sequence were lost (weaker classes only).
    SequenceReset { last: Sequence },
    /// Refused for good.
    Rejected(ErrorCode),
}

/// Why a batch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    TimedOut {
        /// What this batch or one before it was refused with last.
        refusal: Option<ErrorCode>,
        may_have_been_written: bool,
    },
    Rejected {
        code: ErrorCode,
        may_have_been_written: bool,
    },
    /// A gap arose before this batch and one of its transmissions has no answer.
    OutcomeUnknown,
}

/// A batch that left the flow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolved<T> {
    pub(crate) item: T,
    /// The base offset if known.
    pub(crate) outcome: Result<Option<u64>, Failure>,
}

/// A batch to put on the wire now, carrying this stamp.
#[derive(Debug)]
pub(crate) struct Transmit<'a, T> {
    pub(crate) id: BatchId,
    pub(crate) stamp: Stamp,
    pub(crate) item: &'a mut T,
}

/// When the flow has something to transmit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadyAt {
    /// Nothing until an event.
    Never,
    Now,
    At(Instant),
}

#[derive(Debug)]
struct Entry<T> {
    /// `None` once resolved; the entry stays while a transmission of it is outstanding.
    item: Option<T>,
    records: u32,
    bytes: usize,
    deadline: Instant,
    stamp: Option<Stamp>,
    outstanding: bool,
    /// A transmission of it has no answer and will get none.
    uncertain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Flowing,
    /// Wait until nothing is outstanding, then start over after `until`.
    Draining {
        until: Instant,
    },
    Waiting {
        until: Instant,
    },
}

/// Whether the next epoch is due once the flow is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Bump {
    No,
    /// A batch of unknown outcome left: there may be a gap.
    PerhapsGap,
    /// There is a gap.
    Due,
}

/// The batches of one partition that are sealed and not yet resolved.
#[derive(Debug)]
pub(crate) struct Flow<T> {
    limits: FlowLimits,
    next: Stamp,
    entries: VecDeque<Entry<T>>,
    first_id: u64,
    /// Index of the next entry to transmit.
    cursor: usize,
    outstanding: usize,
    outstanding_bytes: usize,
    unresolved: usize,
    /// Records of the unresolved batches that have no sequence yet.
    records_unnumbered: u32,
    phase: Phase,
    bump: Bump,
    /// What the last answer was, if it was a refusal.
    refusal: Option<ErrorCode>,
    backoff: Backoff,
    /// The sequence after the last acknowledged record of this epoch.
    acked_end: Option<Sequence>,
    records_lost: u64,
}

impl<T> Flow<T> {
    /// Producer id 0 means no idempotence: no sequences, no epochs.
    pub(crate) fn new(
        limits: FlowLimits,
        producer: ProducerId,
        epoch: ProducerEpoch,
        seed: u64,
    ) -> Self {
        Self {
            limits,
            next: Stamp {
                producer,
                epoch,
                sequence: Sequence(0),
            },
            entries: VecDeque::new(),
            first_id: 0,
            cursor: 0,
            outstanding: 0,
            outstanding_bytes: 0,
            unresolved: 0,
            records_unnumbered: 0,
            phase: Phase::Flowing,
            bump: Bump::No,
            refusal: None,
            backoff: Backoff::new(seed),
            acked_end: None,
            records_lost: 0,
        }
    }

    /// Batches that wait for their result.
    pub(crate) const fn unresolved(&self) -> usize {
        self.unresolved
    }

    /// Batches on the wire.
    pub(crate) const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether every batch has been transmitted (or there is none).
    pub(crate) fn is_caught_up(&self) -> bool {
        self.cursor == self.entries.len()
    }

    /// The number that the next batch to be pushed will most likely carry.
    pub(crate) const fn stamp_forecast(&self) -> Stamp {
        if self.next.producer.0 == 0 {
            return self.next;
        }
        Stamp {
            sequence: self.next.sequence.wrapping_add(self.records_unnumbered),
            ..self.next
        }
    }

    /// The newest batch that waits for its result.
    pub(crate) fn newest(&self) -> Option<&T> {
        self.entries
            .iter()
            .rev()
            .find_map(|entry| entry.item.as_ref())
    }

    /// Records that had been acknowledged in a weaker class and were lost, since the last call.
    pub(crate) const fn take_records_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.records_lost, 0)
    }

    /// Takes a sealed batch. Deadlines must not decrease from one push to the next.
    pub(crate) fn push(&mut self, item: T, records: u32, bytes: usize, deadline: Instant) {
        self.unresolved += 1;
        self.records_unnumbered = self.records_unnumbered.wrapping_add(records);
        self.entries.push_back(Entry {
            item: Some(item),
            records,
            bytes,
            deadline,
            stamp: None,
            outstanding: false,
            uncertain: false,
        });
    }

    /// When [`Flow::poll_transmit`] gives something.
    pub(crate) fn ready_at(&self, now: Instant) -> ReadyAt {
        let Some(entry) = self.entries.get(self.cursor) else {
            return ReadyAt::Never;
        };
        if !self.has_room_for(entry.bytes) {
            return ReadyAt::Never;
        }
        match self.phase {
            Phase::Draining { .. } => ReadyAt::Never,
            Phase::Waiting { until } if until > now => ReadyAt::At(until),
            Phase::Waiting { .. } | Phase::Flowing => ReadyAt::Now,
        }
    }

    /// Whether a batch pushed now could be transmitted at once.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        let flowing = match self.phase {
            Phase::Draining { .. } => false,
            Phase::Waiting { until } => until <= now,
            Phase::Flowing => true,
        };
        flowing && self.is_caught_up() && self.outstanding < self.limits.batches
    }

    /// Until when the flow pauses, if it does.
    pub(crate) const fn pause_until(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Draining { .. } | Phase::Flowing => None,
        }
    }

    /// The next batch to put on the wire. The caller must do it, or report the connection lost.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<'_, T>> {
        if self.ready_at(now) != ReadyAt::Now {
            return None;
        }
        self.phase = Phase::Flowing;
        let index = self.cursor;
        let entry = &mut self.entries[index];
        let stamp = entry.stamp.unwrap_or(self.next);
        if entry.stamp.is_none() {
            entry.stamp = Some(stamp);
            self.records_unnumbered = self.records_unnumbered.wrapping_sub(entry.records);
            if stamp.producer != ProducerId(0) {
                self.next.sequence = stamp.sequence.wrapping_add(entry.records);
            }
        }
        entry.outstanding = true;
        self.outstanding += 1;
        self.outstanding_bytes += entry.bytes;
        self.cursor = index + 1;
        self.skip_resolved();
        let id = BatchId(self.first_id + index as u64);
        let item = self.entries[index]
            .item
            .as_mut()
            .expect("the cursor skips resolved entries");
        Some(Transmit { id, stamp, item })
    }

    /// Takes the answer to one transmission. Returns `false`, and changes nothing, if no
    /// transmission of this batch is outstanding.
    pub(crate) fn handle_answer(
        &mut self,
        now: Instant,
        id: BatchId,
        answer: Answer,
        out: &mut Vec<Resolved<T>>,
    ) -> bool {
        let Some(index) = self.index_of(id) else {
            return false;
        };
        if !self.entries[index].outstanding {
            return false;
        }
        self.end_transmission(index);
        match answer {
            Answer::Written { base_offset } => self.written(index, base_offset, out),
            Answer::Retry {
                code,
                pause,
                uncertain,
            } => {
                self.refusal = Some(code);
                self.entries[index].uncertain |= uncertain;
                self.after_refusal_of_expired(index);
                self.drain(now, pause);
            }
            Answer::OutOfOrder { expected } => self.out_of_order(now, index, expected),
            Answer::UnknownProducer => {
                self.bump = Bump::Due;
                self.drain(now, false);
            }
            Answer::SequenceReset { last } => self.sequence_reset(now, last, out),
            Answer::Rejected(code) => self.rejected(now, index, code, out),
        }
        self.settle(out);
        true
    }

    /// The connection that carried the outstanding transmissions is gone.
    pub(crate) fn handle_lost(&mut self, now: Instant, out: &mut Vec<Resolved<T>>) {
        for index in 0..self.entries.len() {
            if self.entries[index].outstanding {
                self.end_transmission(index);
                self.entries[index].uncertain = true;
                if self.entries[index].item.is_none() {
                    self.bump = self.bump.max(Bump::PerhapsGap);
                }
            }
        }
        self.drain(now, true);
        self.settle(out);
    }

    /// Fails the batches whose delivery timeout has passed.
    pub(crate) fn handle_time(&mut self, now: Instant, out: &mut Vec<Resolved<T>>) {
        let mut changed = false;
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            if entry.item.is_none() {
                continue;
            }
            if entry.deadline > now {
                break;
            }
            self.expire(index, out);
            changed = true;
        }
        if changed {
            if self.bump != Bump::No && !matches!(self.phase, Phase::Draining { .. }) {
                self.phase = Phase::Draining {
                    until: self.pause_until().unwrap_or(now),
                };
            }
            self.settle(out);
        }
    }

    /// Fails everything, for instance since the topic was deleted.
    pub(crate) fn fail_all(&mut self, code: ErrorCode, out: &mut Vec<Resolved<T>>) {
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            let may_have_been_written = entry.uncertain || entry.outstanding;
            self.leave_gap_behind(index);
            self.resolve(
                index,
                Err(Failure::Rejected {
                    code,
                    may_have_been_written,
                }),
                out,
            );
        }
        self.settle(out);
    }

    fn index_of(&self, id: BatchId) -> Option<usize> {
        let index = usize::try_from(id.0.checked_sub(self.first_id)?).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.outstanding == 0
            || (self.outstanding < self.limits.batches
                && self.outstanding_bytes + bytes <= self.limits.bytes)
    }

    fn end_transmission(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        entry.outstanding = false;
        self.outstanding -= 1;
        self.outstanding_bytes -= entry.bytes;
    }

    fn resolve(
        &mut self,
        index: usize,
        outcome: Result<Option<u64>, Failure>,
        out: &mut Vec<Resolved<T>>,
    ) {
        let entry = &mut self.entries[index];
        if let Some(item) = entry.item.take() {
            self.unresolved -= 1;
            if entry.stamp.is_none() {
                self.records_unnumbered = self.records_unnumbered.wrapping_sub(entry.records);
            }
            out.push(Resolved { item, outcome });
        }
    }

    fn written(&mut self, index: usize, base_offset: Option<u64>, out: &mut Vec<Resolved<T>>) {
        self.backoff.succeeded();
        self.refusal = None;
        // The broker takes no gap, so nothing before this batch is missing.
        if self.bump == Bump::PerhapsGap {
            self.bump = Bump::No;
        }
        let entry = &self.entries[index];
        self.acked_end = entry
            .stamp
            .map(|stamp| stamp.sequence.wrapping_add(entry.records));
        self.resolve(index, Ok(base_offset), out);
    }

    /// A refused batch that had already been reported as expired leaves a gap: it will not be
    /// sent again.
    fn after_refusal_of_expired(&mut self, index: usize) {
        if self.entries[index].item.is_none() {
            self.leave_gap_behind(index);
        }
    }

    fn out_of_order(&mut self, now: Instant, index: usize, expected: Sequence) {
        self.after_refusal_of_expired(index);
        let first = self.entries.iter().find(|entry| entry.item.is_some());
        let is_missing_what_left = first
            .and_then(|entry| entry.stamp)
            .is_some_and(|stamp| stamp.sequence != expected && expected.precedes(stamp.sequence));
        if is_missing_what_left {
            self.bump = Bump::Due;
        }
        let is_first = self
            .entries
            .iter()
            .take(index)
            .all(|entry| entry.item.is_none());
        self.drain(now, is_first && self.bump == Bump::No);
    }

    fn sequence_reset(&mut self, now: Instant, last: Sequence, out: &mut Vec<Resolved<T>>) {
        let kept_end = last.wrapping_add(1);
        if let Some(acked_end) = self.acked_end.take()
            && kept_end.precedes(acked_end)
        {
            self.records_lost += u64::from(acked_end.distance_from(kept_end));
        }
        for index in 0..self.entries.len() {
            let entry = &self.entries[index];
            let kept = entry.uncertain
                && entry.stamp.is_some_and(|stamp| {
                    !kept_end.precedes(stamp.sequence.wrapping_add(entry.records))
                });
            if kept {
                self.resolve(index, Ok(None), out);
            }
        }
        self.bump = Bump::Due;
        self.drain(now, false);
    }

    fn rejected(
        &mut self,
        now: Instant,
        index: usize,
        code: ErrorCode,
        out: &mut Vec<Resolved<T>>,
    ) {
        let may_have_been_written = self.entries[index].uncertain;
        self.leave_gap_behind(index);
        self.resolve(
            index,
            Err(Failure::Rejected {
                code,
                may_have_been_written,
            }),
            out,
        );
        if self.bump != Bump::No {
            self.drain(now, false);
        }
    }

    fn expire(&mut self, index: usize, out: &mut Vec<Resolved<T>>) {
        let entry = &self.entries[index];
        let may_have_been_written = entry.uncertain || entry.outstanding;
        // An outstanding one may still be answered; its answer decides about the gap.
        if !entry.outstanding {
            self.leave_gap_behind(index);
        }
        self.resolve(
            index,
            Err(Failure::TimedOut {
                refusal: self.refusal,
                may_have_been_written,
            }),
            out,
        );
    }

    /// The batch at `index` leaves without being known as written.
    fn leave_gap_behind(&mut self, index: usize) {
        let entry = &self.entries[index];
        let Some(stamp) = entry.stamp else { return };
        if stamp.producer == ProducerId(0) || entry.outstanding {
            return;
        }
        if entry.uncertain {
            self.bump = self.bump.max(Bump::PerhapsGap);
            return;
        }
        self.bump = Bump::Due;
        // Each transmission of it was refused and none will follow, so this number is never
        // written, and nothing behind it in this epoch either: their outcome is known after all.
        for later in self.entries.range_mut(index + 1..) {
            later.uncertain = false;
        }
    }

    fn drain(&mut self, now: Instant, pause: bool) {
        // One pause for all the refusals of one drain, and none at all for the first failure if
        // it asks for none.
        let until = match self.phase {
            Phase::Draining { until } if until > now || !pause => until,
            Phase::Draining { .. } => now + self.backoff.next_pause(),
            Phase::Flowing | Phase::Waiting { .. } => {
                let pause = pause || self.backoff.failures() > 0;
                let step = self.backoff.next_pause();
                if pause { now + step } else { now }
            }
        };
        self.phase = Phase::Draining { until };
    }

    /// Drops what is done; once nothing is outstanding in a drain, starts over from the first.
    fn settle(&mut self, out: &mut Vec<Resolved<T>>) {
        if let Phase::Draining { until } = self.phase
            && self.outstanding == 0
        {
            self.start_next_epoch_if_due(out);
            self.cursor = 0;
            self.phase = Phase::Waiting { until };
        }
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.item.is_none() && !entry.outstanding)
        {
            self.entries.pop_front();
            self.first_id += 1;
            self.cursor = self.cursor.saturating_sub(1);
        }
        if self.entries.is_empty() {
            // Back to the start of its memory: of thousands of partitions with a batch each, every
            // one then uses the same few cache lines again.
            self.entries.clear();
        }
        self.skip_resolved();
    }

    fn skip_resolved(&mut self) {
        while self
            .entries
            .get(self.cursor)
            .is_some_and(|entry| entry.item.is_none())
        {
            self.cursor += 1;
        }
    }

    fn start_next_epoch_if_due(&mut self, out: &mut Vec<Resolved<T>>) {
        let is_uncertain = |entry: &Entry<T>| entry.item.is_some() && entry.uncertain;
        match self.bump {
            Bump::No => return,
            // Their next transmission tells whether there is a gap.
            Bump::PerhapsGap if self.entries.iter().any(is_uncertain) => return,
            Bump::PerhapsGap | Bump::Due => {}
        }
        self.bump = Bump::No;
        if self.next.producer == ProducerId(0) {
            return;
        }
        for index in 0..self.entries.len() {
            if is_uncertain(&self.entries[index]) {
                self.resolve(index, Err(Failure::OutcomeUnknown), out);
            }
        }
        let Some(epoch) = self.next.epoch.0.checked_add(1) else {
            // 65,535 gaps: the owner of this flow has to ask for a new producer id.
            self.fail_all(ErrorCode::FencedProducer, out);
            return;
        };
        self.acked_end = None;
        self.next = Stamp {
            epoch: ProducerEpoch(epoch),
            sequence: Sequence(0),
            ..self.next
        };
        self.records_unnumbered = 0;
        for entry in self.entries.iter_mut().filter(|entry| entry.item.is_some()) {
            entry.stamp = None;
            self.records_unnumbered = self.records_unnumbered.wrapping_add(entry.records);
        }
    }
}

#[cfg(test)]
mod tests;
