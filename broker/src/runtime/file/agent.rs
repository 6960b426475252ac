//! Helper threads for file work that blocks: names, small files, preparing segments.
//!
//! Two threads per executor, each doing its jobs in the order they were asked for: one for quick
//! work (renames, checkpoints, directory listings), one for preparing segments, which can take
//! seconds and must not hold up a checkpoint. The caller's executor only ever awaits.
//!
//! Invariant: a job keeps the lock of the files, if there is one, until it is done, even if the
//! caller's executor has ended: nobody else may have the files before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rustix::thread::CpuSet;
use tokio::sync::oneshot;

use super::directory::{self, create_dir_durably};
use super::in_context;
use super::zeroed::{self, Zeroed};
use crate::runtime::executor::engine::{OpenFiles, engine};
use crate::runtime::executor::{files_lock, host_cores};
use crate::runtime::memory::MemoryDisk;
#[cfg(feature = "simulation")]
use crate::runtime::simulated::disk::SimulatedAgent;

/// Jobs that may wait for one thread; a caller beyond that waits to hand its job over.
const JOBS_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileEntry {
    /// Name without the directory. Entries whose names are not UTF-8 are not ours and not listed.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// True for a directory.
    pub is_directory: bool,
}

/// Runs blocking file work on helper threads.
///
/// Cheap to clone; the threads end when the last clone is dropped and their jobs are done.
///
/// Cancellation, for all operations: a job that was handed over runs to its end even if the caller
/// stops waiting.
///
/// Errors, for all operations: the operating system's, with the operation and path in the message
/// and the original [`io::ErrorKind`] (`StorageFull` for a full disk, `QuotaExceeded` for a quota).
#[derive(Debug, Clone)]
pub struct FileAgent(Helper);

#[derive(Debug, Clone)]
enum Helper {
    Threads(Threads),
    /// Nothing on this disk blocks.
    Memory(Arc<MemoryDisk>),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedAgent),
}

#[derive(Debug, Clone)]
struct Threads {
    quick: Worker,
    slow: Worker,
}

#[derive(Debug, Clone)]
struct Worker {
    jobs: flume::Sender<Job>,
    /// Weak, because it is the jobs that keep it.
    files_lock: Weak<File>,
}

impl FileAgent {
    /// Starts the threads. They get back the cores that the current thread had before it was
    /// pinned.
    ///
    /// # Errors
    /// If a thread cannot be created.
    pub fn start() -> io::Result<Self> {
        #[cfg(feature = "simulation")]
        if crate::runtime::simulated::world().is_some() {
            return Ok(Self(Helper::Simulated(SimulatedAgent)));
        }
        if let OpenFiles::Memory(disk) = &engine().files {
            return Ok(Self(Helper::Memory(Arc::clone(disk))));
        }
        let owner = thread::current().name().unwrap_or("agent").to_owned();
        Ok(Self(Helper::Threads(Threads {
            quick: start_thread(format!("{owner}-file"))?,
            slow: start_thread(format!("{owner}-zero"))?,
        })))
    }

    /// Creates `path` with `bytes` zeros that are really on disk, so that later writes change no
    /// metadata, and makes it durable with its name. With a `pause`, rests that long after each
    /// MiB.
    ///
    /// Refuses (`StorageFull`) before writing when the file system has less room than `bytes`. On
    /// any error the partial file is removed.
    ///
    /// # Errors
    /// `AlreadyExists` if the path exists; else as for all operations.
    pub async fn create_zeroed(
        &self,
        path: impl AsRef<Path>,
        bytes: u64,
        pause: Option<Duration>,
    ) -> io::Result<Zeroed> {
        let path = path.as_ref().to_owned();
        match &self.0 {
            Helper::Threads(threads) => {
                run(&threads.slow, move || {
                    let zeroed =
                        zeroed::create(&path, bytes, pause).map_err(within("create", &path))?;
                    directory::sync_parent(&path)?;
                    Ok(zeroed)
                })
                .await
            }
            Helper::Memory(disk) => {
                disk.create(&path, bytes).map_err(within("create", &path))?;
                Ok(Zeroed::Written)
            }
            #[cfg(feature = "simulation")]
            Helper::Simulated(agent) => agent
                .create_zeroed(&path, bytes)
                .await
                .map(|()| Zeroed::Written),
        }
    }

    /// Replaces the contents of `path` in one step: a reader after a crash finds the old contents
    /// or the new, never a mixture. Durable when it completes.
    ///
    /// Writes to `path` with `.tmp` added, flushes, renames, flushes the directory.
    ///
    /// # Errors
    /// As for all operations.
    pub async fn write_atomic(&self, path: impl AsRef<Path>, bytes: Vec<u8>) -> io::Result<()> {
        let path = path.as_ref().to_owned();
        match &self.0 {
            Helper::Threads(threads) => {
                run(&threads.quick, move || write_atomic(&path, &bytes)).await
            }
            Helper::Memory(disk) => disk.replace(&path, &bytes).map_err(within("write", &path)),
            #[cfg(feature = "simulation")]
            Helper::Simulated(agent) => agent.write_atomic(&path, &bytes).await,
        }
    }

