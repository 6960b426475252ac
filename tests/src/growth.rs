//! Whether a process grows: straight lines (least squares) through what was seen of it. Pure.
//!
//! Judged is the *rise*, what a line gains over the time that was watched, and not the slope: a
//! look that is some MiB off makes any slope of a short watch. Over an hour both are the same.

use std::fmt;
use std::time::Duration;

use crate::process::Sample;

/// What resident memory may rise. Allocator arenas and pools move by some MiB; a hundred bytes
/// lost per request, or a buffer per connection, come to hundreds of MiB in an hour.
pub const RESIDENT_RISE_MAX: f64 = 16.0 * MIB;

/// What descriptors may rise. One connection left open in each wave would pass it in ten waves.
pub const DESCRIPTORS_RISE_MAX: f64 = 8.0;

/// What threads may rise. They are started with the process, none with the load.
pub const THREADS_RISE_MAX: f64 = 2.0;

const MIB: f64 = 1_048_576.0;

/// Two points always lie on a line.
const POINTS_MIN: usize = 3;

/// A straight line through numbers over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// What it gains in an hour.
    pub per_hour: f64,
    /// What it gains from the first point to the last.
    pub rise: f64,
}

impl Trend {
    /// The line with the least squared distances. `None` through fewer than three points, or if no
    /// time passed.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use catena_tests::growth::Trend;
    ///
    /// let points = [(0, 5), (1800, 6), (3600, 7)].map(|(s, n)| (Duration::from_secs(s), n));
    /// let trend = Trend::through(&points).expect("enough points");
    /// assert!((trend.per_hour - 2.0).abs() < 1e-9 && (trend.rise - 2.0).abs() < 1e-9);
    /// ```
    pub fn through(points: &[(Duration, u64)]) -> Option<Self> {
        if points.len() < POINTS_MIN {
            return None;
        }
        let points: Vec<(f64, f64)> = points
            .iter()
            .map(|(at, number)| (at.as_secs_f64(), float(*number)))
            .collect();
        let count = float(u64::try_from(points.len()).ok()?);
        let mean_at = points.iter().map(|(at, _)| at).sum::<f64>() / count;
        let mean = points.iter().map(|(_, number)| number).sum::<f64>() / count;
        let spread = points.iter().map(|(at, _)| (at - mean_at).powi(2));
        let spread: f64 = spread.sum();
        if spread <= 0.0 {
            return None;
        }
        let covariance = points
            .iter()
            .map(|(at, number)| (at - mean_at) * (number - mean));
        let per_second = covariance.sum::<f64>() / spread;
        let watched = points.last()?.0 - points.first()?.0;
        Some(Self {
            per_hour: per_second * 3600.0,
            rise: per_second * watched,
        })
    }
}

/// How a process grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Resident memory, in bytes.
    pub resident: Trend,
    /// Open descriptors.
    pub descriptors: Trend,
    /// Threads.
    pub threads: Trend,
}

impl Growth {
    /// Of a process, or of processes that were looked at in the same moment of their lives.
    /// `None` where [`Trend::through`] gives none.
    pub fn of(looks: &[(Duration, Sample)]) -> Option<Self> {
        let trend = |number: fn(&Sample) -> u64| {
            let points: Vec<_> = looks.iter().map(|(at, look)| (*at, number(look))).collect();
            Trend::through(&points)
        };
        Some(Self {
            resident: trend(|look| look.resident_bytes)?,
            descriptors: trend(|look| look.descriptors)?,
            threads: trend(|look| look.threads)?,
        })
    }

    /// As [`of`](Self::of), without the first third: until then caches and pools fill.
    pub fn of_warm(looks: &[(Duration, Sample)]) -> Option<Self> {
        Self::of(&looks[looks.len() / 3..])
    }

