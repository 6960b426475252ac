//! A histogram of fixed powers of two with one writer.
//!
//! Bucket `i` counts values in `(2^(i-1), 2^i]`; the first counts 0 and 1, the last everything
//! above 2^25 (33 s in microseconds). Exact enough to see a latency move by a factor of two, and
//! cheap enough (two loads and stores) for every request.

use std::sync::atomic::{AtomicU64, Ordering};

const FINITE_BUCKETS: usize = 26;

/// Counts by power of two. One writer: the thread of the shard that owns it.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; FINITE_BUCKETS + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// Counts one value (microseconds for latencies). Only the owning thread may call this.
    pub fn record(&self, value: u64) {
        let bucket = &self.buckets[bucket_index(value)];
        bucket.store(
            bucket.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        let sum = self.sum.load(Ordering::Relaxed).wrapping_add(value);
        self.sum.store(sum, Ordering::Relaxed);
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .sum()
    }

    /// The sum of all values recorded.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// The upper bound of the bucket that holds quantile `q` (0.0 to 1.0); `None` if empty or if
    /// it lies above the last bound.
    pub fn quantile_bound(&self, q: f64) -> Option<u64> {
        let counts: Vec<u64> = self.counts().map(|(_, count)| count).collect();
        let total: u64 = counts.iter().sum();
        let mut below = 0;
        for (index, count) in counts.iter().take(FINITE_BUCKETS).enumerate() {
            below += count;
            if *count > 0 && as_f64(below) >= q * as_f64(total) {
                return Some(1 << index);
            }
        }
        None
    }

    /// Upper bounds (`None`: no bound) with the number of values in each bucket, not cumulated.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(index, bucket)| {
            let bound = (index < FINITE_BUCKETS).then(|| 1 << index);
            (bound, bucket.load(Ordering::Relaxed))
        })
    }
}

fn bucket_index(value: u64) -> usize {
    let Some(below) = value.checked_sub(1) else {
        return 0;
    };
    let bits = u64::BITS - below.leading_zeros();
    usize::try_from(bits)
        .unwrap_or(FINITE_BUCKETS)
        .min(FINITE_BUCKETS)
}

/// For display: exact up to 2^53, which no counter here reaches in years.
#[expect(
    clippy::cast_precision_loss,
    reason = "shown to people, never computed with"
)]
pub(super) fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_bucket_that_bounds_it() {
        let table = [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (1024, 10),
            (1025, 11),
        ];
        for (value, index) in table {
            assert_eq!(bucket_index(value), index, "value {value}");
        }
        assert_eq!(bucket_index(1 << 25), 25);
        assert_eq!(bucket_index((1 << 25) + 1), FINITE_BUCKETS);
        assert_eq!(bucket_index(u64::MAX), FINITE_BUCKETS);
    }

    #[test]
    fn quantiles_name_the_bucket_bound() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile_bound(0.5), None);
        for _ in 0..99 {
            histogram.record(100);
        }
        histogram.record(5000);
        assert_eq!(histogram.quantile_bound(0.5), Some(128));
        assert_eq!(histogram.quantile_bound(0.99), Some(128));
        assert_eq!(histogram.quantile_bound(1.0), Some(8192));
        assert_eq!((histogram.count(), histogram.sum()), (100, 14_900));
    }
}
