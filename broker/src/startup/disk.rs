//! What sysfs says about the block device under a directory.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, stat};

/// The properties of a block device that decide what a flush costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// `write back`: flushes reach the device; `write through`: they are free.
    pub(super) write_cache: String,
    /// Whether a write can bypass the device's cache; without, an `O_DSYNC` write is a write and a
    /// flush.
    pub(super) fua: bool,
}

impl Disk {
    /// The device under `dir`; `None` if it has none (btrfs, overlay) or sysfs is not there.
    pub(super) fn under(dir: &Path) -> Option<Self> {
        let device = stat(dir).ok()?.st_dev;
        let name = format!("/sys/dev/block/{}:{}", major(device), minor(device));
        Self::read(&fs::canonicalize(name).ok()?)
    }

    /// Reads the queue of a device; a partition has none and shares that of its disk.
    fn read(device: &Path) -> Option<Self> {
        let queues = [device.join("queue"), device.parent()?.join("queue")];
        let queue: &PathBuf = queues.iter().find(|queue| queue.is_dir())?;
        let read = |name: &str| {
            let text = fs::read_to_string(queue.join(name)).ok()?;
            Some(text.trim().to_owned())
        };
        Some(Self {
            write_cache: read("write_cache")?,
            fua: read("fua")? == "1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_shares_the_queue_of_its_disk() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (queue, partition) = (
            dir.path().join("nvme0n1/queue"),
            dir.path().join("nvme0n1/p1"),
        );
        fs::create_dir_all(&queue).expect("directories can be made");
        fs::create_dir_all(&partition).expect("directories can be made");
        for (name, text) in [
            ("write_cache", "write back\n"),
            ("fua", "1\n"),
            ("rotational", "0\n"),
        ] {
            fs::write(queue.join(name), text).expect("the file can be written");
        }
        let disk = Disk {
            write_cache: "write back".into(),
            fua: true,
        };
        assert_eq!(Disk::read(&partition), Some(disk.clone()));
        assert_eq!(Disk::read(&dir.path().join("nvme0n1")), Some(disk));
        assert_eq!(Disk::read(&dir.path().join("nowhere/else")), None);
    }
}
