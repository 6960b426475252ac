//! Tasks that are woken from other threads.
//!
//! Such a wake-up lies in an inbox until the executor's next turn; if the executor sleeps, an
//! eventfd that its reactor watches ends that. Invariant: an executor that has gone to sleep is
//! either woken by whoever put something in or found it before it slept.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, mem};

use rustix::event::{EventfdFlags, eventfd};

use super::queues::{Queue, Runnable};

/// It looks into the inbox before it sleeps.
const AWAKE: u8 = 0;
/// Something is in the inbox.
const CALLED: u8 = 1;
/// It sleeps, or is about to.
const ASLEEP: u8 = 2;

/// The side of an executor that other threads reach.
pub(super) struct Remote {
    state: AtomicU8,
    inbox: Mutex<Inbox>,
    bell: OwnedFd,
}

#[derive(Default)]
struct Inbox {
    runnable: Vec<(Queue, Runnable)>,
    is_closed: bool,
}

impl Remote {
    pub(super) fn new() -> io::Result<Remote> {
        Ok(Remote {
            state: AtomicU8::new(AWAKE),
            inbox: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// What the executor watches while it sleeps.
    pub(super) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// From any thread.
    pub(super) fn push(&self, queue: Queue, runnable: Runnable) {
        let mut inbox = self.inbox();
        if inbox.is_closed {
            // Its executor has ended, and only that thread could drop it.
            return mem::forget(runnable);
        }
        inbox.runnable.push((queue, runnable));
        drop(inbox);
        let was = self.state.swap(CALLED, Ordering::AcqRel);
        if was == ASLEEP {
            // Any number but 0 rings it. Fails only if the sum no longer fits 64 bits: then it has
            // rung.
            let _ = rustix::io::write(&self.bell, &1_u64.to_le_bytes());
        }
    }

    /// Hands what came in to `queue`.
    pub(super) fn drain(&self, mut queue: impl FnMut(Queue, Runnable)) {
        if self.state.swap(AWAKE, Ordering::AcqRel) != CALLED {
            return;
        }
        let came = mem::take(&mut self.inbox().runnable);
        for (which, runnable) in came {
            queue(which, runnable);
        }
    }

    /// Says that the executor goes to sleep; false if there is something for it.
    pub(super) fn try_sleep(&self) -> bool {
        let slept = self
            .state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
        slept.is_ok()
    }

    /// Nothing is taken any more; returns what was left.
    pub(super) fn close(&self) -> Vec<(Queue, Runnable)> {
        let mut inbox = self.inbox();
        inbox.is_closed = true;
        mem::take(&mut inbox.runnable)
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        // Nothing under this lock can panic half way.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
