//! The report of a load run: one structure, printed as text and written as JSON.
//!
//! A figure never stands alone: the durability class, the command and the machine go with it.

pub(crate) mod html;
mod knee;
pub(crate) mod page;
pub(crate) mod text;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::latency::{Latencies, LatencySummary, Percentile};
use crate::limits::LATE_NS;
use crate::load::meter::SeriesPoint;
use crate::machine::Machine;
use crate::rate::{mb_per_second, micros, per_second, seconds};
use crate::schedule::Lateness;
use crate::server::ProcessUse;
use crate::server::metrics::SegmentCounters;
use crate::shares::Share;
use crate::systems::Facts;
use crate::tally::Tally;
use crate::window::Window;
use crate::workload::Workload;
pub(crate) use knee::Knee;

/// Names the layout of the JSON file; a change of meaning changes it.
pub(crate) const FORMAT: &str = "catena-bench-load-2";

/// Everything a run found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LoadReport {
    pub(crate) format: &'static str,
    /// `produce`, `consume`, `e2e` or `workload`.
    pub(crate) work: &'static str,
    pub(crate) command: String,
    pub(crate) system: Facts,
    /// What was asked for; none for a consume, which has options only.
    pub(crate) workload: Option<Workload>,
    pub(crate) machine: Machine,
    pub(crate) phases: Vec<PhaseReport>,
    /// Throughput over time.
    pub(crate) series: Vec<SeriesPoint>,
    /// The highest rate that the system kept up with, if phases of rising rates were run.
    pub(crate) knee: Option<Knee>,
    /// Records sent and received in the whole run, by consumers that tailed.
    pub(crate) delivery: Option<Delivery>,
    pub(crate) segments: Option<SegmentReport>,
    /// What a reader of the figures must know.
    pub(crate) remarks: Vec<String>,
}

/// What one phase of a run found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PhaseReport {
    pub(crate) name: String,
    /// What a call is: `calls`, or for consumers `batches` or `records`.
    pub(crate) call_unit: &'static str,
    /// Since the start of the run.
    pub(crate) started_seconds: f64,
    pub(crate) measured_seconds: f64,
    pub(crate) throughput: Throughput,
    /// What consumers that catch up received besides.
    pub(crate) catch_up: Option<Throughput>,
    pub(crate) latency: Option<LatencyReport>,
    /// From the intended send to the acknowledgement, per call (with consumers only).
    pub(crate) ack_latency: Option<LatencyReport>,
    /// Open loop only.
    pub(crate) schedule: Option<ScheduleReport>,
    /// What became of every acknowledged record, in a replay.
    pub(crate) delivery: Option<Delivery>,
    /// Failed records by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) server: Option<ProcessUse>,
    /// This process.
    pub(crate) generator: Option<ProcessUse>,
    pub(crate) shares: Vec<Share>,
}

/// The latencies of a phase.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LatencyReport {
    /// What a latency spans, in words.
    pub(crate) spans: &'static str,
    pub(crate) summary: LatencySummary,
    /// The whole distribution.
    pub(crate) curve: Vec<Percentile>,
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
    /// Received after a later record of the same producer and partition.
    pub(crate) out_of_order: u64,
}

impl Delivery {
    /// Whether every acknowledged record came once and in order.
    pub(crate) fn is_exact(&self) -> bool {
        self.wrong() == 0
    }

    /// Records that did not.
    pub(crate) fn wrong(&self) -> u64 {
        self.missing + self.repeated + self.out_of_order
    }
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

impl LatencyReport {
    /// What was recorded; none if nothing was.
    pub(crate) fn of(latencies: &Latencies, spans: &'static str) -> Option<Self> {
        let summary = latencies.summary();
        (summary.count > 0).then(|| Self {
            spans,
            summary,
            curve: latencies.curve(),
        })
    }
}

impl PhaseReport {
    /// A report with the figures that every phase has; the caller adds its own.
    pub(crate) fn new(name: &str, tally: &Tally, window: Window, run_start_ns: u64) -> Self {
        let elapsed_ns = window.measured_ns();
        Self {
            name: name.to_owned(),
            call_unit: "calls",
            started_seconds: seconds(window.start_ns.saturating_sub(run_start_ns)),
            measured_seconds: seconds(elapsed_ns),
            throughput: Throughput::of(tally, elapsed_ns),
            catch_up: None,
            latency: None,
            ack_latency: None,
            schedule: None,
            delivery: None,
            errors: tally.errors.clone(),
            server: None,
            generator: None,
            shares: Vec::new(),
        }
    }

    /// Adds the failed records of another side of the phase.
    pub(crate) fn add_errors(&mut self, tally: &Tally) {
        for (kind, records) in &tally.errors {
            *self.errors.entry(kind.clone()).or_insert(0) += records;
        }
    }

    /// Records that failed, or in a replay were lost, repeated or out of order.
    pub(crate) fn failed_records(&self) -> u64 {
        let misdelivered = self.delivery.as_ref().map_or(0, Delivery::wrong);
        misdelivered + self.errors.values().sum::<u64>()
    }
}

impl LoadReport {
    /// A report without any phase yet.
    pub(crate) fn new(work: &'static str, command: String, system: Facts) -> Self {
        Self {
            format: FORMAT,
            work,
            command,
            system,
            workload: None,
            machine: Machine::default(),
            phases: Vec::new(),
            series: Vec::new(),
            knee: None,
            delivery: None,
            segments: None,
            remarks: Vec::new(),
        }
    }

    /// Whether any record failed, got lost, came twice or out of order.
    pub(crate) fn has_failures(&self) -> bool {
        let misdelivered = self.delivery.is_some_and(|all| !all.is_exact());
        misdelivered || self.phases.iter().any(|phase| phase.failed_records() > 0)
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
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tally::Completion;

    /// One phase of two seconds with 1,000 calls of ten records, 250 us each.
    pub(crate) fn report() -> LoadReport {
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
        let facts = Facts {
            system: "Catena".to_owned(),
            durability: "durable (flushed before the ack)".to_owned(),
            verified: Some("part of every request".to_owned()),
            batch: None,
        };
        let command = "catena-bench produce --max".to_owned();
        let mut report = LoadReport::new("produce", command, facts);
        let mut phase = PhaseReport::new("as fast as possible", &tally, window, 0);
        phase.latency = LatencyReport::of(&tally.latencies, "intended send to ack");
        report.phases.push(phase);
        report
    }

    #[test]
    fn rates_are_over_the_whole_measured_window() {
        let throughput = report().phases[0].throughput;
        assert!((throughput.records_per_second - 5000.0).abs() < 1e-6);
        assert!((throughput.mb_per_second - 5.12).abs() < 1e-6);
        assert!((throughput.calls_per_second - 500.0).abs() < 1e-6);
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
    fn lost_repeated_and_disordered_records_are_failures_like_errors() {
        assert!(!report().has_failures());
        let exact = Delivery::default();
        for wrong in [
            Delivery {
                missing: 1,
                ..exact
            },
            Delivery {
                repeated: 1,
                ..exact
            },
            Delivery {
                out_of_order: 1,
                ..exact
            },
        ] {
            let mut tailed = report();
            tailed.delivery = Some(wrong);
            assert!(tailed.has_failures());
            let mut replayed = report();
            replayed.phases[0].delivery = Some(wrong);
            assert!(replayed.has_failures());
        }
        let mut failed = report();
        failed.phases[0].errors.insert("timed out".to_owned(), 1);
        assert!(failed.has_failures());
    }
}
