//! The report of a load run as a page for a browser.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::page::{Axis, Chart, Line, Page, Section, Table};
use super::text::time;
use super::{LatencyReport, LoadReport, PhaseReport, text};
use crate::load::meter::SeriesPoint;

/// Writes `report` to `path`.
pub(crate) fn write(path: &Path, report: &LoadReport) -> Result<()> {
    let page = page(report)?.render()?;
    fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn page(report: &LoadReport) -> Result<Page> {
    let phases = Section {
        title: "Phases".to_owned(),
        text: remarks(report),
        tables: vec![table(report)],
        charts: charts(report),
    };
    Ok(Page {
        title: format!("catena-bench {}", report.work),
        facts: facts(report),
        sections: vec![phases],
        data: serde_json::to_string(report)?,
    })
}

fn facts(report: &LoadReport) -> Vec<(String, String)> {
    let system = &report.system;
    let verified = system.verified.as_deref().unwrap_or("not verified");
    let mut facts = vec![
        ("Command", report.command.clone()),
        ("Machine", report.machine.line()),
        ("System", system.system.clone()),
        ("Durability", system.durability.clone()),
        ("Verified by", verified.to_owned()),
    ];
    facts.extend(system.batch.clone().map(|batch| ("Batches", batch)));
    facts.extend(
        report
            .segments
            .map(|segments| ("Segments", segments.summary.to_owned())),
    );
    facts.extend(report.knee.as_ref().map(|knee| ("Knee", knee.describe())));
    let facts = facts.into_iter();
    facts
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn remarks(report: &LoadReport) -> Vec<String> {
    let delivery = report.delivery.as_ref().map(text::delivery_line);
    let phases = report.phases.iter().flat_map(|phase| {
        let told = |what: String| format!("{}: {what}", phase.name);
        let read_back = phase.delivery.as_ref().map(text::delivery_line);
        let errors = phase.errors.iter();
        let errors = errors.map(|(kind, records)| format!("{records} records: {kind}"));
        read_back.into_iter().chain(errors).map(told)
    });
    let remarks = report.remarks.iter().cloned();
    remarks.chain(delivery).chain(phases).collect()
}

fn table(report: &LoadReport) -> Table {
    let head = [
        "phase",
        "records/s",
        "MB/s",
        "p50",
        "p99",
        "p99.9",
        "max",
        "failed",
    ];
    Table {
        head: head.map(str::to_owned).to_vec(),
        rows: report.phases.iter().map(row).collect(),
    }
}

fn row(phase: &PhaseReport) -> Vec<String> {
    let mut row = vec![
        phase.name.clone(),
        format!("{:.0}", phase.throughput.records_per_second),
        format!("{:.1}", phase.throughput.mb_per_second),
    ];
    match &phase.latency {
        Some(LatencyReport { summary, .. }) => row.extend(
            [
                summary.p50_us,
                summary.p99_us,
                summary.p999_us,
                summary.max_us,
            ]
            .map(time),
        ),
        None => row.extend([const { String::new() }; 4]),
    }
    row.push(phase.failed_records().to_string());
    row
}

fn charts(report: &LoadReport) -> Vec<Chart> {
    let latencies = report.phases.iter().flat_map(|phase| {
        let named = |suffix: &str| format!("{}{suffix}", phase.name);
        let main = phase.latency.as_ref().map(|it| curve(named(""), it));
        let acks = phase
            .ack_latency
            .as_ref()
            .map(|it| curve(named(", acks"), it));
        main.into_iter().chain(acks)
    });
    let mut charts = vec![
        latency_chart(latencies.collect()),
        throughput_chart(throughputs(&report.series)),
    ];
    // Latency over the rate, where there are several rates.
    if report.knee.is_some() {
        charts.push(knee_chart(report));
    }
    charts
}

fn knee_chart(report: &LoadReport) -> Chart {
    let line = |name: &str, at: fn(&crate::latency::LatencySummary) -> f64| {
        let point = |phase: &PhaseReport| {
            phase.schedule?;
            let latency = phase.latency.as_ref()?;
            Some((phase.throughput.records_per_second, at(&latency.summary)))
        };
        Line {
            name: name.to_owned(),
            points: report.phases.iter().filter_map(point).collect(),
        }
    };
    Chart {
        title: "Latency by rate".to_owned(),
        x: Axis::RecordsPerSecond,
        y: Axis::Latency,
        lines: vec![
            line("p50", |summary| summary.p50_us),
            line("p99", |summary| summary.p99_us),
            line("p99.9", |summary| summary.p999_us),
        ],
    }
}

/// The distribution of latencies, one line each.
pub(crate) fn latency_chart(lines: Vec<Line>) -> Chart {
    Chart {
        title: "Latency by percentile".to_owned(),
        x: Axis::Percentile,
        y: Axis::Latency,
        lines,
    }
}

/// A distribution as a line.
pub(crate) fn curve(name: String, latency: &LatencyReport) -> Line {
    Line {
        name,
        points: latency
            .curve
            .iter()
            .map(|it| (it.quantile, it.us))
            .collect(),
    }
}

/// Throughput over time, one line each.
pub(crate) fn throughput_chart(lines: Vec<Line>) -> Chart {
    Chart {
        title: "Throughput over time".to_owned(),
        x: Axis::Seconds,
        y: Axis::RecordsPerSecond,
        lines,
    }
}

/// What was acknowledged and what was received, as far as there was any.
fn throughputs(series: &[SeriesPoint]) -> Vec<Line> {
    let line = |name: &str, rate: fn(&SeriesPoint) -> f64| Line {
        name: name.to_owned(),
        points: series
            .iter()
            .map(|point| (point.seconds, rate(point)))
            .collect(),
    };
    let lines = [
        line("acknowledged", |point| point.produced_records_per_second),
        line("received", |point| point.received_records_per_second),
    ];
    let has_any = |line: &Line| line.points.iter().any(|(_, rate)| *rate > 0.0);
    lines.into_iter().filter(has_any).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_page_has_the_figures_and_what_they_were_measured_on() {
        let page = page(&report()).expect("it can be written as JSON");
        let names: Vec<_> = page.facts.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.starts_with(&["Command", "Machine", "System", "Durability"]));
        let phases = &page.sections[0];
        assert_eq!(phases.tables[0].rows.len(), 1);
        assert_eq!(phases.tables[0].rows[0].len(), phases.tables[0].head.len());
        let latency = &phases.charts[0].lines[0];
        assert_eq!(latency.name, "as fast as possible");
        assert!(!latency.points.is_empty());
        let html = page.render().expect("it can be drawn");
        assert!(html.contains("durable (flushed before the ack)"));
    }
}
