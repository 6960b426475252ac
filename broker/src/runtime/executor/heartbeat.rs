//! The heartbeat: a timer that keeps an executor moving and a counter that proves it does.
//!
//! An executor of this backend can park with runnable tasks (a preemption that is already pending
//! when its task loop starts makes the loop report that nothing ran). Any event wakes it, so a
//! timer bounds the damage: 5 ms while there is work, 50 ms when idle. The idle pace matters
//! because each tick walks every armed poll (5,000 idle connections: 5-8 % of a core at 5 ms,
//! 0.8 % at 50 ms).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::ios_in_flight;
use crate::runtime::clock;

const BUSY_BEAT: Duration = Duration::from_millis(5);
const IDLE_BEAT: Duration = Duration::from_millis(50);

/// Beats of one executor, written by its thread and read by a watchdog.
///
/// A counter that does not move for well over 50 ms belongs to an executor that is stuck in a task
/// or has ended. Aligned to its own pair of cache lines, so that reading it never slows a
/// neighbour.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Progress {
    beats: AtomicU64,
}

impl Progress {
    /// Heartbeats since the executor started; only ever rises.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }
}

/// Beats until dropped.
pub(super) async fn beat(progress: Arc<Progress>) {
    let mut pause = BUSY_BEAT;
    loop {
        clock::sleep(pause).await;
        progress.beat();
        // One of the runs is this task's own, of the last beat.
        let busy = tasks_run_since_last_asked() > 1 || ios_in_flight() > 0;
        pause = if busy { BUSY_BEAT } else { IDLE_BEAT };
    }
}

/// The backend resets its statistics each time they are read.
fn tasks_run_since_last_asked() -> u64 {
    glommio::executor().executor_stats().tasks_executed()
}
