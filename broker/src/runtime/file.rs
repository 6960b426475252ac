//! Files: the segments of a journal, and the helper threads for everything else on disk.
//!
//! A [`LogFile`] does aligned direct I/O on the executor's ring. Names (create, rename, unlink,
//! list) and small files go through a [`FileAgent`], because those calls block.
//!
//! Invariants: no single I/O is above 1 MiB; a short write is an error; nothing is read beyond what
//! the kernel returned.

mod agent;
mod direct;
mod directory;
mod error;
mod self_test;
mod zeroed;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub use agent::{FileAgent, FileEntry};
pub use directory::{create_dir_durably, sync as sync_directory};
pub use error::{is_failed_flush, is_of_medium, told_of};
pub use self_test::self_test;
pub use zeroed::Zeroed;

use super::buffer::{BUFFER_BYTES_MAX, Buffer};
use super::executor::engine::{OpenFiles, engine};
use super::memory::OpenMemoryFile;
#[cfg(feature = "simulation")]
use super::simulated::{self, disk::SimulatedFile};
use direct::DirectFile;
pub(super) use error::in_context;

/// Offsets and lengths of all I/O are multiples of this.
pub const IO_ALIGN: usize = 4096;

/// Largest single I/O, in bytes.
pub const IO_BYTES_MAX: usize = BUFFER_BYTES_MAX;

/// A preallocated file, opened for direct I/O.
///
/// Has two descriptors when writable: a plain one, whose writes need a [`flush`](Self::flush), and
/// an `O_DSYNC` one, whose writes are durable when they complete. Nothing orders operations in
/// flight: await the writes before the flush that must cover them. Dropping it closes both, once
/// what is in flight has ended.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    is_writable: bool,
    backend: Backend,
}

#[derive(Debug)]
enum Backend {
    Direct(DirectFile),
    Memory(OpenMemoryFile),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedFile),
}

impl Backend {
    async fn open(path: &Path, write: bool) -> io::Result<Backend> {
        #[cfg(feature = "simulation")]
        if simulated::world().is_some() {
            return SimulatedFile::open(path).await.map(Backend::Simulated);
        }
        match &engine().files {
            OpenFiles::Memory(disk) => OpenMemoryFile::open(disk, path).map(Backend::Memory),
            OpenFiles::Host(_) => DirectFile::open(path, write).await.map(Backend::Direct),
        }
    }
}

impl LogFile {
    /// Opens an existing file, for reading and, if `write`, for writing.
    ///
    /// # Errors
    /// What the operating system says; the message names the path.
    pub async fn open(path: impl AsRef<Path>, write: bool) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let opened = Backend::open(&path, write).await;
        let backend = opened.map_err(|error| in_context("open", &path, &error))?;
        Ok(Self {
            path,
            is_writable: write,
            backend,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the first `len` bytes of `buffer` at `offset`. Not durable before a
    /// [`flush`](Self::flush).
    ///
    /// `buffer` may be read and sent by others meanwhile and after. Cancellation: the write may
    /// happen, in whole, in part or not at all; the memory is kept until the kernel is done.
    ///
    /// # Errors
    /// What the operating system says; `WriteZero` for a short write.
    ///
    /// # Panics
    /// If `len` or `offset` is not aligned, `len` is 0, above 1 MiB or above the buffer's length,
    /// or the file is not open for writing.
    pub async fn write(&self, buffer: Rc<Buffer>, len: usize, offset: u64) -> io::Result<()> {
        self.write_either(buffer, len, offset, false).await
    }

    /// Like [`write`](Self::write), and durable when it completes. Cheaper than write and flush
    /// for a single block up to 256 KiB.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    ///
    /// # Panics
    /// As for [`write`](Self::write).
    pub async fn write_dsync(&self, buffer: Rc<Buffer>, len: usize, offset: u64) -> io::Result<()> {
        self.write_either(buffer, len, offset, true).await
    }

    /// Makes every completed [`write`](Self::write) durable (`fdatasync`).
    ///
    /// # Errors
    /// What the operating system says. After an error nothing is known about earlier writes: never
    /// retry.
    pub async fn flush(&self) -> io::Result<()> {
        let flushed = match &self.backend {
            Backend::Direct(file) => file.flush().await,
            Backend::Memory(file) => {
                file.flush().await;
                Ok(())
            }
            #[cfg(feature = "simulation")]
            Backend::Simulated(file) => file.flush().await,
        };
        flushed.map_err(|error| in_context("flush", &self.path, &error))
    }

    /// Reads up to `bytes` bytes at `offset`. The result's length is what was read: less only at
    /// the end of the file.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// What the operating system says.
    ///
    /// # Panics
    /// If `bytes` or `offset` is not aligned, or `bytes` is 0 or above 1 MiB.
    pub async fn read(&self, offset: u64, bytes: usize) -> io::Result<Buffer> {
        assert_aligned(offset, bytes);
        let read = match &self.backend {
            Backend::Direct(file) => file.read(offset, bytes).await,
            Backend::Memory(file) => Ok(file.read(offset, bytes).await),
            #[cfg(feature = "simulation")]
            Backend::Simulated(file) => file.read(offset, bytes).await,
        };
        read.map_err(|error| in_context("read", &self.path, &error))
    }

    async fn write_either(
        &self,
        buffer: Rc<Buffer>,
        len: usize,
        offset: u64,
        is_durable: bool,
    ) -> io::Result<()> {
        assert!(
            self.is_writable,
            "{} is open for reading only",
            self.path.display()
        );
        assert_aligned(offset, len);
        let written = match &self.backend {
            Backend::Direct(file) => file.write(buffer, len, offset, is_durable).await,
            Backend::Memory(file) => {
                file.write(&buffer[..len], offset).await;
                Ok(len)
            }
            #[cfg(feature = "simulation")]
            Backend::Simulated(file) => {
                let written = file.write(&buffer[..len], offset, is_durable).await;
                written.map(|()| len)
            }
        };
        match written {
            Ok(written) if written == len => Ok(()),
            Ok(written) => {
                let message = format!(
                    "write {}: {written} of {len} bytes written",
                    self.path.display()
                );
                Err(io::Error::new(io::ErrorKind::WriteZero, message))
            }
            Err(error) => Err(in_context("write", &self.path, &error)),
        }
    }
}

fn assert_aligned(offset: u64, bytes: usize) {
    assert!(
        bytes > 0 && bytes <= IO_BYTES_MAX,
        "an I/O of {bytes} bytes"
    );
    assert!(
        bytes.is_multiple_of(IO_ALIGN),
        "an I/O of {bytes} bytes is not aligned"
    );
    assert!(
        offset.is_multiple_of(IO_ALIGN as u64),
        "an I/O at {offset} is not aligned"
    );
}

#[cfg(test)]
mod tests;
