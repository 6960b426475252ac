//! The switch: what an operation meets before and after it is carried out.
//!
//! An operation enters, is carried out under the lock, and leaves. The power goes in two steps.
//! *Frozen*: whatever enters is taken in, as a disk's cache would, and does not leave; flushes
//! do nothing. So no program learns of anything that happened since. *Off*: everything that waits
//! leaves with an error, by which time the programs are dead.
//!
//! Invariant: no operation that entered after the freeze reports success. Runs on the threads that
//! serve the kernel's requests, and on that of the test.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::disk::Disk;
use super::faults::{Effect, Faults, Operation};
use crate::seeded::Seeded;

/// Whether operations are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    On,
    Frozen,
    Off,
}

/// Everything the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What is under the lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) disk: Disk,
    pub(super) faults: Faults,
    pub(super) random: Seeded,
    pub(super) power: Power,
    /// Operations since the beginning that change the disk or flush it.
    pub(super) operations: u64,
    pub(super) freeze_at: Option<u64>,
    pub(super) flush_delay: Duration,
    pub(super) space_bytes: Option<u64>,
    pub(super) is_read_only: bool,
    pub(super) counts: BTreeMap<Operation, u64>,
    hang_number: u64,
}

/// An operation that was let in.
pub(super) struct Entered<'a> {
    pub(super) state: MutexGuard<'a, State>,
    /// What goes wrong with it besides errors and delays.
    pub(super) effect: Option<Effect>,
}

type Result<T> = std::result::Result<T, Errno>;

impl Shared {
    pub(super) fn new(disk: Disk, seed: u64) -> Self {
        let state = State {
            disk,
            faults: Faults::default(),
            random: Seeded::new(seed),
            power: Power::On,
            operations: 0,
            freeze_at: None,
            flush_delay: Duration::ZERO,
            space_bytes: None,
            is_read_only: false,
            counts: BTreeMap::new(),
            hang_number: 0,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let locked = self.state.lock();
        locked.expect("no thread panics while it holds the lock")
    }

    /// Lets an operation on an inode in, after delays, or refuses it.
    pub(super) fn enter(&self, operation: Operation, inode: u64) -> Result<Entered<'_>> {
        let mut state = self.lock();
        state.count(operation);
        if state.power == Power::Frozen {
            self.changed.notify_all();
        }
        let effect = state.effect(operation, inode);
        state = match effect {
            Some(Effect::Hang) => self.hang(state),
            Some(Effect::Delay(delay)) => self.pause(state, delay),
            _ => state,
        };
        match (state.power, operation) {
            (Power::Off, _) => return Err(Errno::IO),
            // Nobody learns what is read in the dark.
            (Power::Frozen, Operation::Read) => return Err(self.wait_for_off(state)),
            _ => {}
        }
        if let Some(Effect::Fail(error)) = effect {
            return Err(error);
        }
        if state.is_read_only && matches!(operation, Operation::Write | Operation::Name) {
            state.faults.note("read-only");
            return Err(Errno::ROFS);
        }
        Ok(Entered { state, effect })
    }

    /// Lets an operation out that was carried out.
    pub(super) fn leave<T>(&self, state: MutexGuard<'_, State>, done: T) -> Result<T> {
        match state.power {
            Power::On => Ok(done),
            Power::Frozen => Err(self.wait_for_off(state)),
            Power::Off => Err(Errno::IO),
        }
    }

    /// Waits for as long as a flush takes. What comes in meanwhile is not covered by it.
    pub(super) fn stretch_flush<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        let delay = state.flush_delay;
        self.pause(state, delay)
    }

    pub(super) fn set_power(&self, power: Power) {
        self.lock().power = power;
        self.changed.notify_all();
    }

    /// Waits until an operation has frozen the file system; `false` after `limit`.
    pub(super) fn wait_frozen(&self, limit: Duration) -> bool {
        let state = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(state, limit, |state| state.power == Power::On);
        let (state, _) = waited.expect("no thread panics while it holds the lock");
        state.power == Power::Frozen
    }

    /// Ends all faults; what hangs goes on.
    pub(super) fn clear_faults(&self) {
        let mut state = self.lock();
        state.faults.clear();
        state.is_read_only = false;
        state.space_bytes = None;
        state.hang_number += 1;
        drop(state);
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let waited = self.changed.wait(state);
        waited.expect("no thread panics while it holds the lock")
    }

    fn wait_for_off(&self, mut state: MutexGuard<'_, State>) -> Errno {
        while state.power == Power::Frozen {
            state = self.wait(state);
        }
        Errno::IO
    }

    fn hang<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let number = state.hang_number;
        while state.hang_number == number && state.power != Power::Off {
            state = self.wait(state);
        }
        state
    }

    /// Lets others in for a while. Ends early when the power goes.
    fn pause<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        delay: Duration,
    ) -> MutexGuard<'a, State> {
        let end = Instant::now() + delay;
        while state.power == Power::On {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.expect("no thread panics while it holds the lock");
        }
        state
    }
}

impl State {
    /// Refuses what would go beyond the space.
    pub(super) fn check_space(&mut self, more_bytes: u64) -> Result<()> {
        match self.space_bytes {
            Some(space) if more_bytes > 0 && self.disk.bytes() + more_bytes > space => {
                self.faults.note("no space");
                Err(Errno::NOSPC)
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, operation: Operation) {
        *self.counts.entry(operation).or_default() += 1;
        if operation == Operation::Read {
            return;
        }
        self.operations += 1;
        if self.power == Power::On && self.freeze_at.is_some_and(|at| self.operations >= at) {
            self.freeze_at = None;
            self.power = Power::Frozen;
        }
    }

    /// What goes wrong with this operation.
    pub(super) fn effect(&mut self, operation: Operation, inode: u64) -> Option<Effect> {
        let path = if self.faults.ask_for_paths() {
            self.disk.path(inode)
        } else {
            String::new()
        };
        self.faults.decide(operation, &path, &mut self.random)
    }
}
