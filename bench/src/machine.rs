//! What a figure was measured on: processor, kernel, file system.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine, as printed beside every result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu_model: String,
    /// Cores of the machine.
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// Where the data lies, when a directory was named.
    pub(crate) filesystem: Option<Filesystem>,
}

/// The mount that holds a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filesystem {
    pub(crate) kind: String,
    pub(crate) device: String,
    pub(crate) mount_point: String,
    pub(crate) options: String,
}

impl Machine {
    /// Describes this machine; what cannot be read is "unknown", since a report without it is
    /// still a report.
    pub(crate) fn describe(data_dir: Option<&Path>) -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let directory = data_dir.and_then(|dir| dir.canonicalize().ok());
        Self {
            cpu_model: field(&cpuinfo, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            cores: cpuinfo
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            memory_mib: field(&meminfo, "MemTotal").map_or(0, |text| kib(text) / 1024),
            kernel: format!("{} {release}", uname.sysname().to_string_lossy()),
            filesystem: directory.and_then(|dir| filesystem_of(&mountinfo, &dir)),
        }
    }

    /// One line for the text report.
    pub(crate) fn line(&self) -> String {
        let disk = self.filesystem.as_ref().map_or_else(String::new, |fs| {
            format!(", {} on {} ({})", fs.kind, fs.device, fs.mount_point)
        });
        format!(
            "{}, {} cores, {} MiB, {}{disk}",
            self.cpu_model, self.cores, self.memory_mib, self.kernel
        )
    }
}

/// The first value of `name: value` in a /proc file.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The number in front of "kB"; zero if there is none.
pub(crate) fn kib(text: &str) -> u64 {
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// The deepest mount that holds `dir`; of several at one point, the last, which hides the rest.
fn filesystem_of(mountinfo: &str, dir: &Path) -> Option<Filesystem> {
    mountinfo
        .lines()
        .filter_map(parse_mount)
        .filter(|mount| dir.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.len())
}

/// A line of mountinfo: six fields and any number of tags, then " - kind device options".
fn parse_mount(line: &str) -> Option<Filesystem> {
    let (place, source) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(4);
    let (mount_point, options) = (place.next()?, place.next()?);
    let mut source = source.split(' ');
    Some(Filesystem {
        kind: source.next()?.to_owned(),
        device: source.next()?.to_owned(),
        mount_point: mount_point.to_owned(),
        options: options.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /proc rw,nosuid shared:12 - proc proc rw
31 22 259:1 / /data rw,noatime shared:3 master:1 - xfs /dev/nvme0n1 rw,attr2
32 22 259:2 / /database rw - ext4 /dev/nvme1n1 rw
";

    #[test]
    fn a_directory_belongs_to_the_deepest_mount_above_it() {
        let kind = |dir: &str| filesystem_of(MOUNTS, Path::new(dir)).map(|fs| fs.device);
        assert_eq!(kind("/data/journals").as_deref(), Some("/dev/nvme0n1"));
        assert_eq!(kind("/database").as_deref(), Some("/dev/nvme1n1"));
        assert_eq!(kind("/data2").as_deref(), Some("/dev/vda"));
    }

    #[test]
    fn the_first_processor_names_the_model() {
        let text = "processor\t: 0\nmodel name\t: Some CPU\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name"), Some("Some CPU"));
        assert_eq!(field(text, "stepping"), None);
        assert_eq!(kib("24000 kB"), 24_000);
    }
}
