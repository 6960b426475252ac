//! Key compaction: which partition is worth it, which records go, and what is remembered of it.
//!
//! A pass over a partition has two halves. First the records from [`CompactedPartition::clean_to`]
//! on are read, and of each key the newest offset is noted ([`KeyMap`]), until the map is full or
//! the end is reached. Then everything up to there is read, from the log start on, and what is
//! older than the newest of its key is left out ([`Judge`], [`Stretch`]). What was compacted
//! before holds no key twice, so the keys of the new part are all that is needed.
//!
//! A tombstone, a record with a key and without a value, goes once it has been all that is left of
//! its key for a time: a pass that found nothing that it had to leave in place below an offset
//! remembers that offset and the hour, and tombstones below it count from then.
//!
//! Invariant: of each key the newest record stays, unless that is a tombstone whose time is over;
//! nothing but the bytes on this replica changes. Each choice is a function of its arguments.
//! Sans-IO, in steps of bounded size; any thread.

mod judge;
mod keys;
mod pass;
mod state;
mod stretch;

pub use judge::{Judge, JudgeError, NotedTo, Verdicts};
pub use keys::{KeyHash, KeyHasher, KeyMap, KeysFull};
pub use pass::{Pass, Phase};
pub use state::{Cleaning, CompactedPartition};
pub use stretch::{Compacted, Outcome, Stretch};

pub(crate) use state::{decode_compacted, encode_compacted};

/// When partitions are compacted.
///
/// ```
/// use catena_core::compaction::{CompactedPartition, CompactionPolicy};
///
/// let policy = CompactionPolicy::default();
/// let partition = CompactedPartition { clean_bytes: 700, ..CompactedPartition::default() };
/// // 300 of 1000 bytes came since the last pass: not yet half of it.
/// assert!(!partition.is_due(&policy, 0, 1000, 0));
/// assert!(partition.is_due(&policy, 0, 1400, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// The part of a partition's bytes that was not compacted yet, in percent (0 to 100), from
    /// which on a pass begins.
    pub dirty_percent: u8,
    /// Records younger than this, in milliseconds since their append, stay as they are.
    pub lag_ms: u64,
    /// A pass begins after so many milliseconds at the latest if anything is new.
    pub lag_max_ms: u64,
    /// How long, in milliseconds, a tombstone stays after it became all that is left of its key.
    pub tombstone_ms: u64,
}

/// A day, in milliseconds.
const DAY_MS: u64 = 24 * 3_600_000;

impl Default for CompactionPolicy {
    fn default() -> Self {
        Self {
            dirty_percent: 50,
            lag_ms: 0,
            lag_max_ms: DAY_MS,
            tombstone_ms: DAY_MS,
        }
    }
}

#[cfg(test)]
mod tests;
