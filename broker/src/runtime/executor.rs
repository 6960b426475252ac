//! Executors: one thread, one epoll, one ring, five task queues and a heartbeat.
//!
//! Invariants: an executor's thread is the only one that polls its tasks; its heartbeat runs for
//! as long as its main future does; a panic in any of its tasks ends it and is reported as
//! [`RuntimeError::Panicked`], never swallowed; and what its tasks held is dropped with it.

pub(in crate::runtime) mod engine;
mod heartbeat;
mod queues;
mod remote;
mod task;
mod thread_times;

use std::any::Any;
use std::fs::File;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use rustix::thread::CpuSet;

pub(in crate::runtime) use engine::here;
pub use heartbeat::Progress;
pub use queues::Queue;
pub use task::{Task, TaskTracker, spawn, yield_if_needed, yield_now};

use super::buffer;
use super::memory::MemoryDisk;
use super::probe::{self, ProbeError};
use engine::{Engine, Installed};

/// Why an executor could not start, or how it ended.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The host refuses something the runtime needs.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The thread could not be created.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// Executor name.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The thread could not be bound to its core.
    #[error("cannot pin {name} to core {core}: {source}")]
    Pin {
        /// Executor name.
        name: String,
        /// Core number asked for.
        core: usize,
        /// What the operating system said.
        source: io::Error,
    },
    /// The kernel gave no epoll, eventfd or ring.
    #[error("cannot build the executor of {name}: {source}")]
    Build {
        /// Executor name.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A task of the executor panicked; the executor has ended.
    #[error("{name} panicked: {message}")]
    Panicked {
        /// Executor name.
        name: String,
        /// The panic's message.
        message: String,
    },
}

/// Where the files of an executor are.
#[derive(Debug, Clone, Default)]
pub enum Files {
    /// Those of the operating system, through `io_uring`. What servers use.
    #[default]
    Host,
    /// On this disk in memory. Needs no `io_uring`.
    Memory(Arc<MemoryDisk>),
}

/// What an executor is made of.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Where its files are.
    pub files: Files,
    /// Thread name, as it appears in logs, `top -H` and error messages.
    pub name: String,
    /// Core to pin the thread to; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// Free buffers that it keeps for reuse, in bytes.
    pub free_buffer_bytes_max: usize,
    /// Beat counter that a watchdog thread can read.
    pub progress: Arc<Progress>,
    /// A lock of the files that its helper threads change, which they keep while they have work.
    pub files_lock: Weak<File>,
}

impl ExecutorConfig {
    /// An executor that is pinned to a core, or to none.
    #[must_use]
    pub fn shard(name: impl Into<String>, core: Option<usize>) -> Self {
        Self {
            core,
            ..Self::system(name)
        }
    }

    /// An unpinned executor, for control work and tests.
    #[must_use]
    pub fn system(name: impl Into<String>) -> Self {
        Self {
            files: Files::default(),
            name: name.into(),
            core: None,
            free_buffer_bytes_max: buffer::FREE_BYTES_MAX,
            progress: Arc::default(),
            files_lock: Weak::new(),
        }
    }
}

/// Starts an executor on a thread of its own and runs `main` on it until `main` completes.
///
/// Returns once the executor is up, so failures to start are reported here. `main` is called on the
/// new thread and its future need not be `Send`. At the end, in whatever way, the futures of all
/// tasks that are left are dropped.
///
/// # Errors
/// A [`RuntimeError`] that says what the host refused. The join handle yields
/// [`RuntimeError::Panicked`] if any task panicked: the process owner decides what that means.
///
/// ```
/// use catena_broker::runtime::executor::{ExecutorConfig, start};
///
/// let thread = start(ExecutorConfig::system("example"), || async { 40 + 2 })?;
/// assert_eq!(thread.join().expect("panics are reported as errors")?, 42);
/// # Ok::<(), catena_broker::runtime::executor::RuntimeError>(())
/// ```
pub fn start<T, F, Fut>(
    config: ExecutorConfig,
    main: F,
) -> Result<JoinHandle<Result<T, RuntimeError>>, RuntimeError>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    start_guarded(config, (), main)
}

/// As [`start`]; `guard` is dropped on the executor's thread once that has ended, in whatever way.
///
/// # Errors
/// As for [`start`].
pub fn start_guarded<T, F, Fut>(
    config: ExecutorConfig,
    guard: impl Send + 'static,
    main: F,
) -> Result<JoinHandle<Result<T, RuntimeError>>, RuntimeError>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    if matches!(config.files, Files::Host) {
        probe::io_uring()?;
    }
    let (ready_tx, ready_rx) = sync_channel(1);
    let name = config.name.clone();
    let thread = std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            buffer::set_pool_bytes_max(config.free_buffer_bytes_max);
            let ended = run(&config, main, &ready_tx);
            config.progress.end();
            drop(guard);
            ended
        })
        .map_err(|source| RuntimeError::Thread {
            name: name.clone(),
            source,
        })?;
    match ready_rx.recv() {
        Ok(()) => Ok(thread),
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => unreachable!("an executor that ran to its end had reported ready"),
            Err(panic) => panicked(name, panic.as_ref()),
        }),
    }
}

/// Runs the executor on the current thread; signals `ready` once it is up.
fn run<T, F, Fut>(
    config: &ExecutorConfig,
    main: F,
    ready: &SyncSender<()>,
) -> Result<T, RuntimeError>
where
    T: 'static,
    F: FnOnce() -> Fut + 'static,
    Fut: Future<Output = T> + 'static,
{
    let host_cores = rustix::thread::sched_getaffinity(None).ok();
    if let Some(core) = config.core {
        pin(&config.name, core)?;
    }
    let engine = Engine::new(config, host_cores).map_err(|source| RuntimeError::Build {
        name: config.name.clone(),
        source,
    })?;
    let installed = Installed::new(Rc::clone(&engine));
    let progress = Arc::clone(&config.progress);
    let ended = catch_unwind(AssertUnwindSafe(|| engine.run(main, progress, ready)));
    // What is left is dropped while it still finds its executor.
    engine.finish();
    drop(installed);
    ended.map_err(|panic| panicked(config.name.clone(), panic.as_ref()))
}

fn pin(name: &str, core: usize) -> Result<(), RuntimeError> {
    let pinned = if core < CpuSet::MAX_CPU {
        let mut set = CpuSet::new();
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set)
    } else {
        Err(rustix::io::Errno::INVAL)
    };
    pinned.map_err(|errno| RuntimeError::Pin {
        name: name.to_owned(),
        core,
        source: errno.into(),
    })
}

fn panicked(name: String, panic: &(dyn Any + Send)) -> RuntimeError {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    RuntimeError::Panicked { name, message }
}

/// The cores the current thread could use before it was pinned, if known.
pub(in crate::runtime) fn host_cores() -> Option<CpuSet> {
    here().and_then(|engine| engine.host_cores)
}

/// The lock of the files that helper threads of the current executor change, if there is one.
pub(in crate::runtime) fn files_lock() -> Weak<File> {
    here().map_or_else(Weak::new, |engine| Weak::clone(&engine.files_lock))
}

#[cfg(test)]
mod tests;
