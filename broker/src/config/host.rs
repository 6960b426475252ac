//! What this host offers the process: CPUs and memory. Defaults are made from it.

use std::path::Path;
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity};

use super::cgroup::CgroupLimits;

/// The part of the host that this process may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The CPUs its affinity mask allows, ascending; at least one.
    pub cpus: Vec<usize>,
    /// Its CPU quota in whole CPUs, rounded up; `None`: unlimited.
    pub cpu_quota: Option<usize>,
    /// Physical memory or the smallest cgroup limit, whichever is less.
    pub memory_bytes: u64,
}

impl Host {
    /// Asks the kernel. Reads a few small files; starts nothing.
    pub fn detect() -> Self {
        let cgroup = CgroupLimits::read(Path::new("/proc/self"));
        let memory_bytes = physical_memory_bytes();
        Self {
            cpus: allowed_cpus(),
            cpu_quota: cgroup.cpus,
            memory_bytes: cgroup
                .memory_bytes
                .map_or(memory_bytes, |most| most.min(memory_bytes)),
        }
    }

    /// The CPUs used by default: those allowed, no more than the quota pays for.
    pub(super) fn default_cpus(&self) -> Vec<usize> {
        let count = self.cpu_quota.unwrap_or(usize::MAX).max(1);
        self.cpus.iter().copied().take(count).collect()
    }
}

fn allowed_cpus() -> Vec<usize> {
    let allowed: Vec<usize> = sched_getaffinity(None)
        .map(|set| {
            (0..CpuSet::MAX_CPU)
                .filter(|cpu| set.is_set(*cpu))
                .collect()
        })
        .unwrap_or_default();
    if allowed.is_empty() {
        // More CPUs than the mask can hold: the call fails there.
        return (0..thread::available_parallelism().map_or(1, usize::from)).collect();
    }
    allowed
}

fn physical_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_caps_the_default_cores_but_never_to_none() {
        let host = |cpu_quota| Host {
            cpus: vec![2, 4, 6],
            cpu_quota,
            memory_bytes: 1 << 30,
        };
        assert_eq!(host(None).default_cpus(), [2, 4, 6]);
        assert_eq!(host(Some(2)).default_cpus(), [2, 4]);
        assert_eq!(host(Some(9)).default_cpus(), [2, 4, 6]);
        assert_eq!(host(Some(0)).default_cpus(), [2]);
    }

    #[test]
    fn this_host_has_a_cpu_and_memory() {
        let host = Host::detect();
        assert!(!host.cpus.is_empty() && host.cpus.is_sorted());
        assert!(host.memory_bytes > 0);
    }
}
