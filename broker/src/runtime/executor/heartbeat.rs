//! The heartbeat: timers that keep an executor moving and a counter that proves it does.
//!
//! An executor of this backend can park with runnable tasks: when a preemption is already pending
//! as its task loop starts (the thread lost its core for a millisecond, say), the loop reports that
//! nothing ran. Any event wakes it again, so timers bound the damage: 5 ms while there is work,
//! 100 ms when idle. The idle pace matters because each tick walks every armed poll (5,000 idle
//! connections: 5-8 % of a core at 5 ms, 0.8 % at 50 ms).
//!
//! One timer is not enough: when the heartbeat itself is among the tasks that were left, no timer
//! is armed and the executor sleeps for good (seen once in about 50 runs of a loopback stream on
//! busy cores). So each beat also arms *backstops* behind itself: timers that wake no task, only
//! the executor. Invariant: from the first task to the last, a backstop is armed. A thread that
//! gets no core until all of them have fired is [roused](Progress::rouse) by the watchdog, while
//! its shard serves.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use catena_core::planted::{self, Bug};
use glommio::timer::Timer;
use tracing::warn;

use super::ios_in_flight;
use super::rouse::Sleeper;
use super::thread_times::{ThreadClock, ThreadTimes};
use crate::runtime::clock;

const BUSY_BEAT: Duration = Duration::from_millis(5);
const IDLE_BEAT: Duration = Duration::from_millis(100);

/// A beat that is later than this counts as late: the executor did not move for so long.
const LATE_US: u64 = 100_000;

/// How long after a beat is due its backstops fire. Each gives the executor another try, and a try
/// fails only if the thread loses its core within a few microseconds.
const BACKSTOPS_MS: [u64; 12] = [2, 5, 10, 20, 40, 80, 160, 320, 640, 1_280, 2_560, 5_120];

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
    sleeper: Sleeper,
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

    /// Wakes the executor if it sleeps, also over tasks that could run; it looks for them again.
    /// An executor that works notices nothing.
    pub fn rouse(&self) {
        self.sleeper.rouse();
    }

    /// The current thread is the executor's.
    pub(super) fn begin(&self) {
        self.sleeper.begin();
    }

    /// The executor's first task runs; counts as a beat, so that it is watched from here on.
    pub(super) fn run(&self) {
        if !planted::is(Bug::NoHeartbeat) {
            self.beat(0);
        }
    }

    pub(super) fn end(&self) {
        self.sleeper.end();
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
    if planted::is(Bug::NoHeartbeat) {
        return std::future::pending().await;
    }
    let mut pulse = Pulse::new(progress);
    let mut pause = BUSY_BEAT;
    loop {
        let backstops = backstops(pause);
        pulse.beat_after(pause).await;
        // One of the runs is this task's own, of the last beat.
        let busy = tasks_run_since_last_asked() > 1 || ios_in_flight() > 0;
        pause = if busy { BUSY_BEAT } else { IDLE_BEAT };
        drop(backstops);
    }
}

/// Beats until dropped, on a backend that keeps moving by itself.
pub(in crate::runtime) async fn beat_slowly(progress: Arc<Progress>) {
    let mut pulse = Pulse::new(progress);
    loop {
        pulse.beat_after(IDLE_BEAT).await;
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

/// Timers behind something that is due in `pause`. They end a sleep of the executor and wake no
/// task. Disarmed on drop.
pub(super) fn backstops(pause: Duration) -> [Timer; BACKSTOPS_MS.len()] {
    BACKSTOPS_MS.map(|after_ms| {
        let mut timer = Timer::new(pause + Duration::from_millis(after_ms));
        // Polling arms it. It cannot be ready: it was made just now.
        let _ = Pin::new(&mut timer).poll(&mut Context::from_waker(Waker::noop()));
        timer
    })
}

/// The backend resets its statistics each time they are read.
fn tasks_run_since_last_asked() -> u64 {
    glommio::executor().executor_stats().tasks_executed()
}
