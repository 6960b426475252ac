//! The heartbeat: a counter that proves that an executor moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tracing::warn;

use super::thread_times::{ThreadClock, ThreadTimes};
use crate::runtime::clock;

/// Half of what a beat may be late, and a quarter of what the watchdog takes for a stall.
pub(super) const BEAT: Duration = Duration::from_millis(50);

/// A beat that is later than this counts as late: the executor did not move for so long.
const LATE_US: u64 = 100_000;

/// Beats of one executor, written by its thread and read by a watchdog.
///
/// A counter that does not move for well over 100 ms belongs to an executor that is stuck in a task
/// or has ended. Aligned to its own pair of cache lines, so that reading it never slows a
/// neighbour.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Progress {
    beats: AtomicU64,
    late: AtomicU64,
    late_max_us: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// Heartbeats since the executor started; only ever rises.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Beats that came more than 100 ms late; only ever rises.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// The longest delay of a beat since the executor started, in microseconds.
    pub fn late_max_us(&self) -> u64 {
        self.late_max_us.load(Ordering::Relaxed)
    }

    /// Whether the executor has ended, in whatever way; there are no more beats.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The executor's first task runs; counts as a beat, so that it is watched from here on.
    pub(super) fn run(&self) {
        self.beat(0);
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    fn beat(&self, late_us: u64) {
        self.beats.fetch_add(1, Ordering::Relaxed);
        self.late_max_us.fetch_max(late_us, Ordering::Relaxed);
        if late_us > LATE_US {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Beats until dropped.
pub(super) async fn beat(progress: Arc<Progress>) {
    let mut pulse = Pulse::new(progress);
    loop {
        pulse.beat_after(BEAT).await;
    }
}

/// Counts the beats of a thread and says why one came late.
struct Pulse {
    progress: Arc<Progress>,
    thread: ThreadClock,
    times: Option<ThreadTimes>,
}

impl Pulse {
    fn new(progress: Arc<Progress>) -> Pulse {
        let thread = ThreadClock::open();
        Pulse {
            progress,
            times: thread.read(),
            thread,
        }
    }

    async fn beat_after(&mut self, pause: Duration) {
        let due_us = clock::now_us() + u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        clock::sleep(pause).await;
        let late_us = clock::now_us().saturating_sub(due_us);
        self.progress.beat(late_us);
        let times_before = std::mem::replace(&mut self.times, self.thread.read());
        if late_us > LATE_US {
            let spent = self
                .times
                .zip(times_before)
                .map(|(now, then)| now.since(then));
            warn!(
                thread = std::thread::current().name(),
                late_ms = late_us / 1_000,
                running_ms = spent.map(|spent| spent.running.as_millis()),
                waiting_ms = spent.map(|spent| spent.waiting.as_millis()),
                "an executor stood still; running: a task held it or the host took the core, \
                 waiting: others had the core"
            );
        }
    }
}
