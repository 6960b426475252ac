//! Where a system stops keeping up with a rising rate. Pure.

use serde::Serialize;

use super::{PhaseReport, text};
use crate::limits::{KNEE_P99_FACTOR, KNEE_SHARE};

/// The last of a series of rising rates that the system kept up with.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Knee {
    /// None if it did not keep up with the lowest.
    pub(crate) records_per_second: Option<u64>,
    pub(crate) p99_us: Option<f64>,
    /// Why the next rate was too much; none if there was no such rate.
    pub(crate) beyond: Option<String>,
}

impl Knee {
    /// The knee of the first phases in a row that had a rate, each higher than the one before, if
    /// there are at least two.
    pub(crate) fn of(phases: &[PhaseReport]) -> Option<Self> {
        let mut steps: Vec<Step> = Vec::new();
        for phase in phases {
            match Step::of(phase) {
                Some(step) if steps.last().is_none_or(|last| last.rate < step.rate) => {
                    steps.push(step);
                }
                Some(step) if steps.len() < 2 => steps = vec![step],
                None if steps.len() < 2 => steps.clear(),
                _ => break,
            }
        }
        if steps.len() < 2 {
            return None;
        }
        let mut knee = Self {
            records_per_second: None,
            p99_us: None,
            beyond: None,
        };
        for step in &steps {
            knee.beyond = step.too_much(steps[0].p99_us);
            if knee.beyond.is_some() {
                break;
            }
            knee.records_per_second = Some(step.rate);
            knee.p99_us = Some(step.p99_us);
        }
        Some(knee)
    }

    /// In words.
    pub(crate) fn describe(&self) -> String {
        let kept = match (self.records_per_second, self.p99_us) {
            (Some(rate), Some(p99_us)) => {
                format!("kept up with {rate} records/s, p99 {}", text::time(p99_us))
            }
            _ => "did not keep up with the lowest rate".to_owned(),
        };
        match &self.beyond {
            Some(reason) => format!("{kept}; {reason}"),
            None => format!("{kept}, the highest rate that was tried"),
        }
    }
}

/// A phase with a rate.
struct Step {
    rate: u64,
    reached: f64,
    /// Infinite if nothing was answered.
    p99_us: f64,
    failed: u64,
}

impl Step {
    fn of(phase: &PhaseReport) -> Option<Self> {
        Some(Self {
            rate: phase.schedule?.records_per_second_wanted,
            reached: phase.throughput.records_per_second,
            p99_us: phase
                .latency
                .as_ref()
                .map_or(f64::INFINITY, |latency| latency.summary.p99_us),
            failed: phase.failed_records(),
        })
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "a rate has far fewer digits than a double"
    )]
    fn too_much(&self, lowest_p99_us: f64) -> Option<String> {
        let (rate, reached) = (self.rate, self.reached);
        if self.failed > 0 {
            return Some(format!(
                "at {rate} records/s {} records failed",
                self.failed
            ));
        }
        if reached < KNEE_SHARE * rate as f64 {
            return Some(format!("of {rate} records/s it did {reached:.0}"));
        }
        let p99 = text::time(self.p99_us);
        (self.p99_us > KNEE_P99_FACTOR * lowest_p99_us).then(|| {
            format!("at {rate} records/s p99 is {p99}, over {KNEE_P99_FACTOR} x the lowest rate's")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::super::{ScheduleReport, Throughput};
    use super::*;
    use crate::schedule::Lateness;

    fn step(rate: u64, reached: f64, p99_us: f64) -> PhaseReport {
        let mut phase = report().phases.remove(0);
        phase.schedule = Some(ScheduleReport::new(rate, Lateness::default()));
        phase.throughput = Throughput {
            records_per_second: reached,
            ..phase.throughput
        };
        let latency = phase.latency.as_mut().expect("it was measured");
        latency.summary.p99_us = p99_us;
        phase
    }

    #[test]
    fn the_knee_is_the_last_rate_that_was_reached_with_a_p99_like_the_lowest() {
        let slow = [
            step(100, 100.0, 10.0),
            step(200, 199.0, 20.0),
            step(300, 300.0, 10.0 * KNEE_P99_FACTOR + 1.0),
            step(400, 400.0, 10.0),
        ];
        let knee = Knee::of(&slow).expect("four rates");
        assert_eq!(knee.records_per_second, Some(200));
        assert!(knee.describe().contains("at 300 records/s p99"));
        let short = [step(100, 100.0, 10.0), step(200, 150.0, 10.0)];
        let knee = Knee::of(&short).expect("two rates");
        assert_eq!(knee.records_per_second, Some(100));
        assert!(knee.describe().contains("of 200 records/s it did 150"));
    }

    #[test]
    fn a_system_that_is_never_overrun_has_no_rate_beyond() {
        let knee = Knee::of(&[step(100, 100.0, 10.0), step(200, 200.0, 10.0)]);
        let knee = knee.expect("two rates");
        assert_eq!((knee.records_per_second, knee.beyond), (Some(200), None));
    }

    #[test]
    fn a_step_without_answers_or_with_failures_is_too_much() {
        let mut silent = step(200, 0.0, 0.0);
        silent.latency = None;
        let mut failing = step(200, 200.0, 10.0);
        failing.errors.insert("refused".to_owned(), 1);
        for bad in [silent, failing] {
            let knee = Knee::of(&[step(100, 100.0, 10.0), bad]).expect("two rates");
            assert_eq!(knee.records_per_second, Some(100));
            assert!(knee.beyond.is_some());
        }
    }

    #[test]
    fn what_follows_a_ramp_does_not_hide_its_knee() {
        let mut pause = report().phases.remove(0);
        pause.schedule = None;
        let phases = [
            step(50, 50.0, 10.0),
            step(20, 20.0, 10.0),
            step(100, 100.0, 10.0),
            pause,
            step(10, 10.0, 10.0),
        ];
        let knee = Knee::of(&phases).expect("two rates in a row that rise");
        assert_eq!(knee.records_per_second, Some(100));
    }

    #[test]
    fn rates_that_do_not_rise_have_no_knee() {
        assert_eq!(Knee::of(&[step(100, 100.0, 10.0)]), None);
        assert_eq!(
            Knee::of(&[step(200, 200.0, 10.0), step(100, 100.0, 10.0)]),
            None
        );
        assert_eq!(Knee::of(&report().phases), None);
    }
}
