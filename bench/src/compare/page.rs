//! A comparison as a page for a browser.

use anyhow::Result;

use super::figures::{Comparison, Summary, SystemRuns, WorkloadRuns};
use super::text;
use crate::report::html::{curve, latency_chart, throughput_chart};
use crate::report::page::{Chart, Line, Page, Section, Table};
use crate::report::{LoadReport, PhaseReport};

/// The page of `comparison`.
pub(super) fn of(comparison: &Comparison) -> Result<Page> {
    let mut facts = vec![
        ("Command".to_owned(), comparison.command.clone()),
        ("Machine".to_owned(), comparison.machine.line()),
    ];
    let left_out = comparison.left_out.iter();
    facts.extend(left_out.map(|it| (format!("{}, left out", it.name), it.reason.clone())));
    let failed = comparison.failed.iter();
    facts.extend(failed.map(|it| (format!("{}, failed", it.system), it.error.clone())));
    facts.extend(text::durabilities(comparison));
    Ok(Page {
        title: "catena-bench compare".to_owned(),
        facts,
        sections: comparison
            .workloads
            .iter()
            .map(|it| section(it, comparison))
            .collect(),
        data: serde_json::to_string(comparison)?,
    })
}

fn section(workload: &WorkloadRuns, comparison: &Comparison) -> Section {
    let own = |summary: &&Summary| summary.workload == workload.name;
    let summaries: Vec<_> = comparison.summary.iter().filter(own).collect();
    let mut lines = vec![
        "Medians, with the range of the runs behind them. \"First / this\" is the throughput of \
         the first system of the same durability class over that of this one, run by run."
            .to_owned(),
    ];
    let rows = summaries.iter().flat_map(|summary| &summary.rows);
    lines.extend(rows.flat_map(text::shares));
    let guards = comparison.guards.iter();
    let own = guards.filter(|guarded| guarded.guard.workload == workload.name);
    lines.extend(own.map(|guarded| format!("Guard: {}", text::guard(guarded))));
    if comparison.is_quick {
        lines.push("A quick run: it shows that all works, nothing else.".to_owned());
    }
    Section {
        title: workload.name.clone(),
        text: lines,
        tables: summaries.iter().map(|summary| table(summary)).collect(),
        charts: charts(workload),
    }
}

fn table(summary: &Summary) -> Table {
    let mut head = text::columns();
    if let Some(phase) = &summary.phase {
        head[0].clone_from(phase);
    }
    let rows = summary.rows.iter().map(|row| text::cells(row).to_vec());
    Table {
        head,
        rows: rows.collect(),
    }
}

/// The curves of each system's middle run: those of several runs would hide each other.
fn charts(workload: &WorkloadRuns) -> Vec<Chart> {
    let runs = workload.systems.iter();
    let runs: Vec<_> = runs
        .filter_map(|system| Some((&system.name, middle(system)?)))
        .collect();
    let latencies = runs.iter().flat_map(|(name, run)| {
        let several = run.phases.len() > 1;
        run.phases.iter().filter_map(move |phase| {
            let name = if several {
                format!("{name}, {}", phase.name)
            } else {
                (*name).clone()
            };
            Some(curve(name, phase.latency.as_ref()?))
        })
    });
    let rates = runs.iter().map(|(name, run)| {
        let points = run.series.iter();
        Line {
            name: (*name).clone(),
            points: points
                .map(|it| (it.seconds, it.produced_records_per_second))
                .collect(),
        }
    });
    vec![
        latency_chart(latencies.collect()),
        throughput_chart(rates.collect()),
    ]
}

/// The run whose throughput is the median of all, or beside it.
fn middle(system: &SystemRuns) -> Option<&LoadReport> {
    let records = |phase: &PhaseReport| phase.throughput.records;
    let all = |run: &&LoadReport| run.phases.iter().map(records).sum::<u64>();
    let mut runs: Vec<&LoadReport> = system.done().collect();
    runs.sort_by_key(all);
    runs.get(runs.len() / 2).copied()
}
