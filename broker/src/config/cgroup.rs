//! What the control groups of this process allow it: CPU time and memory.
//!
//! Both hierarchies are read (v2, and v1 as older hosts and hybrids mount it). A limit may sit at
//! any level above the process's own group, so every level up to the mount counts and the
//! smallest limit wins. A file that is missing or makes no sense sets no limit.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// The limits found; `None`: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CgroupLimits {
    /// CPU time per second in whole CPUs, rounded up, at least 1.
    pub(super) cpus: Option<usize>,
    pub(super) memory_bytes: Option<u64>,
}

impl CgroupLimits {
    /// Reads the limits of the process whose `/proc` directory is given.
    pub(super) fn read(proc_self: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(proc_self.join(name)).unwrap_or_default();
        let (groups, mounts) = (read("cgroup"), read("mountinfo"));
        let levels = |controller| levels(&groups, &mounts, controller);
        Self {
            cpus: smallest(&levels(Controller::V2), cpus_v2)
                .into_iter()
                .chain(smallest(&levels(Controller::V1("cpu")), cpus_v1))
                .min(),
            memory_bytes: smallest(&levels(Controller::V2), memory_v2)
                .into_iter()
                .chain(smallest(&levels(Controller::V1("memory")), memory_v1))
                .min(),
        }
    }
}

#[derive(Clone, Copy)]
enum Controller {
    V2,
    V1(&'static str),
}

fn smallest<T: Ord>(levels: &[PathBuf], limit: fn(&Path) -> Option<T>) -> Option<T> {
    levels.iter().filter_map(|level| limit(level)).min()
}

/// The directories of a process's group and of all groups above it, as far as they are mounted.
fn levels(groups: &str, mounts: &str, controller: Controller) -> Vec<PathBuf> {
    let group = groups.lines().find_map(|line| group_path(line, controller));
    let mount = mounts
        .lines()
        .find_map(|line| mount_point(line, controller));
    let (Some(group), Some((root, point))) = (group, mount) else {
        return Vec::new();
    };
    // In a namespace the path may lie outside what is mounted (`/../x`): then only the mount.
    let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
    let inside = below
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let below = if inside { below } else { Path::new("") };
    below
        .ancestors()
        .map(|level| Path::new(point).join(level))
        .collect()
}

/// The path in a line of `/proc/PID/cgroup`: `hierarchy:controllers:path`.
fn group_path(line: &str, controller: Controller) -> Option<&str> {
    let (hierarchy, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let ours = match controller {
        Controller::V2 => hierarchy == "0" && controllers.is_empty(),
        Controller::V1(name) => controllers.split(',').any(|listed| listed == name),
    };
    ours.then_some(path)
}

/// Root and mount point in a line of `/proc/PID/mountinfo`.
fn mount_point(line: &str, controller: Controller) -> Option<(&str, &str)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let (kind, options) = (filesystem.next()?, filesystem.nth(1)?);
    let ours = match controller {
        Controller::V2 => kind == "cgroup2",
        Controller::V1(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
    };
    ours.then_some((root, point))
}

/// `cpu.max` holds `QUOTA PERIOD` in microseconds, or `max PERIOD`.
fn cpus_v2(level: &Path) -> Option<usize> {
    let text = fs::read_to_string(level.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    whole_cpus(quota, period)
}

/// A quota of -1 means none.
fn cpus_v1(level: &Path) -> Option<usize> {
    let quota = fs::read_to_string(level.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(level.join("cpu.cfs_period_us")).ok()?;
    whole_cpus(quota.trim(), period.trim())
}

fn whole_cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    if period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period).max(1)).ok()
}

/// `memory.max` holds bytes, or `max`.
fn memory_v2(level: &Path) -> Option<u64> {
    fs::read_to_string(level.join("memory.max"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Without a limit this holds a number larger than any memory, which the caller's minimum with
/// the physical memory takes care of.
fn memory_v1(level: &Path) -> Option<u64> {
    fs::read_to_string(level.join("memory.limit_in_bytes"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fake `/proc/self` and cgroup file system; `MOUNT` in the texts is its mount point.
    fn limits(groups: &str, mounts: &str, files: &[(&str, &str)]) -> CgroupLimits {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mount = dir.path().join("mount");
        for (path, text) in files {
            let path = mount.join(path);
            let parent = path.parent().expect("a file has a directory");
            fs::create_dir_all(parent).expect("directories can be made");
            fs::write(path, text).expect("the file can be written");
        }
        let mounts = mounts.replace("MOUNT", &mount.to_string_lossy());
        fs::write(dir.path().join("cgroup"), groups).expect("the file can be written");
        fs::write(dir.path().join("mountinfo"), mounts).expect("the file can be written");
        CgroupLimits::read(dir.path())
    }

    const V2: &str = "31 23 0:28 / MOUNT rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn v2_quota_is_rounded_up_and_the_smallest_level_wins() {
        let found = limits(
            "0::/system.slice/catena.service\n",
            V2,
            &[
                ("system.slice/catena.service/cpu.max", "250000 100000\n"),
                ("system.slice/catena.service/memory.max", "max\n"),
                ("system.slice/cpu.max", "max 100000\n"),
                ("system.slice/memory.max", "1073741824\n"),
            ],
        );
        assert_eq!(
            found,
            CgroupLimits {
                cpus: Some(3),
                memory_bytes: Some(1 << 30)
            }
        );
    }

    #[test]
    fn a_parent_may_allow_less_than_the_group() {
        let files = [
            ("a/b/cpu.max", "800000 100000"),
            ("a/cpu.max", "50000 100000"),
        ];
        assert_eq!(limits("0::/a/b\n", V2, &files).cpus, Some(1));
    }

    #[test]
    fn v1_controllers_are_found_in_their_own_mounts() {
        let mounts = "\
            32 31 0:29 / MOUNT/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 /docker/4f MOUNT/memory rw master:8 - cgroup cgroup rw,memory\n\
            41 31 0:38 / MOUNT/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/docker/4f\n3:cpuset:/\n1:cpu,cpuacct:/docker/4f\n0::/\n";
        let files = [
            ("cpu/docker/4f/cpu.cfs_quota_us", "150000\n"),
            ("cpu/docker/4f/cpu.cfs_period_us", "100000\n"),
            ("cpu/cpu.cfs_quota_us", "-1\n"),
            ("cpu/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "536870912\n"),
        ];
        let found = limits(groups, mounts, &files);
        assert_eq!(
            found,
            CgroupLimits {
                cpus: Some(2),
                memory_bytes: Some(512 << 20)
            }
        );
    }

    #[test]
    fn a_path_outside_the_namespace_falls_back_to_the_mount() {
        let files = [("cpu.max", "400000 100000\n")];
        assert_eq!(limits("0::/../other\n", V2, &files).cpus, Some(4));
    }

    #[test]
    fn nonsense_and_absence_set_no_limit() {
        let none = CgroupLimits::default();
        assert_eq!(limits("", "", &[]), none);
        assert_eq!(limits("garbage\n", "garbage\n", &[]), none);
        let files = [("cpu.max", "100000 0\n"), ("memory.max", "lots\n")];
        assert_eq!(limits("0::/\n", V2, &files), none);
    }
}
