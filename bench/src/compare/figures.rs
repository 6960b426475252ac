//! What a comparison found out: medians, their spread, and ratios of runs side by side. Pure.

use serde::Serialize;

use super::config::{Config, Guard, SystemConfig};
use crate::args::Acks;
use crate::machine::Machine;
use crate::rate::{median, share};
use crate::report::{Delivery, LoadReport, PhaseReport};

/// Names the layout of the JSON file; a change of meaning changes it.
const FORMAT: &str = "catena-bench-compare-1";

/// Everything a comparison found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) format: &'static str,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) is_quick: bool,
    pub(crate) systems: Vec<SystemConfig>,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) failed: Vec<FailedRun>,
    pub(crate) guards: Vec<Guarded>,
    pub(crate) summary: Vec<Summary>,
    pub(crate) workloads: Vec<WorkloadRuns>,
}

/// A system that could not be run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// All runs of one workload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WorkloadRuns {
    pub(crate) name: String,
    /// In the order of the file; run `n` of each was made right after run `n` of the one before.
    pub(crate) systems: Vec<SystemRuns>,
}

/// The runs of one workload on one system.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SystemRuns {
    pub(crate) name: String,
    /// None where a run failed.
    pub(crate) runs: Vec<Option<LoadReport>>,
}

impl SystemRuns {
    /// The runs that did not fail.
    pub(crate) fn done(&self) -> impl Iterator<Item = &LoadReport> {
        self.runs.iter().flatten()
    }
}

/// A run that could not be made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FailedRun {
    pub(crate) workload: String,
    pub(crate) system: String,
    pub(crate) error: String,
}

/// One phase of one workload, a row for each system.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) workload: String,
    /// None if the workload has one phase only.
    pub(crate) phase: Option<String>,
    pub(crate) rows: Vec<Row>,
}

/// Medians over the runs of one system.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) system: String,
    pub(crate) durability: String,
    pub(crate) records_per_second: Spread,
    pub(crate) mb_per_second: Spread,
    pub(crate) p50_us: Option<Spread>,
    pub(crate) p99_us: Option<Spread>,
    pub(crate) p999_us: Option<Spread>,
    pub(crate) server_seconds_per_gb: Option<Spread>,
    /// Throughput of the first system of the same durability class over this one's, run by run.
    pub(crate) first_over_this: Option<Spread>,
    /// Failed, lost, repeated or out of order.
    pub(crate) failed_records: u64,
    /// Shares of the ceiling that was measured beside each run.
    pub(crate) shares: Vec<(String, Spread)>,
}

/// What became of a guard.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Guarded {
    #[serde(flatten)]
    pub(crate) guard: Guard,
    /// None if there was no such share.
    pub(crate) share: Option<Spread>,
}

impl Guarded {
    /// Whether the median keeps to the bound.
    pub(crate) fn holds(&self) -> bool {
        let Some(Spread { median, .. }) = self.share else {
            return false;
        };
        let Guard {
            at_least, at_most, ..
        } = self.guard;
        at_least.is_none_or(|bound| median >= bound) && at_most.is_none_or(|bound| median <= bound)
    }
}

/// The median of some values and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// None of no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        Some(Self {
            median: median(values),
            min,
            max,
        })
    }
}

impl Comparison {
    pub(crate) fn new(
        command: String,
        config: &Config,
        workloads: Vec<WorkloadRuns>,
        left_out: Vec<LeftOut>,
        failed: Vec<FailedRun>,
    ) -> Self {
        let runs = workloads.iter().flat_map(|workload| &workload.systems);
        let machine = runs.flat_map(SystemRuns::done).next();
        let summary: Vec<_> = workloads.iter().flat_map(WorkloadRuns::summary).collect();
        Self {
            format: FORMAT,
            command,
            machine: machine.map(|run| run.machine.clone()).unwrap_or_default(),
            is_quick: config.is_quick,
            systems: config.systems.clone(),
            left_out,
            failed,
            guards: guarded(&config.guards, &summary),
            summary,
            workloads,
        }
    }

    /// Whether a run failed, any record of one failed, got lost, came twice or out of order, or a
    /// guard does not hold.
    pub(crate) fn has_failures(&self) -> bool {
        if !self.failed.is_empty() || !self.guards.iter().all(Guarded::holds) {
            return true;
        }
        let systems = self.workloads.iter().flat_map(|each| &each.systems);
        systems
            .flat_map(SystemRuns::done)
            .any(LoadReport::has_failures)
    }
}

