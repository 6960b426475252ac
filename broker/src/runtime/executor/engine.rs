//! What an executor consists of, and the loop that runs it.
//!
//! A turn of the loop: run the tasks of the queues, round by round; wait for readiness (not at all
//! while tasks can run); then take in what other threads woke, and fire timers. Files are served
//! after each round: between a group's writes and its flush the disk waits for nothing else.
//! Nothing sleeps over a runnable task: the wait looks at the queues first.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use rustix::thread::CpuSet;
use slab::Slab;

use super::heartbeat::{self, Progress};
use super::queues::{Queue, Queues};
use super::remote::Remote;
use super::{ExecutorConfig, Files, task};
use crate::runtime::clock;
use crate::runtime::memory::MemoryDisk;
use crate::runtime::reactor::Reactor;
use crate::runtime::ring::Ring;
use crate::runtime::timers::Timers;

/// How long the end of an executor waits for tasks that are on their way from other threads, and
/// for the disk. What is not done then is leaked, with its memory.
const END_TIME: Duration = Duration::from_secs(5);

/// When to hand operations over again that the kernel had no room for.
const SUBMIT_AGAIN: Duration = Duration::from_millis(1);

/// What runs the tasks of a thread.
pub(in crate::runtime) struct Engine {
    pub(super) queues: Queues,
    remote: Arc<Remote>,
    thread: ThreadId,
    /// All tasks whose futures are not dropped.
    tasks: RefCell<Slab<Waker>>,
    pub(in crate::runtime) reactor: Reactor,
    pub(in crate::runtime) timers: Timers,
    pub(in crate::runtime) files: OpenFiles,
    /// Cores the thread could use before it was pinned: helper threads get them back, or they
    /// would compete with the shard for its own core.
    pub(super) host_cores: Option<CpuSet>,
    pub(super) files_lock: Weak<File>,
    /// What the destructor of a task panicked with.
    panic: Cell<Option<Panic>>,
}

type Panic = Box<dyn Any + Send>;

/// What the files of an executor are read and written with.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each executor, and the large one is what servers use"
)]
pub(in crate::runtime) enum OpenFiles {
    Host(Ring),
    Memory(Arc<MemoryDisk>),
}

impl Engine {
    pub(super) fn new(config: &ExecutorConfig, host_cores: Option<CpuSet>) -> io::Result<Rc<Self>> {
        let remote = Arc::new(Remote::new()?);
        let reactor = Reactor::new()?;
        reactor.watch_bell(remote.bell())?;
        let files = match &config.files {
            Files::Memory(disk) => OpenFiles::Memory(Arc::clone(disk)),
            Files::Host => {
                let ring = Ring::new()?;
                reactor.watch_bell(&ring)?;
                OpenFiles::Host(ring)
            }
        };
        Ok(Rc::new(Engine {
            queues: Queues::default(),
            remote,
            thread: thread::current().id(),
            tasks: RefCell::default(),
            reactor,
            timers: Timers::default(),
            files,
            host_cores,
            files_lock: Weak::clone(&config.files_lock),
            panic: Cell::default(),
        }))
    }

    /// Runs `main` and all tasks until `main` completes; signals `ready` once it runs.
    ///
    /// # Panics
    /// With the panic of any task.
    pub(super) fn run<T, Fut>(
        self: &Rc<Self>,
        main: impl FnOnce() -> Fut,
        progress: Arc<Progress>,
        ready: &SyncSender<()>,
    ) -> T
    where
        T: 'static,
        Fut: Future<Output = T> + 'static,
    {
        progress.run();
        task::spawn(Queue::Control, heartbeat::beat(progress)).detach();
        let ended = Rc::new(Cell::new(None));
        let end = Rc::clone(&ended);
        let main = main();
        let main = task::spawn(Queue::Control, async move { end.set(Some(main.await)) });
        // A closed channel means the starter is gone; the executor is still wanted.
        let _ = ready.try_send(());
        loop {
            self.queues.run_a_turn(|| self.serve_files());
            if let Some(panic) = self.panic.take() {
                resume_unwind(panic);
            }
            if let Some(output) = ended.take() {
                drop(main);
                return output;
            }
            self.turn_to_io();
        }
    }

    /// Hands over the operations on files that tasks have asked for, and takes in what is done.
    /// Two looks at memory if there is nothing.
    fn serve_files(&self) {
        if let OpenFiles::Host(ring) = &self.files {
            ring.submit();
            ring.reap();
        }
    }

    /// Whether tasks that can should give way: to other queues, to sockets, or to those who wait
    /// for a file, so that the disk does not idle while a connection is read empty.
    pub(super) fn is_turn_over(&self) -> bool {
        let is_answered = match &self.files {
            OpenFiles::Host(ring) => ring.has_completions(),
            OpenFiles::Memory(_) => false,
        };
        is_answered || self.queues.is_turn_over()
    }

