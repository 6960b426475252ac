//! Wake-ups and single values between tasks of one executor. Single-threaded: no atomics.

use std::cell::{Cell, RefCell};
use std::future::Future;
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
    /// Those who wait, by the number of their registration, which only rises.
    waiters: RefCell<Vec<(u64, Waker)>>,
    registrations: Cell<u64>,
}

/// A wait for the permit of a [`Notify`]. Dropping it gives the wait up and leaves nothing behind.
#[derive(Debug)]
#[must_use = "a wait does nothing unless awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    registration: Option<u64>,
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
        for (_, waiter) in self.waiters.take() {
            waiter.wake();
        }
    }

    /// Waits for the permit and takes it. Cancel-safe.
    pub fn notified(&self) -> Notified<'_> {
        Notified {
            notify: self,
            registration: None,
        }
    }

    fn register(&self, registration: Option<u64>, waker: &Waker) -> u64 {
        let mut waiters = self.waiters.borrow_mut();
        if let Some(number) = registration
            && let Ok(at) = waiters.binary_search_by_key(&number, |waiter| waiter.0)
        {
            waiters[at].1.clone_from(waker);
            return number;
        }
        let number = self.registrations.get();
        self.registrations.set(number + 1);
        waiters.push((number, waker.clone()));
        number
    }

    fn withdraw(&self, registration: u64) {
        let mut waiters = self.waiters.borrow_mut();
        let found = waiters.binary_search_by_key(&registration, |waiter| waiter.0);
        let withdrawn = found.ok().map(|at| waiters.remove(at));
        drop(waiters);
        // The last waker of a task takes the task along, and that may wait here, too.
        drop(withdrawn);
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notify.permit.take() {
            return Poll::Ready(());
        }
        let number = self.notify.register(self.registration, cx.waker());
        self.registration = Some(number);
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.registration {
            self.notify.withdraw(number);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_was_given_up_leaves_no_waker_behind() {
        let notify = Notify::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut kept = notify.notified();
        assert!(Pin::new(&mut kept).poll(&mut context).is_pending());
        for _ in 0..1000 {
            let mut given_up = notify.notified();
            assert!(Pin::new(&mut given_up).poll(&mut context).is_pending());
            assert!(Pin::new(&mut given_up).poll(&mut context).is_pending());
        }
        assert_eq!(notify.waiters.borrow().len(), 1, "only the one that waits");
        notify.notify();
        assert!(Pin::new(&mut kept).poll(&mut context).is_ready());
        let mut next = notify.notified();
        assert!(Pin::new(&mut next).poll(&mut context).is_pending());
        drop(kept);
        assert_eq!(
            notify.waiters.borrow().len(),
            1,
            "a late drop takes no one else's"
        );
    }
}
