//! Open files of the memory disk.
//!
//! Every operation lets the other tasks of its queue go first, as an operation of a disk would:
//! group commit depends on it to find company for the next group.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{MemoryDisk, MemoryFile};
use crate::runtime::buffer::{Buffer, allocate};
use crate::runtime::executor::yield_now;

/// A file that is open for aligned I/O.
#[derive(Debug)]
pub(in crate::runtime) struct OpenMemoryFile(Arc<MemoryFile>);

impl OpenMemoryFile {
    pub(in crate::runtime) fn open(disk: &MemoryDisk, path: &Path) -> io::Result<OpenMemoryFile> {
        disk.open(path).map(OpenMemoryFile)
    }

    pub(in crate::runtime) async fn write(&self, bytes: &[u8], offset: u64) {
        self.0.write(offset, bytes);
        yield_now().await;
    }

    pub(in crate::runtime) async fn flush(&self) {
        yield_now().await;
    }

    pub(in crate::runtime) async fn read(&self, offset: u64, bytes: usize) -> Buffer {
        let mut buffer = allocate(bytes);
        let read = self.0.read(offset, &mut buffer[..bytes]);
        buffer.truncate(read);
        yield_now().await;
        buffer
    }
}
