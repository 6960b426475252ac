//! A file system that loses power on command, and a disk that fails on command.
//!
//! What programs write is kept apart from what they flushed (`content`, `tree`), so that a
//! *power cut* can take away every unflushed byte and name, or leave some of it. Any operation can
//! be made to fail in the ways disks fail (`faults`). It is mounted through FUSE by this process,
//! which has to be root for that, and takes direct I/O, `io_uring` and loop devices. Test data
//! only: nothing is left when the value is dropped.
//!
//! Order for a cut: [`freeze`](PowerFs::freeze), kill the programs,
//! [`power_off`](PowerFs::power_off), wait for their end, [`power_on`](PowerFs::power_on). From
//! the freeze on no program learns of anything, as when the whole machine stops.

mod content;
mod disk;
mod faults;
mod mount;
mod power;
mod tree;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

pub use content::{SECTOR_BYTES, Sectors};
pub use disk::Loss;
pub use faults::{Effect, Fault, Operation};

use crate::programs;
use crate::seeded::Seeded;
use disk::Disk;
use mount::Mount;
use power::{Power, Shared};

/// The kernel sends requests to so many threads; a frozen or hung disk keeps all of them busy.
const THREADS: usize = 4;

/// A mounted file system.
#[derive(Debug)]
pub struct PowerFs {
    shared: Arc<Shared>,
    /// Taken when it is dropped.
    session: Option<BackgroundSession>,
    mount_point: PathBuf,
    /// Holds the mount point and the durable bytes.
    _dir: TempDir,
}

impl PowerFs {
    /// Whether this process can mount it; otherwise why not.
    ///
    /// # Errors
    /// What is missing, in words.
    pub fn check_supported() -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root to mount".to_owned());
        }
        let opened = File::options().read(true).write(true).open("/dev/fuse");
        opened
            .map(drop)
            .map_err(|error| format!("/dev/fuse: {error}"))
    }

    /// Mounts an empty file system; its durable bytes lie in the build's scratch directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn mount(seed: u64) -> io::Result<Self> {
        unmount_leftovers();
        let dir = tempfile::Builder::new()
            .prefix("powerfs-")
            .tempdir_in(programs::scratch_dir())?;
        let (backing, mount_point) = (dir.path().join("durable"), dir.path().join("mnt"));
        fs::create_dir(&backing)?;
        fs::create_dir(&mount_point)?;
        let shared = Arc::new(Shared::new(Disk::new(&backing), seed));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("powerfs".to_owned())];
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = fuser::spawn_mount(Mount(Arc::clone(&shared)), &mount_point, &config)?;
        Ok(Self {
            shared,
            session: Some(session),
            mount_point,
            _dir: dir,
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Operations so far that change the disk or flush it: what [`freeze_at`](Self::freeze_at)
    /// counts.
    pub fn operations(&self) -> u64 {
        self.shared.lock().operations
    }

    /// How many operations of a kind were asked for.
    pub fn count(&self, operation: Operation) -> u64 {
        let state = self.shared.lock();
        state.counts.get(&operation).copied().unwrap_or(0)
    }

    /// How often each kind of fault hit, in words.
    pub fn injected(&self) -> BTreeMap<&'static str, u64> {
        self.shared.lock().faults.injected().clone()
    }

    /// Lets every flush take longer. Without it a broker that acknowledges before the flush is
    /// rarely caught in between.
    pub fn set_flush_delay(&self, delay: Duration) {
        self.shared.lock().flush_delay = delay;
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().faults.inject(fault);
    }

    /// Limits the size of all files together.
    pub fn set_space(&self, bytes: u64) {
        self.shared.lock().space_bytes = Some(bytes);
    }

    /// The size of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.shared.lock().disk.bytes()
    }

    /// Refuses every change from now on.
    pub fn set_read_only(&self) {
        self.shared.lock().is_read_only = true;
    }

    /// Ends all faults and limits; what hangs goes on. The flush delay stays.
    pub fn clear_faults(&self) {
        self.shared.clear_faults();
    }

    /// Flips one bit of a durable byte.
    ///
    /// # Errors
    /// What the operating system says; no such file.
    pub fn rot(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.shared.lock();
        let inode = state.disk.find(path)?;
        let file = state.disk.file(inode)?;
        let end = file.next_number();
        file.flush(end)?;
        file.rot(offset, bit)
    }

    /// The power begins to fail: no operation reports success from now on.
    pub fn freeze(&self) {
        self.shared.set_power(Power::Frozen);
    }

    /// Freezes at the operation with this number, counted as in [`operations`](Self::operations):
    /// it reaches the disk's cache and is never answered.
    pub fn freeze_at(&self, operation: u64) {
        self.shared.lock().freeze_at = Some(operation);
    }

    /// Waits until the operation of [`freeze_at`](Self::freeze_at) came; `false` after `limit`.
    pub fn wait_frozen(&self, limit: Duration) -> bool {
        self.shared.wait_frozen(limit)
    }

    /// Whether an operation or [`freeze`](Self::freeze) has frozen it.
    pub fn is_frozen(&self) -> bool {
        self.shared.lock().power == Power::Frozen
    }

    /// The power is gone: what waits, and whatever still comes, fails. The programs must have been
    /// killed before.
    pub fn power_off(&self) {
        self.shared.set_power(Power::Off);
    }

    /// Takes back what was not flushed, or some of it, and goes on.
    ///
    /// # Errors
    /// What the operating system says of the backing files.
    pub fn power_on(&self, loss: Loss, seed: u64) -> io::Result<Sectors> {
        let mut state = self.shared.lock();
        let sectors = state.disk.cut(loss, &mut Seeded::new(seed))?;
        state.freeze_at = None;
        drop(state);
        self.shared.set_power(Power::On);
        Ok(sectors)
    }
}

/// A run that was killed leaves a mount point behind that answers nobody.
fn unmount_leftovers() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts
        .lines()
        .filter_map(|line| line.strip_prefix("powerfs "))
        .filter_map(|rest| rest.split(' ').next());
    for point in points.filter(|point| Path::new(point).starts_with(programs::scratch_dir())) {
        let error = fs::metadata(point)
            .err()
            .and_then(|error| error.raw_os_error());
        if error == Some(Errno::NOTCONN.raw_os_error()) {
            // Whoever comes next tries again.
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

impl Drop for PowerFs {
    fn drop(&mut self) {
        self.shared.clear_faults();
        self.shared.set_power(Power::Off);
        // Whoever still uses it gets errors; the name is free at once.
        let unmounted = unmount(&self.mount_point, UnmountFlags::DETACH);
        if let Some(session) = self.session.take()
            && unmounted.is_err()
        {
            // It is no longer mounted, or the session will try once more.
            drop(session);
        }
    }
}
