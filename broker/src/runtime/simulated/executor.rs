//! The simulated executor: one thread, any number of tasks, the next one chosen by the seed.
//!
//! Tasks belong to *domains* and pass their domain on to what they spawn. A domain can be ended at
//! any moment between two polls, which drops all of its tasks: that is how a node crashes. A panic
//! ends the run and is reported. Of the queues nothing is kept: any order must do.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::World;
use super::rng::Rng;

/// Whose tasks die together. Everything outside of a node is domain 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Domain(pub u32);

/// Why a run ended before its main future did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// A task panicked.
    #[error("panicked: {0}")]
    Panicked(String),
    /// Every task waits, and no timer is armed.
    #[error("every task waits for another")]
    Deadlock,
    /// The run took more polls than it may.
    #[error("the run does not end")]
    Endless,
}

type BoxedTask = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    /// Taken out while it is polled.
    future: Option<BoxedTask>,
    domain: Domain,
    key: Key,
    waker: Waker,
    /// Set on a task that was cancelled while it was polled.
    cancelled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    index: usize,
    /// Tells tasks apart that had the same place one after the other.
    number: u64,
}

#[derive(Default)]
struct Ready(Mutex<Vec<Key>>);

impl Ready {
    fn with<T>(&self, then: impl FnOnce(&mut Vec<Key>) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct TaskWaker {
    key: Key,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.with(|ready| ready.push(self.key));
        }
    }
}

pub(super) struct Executor {
    slots: RefCell<Vec<Option<Slot>>>,
    free: RefCell<Vec<usize>>,
    flags: RefCell<Vec<Option<Arc<TaskWaker>>>>,
    ready: Arc<Ready>,
    next_number: Cell<u64>,
    domain: Cell<Domain>,
    rng: RefCell<Rng>,
    polls: Cell<u64>,
    polls_max: u64,
}

impl Executor {
    pub(super) fn new(rng: Rng, polls_max: u64) -> Executor {
        Executor {
            slots: RefCell::default(),
            free: RefCell::default(),
            flags: RefCell::default(),
            ready: Arc::default(),
            next_number: Cell::new(0),
            domain: Cell::new(Domain(0)),
            rng: RefCell::new(rng),
            polls: Cell::new(0),
            polls_max,
        }
    }

    /// The domain of the task that runs.
    pub(super) fn domain(&self) -> Domain {
        self.domain.get()
    }

    pub(super) fn spawn<F>(&self, domain: Domain, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let joined = Rc::new(Joined {
            output: RefCell::new(None),
            waiter: RefCell::new(None),
        });
        let result = Rc::clone(&joined);
        let key = self.place(domain, async move {
            let output = future.await;
            *result.output.borrow_mut() = Some(output);
            let waiter = result.waiter.take();
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        });
        JoinHandle {
            joined,
            key,
            detached: false,
        }
    }

    fn place(&self, domain: Domain, future: impl Future<Output = ()> + 'static) -> Key {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(None);
            self.flags.borrow_mut().push(None);
            slots.len() - 1
        });
        let key = Key { index, number };
        let flag = Arc::new(TaskWaker {
            key,
            queued: AtomicBool::new(false),
            ready: Arc::clone(&self.ready),
        });
        let waker = Waker::from(Arc::clone(&flag));
        waker.wake_by_ref();
        self.flags.borrow_mut()[index] = Some(flag);
        slots[index] = Some(Slot {
            future: Some(Box::pin(future)),
            domain,
            key,
            waker,
            cancelled: false,
        });
        key
    }

    /// Takes a task out of the executor. Its future is returned, to be dropped by the caller when
    /// nothing is borrowed; none if it is gone or is being polled.
    fn cancel(&self, key: Key) -> Option<Slot> {
        let mut slots = self.slots.borrow_mut();
        let place = slots.get_mut(key.index)?;
        let slot = place.as_mut().filter(|slot| slot.key == key)?;
        if slot.future.is_none() {
            slot.cancelled = true;
            return None;
        }
        self.free.borrow_mut().push(key.index);
        place.take()
    }

    pub(super) fn draws_yield(&self) -> bool {
        self.rng.borrow_mut().chance(1, 4)
    }

    /// The next task to poll.
    fn pick(&self) -> Option<Key> {
        self.ready.with(|ready| {
            if ready.is_empty() {
                return None;
            }
            let index = self.rng.borrow_mut().index(ready.len());
            Some(ready.swap_remove(index))
        })
    }

    fn begin(&self, key: Key) -> Option<(BoxedTask, Waker)> {
        let flag = self.flags.borrow()[key.index].clone();
        if let Some(flag) = flag.filter(|flag| flag.key == key) {
            flag.queued.store(false, Ordering::Relaxed);
        }
        let mut slots = self.slots.borrow_mut();
        let slot = slots[key.index].as_mut().filter(|slot| slot.key == key)?;
        let future = slot.future.take()?;
        self.domain.set(slot.domain);
        Some((future, slot.waker.clone()))
    }

    /// Puts a polled task back, or gives it up.
    fn end(&self, key: Key, future: BoxedTask, is_done: bool) {
        let mut slots = self.slots.borrow_mut();
        let place = &mut slots[key.index];
        let slot = place
            .as_mut()
            .expect("a task that is polled keeps its place");
        if is_done || slot.cancelled {
            let gone = place.take();
            self.free.borrow_mut().push(key.index);
            drop(slots);
            // Its destructors may spawn and wake.
            drop((gone, future));
        } else {
            slot.future = Some(future);
        }
        self.domain.set(Domain(0));
    }

    fn poll(&self, key: Key) -> Result<(), Halt> {
        let Some((mut future, waker)) = self.begin(key) else {
            return Ok(());
        };
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut context).is_ready()
        }));
        match polled {
            Ok(is_done) => {
                self.end(key, future, is_done);
                Ok(())
            }
            Err(panic) => {
                // What a panic left behind is in no state to be dropped.
                std::mem::forget(future);
                Err(Halt::Panicked(message_of(panic.as_ref())))
            }
        }
    }
}

