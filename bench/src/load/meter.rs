//! What a run has done so far, and how that went over time.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::limits::SERIES_POINTS_MAX;
use crate::rate::{mb_per_second, per_second, seconds};

/// What all threads have completed so far, warm-up included.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    produced: Counter,
    received: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    fn add(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn total(&self) -> Total {
        Total {
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// Records and their payload bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Total {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

/// What was acknowledged and what was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) produced: Total,
    pub(crate) received: Total,
}

impl Meter {
    /// Counts acknowledged records.
    pub(crate) fn add_produced(&self, records: u64, bytes: u64) {
        self.produced.add(records, bytes);
    }

    /// Counts received records.
    pub(crate) fn add_received(&self, records: u64, bytes: u64) {
        self.received.add(records, bytes);
    }

    /// All threads together.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            produced: self.produced.total(),
            received: self.received.total(),
        }
    }
}

/// The totals at a bounded number of moments: when there are too many, every second one goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    points: Vec<(u64, Totals)>,
    /// Moments passed over between two that are kept.
    skip: u32,
    passed: u32,
}

/// The rates between two moments of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct SeriesPoint {
    /// End of the stretch, since the start of the run.
    pub(crate) seconds: f64,
    pub(crate) produced_records_per_second: f64,
    pub(crate) produced_mb_per_second: f64,
    pub(crate) received_records_per_second: f64,
    pub(crate) received_mb_per_second: f64,
}

impl Series {
    /// Notes the totals at `at_ns`, which is later than all before.
    pub(crate) fn add(&mut self, at_ns: u64, totals: Totals) {
        if self.passed < self.skip {
            self.passed += 1;
            return;
        }
        self.passed = 0;
        self.points.push((at_ns, totals));
        if self.points.len() > SERIES_POINTS_MAX {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.skip = 2 * self.skip + 1;
        }
    }

    /// The rates between each two moments; times count from `start_ns`.
    pub(crate) fn rates(&self, start_ns: u64) -> Vec<SeriesPoint> {
        let between = |pair: &[(u64, Totals)]| rates(pair[0], pair[1], start_ns);
        self.points.windows(2).map(between).collect()
    }

    /// The rates from the last moment noted to now, in words.
    pub(crate) fn rates_since_last(&self, now_ns: u64, totals: Totals) -> String {
        let before = self.points.last().copied().unwrap_or((now_ns, totals));
        let point = rates(before, (now_ns, totals), 0);
        let words = |verb, records: u64, rate: f64, mb: f64| {
            (records > 0).then(|| format!("{records} {verb}, {rate:.0}/s, {mb:.1} MB/s"))
        };
        let produced = words(
            "acknowledged",
            totals.produced.records,
            point.produced_records_per_second,
            point.produced_mb_per_second,
        );
        let received = words(
            "received",
            totals.received.records,
            point.received_records_per_second,
            point.received_mb_per_second,
        );
        let all: Vec<_> = produced.into_iter().chain(received).collect();
        if all.is_empty() {
            return "nothing yet".to_owned();
        }
        all.join("; ")
    }
}

fn rates(before: (u64, Totals), after: (u64, Totals), start_ns: u64) -> SeriesPoint {
    let elapsed_ns = after.0.saturating_sub(before.0);
    let grown = |of: fn(&Totals) -> u64| of(&after.1).saturating_sub(of(&before.1));
    SeriesPoint {
        seconds: seconds(after.0.saturating_sub(start_ns)),
        produced_records_per_second: per_second(grown(|all| all.produced.records), elapsed_ns),
        produced_mb_per_second: mb_per_second(grown(|all| all.produced.bytes), elapsed_ns),
        received_records_per_second: per_second(grown(|all| all.received.records), elapsed_ns),
        received_mb_per_second: mb_per_second(grown(|all| all.received.bytes), elapsed_ns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn produced(records: u64) -> Totals {
        let produced = Total {
            records,
            bytes: 10 * records,
        };
        Totals {
            produced,
            ..Totals::default()
        }
    }

    #[test]
    fn rates_are_those_between_two_moments() {
        let second = 1_000_000_000;
        let mut series = Series::default();
        for (at, records) in [(1, 0), (2, 100), (4, 500)] {
            series.add(at * second, produced(records));
        }
        let rates = series.rates(second);
        let of = |point: &SeriesPoint| (point.seconds, point.produced_records_per_second);
        assert_eq!(
            rates.iter().map(of).collect::<Vec<_>>(),
            [(1.0, 100.0), (3.0, 200.0)]
        );
    }

    #[test]
    fn a_long_run_keeps_a_bounded_number_of_evenly_spaced_moments() {
        let mut series = Series::default();
        let all = 10 * u64::try_from(SERIES_POINTS_MAX).expect("a few thousand");
        for at in 0..all {
            series.add(at, produced(at));
        }
        assert!(series.points.len() <= SERIES_POINTS_MAX);
        let steps = series.points.windows(2).map(|pair| pair[1].0 - pair[0].0);
        let steps: std::collections::BTreeSet<u64> = steps.collect();
        assert_eq!(steps.len(), 1, "{steps:?}");
    }
}
