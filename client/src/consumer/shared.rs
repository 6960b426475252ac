//! What a consumer and its background tasks share: where each partition stands, and what was
//! fetched and not yet taken.
//!
//! Invariant: fetched data of a partition is in offset order and without gap from the consumer's
//! position to `fetch_position`; a seek raises the partition's generation, and whatever belongs
//! to an older generation is dropped. No lock is held while another is taken, but a lane's under
//! the state's. Any thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::Bytes;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::TopicPartition;
use tokio::sync::Notify;

use super::lane::FetchLane;
use crate::backoff::{Backoff, seed};
use crate::client::core::Core;
use crate::connection::places::Places;
use crate::error::ConsumeError;
use crate::locking::lock;

/// What to do when the position lies outside the partition, because retention has passed it or
/// the offset never existed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetPolicy {
    /// Go on at the first offset there is. Skips what retention removed.
    Earliest,
    /// Go on at the end.
    Latest,
    /// Go on at the first batch with a record at or after this time, in ms since 1970.
    Timestamp(i64),
    /// Report [`ConsumeError::OffsetOutOfRange`] and stand still until a seek.
    #[default]
    Error,
}

/// The settings of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerConfig {
    pub(crate) reset: ResetPolicy,
    pub(crate) prefetch_bytes_max: usize,
    pub(crate) fetch_bytes_max: u32,
    pub(crate) fetch_wait_max: Duration,
    pub(crate) fetch_bytes_min: u32,
}

/// A partition of the assignment.
#[derive(Clone, Debug)]
pub(crate) struct Assigned {
    pub(crate) topic: Arc<str>,
    pub(crate) place: TopicPartition,
}

/// Data of one partition, or news about it.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) index: usize,
    pub(crate) generation: u64,
    pub(crate) content: Result<Batches, ConsumeError>,
}

/// Batches one behind the other.
#[derive(Debug)]
pub(crate) struct Batches {
    pub(crate) bytes: Bytes,
    /// What the lane is charged with until all of them are taken.
    pub(crate) charge_bytes: usize,
    pub(crate) lane: Arc<FetchLane>,
}

/// Whether a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Reading,
    Paused,
    /// Until a seek: an error was reported.
    Stopped,
}

#[derive(Debug)]
pub(crate) struct PartitionState {
    pub(crate) generation: u64,
    /// The next offset to fetch.
    pub(crate) fetch_position: u64,
    pub(crate) high_watermark: u64,
    pub(crate) mode: Mode,
    pub(crate) lane: Option<Arc<FetchLane>>,
    /// Look the position up by the reset policy's time first.
    pub(crate) needs_lookup: bool,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) partitions: Vec<PartitionState>,
    pub(crate) fetched: VecDeque<Fetched>,
    pub(crate) waker: Option<Waker>,
    /// Partitions to be added to a lane, and when.
    unrouted: Vec<(Instant, usize)>,
    /// Metadata of this generation led to the wrong place.
    stale_generation: Option<u64>,
    backoff: Backoff,
    pub(crate) is_closed: bool,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    pub(crate) config: ConsumerConfig,
    pub(crate) assigned: Vec<Assigned>,
    pub(crate) lanes: Places<FetchLane>,
    pub(crate) state: Mutex<State>,
    pub(crate) unrouted_changed: Notify,
}

impl Shared {
    pub(crate) fn new(
        core: Arc<Core>,
        config: ConsumerConfig,
        assigned: Vec<Assigned>,
        positions: &[u64],
    ) -> Self {
        let partition = |position: &u64| PartitionState {
            generation: 0,
            fetch_position: *position,
            high_watermark: *position,
            mode: Mode::Reading,
            lane: None,
            needs_lookup: false,
        };
        let now = Instant::now();
        let state = State {
            partitions: positions.iter().map(partition).collect(),
            fetched: VecDeque::new(),
            waker: None,
            unrouted: (0..positions.len()).map(|index| (now, index)).collect(),
            stale_generation: None,
            backoff: Backoff::new(seed()),
            is_closed: false,
        };
        let lanes = Places::new(core.connections_per_node_max);
        let unrouted_changed = Notify::new();
        Self {
            core,
            config,
            assigned,
            lanes,
            state: Mutex::new(state),
            unrouted_changed,
        }
    }

    /// Bytes one lane may hold, asked for or fetched.
    pub(crate) fn lane_budget_bytes(&self) -> usize {
        self.config.prefetch_bytes_max / self.lanes.open_count().max(1)
    }

    /// Hands data or an error to the consumer, unless the partition moved on.
    pub(crate) fn deliver(&self, fetched: Fetched, next_position: u64, high_watermark: u64) {
        let mut state = lock(&self.state);
        let partition = &mut state.partitions[fetched.index];
        if partition.generation != fetched.generation || partition.mode != Mode::Reading {
            drop(state);
            fetched.release();
            return;
        }
        partition.fetch_position = next_position;
        partition.high_watermark = partition.high_watermark.max(high_watermark);
        if fetched.content.is_ok() {
            state.backoff.succeeded();
        }
        state.fetched.push_back(fetched);
        wake(state.waker.take());
    }

