//! Bugs that are planted on purpose, to show that a test finds them.
//!
//! Without the feature `planted-bugs` [`is`] is a constant `false` and every site compiles to
//! nothing. With it, one bug at a time can be switched on, for the process or for one thread; the
//! thread's choice wins, so that simulations can run side by side. The core has no environment:
//! whoever embeds it decides where the choice comes from.

/// A bug that can be switched on. Each breaks one promise that some test claims to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Durable acks leave before their group is written.
    AckBeforeFlush = 1,
    /// Names that were made, changed or removed are not flushed.
    MissingDirectoryFlush,
    /// A flush that failed is tried again, and its second result counts.
    RetryFailedFlush,
    /// Recovery takes the first bad block for a torn one and cuts what follows.
    TruncateAtBadBlock,
    /// A batch that is sent again is appended again.
    DuplicateOnReconnect,
    /// Readers see a group before it is flushed.
    HighWatermarkOffByOne,
    /// The first block of each segment is missing from the index.
    IndexOffByOneAtRoll,
    /// A segment is reused although a reader holds a lease on it.
    FreeWithoutLease,
    /// The flush ledger is not written.
    SkipLedger,
    /// Compaction drops the newest record of a key with the older ones.
    CompactionDropsNewest,
    /// A segment is freed as soon as batches were moved out of it, although a checkpoint that is
    /// kept leads there.
    FreeWithoutCheckpoint,
    /// A tombstone goes although an older record of its key had to be left where it is.
    TombstoneLeavesOlder,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Bug; 12] = [
        Bug::AckBeforeFlush,
        Bug::MissingDirectoryFlush,
        Bug::RetryFailedFlush,
        Bug::TruncateAtBadBlock,
        Bug::DuplicateOnReconnect,
        Bug::HighWatermarkOffByOne,
        Bug::IndexOffByOneAtRoll,
        Bug::FreeWithoutLease,
        Bug::SkipLedger,
        Bug::CompactionDropsNewest,
        Bug::FreeWithoutCheckpoint,
        Bug::TombstoneLeavesOlder,
    ];

    /// Its name in options and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Bug::AckBeforeFlush => "ack-before-flush",
            Bug::MissingDirectoryFlush => "missing-directory-flush",
            Bug::RetryFailedFlush => "retry-failed-flush",
            Bug::TruncateAtBadBlock => "truncate-at-bad-block",
            Bug::DuplicateOnReconnect => "duplicate-on-reconnect",
            Bug::HighWatermarkOffByOne => "high-watermark-off-by-one",
            Bug::IndexOffByOneAtRoll => "index-off-by-one-at-roll",
            Bug::FreeWithoutLease => "free-without-lease",
            Bug::SkipLedger => "skip-ledger",
            Bug::CompactionDropsNewest => "compaction-drops-newest",
            Bug::FreeWithoutCheckpoint => "free-without-checkpoint",
            Bug::TombstoneLeavesOlder => "tombstone-leaves-older",
        }
    }

    /// The bug of that name.
    ///
    /// ```
    /// use catena_core::planted::Bug;
    ///
    /// assert_eq!(Bug::from_name("ack-before-flush"), Some(Bug::AckBeforeFlush));
    /// assert_eq!(Bug::from_name("no-such-bug"), None);
    /// ```
    pub fn from_name(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// Whether a bug is switched on. Without the feature: a constant.
#[cfg(not(feature = "planted-bugs"))]
#[inline]
pub const fn is(_: Bug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use switch::{is, set, set_on_thread};

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    static OF_PROCESS: AtomicU8 = AtomicU8::new(0);

    thread_local! {
        static OF_THREAD: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Whether a bug is switched on for this thread or, if the thread has none, for the process.
    pub fn is(bug: Bug) -> bool {
        match OF_THREAD.get() {
            Some(chosen) => chosen == bug,
            None => OF_PROCESS.load(Ordering::Relaxed) == bug as u8,
        }
    }

    /// Switches a bug on for the process, in place of any other; `None` switches it off.
    pub fn set(bug: Option<Bug>) {
        OF_PROCESS.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }

    /// Switches a bug on for the current thread; `None` goes back to what the process has.
    pub fn set_on_thread(bug: Option<Bug>) {
        OF_THREAD.set(bug);
    }
}

#[cfg(all(test, feature = "planted-bugs"))]
mod tests {
    use super::*;

    #[test]
    fn one_bug_is_on_at_a_time_and_the_thread_decides_first() {
        assert!(Bug::ALL.iter().all(|bug| !is(*bug)));
        set_on_thread(Some(Bug::SkipLedger));
        assert!(is(Bug::SkipLedger) && !is(Bug::AckBeforeFlush));
        set_on_thread(None);
        assert!(!is(Bug::SkipLedger));
    }
}
