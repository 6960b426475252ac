//! Files in memory: names, and contents in chunks that exist once they are written to.
//!
//! A preallocated segment therefore costs nothing before it is used, and a broker holds no more
//! than its journals' space budgets say. Nothing here survives the disk, and nothing is lost
//! before: what a write has returned for is there for every later read.
//!
//! Shared by the executors of one broker, so unlike everything else of the runtime it has locks.
//! They are held for one operation, and never two at once.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::runtime::file::FileEntry;

/// Memory is taken in pieces of this size.
const CHUNK_BYTES: usize = 64 << 10;

/// A disk in memory, for the executors of one broker.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
///
/// use catena_broker::runtime::executor::{ExecutorConfig, Files, start};
/// use catena_broker::runtime::file::FileAgent;
/// use catena_broker::runtime::memory::MemoryDisk;
///
/// let config = ExecutorConfig {
///     files: Files::Memory(Arc::new(MemoryDisk::default())),
///     ..ExecutorConfig::system("example")
/// };
/// let thread = start(config, || async {
///     let agent = FileAgent::start()?;
///     agent.create_dir(Path::new("/journals")).await?;
///     agent.write_atomic("/journals/note", b"hello".to_vec()).await?;
///     agent.read("/journals/note").await
/// })?;
/// let read = thread.join().expect("panics are reported as errors")??;
/// assert_eq!(read, b"hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryDisk {
    names: Mutex<BTreeMap<PathBuf, Node>>,
}

#[derive(Debug, Clone)]
enum Node {
    Directory,
    File(Arc<MemoryFile>),
}

/// The contents of a file. Lives as long as its name or somebody who has it open.
#[derive(Debug, Default)]
pub(super) struct MemoryFile(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    bytes: u64,
    /// What was never written to reads as zeros and is not there.
    chunks: BTreeMap<u64, Box<[u8]>>,
}

/// Nothing under these locks can panic half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryDisk {
    /// Makes an empty file that reads as `bytes` zeros.
    pub(in crate::runtime) fn create(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut names = lock(&self.names);
        require_parent(&names, path)?;
        if names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = MemoryFile::default();
        lock(&file.0).bytes = bytes;
        names.insert(path.to_owned(), Node::File(Arc::new(file)));
        Ok(())
    }

    /// Puts a file with these contents in the place of any that has the name.
    pub(in crate::runtime) fn replace(&self, path: &Path, contents: &[u8]) -> io::Result<()> {
        let file = MemoryFile::default();
        file.write(0, contents);
        let mut names = lock(&self.names);
        require_parent(&names, path)?;
        names.insert(path.to_owned(), Node::File(Arc::new(file)));
        Ok(())
    }

    pub(in crate::runtime) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = lock(&self.names);
        require_parent(&names, to)?;
        require_file(&names, from)?;
        let file = names.remove(from).expect("it was there a moment ago");
        names.insert(to.to_owned(), file);
        Ok(())
    }

    pub(in crate::runtime) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut names = lock(&self.names);
        require_file(&names, path)?;
        names.remove(path);
        Ok(())
    }

    /// Makes a directory and those above it that are missing.
    pub(in crate::runtime) fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut names = lock(&self.names);
        for directory in path.ancestors() {
            match names.get(directory) {
                None if !is_root(directory) => {
                    names.insert(directory.to_owned(), Node::Directory);
                }
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None | Some(Node::Directory) => {}
            }
        }
        Ok(())
    }

    pub(in crate::runtime) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let bytes = usize::try_from(file.bytes()).map_err(io::Error::other)?;
        let mut contents = vec![0; bytes];
        let read = file.read(0, &mut contents);
        contents.truncate(read);
        Ok(contents)
    }

    /// The entries of a directory, sorted by name.
    pub(in crate::runtime) fn list(&self, path: &Path) -> io::Result<Vec<FileEntry>> {
        let names = lock(&self.names);
        if !is_directory(&names, path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = names
            .range(path.to_owned()..)
            .take_while(|(entry, _)| entry.starts_with(path))
            .filter(|(entry, _)| entry.parent() == Some(path));
        let entries = inside.filter_map(|(entry, node)| {
            Some(FileEntry {
                name: entry.file_name()?.to_str()?.to_owned(),
                bytes: match node {
                    Node::File(file) => file.bytes(),
                    Node::Directory => 0,
                },
                is_directory: matches!(node, Node::Directory),
            })
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort();
        Ok(entries)
    }

    /// The file of this name.
    pub(super) fn open(&self, path: &Path) -> io::Result<Arc<MemoryFile>> {
        require_file(&lock(&self.names), path)
    }

    /// Bytes of memory that the contents take.
    #[cfg(test)]
    pub(super) fn allocated_bytes(&self) -> usize {
        let names = lock(&self.names);
        let chunks = |node: &Node| match node {
            Node::File(file) => lock(&file.0).chunks.len(),
            Node::Directory => 0,
        };
        names.values().map(chunks).sum::<usize>() * CHUNK_BYTES
    }
}

fn is_root(path: &Path) -> bool {
    path.parent()
        .is_none_or(|parent| parent.as_os_str().is_empty())
}

fn is_directory(names: &BTreeMap<PathBuf, Node>, path: &Path) -> bool {
    is_root(path) || matches!(names.get(path), Some(Node::Directory))
}

fn require_parent(names: &BTreeMap<PathBuf, Node>, path: &Path) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    if is_directory(names, parent) {
        Ok(())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn require_file(names: &BTreeMap<PathBuf, Node>, path: &Path) -> io::Result<Arc<MemoryFile>> {
    match names.get(path) {
        Some(Node::File(file)) => Ok(Arc::clone(file)),
        Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

impl MemoryFile {
    fn bytes(&self) -> u64 {
        lock(&self.0).bytes
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        let mut contents = lock(&self.0);
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (chunk, within) = place(at);
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - within));
            let chunk = contents.chunks.entry(chunk).or_insert_with(empty_chunk);
            chunk[within..within + now.len()].copy_from_slice(now);
            at += to_u64(now.len());
            rest = later;
        }
        contents.bytes = contents.bytes.max(at);
    }

    /// Fills `into` from `offset` on; says how much there was.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let contents = lock(&self.0);
        let there = usize::try_from(contents.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = into.len().min(there);
        let mut at = offset;
        let mut rest = &mut into[..count];
        while !rest.is_empty() {
            let (chunk, within) = place(at);
            let bytes = rest.len().min(CHUNK_BYTES - within);
            let (now, later) = rest.split_at_mut(bytes);
            match contents.chunks.get(&chunk) {
                Some(chunk) => now.copy_from_slice(&chunk[within..within + bytes]),
                None => now.fill(0),
            }
            at += to_u64(bytes);
            rest = later;
        }
        count
    }
}

/// The chunk that holds a position, and where in it.
fn place(at: u64) -> (u64, usize) {
    let chunk_bytes = to_u64(CHUNK_BYTES);
    let within = usize::try_from(at % chunk_bytes).expect("below the size of a chunk");
    (at / chunk_bytes, within)
}

fn empty_chunk() -> Box<[u8]> {
    vec![0; CHUNK_BYTES].into_boxed_slice()
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("usize fits u64")
}

#[cfg(test)]
mod tests;
