//! A fetch connection: one session over the partitions of a shard.
//!
//! While there is data two requests are outstanding, so that the broker always has one to answer.
//! Invariant: bytes asked for and bytes fetched but not taken stay inside the lane's share of the
//! prefetch budget; what is delivered of a partition continues what was delivered before.
//! `FetchLane` is shared, `FetchHandler` belongs to the connection's task.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use catena_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader};
use catena_protocol::error::{ErrorCode, Retry, owner_from_detail};
use catena_protocol::frame::Api;
use catena_protocol::ids::{ChainEpoch, CorrelationId, Offset, SessionId, TopicPartition};
use catena_protocol::limits::FETCH_REQUESTS_OUTSTANDING_MAX;
use catena_protocol::messages::{
    ErrorResponse, FetchInterest, FetchItem, FetchRequest, FetchView, HelloResponse,
};
use rustc_hash::FxHashMap;

use super::judge::{self, Verdict};
use super::shared::{Batches, Fetched, ResetPolicy, Shared};
use crate::connection::Endpoint;
use crate::connection::driver::{Handler, Violation};
use crate::connection::places::Lane;
use crate::connection::read_buffer::Frame;
use crate::connection::write_queue::WriteQueue;
use crate::error::ConsumeError;
use crate::limits::{FETCH_BYTES_MIN, FETCH_PIPELINE};
use crate::locking::lock;

const SESSION: SessionId = SessionId(1);

/// Changes sent in one request.
const CHANGES_PER_REQUEST_MAX: usize = 10_000;

/// A change of what a lane reads.
#[derive(Clone, Copy, Debug)]
enum Change {
    Add {
        place: TopicPartition,
        index: usize,
        generation: u64,
        position: u64,
    },
    Remove {
        place: TopicPartition,
    },
}

/// The shared end of a fetch connection, also while it is being made.
#[derive(Debug)]
pub(crate) struct FetchLane {
    pub(crate) endpoint: Endpoint,
    state: Mutex<LaneState>,
}

#[derive(Debug, Default)]
struct LaneState {
    changes: VecDeque<Change>,
    /// Bytes fetched and not yet taken.
    held_bytes: usize,
    is_closed: bool,
    is_done: bool,
    waker: Option<Waker>,
}

impl LaneState {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl FetchLane {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            state: Mutex::default(),
        }
    }

    /// Reads a partition from `position` on; `false` if the connection is gone.
    pub(crate) fn add(
        &self,
        place: TopicPartition,
        index: usize,
        generation: u64,
        position: u64,
    ) -> bool {
        self.change(Change::Add {
            place,
            index,
            generation,
            position,
        })
    }

    /// Reads a partition no more.
    pub(crate) fn remove(&self, place: TopicPartition) {
        self.change(Change::Remove { place });
    }

    /// Fetched bytes were taken.
    pub(crate) fn release(&self, bytes: usize) {
        let mut state = lock(&self.state);
        state.held_bytes -= bytes;
        state.wake();
    }

    fn change(&self, change: Change) -> bool {
        let mut state = lock(&self.state);
        if state.is_closed {
            return false;
        }
        state.changes.push_back(change);
        state.wake();
        true
    }
}

impl Lane for FetchLane {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn is_open(&self) -> bool {
        !lock(&self.state).is_closed
    }

    fn finish(&self) {
        let mut state = lock(&self.state);
        state.is_done = true;
        state.wake();
    }
}

/// A partition of the session.
#[derive(Clone, Copy, Debug)]
struct Interest {
    index: usize,
    generation: u64,
    /// The next offset the broker will send.
    position: u64,
    /// The request that set it; `None` while it waits to be sent.
    added_in: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    correlation: u32,
    sent: Instant,
    bytes_max: u32,
}

/// The task's end.
#[derive(Debug)]
pub(crate) struct FetchHandler {
    lane: Arc<FetchLane>,
    shared: Arc<Shared>,
    interests: FxHashMap<TopicPartition, Interest>,
    /// Interests whose position has to be told.
    add: VecDeque<TopicPartition>,
    remove: Vec<TopicPartition>,
    outstanding: VecDeque<Outstanding>,
    /// The last answer was empty.
    has_caught_up: bool,
    next_correlation: u32,
    /// The credit of the hello.
    credit_bytes: u64,
}