    pub(crate) fn note_high_watermark(&self, index: usize, high_watermark: u64) {
        let mut state = lock(&self.state);
        let partition = &mut state.partitions[index];
        partition.high_watermark = partition.high_watermark.max(high_watermark);
    }

    /// Reports an error after which the partition stands still.
    pub(crate) fn stop(&self, index: usize, generation: u64, error: ConsumeError) {
        let mut state = lock(&self.state);
        let partition = &mut state.partitions[index];
        if partition.generation != generation {
            return;
        }
        partition.generation += 1;
        partition.mode = Mode::Stopped;
        let fetched = Fetched {
            index,
            generation: partition.generation,
            content: Err(error),
        };
        state.fetched.push_back(fetched);
        wake(state.waker.take());
    }

    /// A partition left its lane; it is read again at `position`, after a pause if something is
    /// wrong.
    pub(crate) fn reroute(
        &self,
        index: usize,
        generation: u64,
        position: u64,
        pause: bool,
        stale_generation: Option<u64>,
    ) {
        let mut state = lock(&self.state);
        let partition = &mut state.partitions[index];
        if partition.generation != generation {
            return;
        }
        partition.lane = None;
        partition.fetch_position = position;
        state.stale_generation = state.stale_generation.max(stale_generation);
        self.list(&mut state, index, pause);
    }

    /// As [`Shared::reroute`], with the position looked up by time.
    pub(crate) fn look_up(&self, index: usize, generation: u64) {
        let mut state = lock(&self.state);
        let partition = &mut state.partitions[index];
        if partition.generation == generation {
            partition.lane = None;
            partition.needs_lookup = true;
            self.list(&mut state, index, false);
        }
    }

    /// Moves the consumer: whatever was fetched of the partition is dropped.
    pub(crate) fn seek(&self, index: usize, position: u64, mode: Mode, pause: bool) {
        let mut dropped = Vec::new();
        let mut state = lock(&self.state);
        let (taken, kept) = std::mem::take(&mut state.fetched)
            .into_iter()
            .partition::<VecDeque<_>, _>(|fetched| fetched.index == index);
        state.fetched = kept;
        dropped.extend(taken);
        let partition = &mut state.partitions[index];
        partition.generation += 1;
        partition.fetch_position = position;
        partition.mode = mode;
        partition.needs_lookup = false;
        let lane = partition.lane.take();
        if mode == Mode::Reading {
            self.list(&mut state, index, pause);
        }
        drop(state);
        if let Some(lane) = lane
            && mode != Mode::Reading
        {
            lane.remove(self.assigned[index].place);
        }
        dropped.into_iter().for_each(Fetched::release);
    }

    /// The partitions to route now, or when to look again.
    pub(crate) fn take_unrouted(&self, now: Instant) -> (Vec<usize>, Option<Instant>, Option<u64>) {
        let mut state = lock(&self.state);
        let mut due = Vec::new();
        let mut next: Option<Instant> = None;
        state.unrouted.retain(|(at, index)| {
            if *at <= now {
                due.push(*index);
                return false;
            }
            next = Some(next.map_or(*at, |next| next.min(*at)));
            true
        });
        due.sort_unstable();
        due.dedup();
        let stale = if due.is_empty() {
            None
        } else {
            state.stale_generation.take()
        };
        (due, next, stale)
    }

    /// Lists a partition for the router.
    pub(crate) fn retry(&self, index: usize) {
        let mut state = lock(&self.state);
        self.list(&mut state, index, true);
    }

    fn list(&self, state: &mut State, index: usize, pause: bool) {
        let pause = if pause {
            state.backoff.next_pause()
        } else {
            Duration::ZERO
        };
        state.unrouted.push((Instant::now() + pause, index));
        self.unrouted_changed.notify_one();
    }

    pub(crate) fn close(&self) {
        let fetched = {
            let mut state = lock(&self.state);
            state.is_closed = true;
            std::mem::take(&mut state.fetched)
        };
        fetched.into_iter().for_each(Fetched::release);
        self.lanes.finish();
        self.unrouted_changed.notify_one();
    }

    pub(crate) fn refused(&self, index: usize, code: ErrorCode) -> ConsumeError {
        let Assigned { topic, place } = &self.assigned[index];
        ConsumeError::Refused {
            topic: topic.clone(),
            partition: place.partition.0,
            code,
        }
    }
}

impl Fetched {
    /// Gives the lane its bytes back.
    pub(crate) fn release(self) {
        if let Ok(batches) = self.content {
            batches.lane.release(batches.charge_bytes);
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
