//! The evidence as people read it.

use super::Evidence;

/// Prints it to standard output; the last line is the verdict.
pub fn print(evidence: &Evidence) {
    println!("{:<28} {:>9}  details", "what", "count");
    for (name, report) in &evidence.cuts {
        println!(
            "{:<28} {:>9}  {} while starting; unflushed sectors: {} lost, {} kept; \
             {} acknowledged, {} polled",
            format!("power cuts on {name}"),
            report.survived,
            report.while_starting,
            report.sectors.lost,
            report.sectors.kept,
            report.acknowledged,
            report.polled
        );
    }
    for (name, report) in &evidence.faults {
        let injected: u64 = report.injected.values().sum();
        println!(
            "{:<28} {injected:>9}  {} acknowledged",
            format!("fault: {name}"),
            report.acknowledged
        );
    }
    for (name, tries) in &evidence.planted {
        let found = tries.map_or("NOT CAUGHT".to_owned(), |tries| {
            format!("caught at try {tries}")
        });
        println!("{:<38}  {found}", format!("planted: {name}"));
    }
    if let Some(flips) = &evidence.flips {
        println!(
            "{:<28} {:>9}  {} detected, {} harmless, {} wrong",
            "flipped bits",
            flips.tried,
            flips.detected,
            flips.harmless,
            flips.wrong.len()
        );
    }
    for finding in &evidence.programs {
        println!("{:<28} {:>9}  {}", finding.tier, "", finding.summary);
    }
    for reason in &evidence.left_out {
        println!("{:<28} {:>9}  {reason}", "left out", "");
    }
    for anomaly in &evidence.anomalies {
        println!("{:<28} {:>9}  {anomaly}", "ANOMALY", "");
    }
    println!(
        "{:<28} {:>9}  seconds",
        "wall time",
        evidence.wall.as_secs()
    );
    let found = evidence.planted.values().flatten().count();
    println!(
        "anomalies {}, planted bugs caught {found}/{}",
        evidence.anomalies.len(),
        evidence.planted.len()
    );
}
