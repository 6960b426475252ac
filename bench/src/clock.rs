//! The one clock of a run: monotonic nanoseconds since the program began.
//!
//! Shared by all threads of the process, so a time written into a record by a producer thread
//! can be compared with the time a consumer thread receives it.

use std::time::{Duration, Instant};

/// Monotonic time since `Clock::start`. Cheap to copy; all copies agree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that reads zero now.
    pub(crate) fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    /// Nanoseconds since the start.
    pub(crate) fn now_ns(&self) -> u64 {
        duration_ns(self.origin.elapsed())
    }

    /// The instant at which this clock reads `ns`.
    pub(crate) fn instant(&self, ns: u64) -> Instant {
        self.origin + Duration::from_nanos(ns)
    }
}

/// A duration in nanoseconds; durations beyond 584 years saturate.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
