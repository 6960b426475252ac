//! One partition's queue in a producer: the open batch, and the flow of sealed ones.
//!
//! Callers fill the open batch themselves, under the partition's lock; the connection's task
//! takes what is due. Invariants: records leave in the order they were appended; a queue that has
//! something due is in exactly one list (its connection's ready list, the unrouted list, or the
//! timers); while transmissions are outstanding on one connection, none is made on another. Any
//! thread.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use catena_protocol::batch::{BatchBuilder, PushError, set_producer};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, ProducerEpoch, ProducerId, TopicPartition};
use catena_protocol::record::Record as WireRecord;

use super::completion::{Completion, DeliveryHandle};
use super::flow::{Answer, BatchId, Failure, Flow, ReadyAt, Resolved, Stamp};
use super::lane::ProduceLane;
use super::shared::Shared;
use crate::backoff::seed;
use crate::error::ProduceError;
use crate::limits::PARTIAL_BATCHES_IN_FLIGHT_MAX;
use crate::locking::lock;

/// A batch that takes no more records.
#[derive(Debug)]
pub(crate) struct Sealed {
    batch: Bytes,
    stamp: Stamp,
    completion: Arc<Completion>,
    charge_bytes: usize,
}

/// A batch for the wire.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: BatchId,
    pub(crate) batch: Bytes,
    /// Whether the partition has more that is due.
    pub(crate) has_more: bool,
}

/// Why records were not taken.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error(transparent)]
    Push(#[from] PushError),
    #[error("the producer has finished")]
    Finished,
}

/// What appending a record did.
#[derive(Debug)]
pub(crate) struct Appended {
    pub(crate) handle: DeliveryHandle,
    /// A batch was filled; the sticky partitioner moves on.
    pub(crate) has_sealed: bool,
}

#[derive(Debug)]
struct Open {
    builder: Box<BatchBuilder>,
    completion: Arc<Completion>,
    charge_bytes: usize,
    opened: Instant,
    is_flushed: bool,
}

/// Where the queue is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Nowhere,
    /// In the ready list of this connection.
    Ready(u64),
    Unrouted,
}

#[derive(Debug)]
struct State {
    open: Option<Open>,
    flow: Flow<Sealed>,
    route: Option<Arc<ProduceLane>>,
    /// The connection that carries the outstanding transmissions.
    carrier: u64,
    listed: Listed,
    timer: Option<Instant>,
    is_watched: bool,
    /// Metadata of this generation led to the wrong place.
    stale_generation: Option<u64>,
    /// Bytes the last batch needed.
    batch_bytes_expected: usize,
}

/// The queue of one partition in one durability class.
#[derive(Debug)]
pub(crate) struct PartitionQueue {
    pub(crate) topic: Arc<str>,
    pub(crate) place: TopicPartition,
    pub(crate) class: Durability,
    shared: Arc<Shared>,
    state: Mutex<State>,
}

impl PartitionQueue {
    pub(crate) fn new(
        topic: Arc<str>,
        place: TopicPartition,
        class: Durability,
        shared: Arc<Shared>,
        (producer, epoch): (ProducerId, ProducerEpoch),
    ) -> Self {
        let flow = Flow::new(shared.config.flow, producer, epoch, seed());
        let state = State {
            open: None,
            flow,
            route: None,
            carrier: 0,
            listed: Listed::Nowhere,
            timer: None,
            is_watched: false,
            stale_generation: None,
            batch_bytes_expected: 0,
        };
        Self {
            topic,
            place,
            class,
            shared,
            state: Mutex::new(state),
        }
    }

    /// Puts a record into the open batch.
    pub(crate) fn append(
        self: &Arc<Self>,
        record: &WireRecord<'_>,
        charge_bytes: usize,
    ) -> Result<Appended, AppendError> {
        let now = Instant::now();
        let mut resolved = Vec::new();
        let mut state = lock(&self.state);
        self.watch(&mut state)?;
        let mut has_sealed = self.has_no_room_for(&state, charge_bytes);
        if has_sealed {
            self.seal(&mut state, &mut resolved);
        }
        let (completion, index) = loop {
            let open = self.open_batch(&mut state, now, charge_bytes);
            match open.builder.push(record) {
                Ok(()) => {
                    open.charge_bytes += charge_bytes;
                    break (
                        open.completion.clone(),
                        u32::from(open.builder.record_count()) - 1,
                    );
                }
                Err(PushError::Full) => {
                    self.seal(&mut state, &mut resolved);
                    has_sealed = true;
                }
                Err(error) => {
                    self.drop_empty_batch(&mut state);
                    return Err(error.into());
                }
            }
        };
        if self.is_full(&state) {
            self.seal(&mut state, &mut resolved);
            has_sealed = true;
        }
        self.schedule(&mut state, now);
        drop(state);
        self.complete(resolved);
        let handle = DeliveryHandle::new(completion, index);
        Ok(Appended { handle, has_sealed })
    }

