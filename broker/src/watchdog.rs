//! Watches the heartbeats of the shards' executors from a thread of its own.
//!
//! A shard can stop for reasons it cannot see itself: a task that never yields, a blocking call, a
//! host that takes its core. The watchdog reports that (log, `/healthz`, counter) and does nothing
//! else about it. It wakes 20 times a second and does a load per shard each time, which costs about
//! 0.06 % of a core.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::limits::{WATCHDOG_PERIOD, WATCHDOG_STALL};
use crate::status::{NodeStatus, ShardStatus};

/// A running watchdog; dropping it stops it.
#[derive(Debug)]
pub struct Watchdog {
    /// Dropped to stop the thread.
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread. A shard is watched from its first beat until it retires.
    pub fn start(status: Arc<NodeStatus>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("catena-watchdog".into())
            .spawn(move || run(&status, &stopped))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Stops the thread and waits for it (at most one period).
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the watchdog thread panicked");
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.join();
    }
}

fn run(status: &NodeStatus, stopped: &mpsc::Receiver<()>) {
    let mut observer = Observer::new(status);
    let mut last = Instant::now();
    while stopped.recv_timeout(WATCHDOG_PERIOD) == Err(RecvTimeoutError::Timeout) {
        let now = Instant::now();
        observer.observe(now - last, ShardStatus::beats);
        last = now;
    }
}

/// The rule for all shards of a node, without a clock.
struct Observer<'a> {
    status: &'a NodeStatus,
    detectors: Vec<StallDetector>,
}

impl<'a> Observer<'a> {
    fn new(status: &'a NodeStatus) -> Self {
        let detectors = status
            .shards()
            .iter()
            .map(|_| StallDetector::default())
            .collect();
        Self { status, detectors }
    }

    /// Judges all shards, `elapsed` after the previous call. `beats` reads a shard's heartbeat.
    fn observe(&mut self, elapsed: Duration, beats: impl Fn(&ShardStatus) -> Option<u64>) {
        for (shard, detector) in self.status.shards().iter().zip(&mut self.detectors) {
            match detector.observe(beats(shard), elapsed) {
                Observation::Moving => {}
                Observation::Stalled { first, silent } => {
                    let silent_ms = millis(silent);
                    shard.set_stalled(Some(silent_ms));
                    if first {
                        shard.count_stall();
                        warn!(shard = shard.name(), silent_ms, "shard stalled");
                    }
                }
                Observation::Recovered { silent } => {
                    shard.set_stalled(None);
                    warn!(
                        shard = shard.name(),
                        silent_ms = millis(silent),
                        "shard stall ended"
                    );
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Observation {
    Moving,
    Stalled { first: bool, silent: Duration },
    Recovered { silent: Duration },
}

/// The rule for one shard.
#[derive(Debug, Default)]
struct StallDetector {
    beats: Option<u64>,
    silent: Duration,
    stalled: bool,
}

impl StallDetector {
    /// What `beats` means, read `elapsed` after the previous call.
    fn observe(&mut self, beats: Option<u64>, elapsed: Duration) -> Observation {
        if beats.is_none() || beats != self.beats {
            self.beats = beats;
            let silent = std::mem::take(&mut self.silent);
            return if std::mem::take(&mut self.stalled) {
                Observation::Recovered { silent }
            } else {
                Observation::Moving
            };
        }
        // When the watchdog itself was not run (stopped process, suspended host, starved cores),
        // the shards were probably not run either: that time says nothing about them.
        self.silent += elapsed.min(2 * WATCHDOG_PERIOD);
        if self.silent <= WATCHDOG_STALL {
            return Observation::Moving;
        }
        let first = !std::mem::replace(&mut self.stalled, true);
        Observation::Stalled {
            first,
            silent: self.silent,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough periods without a beat for a stall.
    const PERIODS_TO_STALL: u64 = 20;

    #[test]
    fn a_silent_shard_is_reported_once_and_its_recovery_once() {
        let status = NodeStatus::new(["0", "1"]);
        let mut observer = Observer::new(&status);
        for period in 1..PERIODS_TO_STALL + 5 {
            observer.observe(WATCHDOG_PERIOD, |shard| match shard.name() {
                "1" => Some(period),
                _ => Some(1),
            });
        }
        let [stalled, moving] = status.shards() else {
            panic!("two shards")
        };
        assert!(stalled.stalled_ms().is_some_and(|ms| ms > 200));
        assert_eq!((stalled.stalls_seen(), moving.stalls_seen()), (1, 0));
        assert_eq!(moving.stalled_ms(), None);

        observer.observe(WATCHDOG_PERIOD, |_| Some(1000));
        assert_eq!((stalled.stalled_ms(), stalled.stalls_seen()), (None, 1));
    }

    #[test]
    fn an_idle_beat_is_never_a_stall() {
        let mut detector = StallDetector::default();
        let mut beats = 1;
        for period in 1..200 {
            // A beat every 150 ms: three times the executors' interval.
            if period % 3 == 0 {
                beats += 1;
            }
            assert_eq!(
                detector.observe(Some(beats), WATCHDOG_PERIOD),
                Observation::Moving
            );
        }
    }

    #[test]
    fn time_the_watchdog_slept_through_is_not_held_against_a_shard() {
        let mut detector = StallDetector::default();
        detector.observe(Some(1), WATCHDOG_PERIOD);
        let hour = Duration::from_secs(3600);
        assert_eq!(detector.observe(Some(1), hour), Observation::Moving);
    }

    #[test]
    fn a_shard_that_has_not_begun_or_has_retired_is_not_watched() {
        let mut detector = StallDetector::default();
        for _ in 0..100 {
            assert_eq!(detector.observe(None, WATCHDOG_PERIOD), Observation::Moving);
        }
        detector.observe(Some(1), WATCHDOG_PERIOD);
        for _ in 0..PERIODS_TO_STALL {
            detector.observe(Some(1), WATCHDOG_PERIOD);
        }
        let ended = detector.observe(None, WATCHDOG_PERIOD);
        assert!(matches!(ended, Observation::Recovered { .. }));
        assert_eq!(detector.observe(None, WATCHDOG_PERIOD), Observation::Moving);
    }

    #[test]
    fn enough_periods_make_a_stall() {
        let silent = WATCHDOG_PERIOD * u32::try_from(PERIODS_TO_STALL).expect("a small number");
        assert!(silent > WATCHDOG_STALL);
    }

    #[test]
    fn stopping_does_not_wait_for_a_shard() {
        let status = NodeStatus::new(["0"]);
        let watchdog = Watchdog::start(status).expect("a thread can be started");
        watchdog.stop();
    }
}