impl FetchHandler {
    pub(crate) fn new(lane: Arc<FetchLane>, shared: Arc<Shared>, hello: &HelloResponse) -> Self {
        Self {
            lane,
            shared,
            interests: FxHashMap::default(),
            add: VecDeque::new(),
            remove: Vec::new(),
            outstanding: VecDeque::new(),
            has_caught_up: false,
            next_correlation: 1,
            credit_bytes: hello.fetch_credit_bytes,
        }
    }

    /// The connection ended: its partitions look for another.
    pub(crate) fn give_up(mut self) {
        let changes = close(&self.lane);
        self.apply(changes);
        let stale = Some(self.shared.core.metadata.generation());
        for interest in self.interests.into_values() {
            let Interest {
                index,
                generation,
                position,
                ..
            } = interest;
            self.shared
                .reroute(index, generation, position, true, stale);
        }
    }

    fn apply(&mut self, changes: VecDeque<Change>) {
        for change in changes {
            match change {
                Change::Add {
                    place,
                    index,
                    generation,
                    position,
                } => {
                    let interest = Interest {
                        index,
                        generation,
                        position,
                        added_in: None,
                    };
                    self.interests.insert(place, interest);
                    self.add.push_back(place);
                }
                Change::Remove { place } => {
                    if self.interests.remove(&place).is_some() {
                        self.remove.push(place);
                    }
                }
            }
        }
    }

    /// Bytes the next request asks for, if there is room for it.
    fn room(&self, held_bytes: usize) -> Option<u32> {
        let budget = self.shared.lane_budget_bytes();
        let share = u32::try_from(budget / FETCH_PIPELINE).unwrap_or(u32::MAX);
        let credit = self.credit_bytes / FETCH_PIPELINE as u64;
        let credit = u32::try_from(credit).unwrap_or(u32::MAX).max(1);
        let bytes_max = share.max(FETCH_BYTES_MIN);
        let bytes_max = bytes_max
            .min(self.shared.config.fetch_bytes_max)
            .min(credit);
        let asked: usize = self
            .outstanding
            .iter()
            .map(|request| request.bytes_max as usize)
            .sum();
        let is_first = self.outstanding.is_empty() && held_bytes == 0;
        let fits = held_bytes + asked + bytes_max as usize <= budget;
        (is_first || fits).then_some(bytes_max)
    }

    fn send(&mut self, now: Instant, bytes_max: u32, out: &mut WriteQueue) {
        let correlation = self.next_correlation;
        self.next_correlation = correlation.wrapping_add(1);
        let mut add = Vec::new();
        while add.len() < CHANGES_PER_REQUEST_MAX {
            let Some(place) = self.add.pop_front() else {
                break;
            };
            // It may have been removed, or added twice, since.
            let Some(interest) = self.interests.get_mut(&place) else {
                continue;
            };
            if interest.added_in.is_some() {
                continue;
            }
            interest.added_in = Some(correlation);
            add.push(FetchInterest {
                topic: place.topic,
                partition: place.partition,
                offset: Offset(interest.position),
                max_bytes: 0,
                chain_epoch: ChainEpoch(0),
            });
        }
        let config = &self.shared.config;
        let request = FetchRequest {
            session: SESSION,
            max_wait_ms: u32::try_from(config.fetch_wait_max.as_millis()).unwrap_or(u32::MAX),
            min_bytes: config.fetch_bytes_min,
            max_bytes: bytes_max,
            close: false,
            add,
            remove: std::mem::take(&mut self.remove),
        };
        request.encode(CorrelationId(correlation), out.header());
        self.outstanding.push_back(Outstanding {
            correlation,
            sent: now,
            bytes_max,
        });
    }

