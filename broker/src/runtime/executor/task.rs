//! Tasks: futures that an executor runs on its own thread.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::engine::{engine, here};
use super::queues::Queue;
use crate::runtime::channel::Notify;
#[cfg(feature = "simulation")]
use crate::runtime::simulated;

/// Spawns a task on the current executor.
///
/// The task starts after the caller next awaits. It is cancelled when the [`Task`] is dropped;
/// [`Task::detach`] lets it run on, at most to the end of the executor.
///
/// # Panics
/// Outside an executor's thread.
pub fn spawn<F>(queue: Queue, future: F) -> Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    #[cfg(feature = "simulation")]
    if let Some(world) = simulated::world() {
        return Task(Handle::Simulated(world.spawn(future)));
    }
    Task(Handle::Native(engine().spawn(queue, future)))
}

/// A spawned task: a future of its result, cancelled on drop.
#[must_use = "a task is cancelled when dropped; detach() lets it run on"]
#[derive(Debug)]
pub struct Task<T>(Handle<T>);

#[derive(Debug)]
enum Handle<T> {
    Native(async_task::Task<T, &'static str>),
    #[cfg(feature = "simulation")]
    Simulated(simulated::JoinHandle<T>),
}

impl<T> Task<T> {
    /// Lets the task run to its end on its own. Its result is dropped.
    pub fn detach(self) {
        match self.0 {
            Handle::Native(task) => task.detach(),
            #[cfg(feature = "simulation")]
            Handle::Simulated(task) => task.detach(),
        }
    }

    /// Stops the task and waits until its future is dropped. `Some` if it had completed.
    pub async fn cancel(self) -> Option<T> {
        match self.0 {
            Handle::Native(task) => task.cancel().await,
            #[cfg(feature = "simulation")]
            Handle::Simulated(task) => task.cancel(),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Handle::Native(task) => Pin::new(task).poll(cx),
            #[cfg(feature = "simulation")]
            Handle::Simulated(task) => Pin::new(task).poll(cx),
        }
    }
}

/// Counts detached tasks, so that a shutdown can wait for all of them.
///
/// Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub struct TaskTracker(Rc<Tracked>);

#[derive(Debug, Default)]
struct Tracked {
    running: Cell<usize>,
    idle: Notify,
}

impl TaskTracker {
    /// A tracker of no tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a detached task that [`wait`](Self::wait) waits for.
    pub fn spawn<F>(&self, queue: Queue, future: F)
    where
        F: Future<Output = ()> + 'static,
    {
        let token = self.token();
        spawn(queue, async move {
            future.await;
            drop(token);
        })
        .detach();
    }

    /// Tasks that have not ended.
    pub fn running(&self) -> usize {
        self.0.running.get()
    }

    /// Waits until no tracked task runs. Cancel-safe. Does not stop anything: tell the tasks first.
    pub async fn wait(&self) {
        while self.running() > 0 {
            self.0.idle.notified().await;
        }
        // Another waiter may have been woken by the same notification.
        self.0.idle.notify();
    }

    fn token(&self) -> Token {
        self.0.running.set(self.0.running.get() + 1);
        Token(Rc::clone(&self.0))
    }
}

struct Token(Rc<Tracked>);

impl Drop for Token {
    fn drop(&mut self) {
        let running = self.0.running.get() - 1;
        self.0.running.set(running);
        if running == 0 {
            self.0.idle.notify();
        }
    }
}

/// Gives way if the executor's turn is over: a clock reading otherwise. Belongs in every long loop.
pub async fn yield_if_needed() {
    #[cfg(feature = "simulation")]
    if let Some(world) = simulated::world() {
        return world.yield_sometimes().await;
    }
    if here().is_some_and(|engine| engine.is_turn_over()) {
        give_way().await;
    }
}

/// Lets the other runnable tasks of this queue go first. Never a way to wait for I/O: completions
/// are reaped only between turns of the executor.
pub async fn yield_now() {
    #[cfg(feature = "simulation")]
    if simulated::world().is_some() {
        return simulated::yield_now().await;
    }
    give_way().await;
}

/// Goes to the end of the queue.
async fn give_way() {
    let mut has_waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
