//! The hash of everything that happens in a simulation.

use std::cell::Cell;

/// A running hash of events.
pub(super) struct Trace {
    hash: Cell<u64>,
    verbose: bool,
}

impl Trace {
    pub(super) fn new(verbose: bool) -> Trace {
        Trace {
            hash: Cell::new(0),
            verbose,
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.get()
    }

    /// Adds an event and its numbers.
    pub(super) fn event(&self, what: &str, numbers: &[u64]) {
        let words = what.bytes().map(u64::from).chain(numbers.iter().copied());
        self.hash.set(words.fold(self.hash.get(), mix));
        if self.verbose && what != "poll" {
            eprintln!("  {what} {numbers:?}");
        }
    }

    /// Adds bytes; any that are left over a whole word count as well.
    pub(super) fn bytes(&self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let whole = words.iter().map(|word| u64::from_le_bytes(*word));
        let left = rest.iter().map(|byte| u64::from(*byte));
        self.hash.set(whole.chain(left).fold(self.hash.get(), mix));
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517C_C1B7_2722_0A95)
}
