//! The virtual clock: it stands still while anything can run, and then jumps to the next timer.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::world;
use crate::runtime::timers::{self, Armed};

#[derive(Default)]
pub(super) struct Timers {
    now_us: Cell<u64>,
    armed: timers::Timers,
}

impl Timers {
    pub(super) fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// Lets a little time pass, and wakes what became due by that.
    pub(super) fn pass_us(&self, us: u64) {
        self.now_us.set(self.now_us.get() + us);
        self.armed.fire(self.now_us());
    }

    /// Moves on to the next deadline; false if there is none.
    pub(super) fn advance(&self) -> bool {
        let Some(deadline_us) = self.armed.next_us() else {
            return false;
        };
        self.now_us.set(self.now_us().max(deadline_us));
        self.pass_us(0);
        true
    }

    fn arm(&self, deadline_us: u64, waker: Waker) -> Armed {
        self.armed.arm(deadline_us, waker)
    }

    pub(super) fn clear(&self) {
        self.armed.clear();
    }
}

/// Completes at a moment of the virtual clock. Cancel-safe.
#[derive(Debug)]
pub(in crate::runtime) struct Sleep {
    deadline_us: u64,
    armed: Option<Armed>,
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
        if let Some(armed) = self.armed.take() {
            world.timers.armed.disarm(armed);
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
        if let (Some(armed), Some(world)) = (self.armed.take(), world()) {
            world.timers.armed.disarm(armed);
        }
    }
}