    /// Puts records into batches of their own, as few as the format allows.
    pub(crate) fn append_all<'a>(
        self: &Arc<Self>,
        records: impl Iterator<Item = &'a crate::Record>,
        now_ms: i64,
        charged_bytes: &mut usize,
        batches: &mut Vec<(Arc<Completion>, u32)>,
    ) -> Result<(), AppendError> {
        let now = Instant::now();
        let mut resolved = Vec::new();
        let mut state = lock(&self.state);
        self.watch(&mut state)?;
        self.seal(&mut state, &mut resolved);
        let mut result = Ok(());
        for record in records {
            let charge_bytes = record.charge_bytes();
            let push = |state: &mut State| {
                let open = self.open_batch(state, now, charge_bytes);
                let pushed = record.with_wire(now_ms, |record| open.builder.push(record));
                open.charge_bytes += if pushed.is_ok() { charge_bytes } else { 0 };
                pushed
            };
            result = push(&mut state);
            if result == Err(PushError::Full) {
                note_batch(&state, batches);
                self.seal(&mut state, &mut resolved);
                result = push(&mut state);
            }
            if result.is_err() {
                break;
            }
            *charged_bytes += charge_bytes;
        }
        self.drop_empty_batch(&mut state);
        note_batch(&state, batches);
        self.seal(&mut state, &mut resolved);
        self.schedule(&mut state, now);
        drop(state);
        self.complete(resolved);
        Ok(result?)
    }

    /// The next batch for this connection, if one is due.
    pub(crate) fn take(self: &Arc<Self>, carrier: u64, now: Instant) -> Option<Outgoing> {
        let mut resolved = Vec::new();
        let mut state = lock(&self.state);
        state.listed = Listed::Nowhere;
        if state.route.as_ref().is_none_or(|lane| lane.id() != carrier) {
            self.schedule(&mut state, now);
            return None;
        }
        if state.flow.is_caught_up() && self.due_at(&state, now) == ReadyAt::Now {
            self.seal(&mut state, &mut resolved);
        }
        let outgoing = self.transmit(&mut state, carrier, now, &mut resolved);
        drop(state);
        self.complete(resolved);
        outgoing
    }

    /// Takes the answer to a batch that this queue gave to a connection.
    pub(crate) fn answer(
        self: &Arc<Self>,
        now: Instant,
        id: BatchId,
        answer: Answer,
        stale_generation: Option<u64>,
    ) {
        let mut resolved = Vec::new();
        let mut state = lock(&self.state);
        if let Some(generation) = stale_generation {
            state.route = None;
            state.stale_generation = state.stale_generation.max(Some(generation));
        }
        state.flow.handle_answer(now, id, answer, &mut resolved);
        self.finish(state, now, resolved);
    }

    /// The owner moved, and metadata knows where: the next batch goes there.
    pub(crate) fn reroute(&self) {
        lock(&self.state).route = None;
    }

    /// The connection is gone.
    pub(crate) fn lost(self: &Arc<Self>, carrier: u64, now: Instant, generation: u64) {
        let mut resolved = Vec::new();
        let mut state = lock(&self.state);
        if state
            .route
            .as_ref()
            .is_some_and(|lane| lane.id() == carrier)
        {
            state.route = None;
            state.stale_generation = state.stale_generation.max(Some(generation));
        }
        if state.listed == Listed::Ready(carrier) {
            state.listed = Listed::Nowhere;
        }
        if state.carrier == carrier && state.flow.outstanding() > 0 {
            state.flow.handle_lost(now, &mut resolved);
        }
        self.finish(state, now, resolved);
    }

    /// Fails what has expired; whether anything still waits for its result.
    pub(crate) fn expire(self: &Arc<Self>, now: Instant) -> bool {
        let mut resolved = Vec::new();
        let mut state = lock(&self.state);
        let delivery_timeout = self.shared.config.delivery_timeout;
        if state
            .open
            .as_ref()
            .is_some_and(|open| now >= open.opened + delivery_timeout)
        {
            self.seal(&mut state, &mut resolved);
        }
        state.flow.handle_time(now, &mut resolved);
        let is_waiting = state.open.is_some() || state.flow.unresolved() > 0;
        state.is_watched = is_waiting;
        self.finish(state, now, resolved);
        is_waiting
    }

    /// A timer fired.
    pub(crate) fn wake(self: &Arc<Self>, now: Instant) {
        let mut state = lock(&self.state);
        state.timer = None;
        self.schedule(&mut state, now);
    }

    /// Fails everything, for instance since the topic is gone.
    pub(crate) fn fail_all(self: &Arc<Self>, now: Instant, code: ErrorCode) {
        let mut resolved = Vec::new();
        let mut state = lock(&self.state);
        state.listed = Listed::Nowhere;
        self.seal(&mut state, &mut resolved);
        state.flow.fail_all(code, &mut resolved);
        self.finish(state, now, resolved);
    }

    /// Makes the open batch due; gives the newest batch that has no result yet.
    pub(crate) fn flush(self: &Arc<Self>) -> Option<Arc<Completion>> {
        let mut state = lock(&self.state);
        if let Some(open) = &mut state.open {
            open.is_flushed = true;
            let completion = open.completion.clone();
            self.schedule(&mut state, Instant::now());
            return Some(completion);
        }
        state.flow.newest().map(|sealed| sealed.completion.clone())
    }

    /// The generation of metadata that the next route must be newer than.
    pub(crate) fn stale_generation(&self) -> Option<u64> {
        lock(&self.state).stale_generation
    }

    /// The connection for the next batches.
    pub(crate) fn set_route(self: &Arc<Self>, lane: Arc<ProduceLane>, now: Instant) {
        let mut state = lock(&self.state);
        state.route = Some(lane);
        state.stale_generation = None;
        if state.listed == Listed::Unrouted {
            state.listed = Listed::Nowhere;
        }
        self.schedule(&mut state, now);
    }

    fn watch(self: &Arc<Self>, state: &mut State) -> Result<(), AppendError> {
        if !state.is_watched {
            if !self.shared.watch(self.clone()) {
                return Err(AppendError::Finished);
            }
            state.is_watched = true;
        }
        Ok(())
    }

    fn open_batch<'a>(
        &self,
        state: &'a mut State,
        now: Instant,
        record_bytes: usize,
    ) -> &'a mut Open {
        let expected = state.batch_bytes_expected.max(record_bytes + 64);
        state.open.get_or_insert_with(|| {
            let mut builder = self.shared.take_builder();
            builder.reserve(expected);
            Open {
                builder,
                completion: Completion::new(self.place.partition.0),
                charge_bytes: 0,
                opened: now,
                is_flushed: false,
            }
        })
    }

    fn is_full(&self, state: &State) -> bool {
        let config = &self.shared.config;
        state.open.as_ref().is_some_and(|open| {
            open.builder.record_count() >= config.batch_records_max
                || open.builder.size_bytes() >= config.batch_bytes_max
        })
    }

    fn has_no_room_for(&self, state: &State, record_bytes: usize) -> bool {
        state.open.as_ref().is_some_and(|open| {
            open.builder.size_bytes() + record_bytes > self.shared.config.batch_bytes_max
        })
    }

    fn drop_empty_batch(&self, state: &mut State) {
        if let Some(open) = state.open.take_if(|open| open.builder.is_empty()) {
            self.shared.keep_builder(open.builder);
        }
    }

    /// Moves the open batch into the flow.
    fn seal(&self, state: &mut State, resolved: &mut Vec<Resolved<Sealed>>) {
        let Some(mut open) = state.open.take() else {
            return;
        };
        let stamp = state.flow.stamp_forecast();
        let records = u32::from(open.builder.record_count());
        open.builder
            .set_producer(stamp.producer, stamp.epoch, stamp.sequence);
        let finished = open.builder.finish();
        open.builder.clear();
        self.shared.keep_builder(open.builder);
        let Open {
            completion,
            charge_bytes,
            opened,
            ..
        } = open;
        let (batch, error) = match finished {
            Ok(batch) => (batch, None),
            Err(error) => (Bytes::new(), Some(error)),
        };
        let bytes = batch.len();
        let item = Sealed {
            batch,
            stamp,
            completion,
            charge_bytes,
        };
        if let Some(error) = error {
            tracing::error!(topic = %self.topic, %error, "a batch could not be compressed");
            let code = ErrorCode::InvalidBatch;
            let failure = Failure::Rejected {
                code,
                may_have_been_written: false,
            };
            resolved.push(Resolved {
                item,
                outcome: Err(failure),
            });
            return;
        }
        state.batch_bytes_expected = bytes;
        let deadline = opened + self.shared.config.delivery_timeout;
        state.flow.push(item, records, bytes, deadline);
    }

    fn transmit(
        self: &Arc<Self>,
        state: &mut State,
        carrier: u64,
        now: Instant,
        resolved: &mut Vec<Resolved<Sealed>>,
    ) -> Option<Outgoing> {
        let Some(transmit) = state.flow.poll_transmit(now) else {
            self.schedule(state, now);
            return None;
        };
        let (id, stamp) = (transmit.id, transmit.stamp);
        if transmit.item.stamp != stamp {
            restamp(transmit.item, stamp);
        }
        let batch = transmit.item.batch.clone();
        state.carrier = carrier;
        if self.class == Durability::None {
            // Nobody will answer: handing it to the connection is all there is to wait for.
            state
                .flow
                .handle_answer(now, id, Answer::Written { base_offset: None }, resolved);
        }
        let has_more = self.due_at(state, now) == ReadyAt::Now;
        if has_more {
            state.listed = Listed::Ready(carrier);
        } else {
            self.schedule(state, now);
        }
        Some(Outgoing {
            id,
            batch,
            has_more,
        })
    }

    /// When the queue has something for its connection.
    fn due_at(&self, state: &State, now: Instant) -> ReadyAt {
        if !state.flow.is_caught_up() {
            return state.flow.ready_at(now);
        }
        let Some(open) = &state.open else {
            return ReadyAt::Never;
        };
        if state.flow.outstanding() >= PARTIAL_BATCHES_IN_FLIGHT_MAX {
            return ReadyAt::Never;
        }
        let linger_end = if open.is_flushed || self.shared.is_closed() {
            now
        } else {
            open.opened + self.shared.config.linger
        };
        match state.flow.pause_until() {
            Some(until) if until > now => ReadyAt::At(until.max(linger_end)),
            _ if linger_end > now => ReadyAt::At(linger_end),
            _ if state.flow.is_open(now) => ReadyAt::Now,
            _ => ReadyAt::Never,
        }
    }

    /// Puts the queue into the list it belongs to.
    fn schedule(self: &Arc<Self>, state: &mut State, now: Instant) {
        if state.listed != Listed::Nowhere {
            return;
        }
        match self.due_at(state, now) {
            ReadyAt::Never => {}
            ReadyAt::At(at) => {
                if state.timer.is_none_or(|timer| at < timer) {
                    state.timer = Some(at);
                    self.shared.set_timer(at, self.clone());
                }
            }
            ReadyAt::Now => {
                if let Some(lane) = state.route.as_ref().filter(|lane| lane.enqueue(self)) {
                    state.listed = Listed::Ready(lane.id());
                } else {
                    state.route = None;
                    state.listed = Listed::Unrouted;
                    self.shared.want_route(self.clone());
                }
            }
        }
    }

    fn finish(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        now: Instant,
        resolved: Vec<Resolved<Sealed>>,
    ) {
        self.schedule(&mut state, now);
        let lost = state.flow.take_records_lost();
        drop(state);
        if lost > 0 {
            self.shared.records_lost.fetch_add(lost, Ordering::Relaxed);
            let (topic, partition) = (&self.topic, self.place.partition);
            tracing::warn!(%topic, %partition, lost, "acknowledged records were lost");
        }
        self.complete(resolved);
    }

    /// Gives memory back and wakes the handles. No lock is held.
    fn complete(&self, resolved: Vec<Resolved<Sealed>>) {
        for Resolved { item, outcome } in resolved {
            self.shared.memory.add_permits(item.charge_bytes);
            item.completion
                .complete(outcome.map_err(|failure| self.error(failure)));
        }
    }

    fn error(&self, failure: Failure) -> ProduceError {
        let (topic, partition) = (self.topic.clone(), self.place.partition.0);
        match failure {
            Failure::TimedOut {
                refusal,
                may_have_been_written,
            } => {
                let after = self.shared.config.delivery_timeout;
                ProduceError::TimedOut {
                    topic,
                    partition,
                    after,
                    refusal,
                    may_have_been_written,
                }
            }
            Failure::Rejected {
                code,
                may_have_been_written,
            } => ProduceError::Refused {
                topic,
                partition,
                code,
                may_have_been_written,
            },
            Failure::OutcomeUnknown => ProduceError::OutcomeUnknown { topic, partition },
        }
    }
}

fn note_batch(state: &State, batches: &mut Vec<(Arc<Completion>, u32)>) {
    if let Some(open) = &state.open {
        batches.push((open.completion.clone(), open.builder.record_count().into()));
    }
}

/// Gives a batch another number. Its memory is usually ours alone by now.
fn restamp(sealed: &mut Sealed, stamp: Stamp) {
    let batch = std::mem::take(&mut sealed.batch);
    let mut batch = batch
        .try_into_mut()
        .unwrap_or_else(|batch| BytesMut::from(&batch[..]));
    set_producer(&mut batch, stamp.producer, stamp.epoch, stamp.sequence);
    sealed.batch = batch.freeze();
    sealed.stamp = stamp;
}
