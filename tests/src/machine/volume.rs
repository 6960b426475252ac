//! What the data directory of a machine lies on.
//!
//! A block volume is a loop device with direct I/O on a file of [`PowerFs`], with a file system of
//! the kernel on it. Invariant: it is unmounted and detached while the power is off, so that
//! nothing of it stays in memory over a cut.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::powerfs::PowerFs;
use crate::programs;

/// The smallest that XFS accepts, with some room.
const IMAGE_BYTES: u64 = 512 << 20;

const RETRY_INTERVAL: Duration = Duration::from_millis(5);
const RETRIES_MAX: u32 = 2_000;

/// Kinds of volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A directory of [`PowerFs`].
    Direct,
    /// ext4 on a loop device.
    Ext4,
    /// XFS on a loop device.
    Xfs,
}

impl Layout {
    /// Its name, as of the file system.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "powerfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// Whether this host can have it; otherwise why not.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn check_supported(self) -> Result<(), String> {
        PowerFs::check_supported()?;
        if self == Self::Direct {
            return Ok(());
        }
        if !Path::new("/dev/loop-control").exists() {
            return Err("there are no loop devices".to_owned());
        }
        for program in ["losetup", "mount", "umount", self.formatter()] {
            let found = Command::new(program).arg("-V").output();
            found.map_err(|error| format!("{program}: {error}"))?;
        }
        let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let is_known = |line: &str| line.split_whitespace().any(|word| word == self.name());
        if filesystems.lines().any(is_known) {
            Ok(())
        } else {
            Err(format!("the kernel has no {}", self.name()))
        }
    }

    const fn formatter(self) -> &'static str {
        match self {
            Self::Xfs => "mkfs.xfs",
            Self::Direct | Self::Ext4 => "mkfs.ext4",
        }
    }
}

/// A place for a data directory.
#[derive(Debug)]
pub(super) enum Volume {
    Direct,
    Block(Block),
}

#[derive(Debug)]
pub(super) struct Block {
    layout: Layout,
    mount_point: TempDir,
    /// While it is attached.
    device: Option<String>,
}

impl Volume {
    pub(super) fn make(disk: &PowerFs, layout: Layout) -> Result<Self, String> {
        if layout == Layout::Direct {
            return Ok(Self::Direct);
        }
        let image = File::create(image(disk)).map_err(|error| error.to_string())?;
        image
            .set_len(IMAGE_BYTES)
            .map_err(|error| error.to_string())?;
        image.sync_all().map_err(|error| error.to_string())?;
        let directory = File::open(disk.path()).map_err(|error| error.to_string())?;
        directory.sync_all().map_err(|error| error.to_string())?;
        let mount_point = tempfile::Builder::new()
            .prefix("volume-")
            .tempdir_in(programs::scratch_dir())
            .map_err(|error| error.to_string())?;
        let mut block = Block {
            layout,
            mount_point,
            device: None,
        };
        let device = block.attach_device(disk)?;
        let options: &[&str] = match layout {
            Layout::Xfs => &["-q", "-f", "-K"],
            Layout::Direct | Layout::Ext4 => &["-q", "-F", "-E", "nodiscard"],
        };
        run(layout.formatter(), &[options, &[&device]].concat())?;
        block.mount()?;
        Ok(Self::Block(block))
    }

    pub(super) fn data_dir(&self, disk: &PowerFs) -> PathBuf {
        match self {
            Self::Direct => disk.path().join("data"),
            Self::Block(block) => block.mount_point.path().join("data"),
        }
    }

    /// Takes it out of the kernel's hands. Nothing happens if it is already.
    pub(super) fn detach(&mut self) -> Result<(), String> {
        match self {
            Self::Direct => Ok(()),
            Self::Block(block) => block.detach(),
        }
    }

    /// Gives it to the kernel again, which replays the file system's journal.
    pub(super) fn attach(&mut self, disk: &PowerFs) -> Result<(), String> {
        match self {
            Self::Direct => Ok(()),
            Self::Block(block) => {
                block.attach_device(disk)?;
                block.mount()
            }
        }
    }
}

impl Block {
    fn attach_device(&mut self, disk: &PowerFs) -> Result<String, String> {
        let image = image(disk);
        let image = image.to_str().ok_or("a path that is not a text")?;
        let found = run("losetup", &["--direct-io=on", "--find", "--show", image])?;
        let device = found.trim().to_owned();
        self.device = Some(device.clone());
        Ok(device)
    }

    fn mount(&self) -> Result<(), String> {
        let device = self.device.as_deref().ok_or("nothing is attached")?;
        let mount_point = self.mount_point.path().to_str();
        let mount_point = mount_point.ok_or("a path that is not a text")?;
        run("mount", &["-t", self.layout.name(), device, mount_point]).map(drop)
    }

    fn detach(&mut self) -> Result<(), String> {
        let Some(device) = self.device.take() else {
            return Ok(());
        };
        let mount_point = self.mount_point.path().to_str();
        let mut unmounted = run("umount", &[mount_point.unwrap_or_default()]);
        for _ in 0..RETRIES_MAX {
            // The kernel closes the files of a ring a little after its process has ended.
            if !matches!(&unmounted, Err(error) if error.contains("busy")) {
                break;
            }
            thread::park_timeout(RETRY_INTERVAL);
            unmounted = run("umount", &[mount_point.unwrap_or_default()]);
        }
        let detached = run("losetup", &["--detach", &device]);
        unmounted.and(detached).map(drop)
    }
}

fn image(disk: &PowerFs) -> PathBuf {
    disk.path().join("image")
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} {args:?}: {}", said.trim()))
    }
}
