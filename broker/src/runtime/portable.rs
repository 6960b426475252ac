//! The portable backend: an executor that is a current-thread tokio runtime, with files in memory.
//!
//! It needs nothing that a container could forbid: sockets wait in epoll, timers are tokio's, and
//! files are those of a [`MemoryDisk`]. It is for brokers inside other programs, so it pins no
//! core; all task queues are one, in the order in which tasks became runnable.
//!
//! Invariants: everything of an executor but its disk stays on the executor's thread; a panic in
//! any task ends the executor and is reported, as on every backend.

mod disk;
mod file;
mod net;
mod task;

use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use futures_util::future::{Either, select};
use tokio::task::LocalSet;

pub use disk::MemoryDisk;
pub(in crate::runtime) use file::OpenMemoryFile;
pub(in crate::runtime) use net::{PortableConn, PortableListener};
pub(in crate::runtime) use task::PortableTask;

use super::channel::Notify;
use super::executor::{Ended, ExecutorConfig, RuntimeError, beat_slowly};

thread_local! {
    static HERE: RefCell<Option<Rc<Portable>>> = const { RefCell::new(None) };
}

/// The portable executor of a thread.
pub(in crate::runtime) struct Portable {
    disk: Arc<MemoryDisk>,
    /// What a task panicked with.
    panic: RefCell<Option<Box<dyn Any + Send>>>,
    panicked: Notify,
}

/// The portable executor that runs on this thread, if one does.
pub(in crate::runtime) fn here() -> Option<Rc<Portable>> {
    HERE.with_borrow(Clone::clone)
}

/// Whether this thread runs a portable executor.
pub(in crate::runtime) fn is_here() -> bool {
    HERE.with_borrow(Option::is_some)
}

/// Lets the other tasks of this thread go first.
pub(in crate::runtime) async fn yield_now() {
    tokio::task::yield_now().await;
}

/// Lets them go first if this task has had its share.
pub(in crate::runtime) async fn yield_if_needed() {
    tokio::task::coop::consume_budget().await;
}

impl Portable {
    pub(in crate::runtime) fn disk(&self) -> &Arc<MemoryDisk> {
        &self.disk
    }

    fn note_panic(&self, panic: Box<dyn Any + Send>) {
        // The first one is the cause of what follows.
        self.panic.borrow_mut().get_or_insert(panic);
        self.panicked.notify();
    }
}

/// Runs an executor on the current thread; signals `ready` once tasks can be spawned.
pub(in crate::runtime) fn run<T, F, Fut>(
    config: &ExecutorConfig,
    disk: Arc<MemoryDisk>,
    main: F,
    ready: &SyncSender<()>,
) -> Result<T, Ended>
where
    T: 'static,
    F: FnOnce() -> Fut + 'static,
    Fut: Future<Output = T> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| {
            Ended::Failed(RuntimeError::Build {
                name: config.name.clone(),
                message: error.to_string(),
            })
        })?;
    let portable = Rc::new(Portable {
        disk,
        panic: RefCell::new(None),
        panicked: Notify::new(),
    });
    let _installed = Installed::new(Rc::clone(&portable));
    let progress = Arc::clone(&config.progress);
    let tasks = LocalSet::new();
    let in_tasks = Rc::clone(&portable);
    let output = tasks.block_on(&runtime, async move {
        let heartbeat = in_tasks.spawn(beat_slowly(progress));
        // A closed channel means the starter is gone; the executor is still wanted.
        let _ = ready.try_send(());
        let output = select(
            in_tasks.spawn(async move { main().await }),
            in_tasks.panicked.notified(),
        );
        let output = match output.await {
            Either::Left((output, _)) => Some(output),
            Either::Right(((), _)) => None,
        };
        heartbeat.cancel().await;
        output
    });
    // What is left is dropped while it still finds its executor.
    let entered = runtime.enter();
    drop(tasks);
    drop(entered);
    match (portable.panic.take(), output) {
        (Some(panic), _) => Err(Ended::Panicked(panic)),
        (None, Some(output)) => Ok(output),
        (None, None) => unreachable!("the executor ends with its main future or with a panic"),
    }
}

/// Makes the executor known to its thread until it ends.
struct Installed;

impl Installed {
    fn new(portable: Rc<Portable>) -> Installed {
        HERE.with_borrow_mut(|slot| *slot = Some(portable));
        Installed
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let portable = HERE.with_borrow_mut(Option::take);
        drop(portable);
    }
}

#[cfg(test)]
mod tests;