    /// What rises more than it may; empty if nothing does.
    pub fn wrong(&self, whose: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut judge = |what: &str, rise: f64, most: f64, unit: f64, name: &str| {
            if rise > most {
                wrong.push(format!(
                    "{whose}: {what} rise by {:.1}{name}, more than {:.0}{name}",
                    rise / unit,
                    most / unit
                ));
            }
        };
        judge(
            "resident bytes",
            self.resident.rise,
            RESIDENT_RISE_MAX,
            MIB,
            " MiB",
        );
        judge(
            "descriptors",
            self.descriptors.rise,
            DESCRIPTORS_RISE_MAX,
            1.0,
            "",
        );
        judge("threads", self.threads.rise, THREADS_RISE_MAX, 1.0, "");
        wrong
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:+.2} MiB/h resident ({:+.2} MiB watched), {:+.1} descriptors/h ({:+.1}), \
             {:+.1} threads/h ({:+.1})",
            self.resident.per_hour / MIB,
            self.resident.rise / MIB,
            self.descriptors.per_hour,
            self.descriptors.rise,
            self.threads.per_hour,
            self.threads.rise,
        )
    }
}

/// Bytes, in MiB.
pub fn mib(bytes: u64) -> f64 {
    float(bytes >> 10) / 1024.0
}

/// Numbers of bytes of a process, of descriptors and of threads are far below 2^53.
fn float(number: u64) -> f64 {
    let high = u32::try_from(number >> 32).expect("half of the bits");
    let low = u32::try_from(number & u64::from(u32::MAX)).expect("half of the bits");
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(resident_mib: &[u64], descriptors: &[u64]) -> Vec<(Duration, Sample)> {
        let both = resident_mib.iter().zip(descriptors);
        let minutes = (0..).map(|minute| Duration::from_secs(minute * 60));
        minutes
            .zip(both)
            .map(|(at, (mib, descriptors))| {
                let sample = Sample {
                    resident_bytes: mib << 20,
                    descriptors: *descriptors,
                    threads: 9,
                    cpu_ticks: 0,
                };
                (at, sample)
            })
            .collect()
    }

    #[test]
    fn the_line_is_that_of_least_squares() {
        // By hand: means 1 and 3, covariance 3, spread 2.
        let points = [(0, 2), (1, 2), (2, 5)].map(|(s, n)| (Duration::from_secs(s), n));
        let trend = Trend::through(&points).expect("a line");
        assert!((trend.per_hour - 1.5 * 3600.0).abs() < 1e-6, "{trend:?}");
        assert!((trend.rise - 3.0).abs() < 1e-9, "{trend:?}");
    }

    #[test]
    fn large_numbers_keep_small_differences() {
        let large = 1 << 40;
        let points = [(0, large), (10, large + 1), (20, large + 2)];
        let trend = Trend::through(&points.map(|(s, n)| (Duration::from_secs(s), n)));
        let rise = trend.expect("a line").rise;
        assert!((rise - 2.0).abs() < 1e-3, "{rise}");
    }

    #[test]
    fn too_few_points_and_no_time_are_no_line() {
        let at = Duration::from_secs(7);
        assert_eq!(Trend::through(&[(at, 1), (at * 2, 2)]), None);
        assert_eq!(Trend::through(&[(at, 1), (at, 2), (at, 3)]), None);
    }

    #[test]
    fn a_process_that_wavers_is_flat_and_one_that_climbs_is_not() {
        let flat = Growth::of(&looks(&[50, 58, 49, 57, 51], &[40, 41, 40, 41, 40]));
        assert_eq!(flat.expect("a line").wrong("it"), Vec::<String>::new());
        let leaks = Growth::of(&looks(&[50, 56, 62, 68, 74], &[40, 43, 46, 49, 52]));
        let wrong = leaks.expect("a line").wrong("it");
        assert_eq!(
            wrong,
            [
                "it: resident bytes rise by 24.0 MiB, more than 16 MiB",
                "it: descriptors rise by 12.0, more than 8",
            ]
        );
    }

    #[test]
    fn a_process_that_shrinks_is_not_wrong() {
        let shrinks = Growth::of(&looks(&[90, 70, 50], &[60, 40, 20]));
        assert_eq!(shrinks.expect("a line").wrong("it"), Vec::<String>::new());
    }
}
