//! The report of a load run: one structure, printed as text and written as JSON.
//!
//! A figure never stands alone: the durability class, the command and the machine go with it.

mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::compare::Share;
use crate::latency::LatencySummary;
use crate::limits::LATE_NS;
use crate::machine::Machine;
use crate::rate::{mb_per_second, micros, per_second, seconds};
use crate::schedule::Lateness;
use crate::server::ProcessUse;
use crate::server::metrics::SegmentCounters;
use crate::tally::Tally;
use crate::window::Window;

/// Names the layout of the JSON file; a change of meaning changes it.
pub(crate) const FORMAT: &str = "catena-bench-load-1";

/// Everything a run found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) format: &'static str,
    /// `produce`, `consume` or `e2e`.
    pub(crate) work: &'static str,
    pub(crate) command: String,
    /// The durability class in words.
    pub(crate) durability: &'static str,
    /// What a call is: `calls`, or for consumers `batches` or `records`.
    pub(crate) call_unit: &'static str,
    /// What a latency spans, in words.
    pub(crate) latency_from: &'static str,
    pub(crate) machine: Machine,
    pub(crate) measured_seconds: f64,
    pub(crate) throughput: Throughput,
    pub(crate) latency: Option<LatencySummary>,
    /// From the intended send to the acknowledgement, per call (end to end only).
    pub(crate) ack_latency: Option<LatencySummary>,
    /// Open loop only.
    pub(crate) schedule: Option<ScheduleReport>,
    /// Records sent and received in the whole run (end to end only).
    pub(crate) delivery: Option<Delivery>,
    /// Failed records by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) server: Option<ProcessUse>,
    /// This process.
    pub(crate) generator: Option<ProcessUse>,
    pub(crate) segments: Option<SegmentReport>,
    pub(crate) shares: Vec<Share>,
    /// What a reader of the figures must know.
    pub(crate) remarks: Vec<String>,
}

/// What was completed inside the measured window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Throughput {
    pub(crate) records: u64,
    /// Keys and values without any overhead; for consumers that do not decode, whole batches.
    pub(crate) bytes: u64,
    pub(crate) records_per_second: f64,
    pub(crate) mb_per_second: f64,
    pub(crate) calls_per_second: f64,
}

/// How well the generator kept its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct ScheduleReport {
    pub(crate) records_per_second_wanted: u64,
    /// Calls that started late, and what late means.
    pub(crate) late_calls: u64,
    pub(crate) late_means_us: f64,
    pub(crate) worst_us: f64,
}

/// What became of every record, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Delivery {
    pub(crate) acknowledged: u64,
    pub(crate) received: u64,
    /// Acknowledged and not received before the drain ended.
    pub(crate) missing: u64,
    /// Received again.
    pub(crate) repeated: u64,
}

/// How the broker came by its segments during the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SegmentReport {
    pub(crate) recycled: u64,
    pub(crate) created: u64,
    pub(crate) summary: &'static str,
}

impl Throughput {
    /// The rates of a tally over its window's length.
    pub(crate) fn of(tally: &Tally, elapsed_ns: u64) -> Self {
        Self {
            records: tally.records,
            bytes: tally.bytes,
            records_per_second: per_second(tally.records, elapsed_ns),
            mb_per_second: mb_per_second(tally.bytes, elapsed_ns),
            calls_per_second: per_second(tally.calls, elapsed_ns),
        }
    }
}

impl ScheduleReport {
    pub(crate) fn new(records_per_second_wanted: u64, lateness: Lateness) -> Self {
        Self {
            records_per_second_wanted,
            late_calls: lateness.late,
            late_means_us: micros(LATE_NS),
            worst_us: micros(lateness.worst_ns),
        }
    }
}

impl From<SegmentCounters> for SegmentReport {
    fn from(counters: SegmentCounters) -> Self {
        let SegmentCounters { recycled, created } = counters;
        Self {
            recycled,
            created,
            summary: counters.describe(),
        }
    }
}

impl LoadReport {
    /// A report with the figures every kind of run has; the caller adds its own.
    pub(crate) fn new(work: &'static str, command: String, tally: &Tally, window: Window) -> Self {
        let elapsed_ns = window.measured_ns();
        let latency = tally.latencies.summary();
        Self {
            format: FORMAT,
            work,
            command,
            durability: "",
            call_unit: "calls",
            latency_from: "",
            machine: Machine::default(),
            measured_seconds: seconds(elapsed_ns),
            throughput: Throughput::of(tally, elapsed_ns),
            latency: (latency.count > 0).then_some(latency),
            ack_latency: None,
            schedule: None,
            delivery: None,
            errors: tally.errors.clone(),
            server: None,
            generator: None,
            segments: None,
            shares: Vec::new(),
            remarks: Vec::new(),
        }
    }

    /// Whether any record failed, got lost or came twice.
    pub(crate) fn has_failures(&self) -> bool {
        let misdelivered = self
            .delivery
            .is_some_and(|all| all.missing > 0 || all.repeated > 0);
        misdelivered || self.errors.values().any(|count| *count > 0)
    }

    /// The text form.
    pub(crate) fn render(&self) -> String {
        text::render(self)
    }
}

/// Writes `report` to `path` as JSON with a final newline.
pub(crate) fn write_json(path: &Path, report: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::Completion;

    fn report() -> LoadReport {
        let window = Window::new(0, Duration::ZERO, Duration::from_secs(2));
        let mut tally = Tally::new(window);
        for call in 0..1000_u64 {
            let intended_ns = call * 1_000_000;
            let done_ns = intended_ns + 250_000;
            tally.completed(Completion {
                intended_ns,
                done_ns,
                records: 10,
                bytes: 10_240,
            });
        }
        let mut report = LoadReport::new(
            "produce",
            "catena-bench produce --max".to_owned(),
            &tally,
            window,
        );
        report.durability = "durable (flushed before the ack)";
        report.latency_from = "intended send to ack";
        report
    }

    #[test]
    fn rates_are_over_the_whole_measured_window() {
        let report = report();
        assert!((report.throughput.records_per_second - 5000.0).abs() < 1e-6);
        assert!((report.throughput.mb_per_second - 5.12).abs() < 1e-6);
        assert!((report.throughput.calls_per_second - 500.0).abs() < 1e-6);
    }

    #[test]
    fn the_text_gives_class_and_command_with_the_figures() {
        let text = report().render();
        for part in [
            "durable (flushed",
            "catena-bench produce --max",
            "5.1 MB/s",
            "p99.9",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn lost_and_repeated_records_are_failures_like_errors() {
        let mut report = report();
        assert!(!report.has_failures());
        report.delivery = Some(Delivery {
            missing: 1,
            ..Delivery::default()
        });
        assert!(report.has_failures());
        report.delivery = Some(Delivery {
            repeated: 1,
            ..Delivery::default()
        });
        assert!(report.has_failures());
        report.delivery = None;
        report.errors.insert("timed out".to_owned(), 1);
        assert!(report.has_failures());
    }
}
