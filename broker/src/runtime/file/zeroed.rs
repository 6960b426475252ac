//! Creating files of zeros whose blocks are allocated and written.
//!
//! Writes into a file that is merely allocated must convert its extents, which costs half of the
//! throughput and three times the flush time on the disks measured. Runs on a helper thread; it
//! blocks. Invariant: a file that could not be completed does not stay.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

const PIECE_BYTES: usize = 1 << 20;

/// `FALLOC_FL_WRITE_ZEROES` (Linux 6.17): the device zeroes the range and the extents count as
/// written.
const WRITE_ZEROES: libc::c_int = 0x80;

/// How a file came to hold zeros. Benchmarks state it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroed {
    /// The device's zeroing offload did it.
    Offloaded,
    /// Zeros were written.
    Written,
}

/// Creates `path` with `bytes` written zeros and flushes it; not its directory.
pub(super) fn create(path: &Path, bytes: u64, pause: Option<Duration>) -> io::Result<Zeroed> {
    check_room(path, bytes)?;
    create_with(path, |file| {
        fallocate(file, 0, 0, bytes)?;
        let how = if offload(file, bytes, pause)? {
            Zeroed::Offloaded
        } else {
            write_zeros(path, bytes, pause)?;
            Zeroed::Written
        };
        file.sync_all()?;
        Ok(how)
    })
}

/// Creates a new file and fills it; removes it if that fails.
fn create_with<T>(path: &Path, fill: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    fill(&file).inspect_err(|_| {
        // The caller's error is the one that matters.
        let _ = fs::remove_file(path);
    })
}

/// Allocating until the disk is full and then giving up would starve everyone else on it.
fn check_room(path: &Path, bytes: u64) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let stat = rustix::fs::statvfs(directory.unwrap_or(Path::new(".")))?;
    if bytes > stat.f_bavail.saturating_mul(stat.f_frsize) {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    Ok(())
}

fn offload(file: &File, bytes: u64, pause: Option<Duration>) -> io::Result<bool> {
    for (index, (offset, piece)) in pieces(bytes).enumerate() {
        match fallocate(file, WRITE_ZEROES, offset, piece as u64) {
            Err(error) if index == 0 && is_unsupported(&error) => return Ok(false),
            done => done?,
        }
        rest(pause);
    }
    Ok(true)
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS)
    )
}

fn write_zeros(path: &Path, bytes: u64, pause: Option<Duration>) -> io::Result<()> {
    // Direct, so that a segment does not push a segment's worth of useful pages out of memory;
    // file systems without it (tmpfs) have no such cost.
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path);
    let file = match direct {
        Err(error) if is_unsupported(&error) => OpenOptions::new().write(true).open(path)?,
        opened => opened?,
    };
    let zeros = AlignedZeros::new();
    for (offset, piece) in pieces(bytes) {
        file.write_all_at(&zeros.bytes()[..piece], offset)?;
        rest(pause);
    }
    Ok(())
}

/// Offset and length of each piece of a file.
fn pieces(bytes: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..bytes).step_by(PIECE_BYTES).map(move |offset| {
        let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        (offset, left.min(PIECE_BYTES))
    })
}

fn rest(pause: Option<Duration>) {
    if let Some(pause) = pause {
        thread::sleep(pause);
    }
}

fn fallocate(file: &File, mode: libc::c_int, offset: u64, bytes: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EFBIG);
    let offset = libc::off_t::try_from(offset).map_err(too_large)?;
    let bytes = libc::off_t::try_from(bytes).map_err(too_large)?;
    // SAFETY: takes no pointers; the descriptor is open for as long as `file` is borrowed.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, bytes) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One piece of zeros, aligned for direct I/O.
struct AlignedZeros {
    memory: Vec<u8>,
    start: usize,
}

impl AlignedZeros {
    fn new() -> Self {
        let memory = vec![0; PIECE_BYTES + super::IO_ALIGN];
        let start = memory.as_ptr().align_offset(super::IO_ALIGN);
        Self { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + PIECE_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_filled_does_not_stay() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segment");
        let error = create_with(&path, |_| {
            OpenOptions::new()
                .write(true)
                .open("/dev/full")?
                .write_all(&[0; 4096])
        })
        .expect_err("the device is always full");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(!path.exists());
    }

    #[test]
    fn pieces_tile_the_file() {
        let mut end = 0;
        for (offset, piece) in pieces(3 * 1024 * 1024 + 4096) {
            assert_eq!(offset, end);
            end += piece as u64;
        }
        assert_eq!(end, 3 * 1024 * 1024 + 4096);
    }

    #[test]
    fn written_zeros_replace_what_was_there() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("segment");
        let bytes = PIECE_BYTES + 8192;
        fs::write(&path, vec![7; bytes]).expect("room for a megabyte");
        write_zeros(&path, bytes as u64, None).expect("the file can be written");
        assert_eq!(
            fs::read(&path).expect("the file can be read"),
            vec![0; bytes]
        );
    }
}
