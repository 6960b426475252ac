//! Which operation of a [`PowerFs`](super::PowerFs) goes wrong, and how.
//!
//! Decisions only, without I/O. Invariant: the same faults, seed and operations give the same
//! outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::io::Errno;

use crate::seeded::Seeded;

/// Kinds of operations that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Bytes are read.
    Read,
    /// Bytes are written, or the size of a file changes.
    Write,
    /// A file or a directory is flushed.
    Flush,
    /// A name is made, changed or removed.
    Name,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The operation fails with this error and changes nothing.
    Fail(Errno),
    /// Only for a flush: it fails, what it should have made durable is gone, and the next flush
    /// succeeds ("fsyncgate").
    FailAndLose,
    /// Only for a read: one bit is wrong.
    FlipBit,
    /// Only for a write: the bytes go to another place of the file.
    Misdirect,
    /// The operation takes longer.
    Delay(Duration),
    /// The operation takes until the faults are cleared or the power fails.
    Hang,
}

/// A fault to inject.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The operations that it can hit.
    pub on: Operation,
    /// Only files whose path contains this; empty for any.
    pub path: String,
    /// How many of these operations go well before the first can be hit.
    pub skip: u64,
    /// How often it hits at the most.
    pub times: u64,
    /// Of a thousand operations, how many are hit.
    pub per_mille: usize,
    /// What happens to those.
    pub effect: Effect,
}

impl Fault {
    /// Hits every operation of a kind.
    pub const fn always(on: Operation, effect: Effect) -> Self {
        Self {
            on,
            path: String::new(),
            skip: 0,
            times: u64::MAX,
            per_mille: 1000,
            effect,
        }
    }

    /// Hits the next operation of a kind.
    pub fn once(on: Operation, effect: Effect) -> Self {
        Self {
            times: 1,
            ..Self::always(on, effect)
        }
    }

    /// The same for files whose path contains `path` only.
    #[must_use]
    pub fn in_path(self, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            ..self
        }
    }

    /// The same after `skip` operations that go well.
    #[must_use]
    pub fn after(self, skip: u64) -> Self {
        Self { skip, ..self }
    }
}

/// The faults of a file system.
#[derive(Debug, Default)]
pub(super) struct Faults {
    active: Vec<Fault>,
    injected: BTreeMap<&'static str, u64>,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) {
        self.active.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.active.clear();
    }

    /// How often each kind of fault hit.
    pub(super) const fn injected(&self) -> &BTreeMap<&'static str, u64> {
        &self.injected
    }

    /// Notes a fault that was decided elsewhere.
    pub(super) fn note(&mut self, kind: &'static str) {
        *self.injected.entry(kind).or_default() += 1;
    }

    /// Whether any fault needs to know the path of a file.
    pub(super) fn ask_for_paths(&self) -> bool {
        self.active.iter().any(|fault| !fault.path.is_empty())
    }

    /// What happens to this operation.
    pub(super) fn decide(
        &mut self,
        on: Operation,
        path: &str,
        random: &mut Seeded,
    ) -> Option<Effect> {
        let matching = |fault: &&mut Fault| fault.on == on && path.contains(&fault.path);
        for fault in self.active.iter_mut().filter(matching) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 && random.below(1000) < fault.per_mille {
                fault.times -= 1;
                let effect = fault.effect;
                self.note(kind(on, effect));
                return Some(effect);
            }
        }
        None
    }
}

/// The word for a fault in reports.
fn kind(on: Operation, effect: Effect) -> &'static str {
    match (effect, on) {
        (Effect::Fail(Errno::NOSPC), _) => "no space",
        (Effect::Fail(Errno::ROFS), _) => "read-only",
        (Effect::Fail(_), Operation::Read) => "read error",
        (Effect::Fail(_), Operation::Write) => "write error",
        (Effect::Fail(_), Operation::Flush) => "flush error",
        (Effect::Fail(_), Operation::Name) => "name error",
        (Effect::FailAndLose, _) => "flush error with loss",
        (Effect::FlipBit, _) => "flipped bit",
        (Effect::Misdirect, _) => "misdirected write",
        (Effect::Delay(_), _) => "slow operation",
        (Effect::Hang, _) => "hung operation",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: Effect = Effect::Fail(Errno::IO);

    fn hits(fault: Fault, on: Operation, path: &str, count: usize) -> Vec<bool> {
        let mut faults = Faults::default();
        faults.inject(fault);
        let mut random = Seeded::new(1);
        let mut decide = || faults.decide(on, path, &mut random).is_some();
        (0..count).map(|_| decide()).collect()
    }

    #[test]
    fn a_fault_hits_its_kind_of_operation_and_its_path_only() {
        let fault = Fault::always(Operation::Write, BROKEN).in_path("000/");
        assert_eq!(
            hits(fault.clone(), Operation::Write, "a/000/1", 2),
            [true, true]
        );
        assert_eq!(hits(fault.clone(), Operation::Write, "a/999/1", 1), [false]);
        assert_eq!(hits(fault, Operation::Read, "a/000/1", 1), [false]);
    }

    #[test]
    fn a_fault_comes_after_the_operations_it_lets_pass_and_so_often() {
        let fault = Fault::once(Operation::Flush, BROKEN).after(2);
        let expected = [false, false, true, false, false];
        assert_eq!(hits(fault, Operation::Flush, "", 5), expected);
    }

    #[test]
    fn a_probable_fault_is_the_same_for_the_same_seed() {
        let fault = Fault {
            per_mille: 300,
            ..Fault::always(Operation::Read, BROKEN)
        };
        let hit = hits(fault.clone(), Operation::Read, "", 1000);
        assert_eq!(hit, hits(fault, Operation::Read, "", 1000));
        let count = hit.iter().filter(|hit| **hit).count();
        assert!((250..350).contains(&count), "{count}");
    }
}
