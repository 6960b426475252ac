//! Open files of the memory disk.
//!
//! Every operation gives the other tasks of the thread a turn, as an operation of a disk would:
//! group commit depends on it to find company for the next group.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::MemoryFile;
use super::{here, yield_now};
use crate::runtime::buffer::{Buffer, allocate};

/// A file that is open for aligned I/O.
#[derive(Debug)]
pub(in crate::runtime) struct OpenMemoryFile(Arc<MemoryFile>);

impl OpenMemoryFile {
    pub(in crate::runtime) fn open(path: &Path) -> io::Result<OpenMemoryFile> {
        let portable = here().expect("files in memory are opened on a portable executor");
        portable.disk().open(path).map(OpenMemoryFile)
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
