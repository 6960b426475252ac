//! The text form of a comparison. Pure.

use std::fmt::Write as _;

use super::figures::{Comparison, Guarded, Row, Spread, Summary};
use crate::report::PhaseReport;
use crate::report::text::time;

const COLUMNS: [&str; 8] = [
    "system",
    "records/s",
    "MB/s",
    "p50",
    "p99",
    "p99.9",
    "server CPU s/GB",
    "first / this",
];

pub(super) fn render(comparison: &Comparison) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "command     {}", comparison.command);
    let _ = writeln!(text, "machine     {}", comparison.machine.line());
    if comparison.is_quick {
        let _ = writeln!(
            text,
            "note        a quick run: it shows that all works, nothing else"
        );
    }
    for left_out in &comparison.left_out {
        let _ = writeln!(text, "left out    {}: {}", left_out.name, left_out.reason);
    }
    for failed in &comparison.failed {
        let (workload, system, error) = (&failed.workload, &failed.system, &failed.error);
        let _ = writeln!(text, "failed      {workload} on {system}: {error}");
    }
    for (system, durability) in durabilities(comparison) {
        let _ = writeln!(text, "durability  {system}: {durability}");
    }
    for summary in &comparison.summary {
        render_summary(&mut text, summary);
    }
    if !comparison.guards.is_empty() {
        text.push('\n');
    }
    for guarded in &comparison.guards {
        let _ = writeln!(text, "guard       {}", guard(guarded));
    }
    text
}

/// What each system was asked for and how that was verified, each said once.
pub(super) fn durabilities(comparison: &Comparison) -> Vec<(String, String)> {
    let mut said = Vec::new();
    let systems = comparison.workloads.iter().flat_map(|each| &each.systems);
    for system in systems {
        for run in system.done() {
            let verified = match &run.system.verified {
                Some(how) => format!("verified: {how}"),
                None => "not verified".to_owned(),
            };
            let facts = &run.system;
            let words = format!("{}; {} ({verified})", facts.system, facts.durability);
            let entry = (system.name.clone(), words);
            if !said.contains(&entry) {
                said.push(entry);
            }
        }
    }
    said
}

fn render_summary(text: &mut String, summary: &Summary) {
    let _ = writeln!(text, "\n{}", title(summary));
    let rows: Vec<_> = summary.rows.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([COLUMNS[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let head = COLUMNS.map(str::to_owned);
    for row in std::iter::once(&head).chain(&rows) {
        let padded = row.iter().zip(&widths).enumerate();
        let cells = padded.map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        let _ = writeln!(text, "  {}", cells.collect::<Vec<_>>().join("  "));
    }
    for share in summary.rows.iter().flat_map(shares) {
        let _ = writeln!(text, "  {share}");
    }
}

/// The shares of a row, in words.
pub(super) fn shares(row: &Row) -> Vec<String> {
    let one = |(of, share): &(String, Spread)| format!("{}: {} of {of}", row.system, ratio(*share));
    row.shares.iter().map(one).collect()
}

/// The main figures of a phase, in one line.
pub(super) fn phase(phase: &PhaseReport) -> String {
    let rate = phase.throughput.records_per_second;
    let latency = phase.latency.as_ref().map_or_else(String::new, |latency| {
        format!(", p99 {}", time(latency.summary.p99_us))
    });
    format!("{rate:.0} records/s{latency}")
}

/// A guard and whether it holds, in words.
pub(super) fn guard(guarded: &Guarded) -> String {
    let guard = &guarded.guard;
    let verdict = if guarded.holds() { "holds" } else { "FAILS" };
    let bound = match (guard.at_least, guard.at_most) {
        (Some(bound), _) => format!("at least {bound}"),
        (None, Some(bound)) => format!("at most {bound}"),
        (None, None) => String::new(),
    };
    let share = guarded
        .share
        .map_or_else(|| "not measured".to_owned(), ratio);
    let (workload, system, of) = (&guard.workload, &guard.system, &guard.of);
    format!("{verdict}: {workload} on {system}: {share} of {of}, {bound}")
}

/// The workload and its phase.
pub(super) fn title(summary: &Summary) -> String {
    match &summary.phase {
        Some(phase) => format!("{}, {phase}", summary.workload),
        None => summary.workload.clone(),
    }
}

/// A row of the table; a median stands before the range of the runs.
pub(super) fn cells(row: &Row) -> [String; 8] {
    let failed = match row.failed_records {
        0 => String::new(),
        records => format!(" ({records} records failed or lost)"),
    };
    [
        format!("{}{failed}", row.system),
        spread(row.records_per_second, |value| format!("{value:.0}")),
        spread(row.mb_per_second, |value| format!("{value:.1}")),
        row.p50_us.map_or_else(String::new, |it| spread(it, time)),
        row.p99_us.map_or_else(String::new, |it| spread(it, time)),
        row.p999_us.map_or_else(String::new, |it| spread(it, time)),
        optional(row.server_seconds_per_gb),
        optional(row.first_over_this),
    ]
}

/// The names of the columns of [`cells`].
pub(super) fn columns() -> Vec<String> {
    COLUMNS.map(str::to_owned).to_vec()
}

fn optional(value: Option<Spread>) -> String {
    value.map_or_else(String::new, ratio)
}

fn ratio(value: Spread) -> String {
    spread(value, |value| format!("{value:.2}"))
}

fn spread(spread: Spread, write: impl Fn(f64) -> String) -> String {
    let (median, min, max) = (write(spread.median), write(spread.min), write(spread.max));
    if min == max {
        return median;
    }
    format!("{median} ({min}..{max})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_stands_behind_its_median_unless_there_is_none() {
        let values = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(optional(values(&[1.0, 3.0, 2.0])), "2.00 (1.00..3.00)");
        assert_eq!(optional(values(&[1.0, 1.001])), "1.00");
        assert_eq!(optional(None), "");
    }
}