    fn handle_item(&mut self, correlation: u32, item: &FetchItem, payload: Bytes) {
        let place = item.tp();
        let Some(interest) = self.interests.get(&place).copied() else {
            return;
        };
        // Wrapping, so that the order of requests survives the end of the number range.
        let is_current = interest
            .added_in
            .is_some_and(|added| correlation.wrapping_sub(added) < 1 << 31);
        let Interest {
            index,
            generation,
            position,
            ..
        } = interest;
        let fetch_offset = item.fetch_offset.0;
        if item.error != ErrorCode::None {
            if judge::error(position, is_current, fetch_offset) == Verdict::Take {
                self.interests.remove(&place);
                self.handle_error(place, interest, item);
            }
            return;
        }
        if payload.is_empty() {
            self.shared
                .note_high_watermark(index, item.high_watermark.0);
            return;
        }
        let next_offset = next_offset(&payload);
        match judge::batches(position, is_current, fetch_offset, next_offset) {
            Verdict::Take => {}
            Verdict::Ignore => return,
            Verdict::Restart => {
                tracing::warn!(%place, position, fetch_offset, "an answer leaves records out");
                self.interests.remove(&place);
                self.remove.push(place);
                self.shared.reroute(index, generation, position, true, None);
                return;
            }
        }
        let next_position = next_offset.unwrap_or(position);
        if let Some(interest) = self.interests.get_mut(&place) {
            interest.position = next_position;
        }
        let charge_bytes = payload.len();
        lock(&self.lane.state).held_bytes += charge_bytes;
        let batches = Batches {
            bytes: payload,
            charge_bytes,
            lane: self.lane.clone(),
        };
        let fetched = Fetched {
            index,
            generation,
            content: Ok(batches),
        };
        self.shared
            .deliver(fetched, next_position, item.high_watermark.0);
    }

    /// The broker reads the partition no more.
    fn handle_error(&self, place: TopicPartition, interest: Interest, item: &FetchItem) {
        let shared = &self.shared;
        let Interest {
            index,
            generation,
            position,
            ..
        } = interest;
        match item.error.retry() {
            Retry::ResetOffset => self.reset_offset(interest, item),
            Retry::SkipAhead => {
                let next_offset = item.error_detail();
                let error = ConsumeError::DataCorrupt {
                    topic: shared.assigned[index].topic.clone(),
                    partition: place.partition.0,
                    offset: position,
                    next_offset,
                };
                if next_offset <= position {
                    shared.stop(index, generation, error);
                    return;
                }
                let fetched = Fetched {
                    index,
                    generation,
                    content: Err(error),
                };
                shared.deliver(fetched, next_offset, 0);
                shared.reroute(index, generation, next_offset, false, None);
            }
            Retry::RefreshMetadata => {
                let owner = (item.error == ErrorCode::NotOwner)
                    .then(|| owner_from_detail(item.error_detail()))
                    .flatten();
                let metadata = &shared.core.metadata;
                let is_news =
                    owner.is_some_and(|(node, shard)| metadata.follow_hint(place, node, shard));
                let stale = (!is_news).then(|| metadata.generation());
                shared.reroute(index, generation, position, !is_news, stale);
            }
            Retry::Never => {
                shared.stop(index, generation, shared.refused(index, item.error));
            }
            Retry::Success
            | Retry::Backoff
            | Retry::Resend
            | Retry::NewProducerEpoch
            | Retry::ReopenSession
            | Retry::Reconnect => shared.reroute(index, generation, position, true, None),
        }
    }

    fn reset_offset(&self, interest: Interest, item: &FetchItem) {
        let shared = &self.shared;
        let Interest {
            index,
            generation,
            position,
            ..
        } = interest;
        let target = match shared.config.reset {
            ResetPolicy::Earliest => item.log_start.0,
            ResetPolicy::Latest => item.high_watermark.0,
            ResetPolicy::Timestamp(_) => {
                shared.look_up(index, generation);
                return;
            }
            ResetPolicy::Error => {
                let error = ConsumeError::OffsetOutOfRange {
                    topic: shared.assigned[index].topic.clone(),
                    partition: item.partition.0,
                    offset: position,
                    log_start: item.log_start.0,
                    high_watermark: item.high_watermark.0,
                };
                shared.stop(index, generation, error);
                return;
            }
        };
        tracing::warn!(place = %item.tp(), position, target, "offset out of range, moving");
        // A second refusal of the very position the broker named is a reason to wait.
        shared.reroute(index, generation, target, target == position, None);
    }
}

