//! Tasks and the queues they run in.
//!
//! Everything here runs on the executor's own thread. A task never outlives its executor, but the
//! backend does not drop detached tasks when it ends: whatever must finish first is spawned
//! through a [`TaskTracker`].

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use glommio::{Latency, Shares, TaskQueueHandle};
use tracing::{debug, warn};

use super::{Context as Executor, current};
use crate::runtime::channel::Notify;
use crate::runtime::clock;
use crate::runtime::portable::{self, PortableTask};
#[cfg(feature = "simulation")]
use crate::runtime::simulated;

/// One turn of a task that is this long is worth a line for developers,
const HELD_LONG_US: u64 = 10_000;
/// and one for operators.
const HELD_TOO_LONG_US: u64 = 100_000;

/// A task queue: how soon and how often its tasks run. All are one on the portable backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Connections and replication: answered within 1 ms.
    Network,
    /// Group commit: within 1 ms.
    Journal,
    /// Main futures, control requests, timers: within 2 ms.
    Control,
    /// Reads of old data; must never move the tail's latency.
    Cold,
    /// Cleaning, checkpoints, index merges.
    Background,
}

pub(super) struct Queues([TaskQueueHandle; 5]);

impl Queues {
    fn handle(&self, queue: Queue) -> TaskQueueHandle {
        let [network, journal, control, cold, background] = self.0;
        match queue {
            Queue::Network => network,
            Queue::Journal => journal,
            Queue::Control => control,
            Queue::Cold => cold,
            Queue::Background => background,
        }
    }
}

pub(super) fn create_queues() -> Queues {
    let soon = |millis| Latency::Matters(Duration::from_millis(millis));
    let queue = |name, shares, latency| {
        glommio::executor().create_task_queue(Shares::Static(shares), latency, name)
    };
    Queues([
        queue("network", 1000, soon(1)),
        queue("journal", 1000, soon(1)),
        queue("control", 500, soon(2)),
        queue("cold", 150, Latency::NotImportant),
        queue("background", 50, Latency::NotImportant),
    ])
}

/// Spawns a task on the current executor.
///
/// The task starts after the caller next awaits. It is cancelled when the [`Task`] is dropped;
/// [`Task::detach`] lets it run on.
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
    if let Some(portable) = portable::here() {
        return Task(Handle::Portable(portable.spawn(watched(future))));
    }
    let context = current();
    let handle = context
        .queues
        .get()
        .expect("made before any task")
        .handle(queue);
    let alive = Alive::begin(context);
    let counted = async move {
        let _alive = alive;
        watched(future).await
    };
    let task = glommio::spawn_local_into(counted, handle)
        .expect("the executor's queues are never removed");
    Task(Handle::Glommio(task))
}

/// Runs a future and names it when it keeps its executor from everything else for long.
async fn watched<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let began_us = clock::now_us();
        let polled = future.as_mut().poll(cx);
        let held_us = clock::now_us().saturating_sub(began_us);
        if held_us >= HELD_LONG_US {
            note_held(std::any::type_name::<F>(), held_us);
        }
        polled
    })
    .await
}

#[cold]
fn note_held(task: &str, held_us: u64) {
    let held_ms = held_us / 1_000;
    if held_us >= HELD_TOO_LONG_US {
        warn!(task, held_ms, "a task held its executor");
    } else {
        debug!(task, held_ms, "a task held its executor");
    }
}

/// Counts a task for as long as its future exists.
struct Alive(Rc<Executor>);

impl Alive {
    fn begin(executor: Rc<Executor>) -> Self {
        executor.tasks.set(executor.tasks.get() + 1);
        Self(executor)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.tasks.set(self.0.tasks.get() - 1);
    }
}

/// A spawned task: a future of its result, cancelled on drop.
#[must_use = "a task is cancelled when dropped; detach() lets it run on"]
#[derive(Debug)]
pub struct Task<T>(Handle<T>);

#[derive(Debug)]
enum Handle<T> {
    Glommio(glommio::Task<T>),
    Portable(PortableTask<T>),
    #[cfg(feature = "simulation")]
    Simulated(simulated::JoinHandle<T>),
}

impl<T> Task<T> {
    /// Lets the task run to its end on its own. Its result is dropped.
    pub fn detach(self) {
        match self.0 {
            Handle::Glommio(task) => drop(task.detach()),
            Handle::Portable(task) => task.detach(),
            #[cfg(feature = "simulation")]
            Handle::Simulated(task) => task.detach(),
        }
    }

    /// Stops the task and waits until its future is dropped. `Some` if it had completed.
    pub async fn cancel(self) -> Option<T> {
        match self.0 {
            Handle::Glommio(task) => task.cancel().await,
            Handle::Portable(task) => task.cancel().await,
            #[cfg(feature = "simulation")]
            Handle::Simulated(task) => task.cancel(),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match &mut self.0 {
            Handle::Glommio(task) => Pin::new(task).poll(cx),
            Handle::Portable(task) => Pin::new(task).poll(cx),
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

/// Yields if another queue is waiting for its turn; a few nanoseconds otherwise. Belongs in every
/// long loop.
pub async fn yield_if_needed() {
    #[cfg(feature = "simulation")]
    if let Some(world) = simulated::world() {
        return world.yield_sometimes().await;
    }
    if portable::is_here() {
        return portable::yield_if_needed().await;
    }
    glommio::yield_if_needed().await;
}

/// Lets the other runnable tasks of this queue go first. Never a way to wait for I/O: completions
/// are reaped only between turns, so a busy loop of yields starves itself.
pub async fn yield_now() {
    #[cfg(feature = "simulation")]
    if simulated::world().is_some() {
        return simulated::yield_now().await;
    }
    if portable::is_here() {
        return portable::yield_now().await;
    }
    glommio::executor().yield_now().await;
}
