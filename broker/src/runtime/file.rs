//! Files: the segments of a journal, and the helper threads for everything else on disk.
//!
//! A [`LogFile`] does aligned direct I/O on the executor's ring. Names (create, rename, unlink,
//! list) and small files go through a [`FileAgent`], because those calls block.
//!
//! Invariants: no single I/O is above 1 MiB (larger ones can hang in the backend when the device's
//! limit is lower); a short write is an error; nothing is read beyond what the kernel returned.

mod agent;
mod device;
mod zeroed;

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use glommio::GlommioError;
use glommio::io::{DmaFile, OpenOptions};

pub use agent::{FileAgent, FileEntry};
pub use device::prepare_device;
pub use zeroed::Zeroed;

use super::buffer::{BUFFER_BYTES_MAX, Buffer, WriteLease};
use super::executor::InFlight;

/// Offsets and lengths of all I/O are multiples of this.
pub const IO_ALIGN: usize = 4096;

/// Largest single I/O, in bytes.
pub const IO_BYTES_MAX: usize = BUFFER_BYTES_MAX;

/// A preallocated file, opened for direct I/O.
///
/// Has two descriptors when writable: a plain one, whose writes need a [`flush`](Self::flush), and
/// an `O_DSYNC` one, whose writes are durable when they complete. Nothing orders operations in
/// flight: await the writes before the flush that must cover them.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    plain: DmaFile,
    dsync: Option<DmaFile>,
}

impl LogFile {
    /// Opens an existing file, for reading and, if `write`, for writing.
    ///
    /// Call [`prepare_device`] once per executor and directory before.
    ///
    /// # Errors
    /// What the operating system says; the message names the path.
    pub async fn open(path: impl AsRef<Path>, write: bool) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let in_context = |error| in_context("open", &path, &io_error(error));
        let plain = OpenOptions::new()
            .read(true)
            .write(write)
            .dma_open(&path)
            .await;
        let plain = plain.map_err(in_context)?;
        let dsync = if write {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_DSYNC);
            Some(options.dma_open(&path).await.map_err(in_context)?)
        } else {
            None
        };
        Ok(Self { path, plain, dsync })
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
        assert!(
            self.dsync.is_some(),
            "{} is open for reading only",
            self.path.display()
        );
        self.write_through(&self.plain, buffer, len, offset).await
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
        let file = self.dsync.as_ref();
        let file = file.unwrap_or_else(|| {
            panic!("{} is open for reading only", self.path.display());
        });
        self.write_through(file, buffer, len, offset).await
    }

    /// Makes every completed [`write`](Self::write) durable (`fdatasync`).
    ///
    /// # Errors
    /// What the operating system says. After an error nothing is known about earlier writes: never
    /// retry.
    pub async fn flush(&self) -> io::Result<()> {
        let _in_flight = InFlight::begin();
        let flushed = self.plain.fdatasync().await;
        flushed.map_err(|error| in_context("flush", &self.path, &io_error(error)))
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
        let _in_flight = InFlight::begin();
        // Not `read_at`: at the end of a file it can return stale memory.
        let read = self.plain.read_at_aligned(offset, bytes).await;
        let read = read.map_err(|error| in_context("read", &self.path, &io_error(error)))?;
        Ok(Buffer::from_read(read, bytes))
    }

    /// Closes both descriptors. Dropping the file closes it too, a little later.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn close(self) -> io::Result<()> {
        let Self { path, plain, dsync } = self;
        let mut closed = plain.close().await;
        if let Some(dsync) = dsync {
            closed = closed.and(dsync.close().await);
        }
        closed.map_err(|error| in_context("close", &path, &io_error(error)))
    }

    async fn write_through(
        &self,
        file: &DmaFile,
        buffer: Rc<Buffer>,
        len: usize,
        offset: u64,
    ) -> io::Result<()> {
        assert_aligned(offset, len);
        let _in_flight = InFlight::begin();
        // Declared before the write, so dropped after it: a lease must see whether the backend
        // still refers to the memory.
        let lease = WriteLease::new(buffer, len);
        let written = file.write_rc_at(lease.source(), offset).await;
        let written = written.map_err(|error| in_context("write", &self.path, &io_error(error)))?;
        if written == len {
            Ok(())
        } else {
            let message = format!(
                "write {}: {written} of {len} bytes written",
                self.path.display()
            );
            Err(io::Error::new(io::ErrorKind::WriteZero, message))
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

/// The plain `io::Error` in a backend error. The backend's own conversion loses the error number.
pub(super) fn io_error(error: GlommioError<()>) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => error.into(),
    }
}

/// The same kind of error, with the operation and the path in its message.
fn in_context(operation: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("{operation} {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests;