/// The guards with the shares they are about, of any phase of their workload.
fn guarded(guards: &[Guard], summary: &[Summary]) -> Vec<Guarded> {
    let share = |guard: &Guard| {
        let of_workload = summary.iter().filter(|it| it.workload == guard.workload);
        let rows = of_workload.flat_map(|summary| &summary.rows);
        let shares = rows
            .filter(|row| row.system == guard.system)
            .flat_map(|row| &row.shares);
        let mut found = shares.filter(|(of, _)| *of == guard.of);
        found.next().map(|(_, share)| *share)
    };
    let guarded = |guard: &Guard| Guarded {
        guard: guard.clone(),
        share: share(guard),
    };
    guards.iter().map(guarded).collect()
}

impl WorkloadRuns {
    /// A summary of each phase in which something was done.
    fn summary(&self) -> Vec<Summary> {
        let Some(first) = self.systems.iter().flat_map(SystemRuns::done).next() else {
            return Vec::new();
        };
        let did_something = |index: usize| {
            let runs = self.systems.iter().flat_map(SystemRuns::done);
            let phases = runs.filter_map(|run| run.phases.get(index));
            phases
                .map(|phase| phase.throughput.records)
                .any(|records| records > 0)
        };
        let phases = first.phases.iter().enumerate();
        phases
            .filter(|(index, _)| did_something(*index))
            .map(|(index, phase)| Summary {
                workload: self.name.clone(),
                phase: (first.phases.len() > 1).then(|| phase.name.clone()),
                rows: self.rows(index),
            })
            .collect()
    }

    fn rows(&self, phase: usize) -> Vec<Row> {
        let row = |system: &SystemRuns| {
            let same = |first: &&SystemRuns| first.acks() == system.acks();
            let reference = self.systems.iter().find(same)?.throughputs(phase);
            system.row(phase, &reference)
        };
        self.systems.iter().filter_map(row).collect()
    }
}

impl SystemRuns {
    fn phases(&self, phase: usize) -> impl Iterator<Item = &PhaseReport> {
        self.done().filter_map(move |run| run.phases.get(phase))
    }

    /// The class that was asked for; none if no run was made.
    fn acks(&self) -> Option<Acks> {
        Some(self.done().next()?.workload.as_ref()?.acks)
    }

    /// By run; none where it failed.
    fn throughputs(&self, phase: usize) -> Vec<Option<f64>> {
        let rate = |run: &Option<LoadReport>| {
            let phase = run.as_ref()?.phases.get(phase)?;
            Some(phase.throughput.records_per_second)
        };
        self.runs.iter().map(rate).collect()
    }

    fn row(&self, phase: usize, reference: &[Option<f64>]) -> Option<Row> {
        let of = |figure: &dyn Fn(&PhaseReport) -> Option<f64>| {
            Spread::of(self.phases(phase).filter_map(figure))
        };
        let latency = |at: fn(&crate::latency::LatencySummary) -> f64| {
            of(&|phase| phase.latency.as_ref().map(|latency| at(&latency.summary)))
        };
        let own = self.throughputs(phase);
        let ratios = reference
            .iter()
            .zip(&own)
            .filter_map(|(first, own)| share((*first)?, (*own)?));
        let failed = self.phases(phase).map(PhaseReport::failed_records);
        let tailed = self.done().filter_map(|run| run.delivery.as_ref());
        let tailed = tailed.map(Delivery::wrong);
        Some(Row {
            system: self.name.clone(),
            durability: self.done().next()?.system.durability.clone(),
            records_per_second: Spread::of(own.iter().copied().flatten())?,
            mb_per_second: of(&|phase| Some(phase.throughput.mb_per_second))?,
            p50_us: latency(|summary| summary.p50_us),
            p99_us: latency(|summary| summary.p99_us),
            p999_us: latency(|summary| summary.p999_us),
            server_seconds_per_gb: of(&server_seconds_per_gb),
            first_over_this: Spread::of(ratios),
            failed_records: failed.chain(tailed).sum(),
            shares: self.shares(phase),
        })
    }