    /// Renames a file and flushes the directory, or both.
    ///
    /// # Errors
    /// As for all operations.
    pub async fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let (from, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
        match &self.0 {
            Helper::Threads(threads) => {
                run(&threads.quick, move || {
                    fs::rename(&from, &to).map_err(within("rename", &from))?;
                    if from.parent() != to.parent() {
                        directory::sync_parent(&from)?;
                    }
                    directory::sync_parent(&to)
                })
                .await
            }
            Helper::Memory(disk) => disk.rename(&from, &to).map_err(within("rename", &from)),
            #[cfg(feature = "simulation")]
            Helper::Simulated(agent) => agent.rename(&from, &to).await,
        }
    }

    /// Removes a file and flushes the directory.
    ///
    /// # Errors
    /// As for all operations.
    pub async fn remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref().to_owned();
        match &self.0 {
            Helper::Threads(threads) => {
                run(&threads.quick, move || {
                    fs::remove_file(&path).map_err(within("remove", &path))?;
                    directory::sync_parent(&path)
                })
                .await
            }
            Helper::Memory(disk) => disk.remove(&path).map_err(within("remove", &path)),
            #[cfg(feature = "simulation")]
            Helper::Simulated(agent) => agent.remove(&path).await,
        }
    }

    /// Creates a directory and its missing parents, durably.
    ///
    /// # Errors
    /// As for all operations.
    pub async fn create_dir(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref().to_owned();
        match &self.0 {
            Helper::Threads(threads) => {
                run(&threads.quick, move || create_dir_durably(&path)).await
            }
            Helper::Memory(disk) => disk
                .create_dir(&path)
                .map_err(within("create directory", &path)),
            #[cfg(feature = "simulation")]
            Helper::Simulated(agent) => agent.create_dir(&path).await,
        }
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound` if there is none; else as for all operations.
    pub async fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let path = path.as_ref().to_owned();
        match &self.0 {
            Helper::Threads(threads) => {
                run(&threads.quick, move || {
                    fs::read(&path).map_err(within("read", &path))
                })
                .await
            }
            Helper::Memory(disk) => disk.read(&path).map_err(within("read", &path)),
            #[cfg(feature = "simulation")]
            Helper::Simulated(agent) => agent.read(&path).await,
        }
    }

    /// The entries of a directory, sorted by name.
    ///
    /// # Errors
    /// As for all operations.
    pub async fn list(&self, path: impl AsRef<Path>) -> io::Result<Vec<FileEntry>> {
        let path = path.as_ref().to_owned();
        match &self.0 {
            Helper::Threads(threads) => {
                run(&threads.quick, move || {
                    list(&path).map_err(within("list", &path))
                })
                .await
            }
            Helper::Memory(disk) => disk.list(&path).map_err(within("list", &path)),
            #[cfg(feature = "simulation")]
            Helper::Simulated(agent) => agent.list(&path).await,
        }
    }

    /// Runs any other blocking work on the quick thread.
    ///
    /// # Errors
    /// Those of the work, unchanged.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match &self.0 {
            Helper::Threads(threads) => run(&threads.quick, work).await,
            Helper::Memory(_) => work(),
            #[cfg(feature = "simulation")]
            Helper::Simulated(_) => work(),
        }
    }
}

fn start_thread(name: String) -> io::Result<Worker> {
    let (sender, jobs) = flume::bounded::<Job>(JOBS_MAX);
    let cores = host_cores();
    thread::Builder::new().name(name).spawn(move || {
        unpin(cores.as_ref());
        for job in jobs {
            // The caller learns of a panic, because its result never comes; the other callers
            // keep their thread.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    })?;
    Ok(Worker {
        jobs: sender,
        files_lock: files_lock(),
    })
}

fn unpin(cores: Option<&CpuSet>) {
    if let Some(cores) = cores {
        // Worth trying, not worth failing for: the thread only runs elsewhere.
        let _ = rustix::thread::sched_setaffinity(None, cores);
    }
}

/// Hands `work` to a thread and waits for its result.
async fn run<T: Send + 'static>(
    worker: &Worker,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let lock = worker.files_lock.upgrade();
    let job: Job = Box::new(move || {
        let result = work();
        // First, so that the caller can give it up for good.
        drop(lock);
        // The caller may have stopped waiting.
        let _ = done.send(result);
    });
    let panicked = || io::Error::other("a file job panicked");
    worker.jobs.send_async(job).await.map_err(|_| panicked())?;
    result.await.unwrap_or_else(|_| Err(panicked()))
}

/// Adds the operation and path to an error.
fn within(operation: &'static str, path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| in_context(operation, path, &error)
}

fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let written = write_durably(&temporary, bytes).map_err(within("write", &temporary));
    let renamed =
        written.and_then(|()| fs::rename(&temporary, path).map_err(within("rename", path)));
    if renamed.is_err() {
        // Only tidying: the next attempt truncates the leftover.
        let _ = fs::remove_file(&temporary);
    }
    renamed?;
    directory::sync_parent(path)
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn list(path: &Path) -> io::Result<Vec<FileEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        entries.push(FileEntry {
            name,
            bytes: metadata.len(),
            is_directory: metadata.is_dir(),
        });
    }
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests;
