//! Open files: the simulated side of a segment.

use std::io;
use std::path::Path;

use super::inode::{InodeId, PAGE_BYTES};
use super::{Fault, Operation, State, begin, io_error};
use crate::runtime::buffer::{Buffer, allocate};
use crate::runtime::simulated::this_world;

/// A file that is open for direct I/O.
#[derive(Debug)]
pub(in crate::runtime) struct SimulatedFile {
    inode: InodeId,
}

fn with<T>(then: impl FnOnce(&mut State) -> T) -> T {
    this_world().disk().with(then)
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("usize fits u64")
}

impl SimulatedFile {
    pub(in crate::runtime) async fn open(path: &Path) -> io::Result<SimulatedFile> {
        begin(Operation::Look, InodeId(0), 0, 0).wait().await;
        let inode = with(|state| state.lookup(path))?;
        Ok(SimulatedFile { inode })
    }

    pub(in crate::runtime) async fn write(
        &self,
        bytes: &[u8],
        offset: u64,
        is_durable: bool,
    ) -> io::Result<()> {
        let begun = begin(Operation::Write, self.inode, offset, bytes.len());
        this_world().trace.bytes(bytes);
        let is_misdirected = begun.fault == Some(Fault::MisdirectedWrite);
        let write = with(|state| {
            let write = state.next_write;
            state.next_write += 1;
            let at = if is_misdirected {
                self.another_place(state, offset, bytes.len())
            } else {
                offset
            };
            let inode = state.inode(self.inode);
            let end = at + to_u64(bytes.len());
            inode.write(write, at, bytes);
            inode.len = inode.len.max(end);
            write
        });
        begun.wait().await;
        let failed = begun.fault == Some(Fault::WriteError);
        with(|state| {
            let mut rng = state.rng.fork();
            let inode = state.inode(self.inode);
            inode.complete(write);
            if failed {
                inode.fail(&[write], &mut rng);
            } else if is_durable {
                inode.complete_durably(write);
            }
        });
        if failed {
            return Err(io_error(libc::EIO));
        }
        Ok(())
    }

    pub(in crate::runtime) async fn flush(&self) -> io::Result<()> {
        flush(self.inode).await
    }

    pub(in crate::runtime) async fn read(&self, offset: u64, bytes: usize) -> io::Result<Buffer> {
        let begun = begin(Operation::Read, self.inode, offset, bytes);
        begun.wait().await;
        let read = with(|state| self.read_now(state, begun.fault, offset, bytes))?;
        let mut buffer = allocate(bytes);
        buffer[..read.len()].copy_from_slice(&read);
        buffer.truncate(read.len());
        Ok(buffer)
    }

    fn read_now(
        &self,
        state: &mut State,
        fault: Option<Fault>,
        offset: u64,
        bytes: usize,
    ) -> io::Result<Vec<u8>> {
        let at = match fault {
            Some(Fault::ReadError) => return Err(io_error(libc::EIO)),
            Some(Fault::MisdirectedRead) => self.another_place(state, offset, bytes),
            _ => offset,
        };
        let inode = state.inode(self.inode);
        if !inode.is_readable(at, bytes) {
            return Err(io_error(libc::EIO));
        }
        Ok(inode.read(at, bytes))
    }

    /// Somewhere else in the file, where the same number of bytes fits.
    fn another_place(&self, state: &mut State, offset: u64, bytes: usize) -> u64 {
        let mut rng = state.rng.fork();
        let len = state.inode(self.inode).len;
        let places = len.saturating_sub(to_u64(bytes)) / to_u64(PAGE_BYTES) + 1;
        let place = rng.below(places) * to_u64(PAGE_BYTES);
        if place == offset { 0 } else { place }
    }
}

/// Makes the completed writes of a file durable.
pub(super) async fn flush(inode: InodeId) -> io::Result<()> {
    let begun = begin(Operation::Flush, inode, 0, 0);
    let covered = with(|state| state.inode(inode).completed());
    begun.wait().await;
    let failed = begun.fault == Some(Fault::FlushError);
    with(|state| {
        let mut rng = state.rng.fork();
        if failed {
            state.inode(inode).fail(&covered, &mut rng);
        } else {
            state.inode(inode).flushed(&covered);
        }
    });
    if failed {
        return Err(io_error(libc::EIO));
    }
    Ok(())
}
