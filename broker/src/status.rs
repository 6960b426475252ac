//! What the parts of a node tell each other about its health.
//!
//! One [`NodeStatus`] per broker, shared by the shards (which beat and count), the watchdog (which
//! judges the beats) and the admin server (which shows the result). Nobody waits for anybody: all
//! of it is relaxed atomics with one writer each.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crate::metrics::ShardMetrics;
use crate::runtime::executor::Progress;

/// Where the node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Recovering; no client is served yet.
    Starting,
    /// Serving.
    Ready,
    /// Stopping: requests in progress are finished, new ones refused.
    Draining,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Starting, Self::Ready, Self::Draining];

    fn code(self) -> u8 {
        match self {
            Self::Starting => 0,
            Self::Ready => 1,
            Self::Draining => 2,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        })
    }
}

/// The health of a node and the metrics of its shards.
///
/// ```
/// use catena_broker::status::{NodeStatus, Phase};
///
/// let status = NodeStatus::new(["0", "1", "control"]);
/// status.set_phase(Phase::Ready);
/// assert!(status.problems().is_empty());
///
/// status.shards()[1].metrics().journal_failed.set(1);
/// assert_eq!(status.problems().len(), 1);
/// ```
#[derive(Debug)]
pub struct NodeStatus {
    phase: AtomicU8,
    shards: Vec<ShardStatus>,
}

impl NodeStatus {
    /// A starting node with one entry per name; a name is the metrics label `shard`.
    pub fn new<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Arc<Self> {
        let shards = names
            .into_iter()
            .map(|name| ShardStatus::new(name.into()))
            .collect();
        Arc::new(Self {
            phase: AtomicU8::new(Phase::Starting.code()),
            shards,
        })
    }

    pub fn shards(&self) -> &[ShardStatus] {
        &self.shards
    }

    pub fn phase(&self) -> Phase {
        let code = self.phase.load(Ordering::Relaxed);
        let known = Phase::ALL.into_iter().find(|phase| phase.code() == code);
        known.expect("only set_phase writes the phase")
    }

    /// Called by the thread that starts and stops the broker.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase.code(), Ordering::Relaxed);
    }

    /// Why the node is not healthy, one plain sentence each; empty when it is.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for shard in &self.shards {
            if shard.metrics.journal_failed.get() != 0 {
                problems.push(format!(
                    "shard {}: a write or flush failed; its journal takes no writes until restart",
                    shard.name
                ));
            }
            if shard.has_ended() {
                problems.push(format!(
                    "shard {}: its thread has ended; it serves nobody until restart",
                    shard.name
                ));
            } else if let Some(stalled_ms) = shard.stalled_ms().filter(|_| !shard.is_retired()) {
                problems.push(format!(
                    "shard {}: no progress for {stalled_ms} ms",
                    shard.name
                ));
            }
        }
        problems
    }
}

/// The health of one shard (or of the control executor, which has a journal too).
#[derive(Debug)]
pub struct ShardStatus {
    name: String,
    metrics: Arc<ShardMetrics>,
    progress: Arc<Progress>,
    /// Written by the thread that stops the shard.
    retired: AtomicBool,
    /// Written by the watchdog only. 0: moving; otherwise milliseconds without a beat.
    stalled_ms: AtomicU64,
    /// Written by the watchdog only.
    stalls_seen: AtomicU64,
}

impl ShardStatus {
    fn new(name: String) -> Self {
        Self {
            name,
            metrics: Arc::default(),
            progress: Arc::default(),
            retired: AtomicBool::new(false),
            stalled_ms: AtomicU64::new(0),
            stalls_seen: AtomicU64::new(0),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// For the shard to keep and write, and for everyone else to read.
    pub fn metrics(&self) -> &Arc<ShardMetrics> {
        &self.metrics
    }

    /// For the shard's executor, which beats on it.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Says that the shard stops on purpose: its missing beats are no stall from now on, and its
    /// end is no problem.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether its executor has ended although nobody stopped it.
    pub fn has_ended(&self) -> bool {
        self.progress.has_ended() && !self.is_retired()
    }

    /// Beats so far; `None` before the first one and after [`Self::retire`] or the end.
    pub(crate) fn beats(&self) -> Option<u64> {
        let is_watched = !self.is_retired() && !self.progress.has_ended();
        Some(self.progress.beats()).filter(|beats| *beats != 0 && is_watched)
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// How long the watchdog has seen no beat, if it calls that a stall.
    pub fn stalled_ms(&self) -> Option<u64> {
        Some(self.stalled_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0)
    }

    /// How many stalls the watchdog has seen since start.
    pub fn stalls_seen(&self) -> u64 {
        self.stalls_seen.load(Ordering::Relaxed)
    }

    pub(crate) fn set_stalled(&self, stalled_ms: Option<u64>) {
        self.stalled_ms
            .store(stalled_ms.map_or(0, |ms| ms.max(1)), Ordering::Relaxed);
    }

    pub(crate) fn count_stall(&self) {
        self.stalls_seen
            .store(self.stalls_seen() + 1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_for_bad_health_is_named() {
        let status = NodeStatus::new(["0", "1"]);
        assert_eq!(status.problems(), Vec::<String>::new());
        status.shards()[0].metrics().journal_failed.set(1);
        status.shards()[1].set_stalled(Some(250));
        assert_eq!(
            status.problems(),
            [
                "shard 0: a write or flush failed; its journal takes no writes until restart",
                "shard 1: no progress for 250 ms",
            ]
        );
        status.shards()[1].set_stalled(None);
        assert_eq!(status.problems().len(), 1);
    }

    #[test]
    fn a_shard_that_was_stopped_in_a_stall_is_no_problem() {
        let status = NodeStatus::new(["0"]);
        status.shards()[0].set_stalled(Some(250));
        assert_eq!(status.problems().len(), 1);
        status.shards()[0].retire();
        assert_eq!(status.problems(), Vec::<String>::new());
    }

    #[test]
    fn phases_keep_their_codes_apart() {
        let status = NodeStatus::new(["0"]);
        for phase in Phase::ALL {
            status.set_phase(phase);
            assert_eq!(status.phase(), phase);
        }
    }
}
