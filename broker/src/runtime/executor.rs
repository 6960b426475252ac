//! Executors: one thread, one reactor, five task queues and a heartbeat.
//!
//! Invariants: an executor's thread is the only one that polls its tasks; its heartbeat runs for
//! as long as its main future does; a panic in any of its tasks ends it and is reported as
//! [`RuntimeError::Panicked`], never swallowed.

mod heartbeat;
mod rouse;
mod sockets;
mod task;
mod thread_times;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use rustix::thread::CpuSet;

pub use heartbeat::Progress;
pub(in crate::runtime) use heartbeat::beat_slowly;
pub(in crate::runtime) use sockets::OpenSocket;
pub use task::{Queue, Task, TaskTracker, spawn, yield_if_needed, yield_now};

use super::buffer;
use super::portable::{self, MemoryDisk};
use super::probe::{self, ProbeError};
use sockets::OpenSockets;

/// Rounds of the ring for what was dropped at the end of an executor.
const CLOSE_TIME: Duration = Duration::from_millis(2);

/// After so long a loop that yields "if needed" does. The backend looks at the timer of the queues
/// that have tasks as the turn begins: while only queues without a latency do, its own default
/// counts, which is 100 ms in which no completion is reaped and no request seen.
const TURN: Duration = Duration::from_millis(1);

/// Submission ring entries of a shard: every timer tick walks the armed polls, and a deep ring
/// makes that cheap (9,000 connections cost 9-10 % of a core at 128 entries, 3 % at 4,096).
pub const SHARD_RING_DEPTH: usize = 4096;

/// Submission ring entries of an executor that serves no connections.
pub const SYSTEM_RING_DEPTH: usize = 256;

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
    /// The reactor could not be built.
    #[error("cannot build the executor of {name}: {message}")]
    Build {
        /// Executor name.
        name: String,
        /// The backend's own words.
        message: String,
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

/// What runs an executor's tasks, and where its files are.
#[derive(Debug, Clone, Default)]
pub enum Backend {
    /// glommio: `io_uring`, and the files of the operating system. What servers use.
    #[default]
    Glommio,
    /// tokio: no `io_uring`, and files on this disk in memory.
    Portable(Arc<MemoryDisk>),
}

/// What an executor is made of.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// What it runs on.
    pub backend: Backend,
    /// Thread name, as it appears in logs, `top -H` and error messages.
    pub name: String,
    /// Core to pin the thread to; `None` leaves it to the scheduler.
    pub core: Option<usize>,
    /// Submission queue entries of each ring.
    pub ring_depth: usize,
    /// Bytes of memory registered with the kernel for I/O. Buffers of this runtime come from
    /// [`buffer`] instead, so the minimum (64 KiB) is enough.
    pub io_memory_bytes: usize,
    /// Free buffers that it keeps for reuse, in bytes.
    pub free_buffer_bytes_max: usize,
    /// Beat counter that a watchdog thread can read.
    pub progress: Arc<Progress>,
    /// A lock of the files that its helper threads change, which they keep while they have work.
    pub files_lock: Weak<File>,
}

impl ExecutorConfig {
    /// An executor for a shard: deep rings for many connections.
    #[must_use]
    pub fn shard(name: impl Into<String>, core: Option<usize>) -> Self {
        Self {
            core,
            ring_depth: SHARD_RING_DEPTH,
            ..Self::system(name)
        }
    }

    /// An unpinned executor with small rings, for control work and tests.
    #[must_use]
    pub fn system(name: impl Into<String>) -> Self {
        Self {
            backend: Backend::default(),
            name: name.into(),
            core: None,
            ring_depth: SYSTEM_RING_DEPTH,
            io_memory_bytes: 64 << 10,
            free_buffer_bytes_max: buffer::FREE_BYTES_MAX,
            progress: Arc::default(),
            files_lock: Weak::new(),
        }
    }
}

/// Starts an executor on a thread of its own and runs `main` on it until `main` completes.
///
/// Returns once the executor is up (its rings exist and its queues are made), so failures to start
/// are reported here. `main` is called on the new thread and its future need not be `Send`.
///
/// After a panic in any task its sockets are shut down, and what its tasks held is leaked: rings,
/// descriptors, helper threads. What must not be goes into the guard of [`start_guarded`].
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
    if matches!(config.backend, Backend::Glommio) {
        // It checks for io_uring in a lazy static that panics, and for lockable memory in words of
        // its own; ask first, in plain words.
        probe::io_uring()?;
        probe::memlock()?;
    }
    let (ready_tx, ready_rx) = sync_channel(1);
    let (name, progress) = (config.name.clone(), Arc::clone(&config.progress));
    let thread = std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            config.progress.begin();
            buffer::set_pool_bytes_max(config.free_buffer_bytes_max);
            let ended = catch_unwind(AssertUnwindSafe(|| run(&config, main, &ready_tx)));
            config.progress.end();
            drop(guard);
            ended
                .unwrap_or_else(|panic| Err(Ended::Panicked(panic)))
                .map_err(|ended| match ended {
                    Ended::Failed(error) => error,
                    Ended::Panicked(panic) => panicked(config.name, panic.as_ref()),
                })
        })
        .map_err(|source| RuntimeError::Thread {
            name: name.clone(),
            source,
        })?;
    match rouse::until_ready(&ready_rx, || progress.rouse()) {
        Ok(()) => Ok(thread),
        Err(_) => Err(match thread.join() {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => unreachable!("an executor that ran to its end had reported ready"),
            Err(panic) => panicked(name, panic.as_ref()),
        }),
    }
}

