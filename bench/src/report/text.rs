//! The text form of a report. Pure.

use std::fmt::Write as _;

use super::{Delivery, LoadReport, ScheduleReport};
use crate::compare::Share;
use crate::latency::LatencySummary;
use crate::server::ProcessUse;

/// Labels are padded to one column so that reports can be compared by eye.
pub(super) fn render(report: &LoadReport) -> String {
    let mut text = String::new();
    line(&mut text, "command", &report.command);
    line(&mut text, "machine", &report.machine.line());
    line(&mut text, "durability", report.durability);
    if let Some(segments) = report.segments {
        let counts = format!(
            "{} recycled, {} created",
            segments.recycled, segments.created
        );
        line(
            &mut text,
            "segments",
            &format!("{} ({counts})", segments.summary),
        );
    }
    line(&mut text, "throughput", &throughput(report));
    if let Some(latency) = &report.latency {
        line(
            &mut text,
            "latency",
            &latency_line(latency, report.latency_from),
        );
    }
    if let Some(latency) = &report.ack_latency {
        line(
            &mut text,
            "ack latency",
            &latency_line(latency, "intended send to ack"),
        );
    }
    if let Some(schedule) = &report.schedule {
        line(&mut text, "schedule", &schedule_line(schedule));
    }
    if let Some(delivery) = &report.delivery {
        line(&mut text, "delivery", &delivery_line(delivery));
    }
    if let Some(server) = &report.server {
        line(&mut text, "server", &process_line(server));
    }
    if let Some(generator) = &report.generator {
        line(&mut text, "generator", &process_line(generator));
    }
    for share in &report.shares {
        line(&mut text, "ceiling", &share_line(share));
    }
    if report.errors.is_empty() {
        line(&mut text, "errors", "none");
    }
    for (kind, records) in &report.errors {
        line(&mut text, "errors", &format!("{records} records: {kind}"));
    }
    for remark in &report.remarks {
        line(&mut text, "note", remark);
    }
    text
}

fn line(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "{label:<11} {value}");
}

fn throughput(report: &LoadReport) -> String {
    let rates = &report.throughput;
    let mut text = format!(
        "{:.1} MB/s, {:.0} records/s",
        rates.mb_per_second, rates.records_per_second
    );
    if report.call_unit != "records" {
        let _ = write!(
            text,
            ", {:.0} {}/s",
            rates.calls_per_second, report.call_unit
        );
    }
    let _ = write!(
        text,
        " ({} records, {} bytes in {:.1} s)",
        rates.records, rates.bytes, report.measured_seconds
    );
    text
}

fn latency_line(latency: &LatencySummary, from: &str) -> String {
    let mut text = format!(
        "p50 {}, p90 {}, p99 {}, p99.9 {}, max {} ({from}; {} measured)",
        time(latency.p50_us),
        time(latency.p90_us),
        time(latency.p99_us),
        time(latency.p999_us),
        time(latency.max_us),
        latency.count
    );
    if latency.saturated > 0 {
        let _ = write!(text, "; {} beyond the histogram", latency.saturated);
    }
    text
}

fn schedule_line(schedule: &ScheduleReport) -> String {
    format!(
        "{} records/s wanted; {} calls started more than {} late, the worst {}",
        schedule.records_per_second_wanted,
        schedule.late_calls,
        time(schedule.late_means_us),
        time(schedule.worst_us)
    )
}

fn delivery_line(delivery: &Delivery) -> String {
    format!(
        "{} acknowledged, {} received, {} missing, {} repeated (warm-up included)",
        delivery.acknowledged, delivery.received, delivery.missing, delivery.repeated
    )
}

fn process_line(used: &ProcessUse) -> String {
    let cost = match (used.user_seconds_per_gb, used.system_seconds_per_gb) {
        (Some(user), Some(system)) => format!("{user:.3} user + {system:.3} system CPU s/GB, "),
        _ => String::new(),
    };
    format!(
        "{cost}{:.2} cores busy, {:.1} -> {:.1} MiB resident (peak {:.1}), {} threads",
        used.cores_busy,
        used.resident_before_mib,
        used.resident_after_mib,
        used.resident_peak_mib,
        used.threads
    )
}

fn share_line(share: &Share) -> String {
    format!(
        "{:.2} x {} ({:.1} of {:.1} {})",
        share.ratio, share.of, share.measured, share.ceiling, share.unit
    )
}

/// Microseconds in the unit that reads best.
fn time(us: f64) -> String {
    if us < 1_000.0 {
        format!("{us:.0} us")
    } else if us < 1_000_000.0 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{:.2} s", us / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_keep_three_digits_or_so() {
        assert_eq!(time(250.4), "250 us");
        assert_eq!(time(1_250.0), "1.25 ms");
        assert_eq!(time(2_500_000.0), "2.50 s");
    }
}
