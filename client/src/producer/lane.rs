//! A produce connection: takes what is due from the partitions of its shard, packs it into
//! requests, and hands the acks back.
//!
//! Invariant: bytes outstanding stay inside the credit of the hello; correlation ids count items,
//! so that an ack finds its batch by subtraction. `ProduceLane` is shared, `LaneHandler` belongs to
//! the connection's task.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use catena_protocol::error::{ErrorCode, Retry, owner_from_detail};
use catena_protocol::frame::Api;
use catena_protocol::ids::{ChainEpoch, CorrelationId, Durability, Sequence};
use catena_protocol::limits::{BATCH_BYTES_MAX, PRODUCE_ITEMS_MAX};
use catena_protocol::messages::{
    AckItem, AckView, ErrorResponse, HelloResponse, ProduceItem, encode_produce_header,
};

use super::flow::{Answer, BatchId};
use super::partition::PartitionQueue;
use crate::client::core::Core;
use crate::connection::Endpoint;
use crate::connection::driver::{Handler, Violation};
use crate::connection::places::Lane;
use crate::connection::read_buffer::Frame;
use crate::connection::write_queue::WriteQueue;
use crate::limits::{PRODUCE_REQUEST_BYTES_MAX, WRITE_QUEUE_BYTES_MAX};
use crate::locking::lock;

const CLASSES: [Durability; 3] = [Durability::Durable, Durability::Received, Durability::None];

/// The shared end of a produce connection, also while it is being made.
#[derive(Debug)]
pub(crate) struct ProduceLane {
    id: u64,
    pub(crate) endpoint: Endpoint,
    state: Mutex<LaneState>,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Partitions with something due, per class.
    ready: [VecDeque<Arc<PartitionQueue>>; 3],
    is_closed: bool,
    is_done: bool,
    waker: Option<Waker>,
}

impl ProduceLane {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            id,
            endpoint,
            state: Mutex::default(),
        }
    }

    /// Differs between all lanes of this process; never 0.
    pub(crate) const fn id(&self) -> u64 {
        self.id
    }

    /// Lists a partition that has something due; `false` if the connection is gone.
    pub(crate) fn enqueue(&self, queue: &Arc<PartitionQueue>) -> bool {
        let mut state = lock(&self.state);
        if state.is_closed {
            return false;
        }
        state.ready[usize::from(queue.class.to_wire())].push_back(queue.clone());
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }

    /// Takes no more; gives the partitions that were listed.
    pub(crate) fn close(&self) -> Vec<Arc<PartitionQueue>> {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.ready.iter_mut().flat_map(std::mem::take).collect()
    }
}

impl Lane for ProduceLane {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn is_open(&self) -> bool {
        !lock(&self.state).is_closed
    }

