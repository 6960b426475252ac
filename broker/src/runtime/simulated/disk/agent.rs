//! Names and small files: the simulated side of the file agent, step by step, so that a crash can
//! come between any two.

use std::io;
use std::path::{Path, PathBuf};

use catena_core::planted::{self, Bug};

use super::file::flush;
use super::inode::InodeId;
use super::names::Node;
use super::{Fault, Operation, State, begin, io_error};
use crate::runtime::file::{FileEntry, in_context};
use crate::runtime::simulated::this_world;

/// Operations on names are of no file.
const NO_INODE: InodeId = InodeId(0);

/// The agent has no state: its steps are operations of the disk.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) struct SimulatedAgent;

fn with<T>(then: impl FnOnce(&mut State) -> T) -> T {
    this_world().disk().with(then)
}

/// One operation on names, which takes effect before its time passes: a crash in the middle of it
/// may or may not undo it.
async fn name_step<T>(change: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
    let begun = begin(Operation::Name, NO_INODE, 0, 0);
    if begun.fault == Some(Fault::NoSpace) {
        begun.wait().await;
        return Err(io_error(libc::ENOSPC));
    }
    let changed = with(change);
    begun.wait().await;
    changed
}

impl SimulatedAgent {
    pub(in crate::runtime) async fn create_zeroed(self, path: &Path, bytes: u64) -> io::Result<()> {
        let inode = name_step(|state| state.create(path)).await?;
        with(|state| state.inode(inode).set_len(bytes));
        if let Err(error) = flush(inode).await {
            with(|state| state.names.unlink(path));
            return Err(error);
        }
        self.sync_parent(path).await
    }

    pub(in crate::runtime) async fn write_atomic(
        self,
        path: &Path,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let inode = name_step(|state| match state.names.file(&temporary) {
            Some(inode) => {
                state.inode(inode).set_len(0);
                Ok(inode)
            }
            None => state.create(&temporary),
        })
        .await?;
        self.write_file(inode, bytes).await?;
        flush(inode).await?;
        self.rename(&temporary, path).await
    }

    pub(in crate::runtime) async fn rename(self, from: &Path, to: &Path) -> io::Result<()> {
        name_step(|state| {
            state.lookup(from)?;
            state.names.rename(from, to);
            Ok(())
        })
        .await?;
        self.sync_parent(to).await
    }

    pub(in crate::runtime) async fn remove(self, path: &Path) -> io::Result<()> {
        name_step(|state| {
            state.lookup(path)?;
            state.names.unlink(path);
            Ok(())
        })
        .await?;
        self.sync_parent(path).await
    }

    pub(in crate::runtime) async fn create_dir(self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut above = Some(path);
        while let Some(directory) = above
            && with(|state| state.names.get(directory)).is_none()
        {
            missing.push(directory);
            above = directory.parent();
        }
        for directory in missing.into_iter().rev() {
            name_step(|state| {
                state.names.link(directory, Node::Directory);
                Ok(())
            })
            .await?;
            self.sync_parent(directory).await?;
        }
        self.sync_parent(path).await
    }

    pub(in crate::runtime) async fn sync_dir(self, path: &Path) -> io::Result<()> {
        if planted::is(Bug::MissingDirectoryFlush) {
            return Ok(());
        }
        let begun = begin(Operation::Flush, NO_INODE, 0, 0);
        let count = with(|state| state.names.pending(path));
        begun.wait().await;
        if begun.fault == Some(Fault::FlushError) {
            return Err(in_context("flush", path, &io_error(libc::EIO)));
        }
        with(|state| state.names.flush(path, count));
        Ok(())
    }

    pub(in crate::runtime) async fn read(self, path: &Path) -> io::Result<Vec<u8>> {
        let inode = with(|state| state.lookup(path))?;
        let begun = begin(Operation::Read, inode, 0, 0);
        begun.wait().await;
        if begun.fault == Some(Fault::ReadError) {
            return Err(io_error(libc::EIO));
        }
        with(|state| {
            let inode = state.inode(inode);
            let bytes = usize::try_from(inode.len).expect("a small file");
            if !inode.is_readable(0, bytes) {
                return Err(io_error(libc::EIO));
            }
            Ok(inode.read(0, bytes))
        })
    }

    pub(in crate::runtime) async fn list(self, path: &Path) -> io::Result<Vec<FileEntry>> {
        begin(Operation::Look, NO_INODE, 0, 0).wait().await;
        with(|state| {
            let entries = state.names.list(path).map(|(path, node)| {
                let name = path.file_name().and_then(|name| name.to_str());
                FileEntry {
                    name: name.unwrap_or_default().to_owned(),
                    bytes: match node {
                        Node::File(id) => state.inodes[&id].len,
                        Node::Directory => 0,
                    },
                    is_directory: node == Node::Directory,
                }
            });
            Ok(entries.collect())
        })
    }

    async fn sync_parent(self, path: &Path) -> io::Result<()> {
        let parent = path.parent().expect("only the root has no parent");
        self.sync_dir(parent).await
    }

    async fn write_file(self, inode: InodeId, bytes: &[u8]) -> io::Result<()> {
        let begun = begin(Operation::Write, inode, 0, bytes.len());
        this_world().trace.bytes(bytes);
        let write = with(|state| {
            let write = state.next_write;
            state.next_write += 1;
            let file = state.inode(inode);
            file.write(write, 0, bytes);
            file.set_len(u64::try_from(bytes.len()).expect("usize fits u64"));
            write
        });
        begun.wait().await;
        let failed = begun.fault == Some(Fault::WriteError);
        with(|state| {
            let mut rng = state.rng.fork();
            let file = state.inode(inode);
            file.complete(write);
            if failed {
                file.fail(&[write], &mut rng);
            }
        });
        if failed {
            return Err(io_error(libc::EIO));
        }
        Ok(())
    }
}
