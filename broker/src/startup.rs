//! What the host has to offer, checked before anything is started.
//!
//! What makes the broker impossible is an error with its fix; what only makes it slower or later
//! surprising is a warning in the log. Runs on the starting thread and blocks.

mod disk;

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::limits::{CONNECTIONS_PER_SHARD_MAX, DESCRIPTORS_PER_SHARD};
use crate::runtime::probe::{self, ProbeError};

use disk::Disk;

/// 2025-01-01. A clock before the software was written is a clock that was never set.
const CLOCK_PLAUSIBLE: Duration = Duration::from_secs(1_735_689_600);

/// Checks what `shards` executors need of the kernel, and raises the limit of open files as far
/// as this process may.
///
/// Fails with the probe's message if `io_uring` is missing.
pub fn check_host(shards: usize) -> Result<(), ProbeError> {
    probe::io_uring()?;
    let (limit, wanted) = (raise_open_files(), open_files_wanted(shards));
    if let Some(limit) = limit.filter(|limit| *limit < wanted) {
        warn!(
            limit,
            wanted,
            "the limit of open files is below what all connections need; \
             fix: LimitNOFILE in the service unit, or ulimit -n"
        );
    }
    if !is_plausible(SystemTime::now()) {
        warn!(
            "the clock of this host is before 2025; retention by age and timestamps depend on it"
        );
    }
    Ok(())
}

/// What is wrong with the disk under `dir`, when a start has failed there: the probe names the
/// cause more plainly than the call that failed. `None` if it finds nothing, or only what that
/// call said too.
pub fn diagnose_disk(dir: &Path) -> Option<ProbeError> {
    let found = probe::direct_io(dir).err();
    found.filter(|found| !matches!(found, ProbeError::Directory { .. }))
}

/// Logs what the kernel knows of the disk under `dir`, if it knows it.
pub fn describe_disk(dir: &Path) {
    if let Some(disk) = Disk::under(dir) {
        info!(
            write_cache = disk.write_cache,
            fua = disk.fua,
            "disk of the data directory"
        );
    }
}

/// Raises the soft limit of open files to the hard one; the limit then, `None` if unlimited.
fn raise_open_files() -> Option<u64> {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: found.maximum,
        maximum: found.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => found.maximum,
        Err(error) => {
            warn!(%error, "cannot raise the limit of open files");
            found.current
        }
    }
}

fn open_files_wanted(shards: usize) -> u64 {
    let per_shard = CONNECTIONS_PER_SHARD_MAX + DESCRIPTORS_PER_SHARD;
    u64::try_from(shards.saturating_mul(per_shard)).unwrap_or(u64::MAX)
}

fn is_plausible(now: SystemTime) -> bool {
    now >= SystemTime::UNIX_EPOCH + CLOCK_PLAUSIBLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unset_clock_is_noticed() {
        assert!(!is_plausible(SystemTime::UNIX_EPOCH));
        assert!(is_plausible(SystemTime::now()));
    }

    #[test]
    fn open_files_are_raised_to_the_hard_limit() {
        let limit = raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, limit);
    }

    #[test]
    fn every_connection_of_every_shard_is_counted() {
        assert_eq!(open_files_wanted(2), 2 * open_files_wanted(1));
        assert!(open_files_wanted(1) > 20_000);
    }
}
