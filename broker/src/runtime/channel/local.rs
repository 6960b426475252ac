//! Wake-ups and single values between tasks of one executor. Single-threaded: no atomics.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A wake-up that is never lost: one stored permit.
///
/// Notifications before a wait are remembered once, so "change state, notify" and "check state,
/// wait" can run in any order. Several tasks may wait; each notification lets at least one
/// through, so waiters re-check their condition in a loop.
#[derive(Debug, Default)]
pub struct Notify {
    permit: Cell<bool>,
    waiters: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Without a stored permit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores the permit and wakes who waits.
    pub fn notify(&self) {
        self.permit.set(true);
        // Everyone is woken and the first to run takes the permit: a waiter that was cancelled
        // after being woken can then never swallow it.
        for waiter in self.waiters.take() {
            waiter.wake();
        }
    }

    /// Waits for the permit and takes it. Cancel-safe.
    pub async fn notified(&self) {
        poll_fn(|cx| self.poll_notified(cx)).await;
    }

    fn poll_notified(&self, cx: &Context<'_>) -> Poll<()> {
        if self.permit.take() {
            return Poll::Ready(());
        }
        let mut waiters = self.waiters.borrow_mut();
        if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
            waiters.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    waiter: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

/// The sending end of [`oneshot`].
#[derive(Debug)]
pub struct OneshotSender<T>(Rc<RefCell<Slot<T>>>);

/// The receiving end of [`oneshot`]: a future of the value, or `None` if the sender was dropped
/// without sending. Cancel-safe while it is kept.
#[derive(Debug)]
#[must_use = "a oneshot does nothing unless awaited"]
pub struct OneshotReceiver<T>(Rc<RefCell<Slot<T>>>);

/// A channel for one value between two tasks of one executor.
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Slot {
        value: None,
        waiter: None,
        sender_gone: false,
        receiver_gone: false,
    };
    let slot = Rc::new(RefCell::new(slot));
    (OneshotSender(Rc::clone(&slot)), OneshotReceiver(slot))
}

impl<T> OneshotSender<T> {
    /// Sends the value and wakes the receiver.
    ///
    /// # Errors
    /// The value, if the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut slot = self.0.borrow_mut();
        if slot.receiver_gone {
            return Err(value);
        }
        slot.value = Some(value);
        Ok(())
    }

    /// True once nobody can receive the value.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().receiver_gone
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waiter = {
            let mut slot = self.0.borrow_mut();
            slot.sender_gone = true;
            slot.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        let (value, waiter) = {
            let mut slot = self.0.borrow_mut();
            slot.receiver_gone = true;
            (slot.value.take(), slot.waiter.take())
        };
        drop((value, waiter));
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.0.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Some(value));
        }
        if slot.sender_gone {
            return Poll::Ready(None);
        }
        slot.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}
