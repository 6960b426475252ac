//! Start-up probes: what the host allows, asked before anything depends on it.
//!
//! These probes ask the kernel directly and answer with one plain sentence and its remedy. They
//! block; call them before the executors start.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::process::{Resource, getrlimit};

/// Alignment of all direct I/O, in bytes.
pub const DIRECT_IO_ALIGN: usize = 4096;

/// What the host refuses. The message says what and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// `io_uring` is switched off for everyone or for this group.
    #[error(
        "io_uring is disabled on this host (kernel.io_uring_disabled = {value}); \
         fix: sysctl -w kernel.io_uring_disabled=0"
    )]
    UringDisabled {
        /// The value of the sysctl.
        value: u32,
    },
    /// `io_uring` is filtered, usually by a container's seccomp profile.
    #[error(
        "io_uring is forbidden for this process (EPERM), as in containers with a default seccomp \
         profile; fix: run with a profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register"
    )]
    UringForbidden,
    /// The kernel has no `io_uring`.
    #[error(
        "this kernel has no io_uring (ENOSYS); fix: run Linux 5.15 or newer with CONFIG_IO_URING"
    )]
    UringMissing,
    /// Too little memory for the rings. Some kernels count them as locked memory.
    #[error(
        "not enough memory for io_uring (ENOMEM, limit of locked memory {limit_bytes} bytes); \
         fix: more memory, or LimitMEMLOCK=infinity in the service unit"
    )]
    UringMemory {
        /// The soft limit in bytes.
        limit_bytes: u64,
    },
    /// `io_uring` failed otherwise.
    #[error("io_uring cannot be set up: {0}; fix: see dmesg, and check the limit of open files")]
    Uring(io::Error),
    /// The file system has no direct I/O.
    #[error(
        "{} does not support direct I/O (O_DIRECT); fix: put the data directory on ext4 or xfs on \
         a local disk", directory.display()
    )]
    DirectIoUnsupported {
        /// The directory probed.
        directory: PathBuf,
    },
    /// The disk wants larger blocks than 4 KiB.
    #[error(
        "{} refuses direct I/O of 4096 bytes; fix: use a disk with logical blocks of at most 4096 \
         bytes", directory.display()
    )]
    Alignment {
        /// The directory probed.
        directory: PathBuf,
    },
    /// What was read is not what was written.
    #[error(
        "{} returned other bytes than were written; fix: do not trust this disk",
        directory.display()
    )]
    Corrupt {
        /// The directory probed.
        directory: PathBuf,
    },
    /// An ordinary failure: permissions, a full disk.
    #[error("cannot {operation} in {}: {source}", directory.display())]
    Directory {
        /// What was tried.
        operation: &'static str,
        /// The directory probed.
        directory: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Asks the kernel for a small ring.
///
/// A thread of its own does it: the kernel takes a closed ring apart later, and interrupts for that
/// whatever the thread that made it waits for by then.
///
/// # Errors
/// One of the `Uring..` errors.
pub fn io_uring() -> Result<(), ProbeError> {
    let asked = thread::scope(|scope| {
        let asking = thread::Builder::new().spawn_scoped(scope, set_up_ring)?;
        asking.join().expect("one system call does not panic")
    });
    asked.map_err(|error| uring_error(error, uring_disabled()))
}

fn set_up_ring() -> io::Result<()> {
    // `struct io_uring_params` is 120 bytes; all zeros asks for the defaults.
    let mut params = [0_u64; 15];
    let entries: libc::c_uint = 4;
    // SAFETY: the kernel reads and writes 120 bytes at `params`, which is that large, aligned and
    // outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, params.as_mut_ptr()) };
    match i32::try_from(result) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the call has just made this descriptor and nobody else knows it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Ok(())
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn uring_error(error: io::Error, disabled: u32) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if disabled > 0 => {
            ProbeError::UringDisabled { value: disabled }
        }
        Some(libc::EPERM | libc::EACCES) => ProbeError::UringForbidden,
        Some(libc::ENOSYS) => ProbeError::UringMissing,
        Some(libc::ENOMEM) => ProbeError::UringMemory {
            limit_bytes: memlock_bytes(),
        },
        _ => ProbeError::Uring(error),
    }
}

/// `kernel.io_uring_disabled`: 0 allowed, 1 for privileged groups only, 2 for nobody.
fn uring_disabled() -> u32 {
    let value = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    value
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// The soft limit of lockable memory in bytes; `u64::MAX` if unlimited.
fn memlock_bytes() -> u64 {
    getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX)
}

/// Writes and reads back one aligned page with direct I/O in `directory`.
///
/// # Errors
/// A [`ProbeError`] that separates "no direct I/O here", "larger blocks", "other bytes came back"
/// and ordinary failures.
pub fn direct_io(directory: &Path) -> Result<(), ProbeError> {
    let name = format!(".probe-{:016x}", super::random::u64());
    let path = directory.join(OsStr::new(&name));
    let ordinary = |operation| {
        move |source| ProbeError::Directory {
            operation,
            directory: directory.to_owned(),
            source,
        }
    };
    let created = OpenOptions::new().write(true).create_new(true).open(&path);
    created.map_err(ordinary("create a file"))?;
    let probed = probe_file(directory, &path);
    fs::remove_file(&path).map_err(ordinary("remove a file"))?;
    probed
}

fn probe_file(directory: &Path, path: &Path) -> Result<(), ProbeError> {
    let failed = |operation, source: io::Error, refused: fn(PathBuf) -> ProbeError| {
        if source.raw_os_error() == Some(libc::EINVAL) {
            refused(directory.to_owned())
        } else {
            ProbeError::Directory {
                operation,
                directory: directory.to_owned(),
                source,
            }
        }
    };
    let unsupported = |directory| ProbeError::DirectIoUnsupported { directory };
    let misaligned = |directory| ProbeError::Alignment { directory };
    let file = open_direct(path).map_err(|error| failed("open a file", error, unsupported))?;
    let mut written = Page::zeroed();
    for word in written.0.chunks_exact_mut(8) {
        word.copy_from_slice(&super::random::u64().to_le_bytes());
    }
    file.write_all_at(&written.0, 0)
        .map_err(|error| failed("write", error, misaligned))?;
    let mut read = Page::zeroed();
    file.read_exact_at(&mut read.0, 0)
        .map_err(|error| failed("read", error, misaligned))?;
    if read.0 == written.0 {
        Ok(())
    } else {
        Err(ProbeError::Corrupt {
            directory: directory.to_owned(),
        })
    }
}

fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

#[repr(align(4096))]
struct Page([u8; DIRECT_IO_ALIGN]);

impl Page {
    fn zeroed() -> Box<Self> {
        Box::new(Self([0; DIRECT_IO_ALIGN]))
    }
}

#[cfg(test)]
mod tests;
