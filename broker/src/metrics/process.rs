//! The process as the kernel sees it: memory, descriptors, CPU. Read from `/proc` per scrape.

use std::fs;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::export::{encode_counter, encode_gauge};

/// Numbers that could not be read are left out, as a scrape must not fail for them.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
    if let Some(bytes) = resident_bytes() {
        let mut metric = encoder.encode_descriptor(
            "process_resident_memory_bytes",
            "Resident memory",
            None,
            MetricType::Gauge,
        )?;
        encode_gauge(&mut metric, &bytes)?;
    }
    if let Some(count) = open_descriptors() {
        let mut metric = encoder.encode_descriptor(
            "process_open_fds",
            "Open file descriptors",
            None,
            MetricType::Gauge,
        )?;
        encode_gauge(&mut metric, &count)?;
    }
    if let Some(seconds) = cpu_seconds() {
        let mut metric = encoder.encode_descriptor(
            "process_cpu_seconds",
            "User and system CPU time",
            None,
            MetricType::Counter,
        )?;
        encode_counter(&mut metric, &seconds)?;
    }
    Ok(())
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
    Some(pages * page_bytes)
}

fn open_descriptors() -> Option<u64> {
    // One of them is the directory being read.
    u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count())
        .ok()?
        .checked_sub(1)
}

fn cpu_seconds() -> Option<f64> {
    cpu_ticks(&fs::read_to_string("/proc/self/stat").ok()?).map(|ticks| {
        super::histogram::as_f64(ticks)
            / super::histogram::as_f64(rustix::param::clock_ticks_per_second())
    })
}

/// `utime + stime` of a line of `/proc/PID/stat`. The command name before them may contain
/// spaces and parentheses, so counting starts behind the last closing one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_survive_a_hostile_command_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 900 0 0 0 17 5 0 0 20 0 3 0 100 1 2";
        assert_eq!(cpu_ticks(stat), Some(22));
        assert_eq!(cpu_ticks("42 (short) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 0));
        assert!(open_descriptors().is_some_and(|count| count >= 3));
        assert!(cpu_seconds().is_some());
    }
}
