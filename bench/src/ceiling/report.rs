//! The ceiling's figures: per run, medians, and which of them limits what. Pure.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::latency::Latencies;
use crate::machine::Machine;
use crate::rate::{mb_per_second, median, per_second};

/// Names the layout of the JSON file; a change of meaning changes it.
const FORMAT: &str = "catena-bench-ceiling-1";

/// One thing measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Probe {
    #[serde(rename = "disk_write_1mib")]
    DiskWrite1Mib,
    #[serde(rename = "disk_write_256kib")]
    DiskWrite256Kib,
    #[serde(rename = "disk_write_256kib_dsync")]
    DiskWrite256KibDsync,
    #[serde(rename = "disk_write_4kib_dsync")]
    DiskWrite4KibDsync,
    #[serde(rename = "disk_first_fill_1mib")]
    DiskFirstFill1Mib,
    #[serde(rename = "disk_read_1mib")]
    DiskRead1Mib,
    Loopback,
    #[serde(rename = "sink_1mib")]
    Sink1Mib,
    BlockingServerFlush,
    BlockingServerDsync,
}

impl Probe {
    /// What it is, for a reader.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::DiskWrite1Mib => "write 1 MiB x 16, then flush",
            Self::DiskWrite256Kib => "write 256 KiB x 16, then flush",
            Self::DiskWrite256KibDsync => "write 256 KiB O_DSYNC, one at a time",
            Self::DiskWrite4KibDsync => "write 4 KiB O_DSYNC, one at a time",
            Self::DiskFirstFill1Mib => "write 1 MiB x 16, then flush, first fill",
            Self::DiskRead1Mib => "read 1 MiB x 2, sequential",
            Self::Loopback => "TCP loopback, 1 MiB writes",
            Self::Sink1Mib => "both at once: loopback to 1 MiB x 16, flushed",
            Self::BlockingServerFlush => "blocking server, 1 KiB, write + flush",
            Self::BlockingServerDsync => "blocking server, 1 KiB, O_DSYNC",
        }
    }
}

/// Figures of one run, or the medians of several. An operation is a group for the flushed
/// writes, one block for the other disk measurements, one write for loopback, one message for
/// the blocking servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunFigures {
    pub(crate) mb_per_second: f64,
    pub(crate) operations_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) operations: u64,
}

impl RunFigures {
    /// Operations of `operation_bytes` each within `elapsed_ns`.
    pub(crate) fn new(latencies: &Latencies, operation_bytes: u64, elapsed_ns: u64) -> Self {
        let bytes = latencies.summary().count * operation_bytes;
        Self::from_totals(latencies, bytes, elapsed_ns)
    }

    /// Operations that moved `bytes` in all within `elapsed_ns`.
    pub(crate) fn from_totals(latencies: &Latencies, bytes: u64, elapsed_ns: u64) -> Self {
        let summary = latencies.summary();
        Self {
            mb_per_second: mb_per_second(bytes, elapsed_ns),
            operations_per_second: per_second(summary.count, elapsed_ns),
            p50_us: summary.p50_us,
            p99_us: summary.p99_us,
            operations: summary.count,
        }
    }
}

/// All runs of one probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) probe: Probe,
    pub(crate) runs: Vec<RunFigures>,
}

impl Measurement {
    pub(crate) fn new(probe: Probe) -> Self {
        Self {
            probe,
            runs: Vec::new(),
        }
    }

    /// The median of each figure by itself.
    pub(crate) fn median(&self) -> RunFigures {
        let of = |figure: fn(&RunFigures) -> f64| median(self.runs.iter().map(figure));
        RunFigures {
            mb_per_second: of(|run| run.mb_per_second),
            operations_per_second: of(|run| run.operations_per_second),
            p50_us: of(|run| run.p50_us),
            p99_us: of(|run| run.p99_us),
            operations: self.runs.iter().map(|run| run.operations).sum(),
        }
    }
}

/// The limit of a kind of work: the slower of the two things every byte must pass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LowerCeiling {
    pub(crate) mb_per_second: f64,
    pub(crate) set_by: Probe,
}

/// The report, and the file other commands compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CeilingReport {
    pub(crate) format: String,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) file_bytes: u64,
    pub(crate) measurements: Vec<Measurement>,
    /// For durable produce: disk writes and loopback.
    pub(crate) produce: Option<LowerCeiling>,
    /// For reading what is no longer cached: disk reads and loopback.
    pub(crate) cold_fetch: Option<LowerCeiling>,
}

impl CeilingReport {
    pub(crate) fn new(
        command: String,
        machine: Machine,
        file_bytes: u64,
        measurements: Vec<Measurement>,
    ) -> Self {
        let produce = lower(&measurements, [Probe::DiskWrite1Mib, Probe::Loopback]);
        let cold_fetch = lower(&measurements, [Probe::DiskRead1Mib, Probe::Loopback]);
        let format = FORMAT.to_owned();
        Self {
            format,
            command,
            machine,
            file_bytes,
            measurements,
            produce,
            cold_fetch,
        }
    }

