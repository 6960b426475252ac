//! The virtual clock: it stands still while anything can run, and then jumps to the next timer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::world;

#[derive(Default)]
pub(super) struct Timers {
    now_us: Cell<u64>,
    next: Cell<u64>,
    /// By deadline, then in the order they were set.
    armed: RefCell<BTreeMap<(u64, u64), Waker>>,
}

impl Timers {
    pub(super) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// Lets a little time pass, and wakes what became due by that.
    pub(super) fn pass_us(&self, us: u64) {
        self.now_us.set(self.now_us.get() + us);
        while self.next_deadline().is_some_and(|at| at <= self.now_us()) {
            self.fire_next();
        }
    }

    /// Moves on to the next deadline; false if there is none.
    pub(super) fn advance(&self) -> bool {
        let Some(deadline_us) = self.next_deadline() else {
            return false;
        };
        self.now_us.set(self.now_us().max(deadline_us));
        self.pass_us(0);
        true
    }

    fn next_deadline(&self) -> Option<u64> {
        let armed = self.armed.borrow();
        armed.first_key_value().map(|((at, _), _)| *at)
    }

    fn fire_next(&self) {
        let due = self.armed.borrow_mut().pop_first();
        if let Some((_, waker)) = due {
            waker.wake();
        }
    }

    fn arm(&self, deadline_us: u64, waker: Waker) -> (u64, u64) {
        let number = self.next.get();
        self.next.set(number + 1);
        let key = (deadline_us, number);
        self.armed.borrow_mut().insert(key, waker);
        key
    }

    pub(super) fn clear(&self) {
        drop(self.armed.take());
    }
}

/// Completes at a moment of the virtual clock. Cancel-safe.
#[derive(Debug)]
pub(in crate::runtime) struct Sleep {
    deadline_us: u64,
    armed: Option<(u64, u64)>,
}

impl Sleep {
    pub(in crate::runtime) fn until(deadline_us: u64) -> Sleep {
        Sleep {
            deadline_us,
            armed: None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let world = super::this_world();
        if let Some(key) = self.armed.take() {
            world.timers.armed.borrow_mut().remove(&key);
        }
        if world.now_us() >= self.deadline_us {
            return Poll::Ready(());
        }
        self.armed = Some(world.timers.arm(self.deadline_us, cx.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(key), Some(world)) = (self.armed, world()) {
            let waker = world.timers.armed.borrow_mut().remove(&key);
            drop(waker);
        }
    }
}
