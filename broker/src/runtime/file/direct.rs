//! A file on the executor's ring.
//!
//! Invariant: the memory of a write stays until the kernel is done with it, also when the write is
//! abandoned.

use std::io;
use std::path::Path;
use std::rc::Rc;

use glommio::io::{DmaFile, OpenOptions};

use super::io_error;
use crate::runtime::buffer::{Buffer, WriteLease};
use crate::runtime::executor::InFlight;

/// The two descriptors of a file.
#[derive(Debug)]
pub(super) struct DirectFile {
    plain: DmaFile,
    dsync: Option<DmaFile>,
}

impl DirectFile {
    pub(super) async fn open(path: &Path, write: bool) -> io::Result<DirectFile> {
        let plain = OpenOptions::new()
            .read(true)
            .write(write)
            .dma_open(path)
            .await;
        let plain = plain.map_err(io_error)?;
        let dsync = if write {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_DSYNC);
            Some(options.dma_open(path).await.map_err(io_error)?)
        } else {
            None
        };
        Ok(DirectFile { plain, dsync })
    }

    /// Writes through one of the descriptors; says how much was written.
    pub(super) async fn write(
        &self,
        buffer: Rc<Buffer>,
        len: usize,
        offset: u64,
        is_durable: bool,
    ) -> io::Result<usize> {
        let file = match &self.dsync {
            Some(dsync) if is_durable => dsync,
            _ => &self.plain,
        };
        let _in_flight = InFlight::begin();
        // Declared before the write, so dropped after it: a lease must see whether the backend
        // still refers to the memory.
        let lease = WriteLease::new(buffer, len);
        file.write_rc_at(lease.source(), offset)
            .await
            .map_err(io_error)
    }

    pub(super) async fn flush(&self) -> io::Result<()> {
        let _in_flight = InFlight::begin();
        self.plain.fdatasync().await.map_err(io_error)
    }

    pub(super) async fn read(&self, offset: u64, bytes: usize) -> io::Result<Buffer> {
        let _in_flight = InFlight::begin();
        // Not `read_at`: at the end of a file it can return stale memory.
        let read = self.plain.read_at_aligned(offset, bytes).await;
        Ok(Buffer::from_read(read.map_err(io_error)?, bytes))
    }

    pub(super) async fn close(self) -> io::Result<()> {
        let mut closed = self.plain.close().await;
        if let Some(dsync) = self.dsync {
            closed = closed.and(dsync.close().await);
        }
        closed.map_err(io_error)
    }
}
