//! A bound on the bytes that many tasks of a shard hold at once.
//!
//! Who finds the budget used up waits. Those who wait may hold bytes already and need more to get
//! done, so that all could wait for each other; therefore one charge at a time may exceed the
//! limit. Runs on the shard's executor.

use std::cell::Cell;
use std::rc::Rc;

use crate::runtime::channel::Notify;

/// A number of bytes that is shared.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: Cell<usize>,
    /// Whether some charge exceeds the limit.
    overdrawn: Cell<bool>,
    freed: Notify,
}

/// What one task holds of a budget; dropping it gives everything back.
#[derive(Debug)]
pub struct Charge {
    budget: Rc<Budget>,
    bytes: usize,
    overdraws: bool,
}

impl Budget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Rc<Budget> {
        Rc::new(Budget {
            limit_bytes,
            used_bytes: Cell::new(0),
            overdrawn: Cell::new(false),
            freed: Notify::new(),
        })
    }

    /// A charge of nothing yet.
    pub fn charge(self: &Rc<Self>) -> Charge {
        Charge {
            budget: Rc::clone(self),
            bytes: 0,
            overdraws: false,
        }
    }

    /// A charge of `bytes`, if the limit allows it now.
    pub fn try_charge(self: &Rc<Self>, bytes: usize) -> Option<Charge> {
        self.has_room(bytes).then(|| {
            let mut charge = self.charge();
            charge.add(bytes);
            charge
        })
    }

    /// Bytes charged.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }

    /// Whether more than half is charged.
    pub fn is_crowded(&self) -> bool {
        self.used_bytes.get() > self.limit_bytes / 2
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.used_bytes.get() + bytes <= self.limit_bytes
    }
}

impl Charge {
    /// Charges up to `total_bytes`, waiting for room. Cancel-safe: nothing is charged until it is
    /// done.
    pub async fn grow_to(&mut self, total_bytes: usize) {
        let bytes = total_bytes.saturating_sub(self.bytes);
        let mut waited = false;
        while !self.overdraws && !self.budget.has_room(bytes) {
            if !self.budget.overdrawn.replace(true) {
                self.overdraws = true;
                break;
            }
            self.budget.freed.notified().await;
            waited = true;
        }
        self.add(bytes);
        if waited {
            // One wake-up lets one waiter through; each lets the next one look.
            self.budget.freed.notify();
        }
    }

    /// Gives back what is charged beyond `total_bytes`.
    pub fn shrink_to(&mut self, total_bytes: usize) {
        let bytes = self.bytes.saturating_sub(total_bytes);
        let budget = &self.budget;
        let used_bytes = budget.used_bytes.get() - bytes;
        let was_overdrawn = self.overdraws && used_bytes <= budget.limit_bytes;
        if bytes == 0 && !was_overdrawn {
            return;
        }
        budget.used_bytes.set(used_bytes);
        self.bytes -= bytes;
        if was_overdrawn {
            self.overdraws = false;
            budget.overdrawn.set(false);
        }
        budget.freed.notify();
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        self.shrink_to(0);
        if std::mem::take(&mut self.overdraws) {
            self.budget.overdrawn.set(false);
            self.budget.freed.notify();
        }
    }

    fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        let used = &self.budget.used_bytes;
        used.set(used.get() + bytes);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests;