    /// What the shares of the first run are of, and their ratios in all runs.
    fn shares(&self, phase: usize) -> Vec<(String, Spread)> {
        let first = self.phases(phase).next();
        let names = first.into_iter().flat_map(|first| &first.shares);
        let spread = |name: &str| {
            let shares = self.phases(phase).flat_map(|phase| &phase.shares);
            let ratios = shares
                .filter(|share| share.of == name)
                .map(|share| share.ratio);
            Some((name.to_owned(), Spread::of(ratios)?))
        };
        names.filter_map(|share| spread(&share.of)).collect()
    }
}

fn server_seconds_per_gb(phase: &PhaseReport) -> Option<f64> {
    let server = phase.server.as_ref()?;
    Some(server.user_seconds_per_gb? + server.system_seconds_per_gb?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::tests::report;

    fn run(records_per_second: f64) -> LoadReport {
        let mut report = report();
        report.phases[0].throughput.records_per_second = records_per_second;
        report
    }

    fn runs(name: &str, rates: &[f64]) -> SystemRuns {
        SystemRuns {
            name: name.to_owned(),
            runs: rates.iter().map(|rate| Some(run(*rate))).collect(),
        }
    }

    /// Two systems, three runs each.
    pub(crate) fn workload() -> WorkloadRuns {
        WorkloadRuns {
            name: "w".to_owned(),
            systems: vec![
                runs("first", &[100.0, 200.0, 400.0]),
                runs("second", &[50.0, 50.0, 400.0]),
            ],
        }
    }

    #[test]
    fn ratios_are_those_of_runs_side_by_side() {
        let summary = workload().summary();
        assert_eq!(summary.len(), 1);
        let [first, second] = summary[0].rows.as_slice() else {
            panic!("two systems")
        };
        let one = Spread {
            median: 1.0,
            min: 1.0,
            max: 1.0,
        };
        assert_eq!(first.first_over_this, Some(one));
        // 2, 4 and 1, although the medians' ratio would be 4.
        let ratio = second.first_over_this.expect("three runs");
        assert_eq!((ratio.median, ratio.min, ratio.max), (2.0, 1.0, 4.0));
        let rates = first.records_per_second;
        assert!((rates.median - 200.0).abs() < 1e-9);
    }

    #[test]
    fn a_phase_in_which_nothing_was_done_has_no_summary() {
        let mut workload = workload();
        for run in workload
            .systems
            .iter_mut()
            .flat_map(|system| system.runs.iter_mut().flatten())
        {
            let mut pause = run.phases[0].clone();
            pause.throughput.records = 0;
            run.phases.push(pause);
        }
        let summary = workload.summary();
        assert_eq!(summary.len(), 1);
        assert_eq!(summary[0].phase.as_deref(), Some("as fast as possible"));
    }

    #[test]
    fn a_guard_holds_the_median_of_the_shares() {
        let mut workload = workload();
        let runs = workload.systems[0].runs.iter_mut().flatten();
        for (run, ratio) in runs.zip([0.9, 0.5, 0.6]) {
            run.phases[0].shares.push(crate::shares::Share {
                of: "the lower ceiling".to_owned(),
                measured: ratio,
                ceiling: 1.0,
                unit: "MB/s",
                ratio,
            });
        }
        let summary = workload.summary();
        let holds = |at_least, at_most, of: &str| {
            let guard = Guard {
                workload: "w".to_owned(),
                system: "first".to_owned(),
                of: of.to_owned(),
                at_least,
                at_most,
            };
            guarded(&[guard], &summary)[0].holds()
        };
        let ceiling = "the lower ceiling";
        assert!(holds(Some(0.6), None, ceiling) && holds(None, Some(0.6), ceiling));
        assert!(!holds(Some(0.61), None, ceiling) && !holds(None, Some(0.59), ceiling));
        assert!(!holds(Some(0.0), None, "something that was not measured"));
    }

    #[test]
    fn a_failed_run_leaves_the_pairs_of_the_others() {
        let mut workload = workload();
        workload.systems[0].runs[0] = None;
        let summary = workload.summary();
        let ratio = summary[0].rows[1].first_over_this.expect("two pairs");
        assert!((ratio.max - 4.0).abs() < 1e-9 && (ratio.min - 1.0).abs() < 1e-9);
    }

    #[test]
    fn no_values_have_no_spread() {
        assert_eq!(Spread::of([]), None);
    }
}