/// Runs until `main` completes.
pub(super) fn run<T: 'static>(
    world: &Rc<World>,
    main: impl Future<Output = T> + 'static,
) -> Result<T, Halt> {
    let executor = &world.executor;
    let main = executor.spawn(Domain(0), main);
    loop {
        if let Some(output) = main.joined.output.take() {
            return Ok(output);
        }
        if let Some(domain) = world.crash.take() {
            // Nothing of it may run again; its end is the main task's to carry out.
            world.network.forget(domain);
            drop_domain(world, domain);
            world.crashed.notify();
        }
        let Some(key) = executor.pick() else {
            if world.timers.advance() {
                continue;
            }
            return Err(Halt::Deadlock);
        };
        let polls = executor.polls.get() + 1;
        executor.polls.set(polls);
        if polls > executor.polls_max {
            return Err(Halt::Endless);
        }
        world.trace.event("poll", &[key.number, world.now_us()]);
        executor.poll(key)?;
        world.timers.pass_us(1);
    }
}

/// Drops the tasks of a domain.
pub(super) fn drop_domain(world: &Rc<World>, domain: Domain) {
    drop_where(world, |slot| slot.domain == domain);
}

/// Drops every task.
pub(super) fn drop_all(world: &Rc<World>) {
    drop_where(world, |_| true);
    world.timers.clear();
    world.network.clear();
}

fn drop_where(world: &Rc<World>, choose: impl Fn(&Slot) -> bool) {
    let executor = &world.executor;
    loop {
        let keys: Vec<Key> = executor
            .slots
            .borrow()
            .iter()
            .flatten()
            .filter(|slot| slot.future.is_some() && choose(slot))
            .map(|slot| slot.key)
            .collect();
        if keys.is_empty() {
            return;
        }
        for key in keys {
            let gone = executor.cancel(key);
            // One whose panic halted the run may have left cells borrowed.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(gone)));
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

struct Joined<T> {
    output: RefCell<Option<T>>,
    waiter: RefCell<Option<Waker>>,
}

/// A spawned task: a future of its result, cancelled on drop unless it is detached.
#[must_use = "a task is cancelled when dropped; detach() lets it run on"]
pub struct JoinHandle<T> {
    joined: Rc<Joined<T>>,
    key: Key,
    detached: bool,
}

impl<T> JoinHandle<T> {
    /// Lets the task run to its end on its own.
    pub fn detach(mut self) {
        self.detached = true;
    }

    /// Stops the task. `Some` if it had completed.
    pub(in crate::runtime) fn cancel(self) -> Option<T> {
        self.joined.output.take()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Some(output) = self.joined.output.take() {
            return Poll::Ready(output);
        }
        *self.joined.waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if !self.detached
            && let Some(world) = super::world()
        {
            let gone = world.executor.cancel(self.key);
            drop(gone);
        }
    }
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinHandle")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Lets other tasks go first.
pub(in crate::runtime) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