    /// Reads a report written with `--json`.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let report: Self = serde_json::from_str(&text)
            .with_context(|| format!("{name} is not a report of catena-bench ceiling"))?;
        ensure!(
            report.format == FORMAT,
            "{name} has format {:?}, not {FORMAT}",
            report.format
        );
        Ok(report)
    }

    /// The medians of one probe, if it was measured.
    pub(crate) fn figures(&self, probe: Probe) -> Option<RunFigures> {
        find(&self.measurements, probe)
    }

    /// The text form.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let runs = self
            .measurements
            .first()
            .map_or(0, |first| first.runs.len());
        let mib = self.file_bytes >> 20;
        let _ = writeln!(text, "command   {}", self.command);
        let _ = writeln!(text, "machine   {}", self.machine.line());
        let _ = writeln!(text, "file      {mib} MiB, medians of {runs} runs\n");
        let _ = writeln!(
            text,
            "{:<42} {:>9} {:>10} {:>10} {:>10}",
            "ceiling", "MB/s", "ops/s", "p50 us", "p99 us"
        );
        for measurement in &self.measurements {
            let figures = measurement.median();
            let _ = writeln!(
                text,
                "{:<42} {:>9.1} {:>10.0} {:>10.1} {:>10.1}",
                measurement.probe.title(),
                figures.mb_per_second,
                figures.operations_per_second,
                figures.p50_us,
                figures.p99_us
            );
        }
        for (work, ceiling) in [("produce", self.produce), ("cold fetch", self.cold_fetch)] {
            if let Some(LowerCeiling {
                mb_per_second,
                set_by,
            }) = ceiling
            {
                let _ = writeln!(
                    text,
                    "\nthe lower ceiling for {work}: {mb_per_second:.1} MB/s ({})",
                    set_by.title()
                );
            }
        }
        text
    }
}

fn find(measurements: &[Measurement], probe: Probe) -> Option<RunFigures> {
    let measurement = measurements
        .iter()
        .find(|measurement| measurement.probe == probe)?;
    (!measurement.runs.is_empty()).then(|| measurement.median())
}

/// The lower of two throughputs; `None` unless both were measured.
fn lower(measurements: &[Measurement], probes: [Probe; 2]) -> Option<LowerCeiling> {
    let [first, second] = probes.map(|probe| {
        find(measurements, probe).map(|figures| LowerCeiling {
            mb_per_second: figures.mb_per_second,
            set_by: probe,
        })
    });
    let (first, second) = (first?, second?);
    Some(if first.mb_per_second <= second.mb_per_second {
        first
    } else {
        second
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(probe: Probe, rates: &[f64]) -> Measurement {
        let runs = rates
            .iter()
            .map(|&mb_per_second| RunFigures {
                mb_per_second,
                operations_per_second: 1000.0,
                p50_us: 10.0,
                p99_us: 20.0,
                operations: 5,
            })
            .collect();
        Measurement { probe, runs }
    }

    fn report() -> CeilingReport {
        CeilingReport::new(
            "catena-bench ceiling".to_owned(),
            Machine::default(),
            64 << 20,
            vec![
                measured(Probe::DiskWrite1Mib, &[2000.0, 2600.0, 2500.0]),
                measured(Probe::DiskRead1Mib, &[5000.0]),
                measured(Probe::Loopback, &[4400.0]),
            ],
        )
    }

    #[test]
    fn the_lower_ceiling_is_named_by_what_sets_it() {
        let report = report();
        let produce = report.produce.expect("both were measured");
        assert_eq!(produce.set_by, Probe::DiskWrite1Mib);
        assert!((produce.mb_per_second - 2500.0).abs() < 1e-9);
        assert_eq!(
            report.cold_fetch.expect("both were measured").set_by,
            Probe::Loopback
        );
    }

    #[test]
    fn a_ceiling_needs_both_of_its_parts() {
        let measurements = vec![measured(Probe::Loopback, &[4400.0])];
        let report = CeilingReport::new(String::new(), Machine::default(), 0, measurements);
        assert_eq!(report.produce, None);
    }

    #[test]
    fn a_report_survives_its_file() {
        let report = report();
        let text = serde_json::to_string(&report).expect("plain data");
        assert!(text.contains("\"disk_write_1mib\""));
        let read: CeilingReport = serde_json::from_str(&text).expect("what was written");
        assert_eq!(read, report);
    }

    #[test]
    fn the_text_names_the_lower_ceiling() {
        let text = report().render();
        assert!(text.contains("the lower ceiling for produce: 2500.0 MB/s (write 1 MiB x 16"));
        assert!(text.contains("medians of 3 runs"));
    }
}
