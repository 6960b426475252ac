//! The text form of a report. Pure.

use std::fmt::Write as _;

use super::{Delivery, LatencyReport, LoadReport, PhaseReport, ScheduleReport, Throughput};
use crate::server::ProcessUse;
use crate::shares::Share;

/// Labels are padded to one column so that reports can be compared by eye.
pub(super) fn render(report: &LoadReport) -> String {
    let mut text = String::new();
    line(&mut text, "command", &report.command);
    line(&mut text, "machine", &report.machine.line());
    line(&mut text, "system", &report.system.system);
    line(&mut text, "durability", &durability_line(report));
    if let Some(batch) = &report.system.batch {
        line(&mut text, "batches", batch);
    }
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
    for (index, phase) in report.phases.iter().enumerate() {
        if report.phases.len() > 1 {
            let place = format!("{} of {}: {}", index + 1, report.phases.len(), phase.name);
            let _ = writeln!(text);
            line(&mut text, "phase", &place);
        }
        render_phase(&mut text, phase);
    }
    if report.phases.len() > 1 {
        let _ = writeln!(text);
    }
    if let Some(knee) = &report.knee {
        line(&mut text, "knee", &knee.describe());
    }
    if let Some(delivery) = &report.delivery {
        line(&mut text, "delivery", &delivery_line(delivery));
    }
    for remark in &report.remarks {
        line(&mut text, "note", remark);
    }
    text
}

fn render_phase(text: &mut String, phase: &PhaseReport) {
    line(text, "throughput", &throughput(phase));
    if let Some(catch_up) = &phase.catch_up {
        line(text, "catch-up", &rates(catch_up));
    }
    if let Some(latency) = &phase.latency {
        line(text, "latency", &latency_line(latency));
    }
    if let Some(latency) = &phase.ack_latency {
        line(text, "ack latency", &latency_line(latency));
    }
    if let Some(schedule) = &phase.schedule {
        line(text, "schedule", &schedule_line(schedule));
    }
    if let Some(delivery) = &phase.delivery {
        line(text, "read back", &delivery_line(delivery));
    }
    if let Some(server) = &phase.server {
        line(text, "server", &process_line(server));
    }
    if let Some(generator) = &phase.generator {
        line(text, "generator", &process_line(generator));
    }
    for share in &phase.shares {
        line(text, "ceiling", &share_line(share));
    }
    if phase.errors.is_empty() {
        line(text, "errors", "none");
    }
    for (kind, records) in &phase.errors {
        line(text, "errors", &format!("{records} records: {kind}"));
    }
}

fn line(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "{label:<11} {value}");
}

fn durability_line(report: &LoadReport) -> String {
    match &report.system.verified {
        Some(how) => format!("{} (verified: {how})", report.system.durability),
        None => format!("{} (not verified)", report.system.durability),
    }
}

fn rates(rates: &Throughput) -> String {
    format!(
        "{:.1} MB/s, {:.0} records/s",
        rates.mb_per_second, rates.records_per_second
    )
}

fn throughput(phase: &PhaseReport) -> String {
    let throughput = &phase.throughput;
    let mut text = rates(throughput);
    if phase.call_unit != "records" {
        let _ = write!(
            text,
            ", {:.0} {}/s",
            throughput.calls_per_second, phase.call_unit
        );
    }
    let _ = write!(
        text,
        " ({} records, {} bytes in {:.1} s)",
        throughput.records, throughput.bytes, phase.measured_seconds
    );
    text
}

fn latency_line(report: &LatencyReport) -> String {
    let latency = &report.summary;
    let mut text = format!(
        "p50 {}, p90 {}, p99 {}, p99.9 {}, max {} ({}; {} measured)",
        time(latency.p50_us),
        time(latency.p90_us),
        time(latency.p99_us),
        time(latency.p999_us),
        time(latency.max_us),
        report.spans,
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

pub(super) fn delivery_line(delivery: &Delivery) -> String {
    format!(
        "{} acknowledged, {} received, {} missing, {} repeated, {} out of order (warm-up included)",
        delivery.acknowledged,
        delivery.received,
        delivery.missing,
        delivery.repeated,
        delivery.out_of_order
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
pub(crate) fn time(us: f64) -> String {
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