    fn turn_to_io(&self) {
        self.serve_files();
        let timeout = self.timeout();
        self.reactor
            .wait(timeout)
            .expect("waiting for registered descriptors does not fail");
        self.remote
            .drain(|queue, runnable| self.queues.push(queue, runnable));
        self.serve_files();
        if self.timers.next_us().is_some() {
            self.timers.fire(clock::now_us());
        }
    }

    /// How long nothing is to be done; without an end if that is until something comes.
    fn timeout(&self) -> Option<Duration> {
        if !self.queues.is_empty() || !self.remote.try_sleep() {
            return Some(Duration::ZERO);
        }
        if let OpenFiles::Host(ring) = &self.files
            && ring.has_more()
        {
            return Some(SUBMIT_AGAIN);
        }
        let next_us = self.timers.next_us()?;
        Some(Duration::from_micros(
            next_us.saturating_sub(clock::now_us()),
        ))
    }

    /// Makes a task of a future. It first runs after the caller next awaits.
    pub(super) fn spawn<F>(
        self: &Rc<Self>,
        queue: Queue,
        future: F,
    ) -> async_task::Task<F::Output, &'static str>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let future = Counted {
            future: Some(future),
            counted: Count {
                engine: Rc::clone(self),
                key: entry.key(),
            },
        };
        let (thread, remote) = (self.thread, Arc::clone(&self.remote));
        let schedule = move |runnable| match here_on(thread) {
            Some(engine) => engine.queues.push(queue, runnable),
            None => remote.push(queue, runnable),
        };
        let name = std::any::type_name::<F>();
        let (runnable, task) = async_task::Builder::new()
            .metadata(name)
            .spawn_local(move |_| future, schedule);
        entry.insert(runnable.waker());
        drop(tasks);
        self.queues.push(queue, runnable);
        task
    }

    /// Drops all tasks, and waits for what they left to the kernel.
    pub(super) fn finish(&self) {
        let deadline = Instant::now() + END_TIME;
        self.drop_tasks(deadline);
        drop(self.remote.close());
        if let OpenFiles::Host(ring) = &self.files
            && !ring.finish(deadline)
        {
            // A late write must not meet whoever opens the files next.
            mem::forget(self.files_lock.upgrade());
        }
    }

    fn drop_tasks(&self, deadline: Instant) {
        loop {
            let wakers: Vec<Waker> = {
                let tasks = self.tasks.borrow();
                tasks.iter().map(|(_, waker)| waker.clone()).collect()
            };
            if wakers.is_empty() || Instant::now() > deadline {
                return;
            }
            for waker in wakers {
                waker.wake();
            }
            self.remote
                .drain(|queue, runnable| self.queues.push(queue, runnable));
            while let Some(runnable) = self.queues.pop() {
                drop(runnable);
            }
            // One that another thread is waking comes in when that thread has had its turn.
            thread::yield_now();
        }
    }
}

pin_project! {
    /// A future that its engine knows of for as long as it exists.
    struct Counted<F> {
        // Until it is dropped.
        #[pin]
        future: Option<F>,
        counted: Count,
    }

    impl<F> PinnedDrop for Counted<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            // Here, because the process would end with a panic that goes on. The first one counts:
            // destructors may find anything after a panic.
            let dropped = catch_unwind(AssertUnwindSafe(|| this.future.set(None)));
            if let Err(panic) = dropped {
                let first = this.counted.engine.panic.take();
                this.counted.engine.panic.set(first.or(Some(panic)));
            }
        }
    }
}

struct Count {
    engine: Rc<Engine>,
    key: usize,
}

impl<F: Future> Future for Counted<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let future = self.project().future.as_pin_mut();
        future.expect("there until it is dropped").poll(cx)
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let waker = self.engine.tasks.borrow_mut().try_remove(self.key);
        drop(waker);
    }
}

thread_local! {
    static HERE: RefCell<Option<Rc<Engine>>> = const { RefCell::new(None) };
}

/// Makes an engine known to its thread until dropped.
pub(super) struct Installed;

impl Installed {
    pub(super) fn new(engine: Rc<Engine>) -> Self {
        HERE.with_borrow_mut(|here| *here = Some(engine));
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let engine = HERE.with_borrow_mut(Option::take);
        drop(engine);
    }
}

/// The engine that runs on this thread, if one does.
pub(in crate::runtime) fn here() -> Option<Rc<Engine>> {
    HERE.try_with(|here| here.borrow().clone()).ok().flatten()
}

fn here_on(thread: ThreadId) -> Option<Rc<Engine>> {
    here().filter(|engine| engine.thread == thread)
}

/// The engine that runs on this thread.
///
/// # Panics
/// If there is none.
pub(in crate::runtime) fn engine() -> Rc<Engine> {
    here().expect("called on the thread of a running executor")
}