impl Handler for FetchHandler {
    fn fill(&mut self, cx: &mut Context<'_>, now: Instant, out: &mut WriteQueue) {
        let (changes, held_bytes) = {
            let mut state = lock(&self.lane.state);
            match &mut state.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            (std::mem::take(&mut state.changes), state.held_bytes)
        };
        self.apply(changes);
        loop {
            let has_work =
                !self.add.is_empty() || !self.remove.is_empty() || !self.interests.is_empty();
            // A position is told at once; what is read no more can wait for the next turn. Answers
            // come in order, so a long poll may hold up what is behind it: one is enough while
            // there is nothing to fetch.
            let pipeline = match (self.add.is_empty(), self.has_caught_up) {
                (false, _) => FETCH_REQUESTS_OUTSTANDING_MAX,
                (true, true) => 1,
                (true, false) => FETCH_PIPELINE,
            };
            if !has_work || self.outstanding.len() >= pipeline {
                return;
            }
            // A seek must not wait for room that only its own data would fill.
            let least = (!self.add.is_empty()).then_some(FETCH_BYTES_MIN);
            let Some(bytes_max) = self.room(held_bytes).or(least) else {
                return;
            };
            self.send(now, bytes_max, out);
        }
    }

    fn handle_frame(&mut self, _now: Instant, frame: Frame) -> Result<(), Violation> {
        let correlation = frame.prefix.correlation.0;
        match self.outstanding.pop_front() {
            Some(request) if request.correlation == correlation => {}
            _ => return Err(format!("an answer to fetch {correlation} out of turn")),
        }
        match Api::from_wire(frame.prefix.api) {
            Some(Api::Fetch) => {}
            Some(Api::Error) => {
                let error = ErrorResponse::decode(&frame.header).map_err(|e| e.to_string())?;
                return Err(format!(
                    "the fetch was refused: {} {}",
                    error.code, error.message
                ));
            }
            _ => return Err(format!("api {} on a fetch connection", frame.prefix.api)),
        }
        let view = FetchView::decode(&frame.header, frame.prefix.payload_bytes());
        let view = view.map_err(|error| error.to_string())?;
        self.has_caught_up = view.items().len() == 0;
        for (item, range) in view.items_in_payload() {
            self.handle_item(correlation, &item, frame.payload.slice(range));
        }
        Ok(())
    }

    fn oldest_request(&self) -> Option<Instant> {
        self.outstanding.front().map(|request| request.sent)
    }

    fn is_idle(&self) -> bool {
        self.interests.is_empty() && lock(&self.lane.state).changes.is_empty()
    }

    fn close_if_idle(&mut self) -> bool {
        let mut state = lock(&self.lane.state);
        let is_idle = self.interests.is_empty() && state.changes.is_empty();
        state.is_closed |= is_idle;
        is_idle
    }

    fn is_done(&self) -> bool {
        lock(&self.lane.state).is_done
    }
}

/// Takes no more changes; gives those that were not applied.
fn close(lane: &FetchLane) -> VecDeque<Change> {
    let mut state = lock(&lane.state);
    state.is_closed = true;
    std::mem::take(&mut state.changes)
}

/// The lane could not be connected: its partitions look for another.
pub(crate) fn give_up_unconnected(lane: &FetchLane, shared: &Shared) {
    let stale = Some(shared.core.metadata.generation());
    for change in close(lane) {
        if let Change::Add {
            index,
            generation,
            position,
            ..
        } = change
        {
            shared.reroute(index, generation, position, true, stale);
        }
    }
}

/// The offset after the last of the batches; `None` if they are not whole batches. Walks over the
/// lengths only: the rest of each header is checked when its batch is taken.
fn next_offset(mut batches: &[u8]) -> Option<u64> {
    loop {
        let length = batches
            .get(20..24)?
            .try_into()
            .ok()
            .map(u32::from_le_bytes)? as usize;
        if length < BATCH_HEADER_BYTES || length > batches.len() {
            return None;
        }
        if length == batches.len() {
            return Some(BatchHeader::decode(batches).ok()?.next_offset().0);
        }
        batches = &batches[length..];
    }
}
