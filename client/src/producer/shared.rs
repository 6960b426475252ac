//! What all partitions of one producer share: settings, memory, batch builders, and the lists its
//! two background tasks work from.
//!
//! Invariant: locks are taken in the order partition, then one of the lists here; none is held
//! while a partition is locked by a background task. Any thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::ids::Durability;
use tokio::sync::{Notify, Semaphore};

use super::flow::FlowLimits;
use super::partition::PartitionQueue;
use super::partitioner::Partitioner;
use crate::locking::lock;

/// Builders kept for the next batch.
const BUILDERS_KEPT_MAX: usize = 64;

/// The settings of a producer.
#[derive(Clone, Debug)]
pub(crate) struct ProducerConfig {
    pub(crate) durability: Durability,
    pub(crate) is_idempotent: bool,
    pub(crate) linger: Duration,
    /// Bytes at which a batch is sent. The builder's own limit is that of the protocol.
    pub(crate) batch_bytes_max: usize,
    pub(crate) batch: BatchOptions,
    pub(crate) batch_records_max: u16,
    pub(crate) memory_bytes_max: usize,
    pub(crate) delivery_timeout: Duration,
    pub(crate) flow: FlowLimits,
    pub(crate) partitioner: Partitioner,
}

/// A timer of a partition.
#[derive(Debug)]
struct Timer {
    at: Instant,
    queue: Arc<PartitionQueue>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

#[derive(Debug, Default)]
struct Lists {
    timers: BinaryHeap<Reverse<Timer>>,
    /// Partitions with batches that have no result yet.
    active: Vec<Arc<PartitionQueue>>,
    /// Partitions that do not know their connection.
    unrouted: Vec<Arc<PartitionQueue>>,
    /// The producer is closed and nothing waits for its result.
    is_finished: bool,
}

/// The shared state.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ProducerConfig,
    /// One permit is one byte.
    pub(crate) memory: Semaphore,
    /// Boxed, since each goes from partition to partition, and one that has none should be small.
    #[expect(clippy::vec_box, reason = "the boxes are handed out as they are")]
    builders: Mutex<Vec<Box<BatchBuilder>>>,
    lists: Mutex<Lists>,
    pub(crate) timers_changed: Notify,
    pub(crate) unrouted_changed: Notify,
    pub(crate) is_closed: AtomicBool,
    pub(crate) records_lost: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: ProducerConfig) -> Self {
        Self {
            memory: Semaphore::new(config.memory_bytes_max),
            config,
            builders: Mutex::default(),
            lists: Mutex::default(),
            timers_changed: Notify::new(),
            unrouted_changed: Notify::new(),
            is_closed: AtomicBool::new(false),
            records_lost: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    pub(crate) fn take_builder(&self) -> Box<BatchBuilder> {
        lock(&self.builders)
            .pop()
            .unwrap_or_else(|| Box::new(BatchBuilder::new(self.config.batch)))
    }

    /// `builder` must be empty.
    pub(crate) fn keep_builder(&self, builder: Box<BatchBuilder>) {
        let mut builders = lock(&self.builders);
        if builders.len() < BUILDERS_KEPT_MAX {
            builders.push(builder);
        }
    }

    /// Calls the partition at this time.
    pub(crate) fn set_timer(&self, at: Instant, queue: Arc<PartitionQueue>) {
        let mut lists = lock(&self.lists);
        let is_first = lists
            .timers
            .peek()
            .is_none_or(|Reverse(first)| at < first.at);
        lists.timers.push(Reverse(Timer { at, queue }));
        drop(lists);
        if is_first {
            self.timers_changed.notify_one();
        }
    }

    /// Watches the delivery timeouts of a partition from now on; `false` if the producer has
    /// finished.
    pub(crate) fn watch(&self, queue: Arc<PartitionQueue>) -> bool {
        let mut lists = lock(&self.lists);
        if lists.is_finished {
            return false;
        }
        lists.active.push(queue);
        let is_first = lists.active.len() == 1;
        drop(lists);
        if is_first {
            self.timers_changed.notify_one();
        }
        true
    }

    /// Finds a connection for the partition.
    pub(crate) fn want_route(&self, queue: Arc<PartitionQueue>) {
        lock(&self.lists).unrouted.push(queue);
        self.unrouted_changed.notify_one();
    }

    pub(crate) fn take_unrouted(&self) -> Vec<Arc<PartitionQueue>> {
        std::mem::take(&mut lock(&self.lists).unrouted)
    }

    /// The next timer that is due, and when the one after it is.
    pub(crate) fn pop_timer(&self, now: Instant) -> Result<Arc<PartitionQueue>, Option<Instant>> {
        let mut lists = lock(&self.lists);
        match lists.timers.peek() {
            None => Err(None),
            Some(Reverse(timer)) if timer.at > now => Err(Some(timer.at)),
            Some(_) => {
                let Reverse(timer) = lists.timers.pop().expect("a timer was peeked at");
                Ok(timer.queue)
            }
        }
    }

    pub(crate) fn take_active(&self) -> Vec<Arc<PartitionQueue>> {
        std::mem::take(&mut lock(&self.lists).active)
    }

    pub(crate) fn put_back_active(&self, mut queues: Vec<Arc<PartitionQueue>>) {
        lock(&self.lists).active.append(&mut queues);
    }

    pub(crate) fn has_active(&self) -> bool {
        !lock(&self.lists).active.is_empty()
    }

    /// Ends the producer if it is closed and nothing is active; called by the task that keeps the
    /// active list.
    pub(crate) fn finish_if_done(&self) -> bool {
        let mut lists = lock(&self.lists);
        lists.is_finished = self.is_closed() && lists.active.is_empty();
        lists.is_finished
    }

    pub(crate) fn is_finished(&self) -> bool {
        lock(&self.lists).is_finished
    }
}
