//! Latency histograms: recorded per thread, merged once, summarised once. Pure.
//!
//! Percentiles of a run come from the merged histogram, never from averaging the percentiles of
//! its threads.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::limits::{CURVE_STEPS, LATENCY_DIGITS, LATENCY_NS_MAX, LATENCY_NS_MIN};
use crate::rate::micros;

/// A histogram of latencies in nanoseconds with fixed bounds (it never grows).
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
    saturated: u64,
}

impl Latencies {
    /// An empty histogram between the bounds in `limits`.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(LATENCY_NS_MIN, LATENCY_NS_MAX, LATENCY_DIGITS)
            .expect("the bounds in limits are valid for a histogram");
        Self {
            histogram,
            saturated: 0,
        }
    }

    /// Records `count` operations that took `ns` each.
    pub(crate) fn record(&mut self, ns: u64, count: u64) {
        if ns > LATENCY_NS_MAX {
            self.saturated += count;
        }
        self.histogram
            .saturating_record_n(ns.min(LATENCY_NS_MAX), count);
    }

    /// Adds everything another thread recorded.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.histogram
            .add(&other.histogram)
            .expect("all histograms have the same bounds");
        self.saturated += other.saturated;
    }

    /// The whole distribution, the finer the closer to its end; empty if nothing was recorded.
    pub(crate) fn curve(&self) -> Vec<Percentile> {
        let point = |ns: u64, quantile| Percentile {
            quantile,
            us: micros(ns),
        };
        self.histogram
            .iter_quantiles(CURVE_STEPS)
            .map(|value| point(value.value_iterated_to(), value.quantile_iterated_to()))
            .collect()
    }

    /// The figures of the report.
    pub(crate) fn summary(&self) -> LatencySummary {
        let at = |quantile: f64| micros(self.histogram.value_at_quantile(quantile));
        LatencySummary {
            count: self.histogram.len(),
            min_us: micros(self.histogram.min()),
            mean_us: self.histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(self.histogram.max()),
            saturated: self.saturated,
        }
    }
}

/// A point of a latency curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentile {
    /// Share of the operations that took at most `us`, between 0 and 1.
    pub(crate) quantile: f64,
    pub(crate) us: f64,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LatencySummary {
    /// Operations recorded.
    pub(crate) count: u64,
    pub(crate) min_us: f64,
    pub(crate) mean_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// Operations beyond the histogram's upper bound, recorded as that bound.
    pub(crate) saturated: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within the histogram's three digits.
    fn near(actual: f64, expected: f64) -> bool {
        (actual - expected).abs() <= expected * 0.001 + 0.512
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latencies = Latencies::new();
        for value in 1..=1000_u64 {
            latencies.record(value * 1_000_000, 1);
        }
        let summary = latencies.summary();
        assert_eq!(summary.count, 1000);
        assert!(near(summary.p50_us, 500_000.0), "{}", summary.p50_us);
        assert!(near(summary.p99_us, 990_000.0), "{}", summary.p99_us);
        assert!(near(summary.max_us, 1_000_000.0), "{}", summary.max_us);
    }

    #[test]
    fn a_curve_rises_to_the_longest_latency() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.curve(), []);
        for value in 1..=10_000_u64 {
            latencies.record(value * 1_000, 1);
        }
        let curve = latencies.curve();
        let rises = |pair: &[Percentile]| pair[0].us <= pair[1].us;
        assert!(curve.windows(2).all(rises));
        let last = curve.last().expect("it has points");
        assert!((last.quantile - 1.0).abs() < 1e-9 && near(last.us, 10_000.0));
    }

    #[test]
    fn merging_equals_recording_everything_in_one_place() {
        let (mut whole, mut left, mut right) =
            (Latencies::new(), Latencies::new(), Latencies::new());
        for value in 0..10_000_u64 {
            let ns = value * value * 10;
            whole.record(ns, 1);
            if value % 10 == 0 {
                left.record(ns, 1);
            } else {
                right.record(ns, 1);
            }
        }
        left.merge(&right);
        assert_eq!(left.summary(), whole.summary());
    }

    #[test]
    fn a_slow_thread_is_not_averaged_away() {
        let (mut fast, mut slow) = (Latencies::new(), Latencies::new());
        fast.record(100_000, 98);
        slow.record(50_000_000, 2);
        fast.merge(&slow);
        assert!(near(fast.summary().p50_us, 100.0));
        assert!(near(fast.summary().p99_us, 50_000.0));
    }

    #[test]
    fn values_beyond_the_bound_are_counted() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX, 3);
        let summary = latencies.summary();
        assert_eq!((summary.count, summary.saturated), (3, 3));
    }
}
