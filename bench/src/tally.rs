//! What one load thread counted; tallies are merged at the end. Pure.
//!
//! Throughput counts what was acknowledged (or received) inside the measured window. Latency
//! covers every record *meant* to be sent inside it, however late its answer came: counting
//! only prompt answers would hide the slow ones.

use std::collections::BTreeMap;

use crate::latency::Latencies;
use crate::limits::ERROR_KINDS_MAX;
use crate::schedule::Lateness;
use crate::window::Window;

/// Counters of one thread, or of a whole run after [`Tally::merge`].
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    window: Window,
    /// Latency of each call.
    pub(crate) latencies: Latencies,
    /// Sends behind the schedule (open loop).
    pub(crate) lateness: Lateness,
    /// Records handed to the client, warm-up included.
    pub(crate) records_sent: u64,
    /// Records acknowledged or received at any time.
    pub(crate) records_done: u64,
    /// Calls completed inside the window.
    pub(crate) calls: u64,
    /// Records completed inside the window.
    pub(crate) records: u64,
    /// Payload bytes (keys and values) completed inside the window.
    pub(crate) bytes: u64,
    /// Failed records by kind of error, whenever they failed.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// A call that completed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) intended_ns: u64,
    pub(crate) done_ns: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    /// Nothing counted yet.
    pub(crate) fn new(window: Window) -> Self {
        Self {
            window,
            latencies: Latencies::new(),
            lateness: Lateness::default(),
            records_sent: 0,
            records_done: 0,
            calls: 0,
            records: 0,
            bytes: 0,
            errors: BTreeMap::new(),
        }
    }

    /// Counts a send of `records` records.
    pub(crate) fn sent(&mut self, intended_ns: u64, actual_ns: u64, records: u64) {
        self.records_sent += records;
        if self.window.contains(intended_ns) {
            self.lateness.record(intended_ns, actual_ns);
        }
    }

    /// Counts a completed call.
    pub(crate) fn completed(&mut self, call: Completion) {
        self.records_done += call.records;
        if self.window.contains(call.intended_ns) {
            self.latencies
                .record(call.done_ns.saturating_sub(call.intended_ns), 1);
        }
        if self.window.contains(call.done_ns) {
            self.calls += 1;
            self.records += call.records;
            self.bytes += call.bytes;
        }
    }

    /// Counts records received without a latency of their own.
    pub(crate) fn received(&mut self, done_ns: u64, records: u64, bytes: u64) {
        self.records_done += records;
        if self.window.contains(done_ns) {
            self.calls += 1;
            self.records += records;
            self.bytes += bytes;
        }
    }

    /// Counts `records` failed records under `kind`.
    pub(crate) fn failed(&mut self, kind: &str, records: u64) {
        if let Some(count) = self.errors.get_mut(kind) {
            *count += records;
            return;
        }
        let kind = if self.errors.len() < ERROR_KINDS_MAX {
            kind
        } else {
            "other"
        };
        *self.errors.entry(kind.to_owned()).or_insert(0) += records;
    }

    /// Failed records of every kind.
    #[cfg(test)]
    pub(crate) fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Adds another thread's counts.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.latencies.merge(&other.latencies);
        self.lateness.merge(other.lateness);
        self.records_sent += other.records_sent;
        self.records_done += other.records_done;
        self.calls += other.calls;
        self.records += other.records;
        self.bytes += other.bytes;
        for (kind, count) in &other.errors {
            self.failed(kind, *count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn tally() -> Tally {
        Tally::new(Window::new(
            0,
            Duration::from_nanos(100),
            Duration::from_micros(1),
        ))
    }

    fn completion(intended_ns: u64, done_ns: u64) -> Completion {
        Completion {
            intended_ns,
            done_ns,
            records: 10,
            bytes: 1000,
        }
    }

    #[test]
    fn an_answer_after_the_window_keeps_its_latency_but_not_its_throughput() {
        let mut tally = tally();
        tally.completed(completion(1_000, 90_000_000));
        assert_eq!((tally.records, tally.bytes, tally.records_done), (0, 0, 10));
        assert_eq!(tally.latencies.summary().count, 1);
        assert!(tally.latencies.summary().max_us > 80_000.0);
    }

    #[test]
    fn a_call_meant_for_the_warm_up_counts_only_where_it_completed() {
        let mut tally = tally();
        tally.completed(completion(50, 150));
        assert_eq!((tally.records, tally.calls), (10, 1));
        assert_eq!(tally.latencies.summary().count, 0);
    }

    #[test]
    fn merging_adds_counts_and_errors_by_kind() {
        let (mut left, mut right) = (tally(), tally());
        left.completed(completion(200, 300));
        left.failed("timeout", 2);
        right.completed(completion(200, 400));
        right.failed("timeout", 3);
        right.failed("closed", 1);
        left.merge(&right);
        assert_eq!((left.calls, left.records, left.failures()), (2, 20, 6));
        assert_eq!(left.errors["timeout"], 5);
    }

    #[test]
    fn kinds_of_error_are_bounded() {
        let mut tally = tally();
        for kind in 0..100 {
            tally.failed(&format!("kind {kind}"), 1);
        }
        assert!(tally.errors.len() <= ERROR_KINDS_MAX + 1);
        assert_eq!(tally.failures(), 100);
    }
}
