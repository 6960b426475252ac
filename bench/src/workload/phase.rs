//! When calls start, stretch by stretch. Pure.

use std::time::Duration;

use serde::Serialize;

/// One stretch of a run. Phases follow each other; each begins when all of the one before has been
/// answered, so that none is measured with the backlog of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) pace: Pace,
    /// Load before the measured part.
    #[serde(serialize_with = "as_seconds")]
    pub(crate) warmup: Duration,
    /// The measured part.
    #[serde(serialize_with = "as_seconds")]
    pub(crate) duration: Duration,
}

/// When calls start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pace {
    /// Open loop: this many records per second in all, by a fixed schedule.
    Rate(u64),
    /// Closed loop, bounded by the calls in flight.
    Max,
    /// Closed loop with one call in flight per producer.
    OneInFlight,
    /// Nothing is sent; consumers go on.
    Pause,
    /// Nothing is sent; the consumers read all that the run has produced once more, from the
    /// earliest record on. Ends when they have, or with its duration.
    Replay,
}

impl Phase {
    /// A phase that is measured from its beginning, named for its pace.
    pub(crate) fn new(pace: Pace, duration: Duration) -> Self {
        Self {
            name: pace.describe(),
            pace,
            warmup: Duration::ZERO,
            duration,
        }
    }
}

impl Pace {
    /// In words.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Rate(rate) => format!("{rate} records/s"),
            Self::Max => "as fast as possible".to_owned(),
            Self::OneInFlight => "one call in flight".to_owned(),
            Self::Pause => "pause".to_owned(),
            Self::Replay => "replay".to_owned(),
        }
    }

    /// Whether latency is measured from a schedule.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Rate(_))
    }
}

/// The rates of a ramp: `steps` of them from `from` to `to`, evenly apart.
pub(crate) fn ramp(from: u64, to: u64, steps: u32) -> Vec<u64> {
    let last = u64::from(steps.max(2) - 1);
    let at = |step: u64| {
        // In 128 bits, where no product of a rate and a step overflows.
        let (from, to) = (i128::from(from), i128::from(to));
        let rate = from + (to - from) * i128::from(step) / i128::from(last);
        u64::try_from(rate).expect("between two rates")
    };
    (0..=last).map(at).collect()
}

fn as_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_has_both_ends_and_even_steps() {
        assert_eq!(ramp(1_000, 4_000, 4), [1_000, 2_000, 3_000, 4_000]);
        assert_eq!(ramp(10, 1, 2), [10, 1]);
        assert_eq!(ramp(1, u64::MAX, 2), [1, u64::MAX]);
    }
}
