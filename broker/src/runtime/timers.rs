//! What waits for a moment: wakers by deadline.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

/// A deadline in the microseconds of some clock, and a number that tells those of one moment apart.
type Key = (u64, u64);

/// The deadlines of one executor.
#[derive(Default)]
pub(super) struct Timers {
    armed: RefCell<BTreeMap<Key, Waker>>,
    next_number: Cell<u64>,
}

/// One of them; it stays until it fired or is [disarmed](Timers::disarm).
#[derive(Debug, Clone, Copy)]
pub(super) struct Armed(Key);

impl Timers {
    /// Wakes `waker` when `deadline_us` has come. Those of one moment fire in the order in which
    /// they were armed.
    pub(super) fn arm(&self, deadline_us: u64, waker: Waker) -> Armed {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let key = (deadline_us, number);
        self.armed.borrow_mut().insert(key, waker);
        Armed(key)
    }

    /// Nothing if it has fired.
    pub(super) fn disarm(&self, armed: Armed) {
        let waker = self.armed.borrow_mut().remove(&armed.0);
        // The last waker of a task takes the task along, and that may have timers, too.
        drop(waker);
    }

    /// The earliest deadline.
    pub(super) fn next_us(&self) -> Option<u64> {
        let armed = self.armed.borrow();
        armed.first_key_value().map(|((at_us, _), _)| *at_us)
    }

    /// Wakes whose moment has come.
    pub(super) fn fire(&self, now_us: u64) {
        while self.next_us().is_some_and(|at_us| at_us <= now_us) {
            let due = self.armed.borrow_mut().pop_first();
            if let Some((_, waker)) = due {
                waker.wake();
            }
        }
    }

    /// Forgets all of them.
    #[cfg(feature = "simulation")]
    pub(super) fn clear(&self) {
        drop(self.armed.take());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_due_fires_once_and_what_was_disarmed_never() {
        let count = Arc::<Count>::default();
        let timers = Timers::default();
        let arm = |deadline_us| timers.arm(deadline_us, Waker::from(Arc::clone(&count)));
        let fired = || count.0.load(Ordering::Relaxed);
        let (early, withdrawn, late) = (arm(10), arm(10), arm(30));
        assert_eq!(timers.next_us(), Some(10));
        timers.disarm(withdrawn);
        timers.fire(9);
        assert_eq!(fired(), 0);
        timers.fire(10);
        assert_eq!((fired(), timers.next_us()), (1, Some(30)));
        timers.disarm(early);
        timers.fire(31);
        assert_eq!((fired(), timers.next_us()), (2, None));
        timers.disarm(late);
    }
}