/// Why an executor ended without a result.
pub(in crate::runtime) enum Ended {
    Failed(RuntimeError),
    Panicked(Box<dyn Any + Send>),
}

/// Runs the executor on the current thread; signals `ready` once tasks can be spawned.
fn run<T, F, Fut>(config: &ExecutorConfig, main: F, ready: &SyncSender<()>) -> Result<T, Ended>
where
    T: 'static,
    F: FnOnce() -> Fut + 'static,
    Fut: Future<Output = T> + 'static,
{
    let host_cores = rustix::thread::sched_getaffinity(None).ok();
    if let Some(core) = config.core {
        pin(&config.name, core).map_err(Ended::Failed)?;
    }
    match &config.backend {
        Backend::Glommio => run_ring(config, host_cores, main, ready).map_err(Ended::Failed),
        Backend::Portable(disk) => portable::run(config, Arc::clone(disk), main, ready),
    }
}

fn run_ring<T, F, Fut>(
    config: &ExecutorConfig,
    host_cores: Option<CpuSet>,
    main: F,
    ready: &SyncSender<()>,
) -> Result<T, RuntimeError>
where
    T: 'static,
    F: FnOnce() -> Fut + 'static,
    Fut: Future<Output = T> + 'static,
{
    let executor = ManuallyDrop::new(build(config)?);
    let progress = Arc::clone(&config.progress);
    let context = Rc::new(Context {
        queues: OnceCell::new(),
        host_cores,
        files_lock: Weak::clone(&config.files_lock),
        tasks: Cell::new(0),
        sockets: OpenSockets::default(),
        in_flight: Cell::new(0),
    });
    let installed = Installed::new(Rc::clone(&context));
    let output = executor.run(async move {
        let queues = context.queues.set(task::create_queues());
        assert!(queues.is_ok(), "the queues are made once");
        progress.run();
        let at_start = heartbeat::backstops(Duration::ZERO);
        let heartbeat = spawn(Queue::Control, heartbeat::beat(progress));
        // A closed channel means the starter is gone; the executor is still wanted.
        let _ = ready.try_send(());
        // Not in the default queue: that one answers only when every other queue has had its
        // turn (192 ms at the median on a busy shard).
        let output = spawn(Queue::Control, main()).await;
        drop(at_start);
        let _at_end = heartbeat::backstops(Duration::ZERO);
        heartbeat.cancel().await;
        // A file that is dropped is closed in the next rounds of the ring. What was dropped at the
        // end would stay open for as long as the process lives.
        glommio::timer::sleep(CLOSE_TIME).await;
        output
    });
    // The backend drops the tasks that are still queued when the executor is dropped, and a
    // destructor among them that needs the executor then aborts the process. So the rings are
    // given back only after an orderly end; after a panic or with tasks left they are leaked,
    // and with them all memory the kernel may still write to.
    if current().tasks.get() == 0 {
        drop(ManuallyDrop::into_inner(executor));
    }
    drop(installed);
    Ok(output)
}

fn build(config: &ExecutorConfig) -> Result<LocalExecutor, RuntimeError> {
    // `spin_before_park` stays unset: with it an executor can park with runnable tasks.
    LocalExecutorBuilder::new(Placement::Unbound)
        .name(&config.name)
        .ring_depth(config.ring_depth)
        .io_memory(config.io_memory_bytes)
        .preempt_timer(TURN)
        .make()
        .map_err(|error| RuntimeError::Build {
            name: config.name.clone(),
            message: error.to_string(),
        })
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

/// What the current thread's executor keeps for the other modules of the runtime.
pub(in crate::runtime) struct Context {
    /// Set before the first task is spawned.
    queues: OnceCell<task::Queues>,
    /// Cores the thread could use before it was pinned: helper threads get them back, or they
    /// would compete with the shard for its own core.
    host_cores: Option<CpuSet>,
    files_lock: Weak<File>,
    /// Spawned tasks whose futures are not dropped.
    tasks: Cell<usize>,
    sockets: OpenSockets,
    in_flight: Cell<usize>,
}

thread_local! {
    static CONTEXT: RefCell<Option<Rc<Context>>> = const { RefCell::new(None) };
}

/// Clears the thread's context when the executor ends, by return or by panic.
struct Installed;

impl Installed {
    fn new(context: Rc<Context>) -> Self {
        CONTEXT.with_borrow_mut(|slot| *slot = Some(context));
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if let Some(context) = CONTEXT.with_borrow_mut(Option::take) {
            // After an orderly end there are none left.
            context.sockets.shut_down();
        }
    }
}

fn current() -> Rc<Context> {
    CONTEXT
        .with_borrow(Clone::clone)
        .expect("called on the thread of a running executor")
}

/// The cores the current thread could use before it was pinned, if known.
pub(in crate::runtime) fn host_cores() -> Option<CpuSet> {
    CONTEXT.with_borrow(|context| context.as_ref().and_then(|context| context.host_cores))
}

/// The lock of the files that helper threads of the current executor change, if there is one.
pub(in crate::runtime) fn files_lock() -> Weak<File> {
    let lock = CONTEXT.with_borrow(|context| Some(Weak::clone(&context.as_ref()?.files_lock)));
    lock.unwrap_or_default()
}

/// Marks one disk I/O as in flight, so that the heartbeat keeps its busy pace.
pub(in crate::runtime) struct InFlight(Rc<Context>);

impl InFlight {
    pub(in crate::runtime) fn begin() -> Self {
        let context = current();
        context.in_flight.set(context.in_flight.get() + 1);
        Self(context)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

fn ios_in_flight() -> usize {
    current().in_flight.get()
}

#[cfg(test)]
mod tests;
