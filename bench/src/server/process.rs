//! One sample of a process from `/proc/PID/stat` and `/proc/PID/status`.

use std::fs;

use anyhow::{Context, Result};

use crate::machine::{field, kib};
use crate::rate::number;

/// Counters of a process since its start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProcessSample {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    pub(crate) resident_kib: u64,
    pub(crate) threads: u64,
}

/// Samples process `pid` now; all its threads together.
pub(crate) fn sample(pid: u32) -> Result<ProcessSample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    parse(&stat, &status, rustix::param::clock_ticks_per_second())
        .with_context(|| format!("/proc/{pid}/stat has an unknown layout"))
}

/// Fields 14 and 15 of stat are user and system ticks. The command in field 2 may hold spaces
/// and parentheses, so counting starts after the last one.
fn parse(stat: &str, status: &str, ticks_per_second: u64) -> Option<ProcessSample> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = number(ticks_per_second);
    Some(ProcessSample {
        user_seconds: number(user) / ticks,
        system_seconds: number(system) / ticks,
        resident_kib: field(status, "VmRSS").map_or(0, kib),
        threads: field(status, "Threads").map_or(0, kib),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_shift_the_fields() {
        let stat = "12 (a) (b c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 100 0 0";
        let status = "Name:\tx\nVmRSS:\t  2048 kB\nThreads:\t3\n";
        let sample = parse(stat, status, 100).expect("well formed");
        assert!((sample.user_seconds - 2.5).abs() < 1e-9);
        assert!((sample.system_seconds - 0.5).abs() < 1e-9);
        assert_eq!((sample.resident_kib, sample.threads), (2048, 3));
    }

    #[test]
    fn foreign_text_is_refused() {
        assert_eq!(parse("nonsense", "", 100), None);
        assert_eq!(parse("1 (x) S 1 2", "", 100), None);
    }
}