    fn finish(&self) {
        let mut state = lock(&self.state);
        state.is_done = true;
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// One transmission that waits for its ack.
#[derive(Debug)]
struct Slot {
    queue: Option<Arc<PartitionQueue>>,
    id: BatchId,
    bytes: usize,
    sent: Instant,
    /// Items of its request, if it is the first of them.
    request_items: usize,
}

/// The task's end.
#[derive(Debug)]
pub(crate) struct LaneHandler {
    lane: Arc<ProduceLane>,
    core: Weak<Core>,
    slots: VecDeque<Slot>,
    /// The correlation of the first slot.
    first: u32,
    outstanding_bytes: usize,
    window_bytes: usize,
    request_bytes_max: usize,
    timeout_ms: u32,
    next_class: usize,
    /// Kept from round to round for their memory.
    round: VecDeque<Arc<PartitionQueue>>,
    again: VecDeque<Arc<PartitionQueue>>,
    items: Vec<ProduceItem>,
    batches: Vec<Bytes>,
}

impl LaneHandler {
    pub(crate) fn new(
        lane: Arc<ProduceLane>,
        core: Weak<Core>,
        hello: &HelloResponse,
        timeout_ms: u32,
    ) -> Self {
        let credit = usize::try_from(hello.produce_credit_bytes).unwrap_or(usize::MAX);
        let request_bytes_max = usize::try_from(hello.request_bytes_max).unwrap_or(usize::MAX);
        Self {
            lane,
            core,
            slots: VecDeque::new(),
            first: 0,
            outstanding_bytes: 0,
            // What is checked before a batch is taken; the batch itself comes on top.
            window_bytes: credit.saturating_sub(BATCH_BYTES_MAX),
            request_bytes_max: (request_bytes_max / 2).min(PRODUCE_REQUEST_BYTES_MAX),
            timeout_ms,
            next_class: 0,
            round: VecDeque::new(),
            again: VecDeque::new(),
            items: Vec::new(),
            batches: Vec::new(),
        }
    }

    /// Ends all transmissions; their batches look for another connection.
    pub(crate) fn give_up(self, now: Instant) {
        let generation = self
            .core
            .upgrade()
            .map_or(0, |core| core.metadata.generation());
        let listed = self.lane.close();
        let carrier = self.lane.id();
        for queue in self
            .slots
            .into_iter()
            .filter_map(|slot| slot.queue)
            .chain(listed)
        {
            queue.lost(carrier, now, generation);
        }
    }

    fn has_window(&self) -> bool {
        self.outstanding_bytes == 0 || self.outstanding_bytes <= self.window_bytes
    }

    /// Takes the partitions listed in the next class that has any; `None` if there is nothing.
    fn start_round(&mut self, cx: &Context<'_>) -> Option<Durability> {
        let mut state = lock(&self.lane.state);
        for turn in 0..CLASSES.len() {
            let class = (self.next_class + turn) % CLASSES.len();
            if !state.ready[class].is_empty() {
                std::mem::swap(&mut state.ready[class], &mut self.round);
                self.next_class = (class + 1) % CLASSES.len();
                return Some(CLASSES[class]);
            }
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        None
    }

    /// Puts what the round did not get to, and what has more, back into the list.
    fn end_round(&mut self, class: Durability) {
        let mut state = lock(&self.lane.state);
        let ready = &mut state.ready[usize::from(class.to_wire())];
        // First what was not reached, then what came meanwhile, then what had its turn.
        std::mem::swap(ready, &mut self.round);
        ready.append(&mut self.round);
        ready.append(&mut self.again);
    }

    /// One request with at most one batch of each listed partition.
    fn send_request(&mut self, now: Instant, class: Durability, out: &mut WriteQueue) {
        let mut request_bytes = 0;
        let start = self.slots.len();
        while self.items.len() < PRODUCE_ITEMS_MAX
            && request_bytes < self.request_bytes_max
            && self.has_window()
        {
            let Some(queue) = self.round.pop_front() else {
                break;
            };
            let Some(outgoing) = queue.take(self.lane.id(), now) else {
                continue;
            };
            let batch_bytes = outgoing.batch.len();
            request_bytes += batch_bytes;
            self.items.push(ProduceItem {
                topic: queue.place.topic,
                partition: queue.place.partition,
                batch_bytes: u32::try_from(batch_bytes).expect("a batch is below 1 MiB"),
                chain_epoch: ChainEpoch(0),
            });
            self.batches.push(outgoing.batch);
            if outgoing.has_more {
                self.again.push_back(queue.clone());
            }
            if class != Durability::None {
                self.outstanding_bytes += batch_bytes;
                let (queue, id, bytes) = (Some(queue), outgoing.id, batch_bytes);
                self.slots.push_back(Slot {
                    queue,
                    id,
                    bytes,
                    sent: now,
                    request_items: 0,
                });
            }
        }
        self.end_round(class);
        if self.items.is_empty() {
            return;
        }
        if let Some(slot) = self.slots.get_mut(start) {
            slot.request_items = self.items.len();
        }
        let start = u32::try_from(start).expect("slots are bounded by the credit");
        let correlation = CorrelationId(self.first.wrapping_add(start));
        encode_produce_header(
            out.header(),
            correlation,
            class,
            self.timeout_ms,
            &self.items,
        );
        self.batches.drain(..).for_each(|batch| out.push(&batch));
        self.items.clear();
    }

    fn handle_ack(&mut self, now: Instant, ack: &AckItem) -> Result<(), Violation> {
        let index = ack
            .correlation
            .0
            .wrapping_add(ack.item.into())
            .wrapping_sub(self.first);
        let slot = usize::try_from(index)
            .ok()
            .and_then(|index| self.slots.get_mut(index));
        let Some((slot, queue)) = slot.and_then(|slot| {
            let queue = slot.queue.take()?;
            Some((slot, queue))
        }) else {
            let (correlation, item) = (ack.correlation, ack.item);
            return Err(format!(
                "an ack of {correlation}/{item}, which is not outstanding"
            ));
        };
        self.outstanding_bytes -= slot.bytes;
        let id = slot.id;
        while self.slots.front().is_some_and(|slot| slot.queue.is_none()) {
            self.slots.pop_front();
            self.first = self.first.wrapping_add(1);
        }
        self.answer(now, &queue, id, ack.error, ack.detail);
        Ok(())
    }

    fn answer(
        &self,
        now: Instant,
        queue: &Arc<PartitionQueue>,
        id: BatchId,
        code: ErrorCode,
        detail: u64,
    ) {
        let mut answer = answer_to(code, detail);
        let mut stale = None;
        if matches!(code.retry(), Retry::RefreshMetadata)
            && let Some(core) = self.core.upgrade()
        {
            let owner = (code == ErrorCode::NotOwner)
                .then(|| owner_from_detail(detail))
                .flatten();
            let is_news = owner
                .is_some_and(|(node, shard)| core.metadata.follow_hint(queue.place, node, shard));
            if is_news || self.has_moved(&core, queue) {
                queue.reroute();
                answer = Answer::Retry {
                    code,
                    pause: false,
                    uncertain: false,
                };
            } else {
                stale = Some(core.metadata.generation());
            }
        }
        queue.answer(now, id, answer, stale);
    }

    /// Whether metadata names another connection for the partition by now.
    fn has_moved(&self, core: &Core, queue: &PartitionQueue) -> bool {
        core.metadata
            .owner(queue.place)
            .is_some_and(|owner| owner != self.lane.endpoint)
    }

    fn handle_refusal(&mut self, now: Instant, frame: &Frame) -> Result<(), Violation> {
        let error = ErrorResponse::decode(&frame.header).map_err(|error| error.to_string())?;
        let correlation = frame.prefix.correlation;
        let index = correlation.0.wrapping_sub(self.first);
        let slot = usize::try_from(index)
            .ok()
            .and_then(|index| self.slots.get(index));
        let Some(items) = slot.map(|slot| slot.request_items) else {
            return Err(format!(
                "the connection was refused: {} {}",
                error.code, error.message
            ));
        };
        for item in 0..items {
            let item = u16::try_from(item).expect("a request has at most 65,535 items");
            let ack = AckItem {
                correlation,
                item,
                error: error.code,
                detail: error.detail,
            };
            self.handle_ack(now, &ack)?;
        }
        Ok(())
    }
}

impl Handler for LaneHandler {
    fn fill(&mut self, cx: &mut Context<'_>, now: Instant, out: &mut WriteQueue) {
        while out.bytes() < WRITE_QUEUE_BYTES_MAX && self.has_window() {
            let Some(class) = self.start_round(cx) else {
                return;
            };
            self.send_request(now, class, out);
        }
    }

    fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), Violation> {
        match Api::from_wire(frame.prefix.api) {
            Some(Api::Produce) => {
                let acks = AckView::decode(&frame.header).map_err(|error| error.to_string())?;
                acks.items().try_for_each(|ack| self.handle_ack(now, &ack))
            }
            Some(Api::Error) => self.handle_refusal(now, &frame),
            _ => Err(format!("api {} on a produce connection", frame.prefix.api)),
        }
    }

    fn oldest_request(&self) -> Option<Instant> {
        self.slots.front().map(|slot| slot.sent)
    }

    fn is_idle(&self) -> bool {
        self.slots.is_empty() && lock(&self.lane.state).ready.iter().all(VecDeque::is_empty)
    }

    fn close_if_idle(&mut self) -> bool {
        let mut state = lock(&self.lane.state);
        let is_idle = self.slots.is_empty() && state.ready.iter().all(VecDeque::is_empty);
        state.is_closed |= is_idle;
        is_idle
    }

    fn is_done(&self) -> bool {
        self.slots.is_empty() && lock(&self.lane.state).is_done
    }
}

/// What a code means to the flow.
fn answer_to(code: ErrorCode, detail: u64) -> Answer {
    // Sequences travel in the low half.
    let sequence = || Sequence(u32::try_from(detail & u64::from(u32::MAX)).expect("masked"));
    match code {
        ErrorCode::None => {
            let base_offset = (detail != AckItem::OFFSET_UNKNOWN).then_some(detail);
            Answer::Written { base_offset }
        }
        ErrorCode::DuplicateOffsetUnknown => Answer::Written { base_offset: None },
        ErrorCode::OutOfOrderSequence => Answer::OutOfOrder {
            expected: sequence(),
        },
        ErrorCode::UnknownProducer => Answer::UnknownProducer,
        ErrorCode::SequenceReset => Answer::SequenceReset { last: sequence() },
        // These may come after the batch went into the journal.
        ErrorCode::StoreFailed | ErrorCode::ShuttingDown | ErrorCode::Internal => Answer::Retry {
            code,
            pause: true,
            uncertain: true,
        },
        _ => match code.retry() {
            Retry::Success => Answer::Written { base_offset: None },
            Retry::Backoff | Retry::Resend | Retry::RefreshMetadata | Retry::Reconnect => {
                Answer::Retry {
                    code,
                    pause: true,
                    uncertain: false,
                }
            }
            Retry::NewProducerEpoch => Answer::UnknownProducer,
            Retry::Never | Retry::ResetOffset | Retry::SkipAhead | Retry::ReopenSession => {
                Answer::Rejected(code)
            }
        },
    }
}
