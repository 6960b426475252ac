//! Whose turn it is: the runnable tasks of an executor, in five queues that share its time.
//!
//! Queues take turns by *virtual time*: what a queue ran, divided by its shares; the one that had
//! least runs next. A queue that was empty starts at the virtual time of the others, so it neither
//! saves up what it did not use nor waits behind those who did: a request that comes in while a
//! merge runs is next. (Start-time fair queueing: Goyal, Vin, Cheng, SIGCOMM 1996.)
//!
//! A turn of all queues ends after [`TURN_NS`], so that completions are reaped and sockets looked
//! at; a task that asks ([`Queues::is_turn_over`]) gives way then.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tracing::{debug, warn};

use crate::runtime::clock;

/// After so long the executor looks for I/O again: what a request waits, at worst, behind tasks
/// that yield.
const TURN_NS: u64 = 500_000;

/// Most virtual time that a round is charged, in nanoseconds. A task that held the executor for
/// long (or a host that took the core meanwhile) must not silence its whole queue for 20 times as
/// long.
const CHARGE_MAX_NS: u64 = 200_000_000;

/// One turn of a task that is this long is worth a line for developers,
const HELD_LONG_NS: u64 = 10_000_000;
/// and one for operators.
const HELD_TOO_LONG_NS: u64 = 100_000_000;

/// A task queue: how soon and how often its tasks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Connections and replication.
    Network,
    /// Group commit.
    Journal,
    /// Main futures, control requests, timers.
    Control,
    /// Reads of old data; must never move the tail's latency.
    Cold,
    /// Cleaning, checkpoints, index merges.
    Background,
}

const QUEUES: usize = 5;

impl Queue {
    /// Its part of the executor's time while all have tasks.
    const fn shares(self) -> u64 {
        match self {
            Queue::Network | Queue::Journal => 1000,
            Queue::Control => 500,
            Queue::Cold => 150,
            Queue::Background => 50,
        }
    }

    const ALL: [Queue; QUEUES] = [
        Queue::Network,
        Queue::Journal,
        Queue::Control,
        Queue::Cold,
        Queue::Background,
    ];
}

/// A task that can run, with the name of its future.
pub(super) type Runnable = async_task::Runnable<&'static str>;

#[derive(Default)]
struct RunQueue {
    runnable: RefCell<VecDeque<Runnable>>,
    virtual_ns: Cell<u64>,
}

/// The runnable tasks of an executor.
#[derive(Default)]
pub(super) struct Queues {
    each: [RunQueue; QUEUES],
    /// Virtual time of the queue that ran last.
    virtual_ns: Cell<u64>,
    turn_ends_ns: Cell<u64>,
}

impl Queues {
    pub(super) fn push(&self, queue: Queue, runnable: Runnable) {
        let queue = &self.each[queue as usize];
        let mut waiting = queue.runnable.borrow_mut();
        if waiting.is_empty() {
            let virtual_ns = queue.virtual_ns.get().max(self.virtual_ns.get());
            queue.virtual_ns.set(virtual_ns);
        }
        waiting.push_back(runnable);
    }

    /// The oldest of any queue.
    pub(super) fn pop(&self) -> Option<Runnable> {
        let mut queues = self.each.iter();
        queues.find_map(|queue| queue.runnable.borrow_mut().pop_front())
    }

    pub(super) fn is_empty(&self) -> bool {
        let mut queues = self.each.iter();
        queues.all(|queue| queue.runnable.borrow().is_empty())
    }

    /// Whether tasks that can should give way to others, and to I/O.
    pub(super) fn is_turn_over(&self) -> bool {
        clock::now_ns() >= self.turn_ends_ns.get()
    }

    /// Runs tasks until none can run or the turn is over; calls `between` after each round of a
    /// queue, in that queue's time.
    pub(super) fn run_a_turn(&self, between: impl Fn()) {
        let mut now_ns = clock::now_ns();
        self.turn_ends_ns.set(now_ns + TURN_NS);
        while now_ns < self.turn_ends_ns.get()
            && let Some(queue) = self.next()
        {
            let began_ns = now_ns;
            self.run_round(queue, began_ns);
            between();
            now_ns = clock::now_ns();
            self.charge(queue, now_ns.saturating_sub(began_ns));
        }
    }

    /// The queue that had least of its part.
    fn next(&self) -> Option<Queue> {
        let waiting = Queue::ALL.into_iter().filter(|queue| {
            let queue = &self.each[*queue as usize];
            !queue.runnable.borrow().is_empty()
        });
        waiting.min_by_key(|queue| self.each[*queue as usize].virtual_ns.get())
    }

    /// Runs each task that waits in a queue now, once, unless the turn ends before.
    fn run_round(&self, which: Queue, began_ns: u64) {
        let queue = &self.each[which as usize];
        self.virtual_ns.set(queue.virtual_ns.get());
        let mut now_ns = began_ns;
        let tasks = queue.runnable.borrow().len();
        for _ in 0..tasks {
            let Some(runnable) = queue.runnable.borrow_mut().pop_front() else {
                break;
            };
            let name = *runnable.metadata();
            runnable.run();
            let then_ns = std::mem::replace(&mut now_ns, clock::now_ns());
            let held_ns = now_ns.saturating_sub(then_ns);
            if held_ns >= HELD_LONG_NS {
                note_held(name, held_ns);
            }
            if now_ns >= self.turn_ends_ns.get() {
                break;
            }
        }
    }

    /// Counts time against a queue's part.
    fn charge(&self, which: Queue, ran_ns: u64) {
        let queue = &self.each[which as usize];
        let charge_ns = (ran_ns * 1000 / which.shares()).min(CHARGE_MAX_NS);
        queue.virtual_ns.set(queue.virtual_ns.get() + charge_ns);
    }
}

#[cold]
fn note_held(task: &str, held_ns: u64) {
    let held_ms = held_ns / 1_000_000;
    if held_ns >= HELD_TOO_LONG_NS {
        warn!(task, held_ms, "a task held its executor");
    } else {
        debug!(task, held_ms, "a task held its executor");
    }
}
