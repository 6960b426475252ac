//! The three stretches of a run: warm-up, measured window, drain. Pure.

use std::time::Duration;

use crate::clock::duration_ns;

/// The measured window `[measure_ns, end_ns)` of a run whose load starts at `start_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_field_names, reason = "the unit is part of a name")]
pub(crate) struct Window {
    /// First send.
    pub(crate) start_ns: u64,
    /// End of the warm-up.
    pub(crate) measure_ns: u64,
    /// Last send; what is still in flight is then awaited, but no longer counted as throughput.
    pub(crate) end_ns: u64,
}

impl Window {
    /// A window that starts at `start_ns`, warms up and then measures for `duration`.
    pub(crate) fn new(start_ns: u64, warmup: Duration, duration: Duration) -> Self {
        let measure_ns = start_ns.saturating_add(duration_ns(warmup));
        Self {
            start_ns,
            measure_ns,
            end_ns: measure_ns.saturating_add(duration_ns(duration)),
        }
    }

    /// Whether an event at `ns` counts.
    pub(crate) fn contains(&self, ns: u64) -> bool {
        self.measure_ns <= ns && ns < self.end_ns
    }

    /// Length of the measured window.
    pub(crate) fn measured_ns(&self) -> u64 {
        self.end_ns - self.measure_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_and_drain_do_not_count() {
        let window = Window::new(1_000, Duration::from_micros(2), Duration::from_micros(3));
        assert!(!window.contains(2_999));
        assert!(window.contains(3_000));
        assert!(window.contains(5_999));
        assert!(!window.contains(6_000));
        assert_eq!(window.measured_ns(), 3_000);
    }
}
