//! The cleaner's rules: which segment is worth emptying, what that may cost, and how the batches
//! that move are put together.
//!
//! A segment is freed when nothing in it is wanted. One old record keeps all of it, and a small
//! commit fills a page with little. So the cleaner copies what is wanted out of segments that hold
//! little of it, and frees them.
//!
//! Invariant: over its life the cleaner writes no more than was written by others, but for a small
//! allowance per start: the write amplification stays below 2. Each choice is a function of its
//! arguments. Pure; any thread.

mod relocation;

pub use relocation::{MovedExtent, Relocation, RelocationBuilder};

use crate::ids::SegmentSeq;

/// What the cleaner looks at of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Its number.
    pub segment: SegmentSeq,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Bytes of batches in it that are wanted.
    pub live_bytes: u64,
    /// Extents that these form.
    pub live_extents: u64,
    /// How many segments were begun since: what is young may die by itself.
    pub age: u64,
}

impl SegmentFacts {
    /// Everything that is not wanted: dead batches, padding, index pages, what was never used.
    pub const fn dead_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(self.live_bytes)
    }

    /// Whether freeing it gives back as much as moving costs.
    const fn pays_for_itself(&self) -> bool {
        self.live_bytes <= self.dead_bytes()
    }
}

/// How urgent space is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// More than half of the budget is free: only what is nearly empty is worth writing for.
    Easy,
    /// Less is free.
    Tight,
    /// Producers are refused, or are about to be.
    Full,
}

impl Pressure {
    /// The pressure when `used_bytes` of a budget are in use.
    pub const fn new(used_bytes: u64, budget_bytes: u64, is_out_of_space: bool) -> Self {
        if is_out_of_space || used_bytes >= budget_bytes / 16 * 15 {
            Self::Full
        } else if used_bytes > budget_bytes / 2 {
            Self::Tight
        } else {
            Self::Easy
        }
    }

    /// The part of a segment that must be dead for it to be emptied, in sixteenths. The end of a
    /// small segment of large batches is unused wherever they lie, which is up to a quarter of it.
    const fn dead_sixteenths_min(self) -> u64 {
        match self {
            Self::Easy => 14,
            Self::Tight => 8,
            Self::Full => 5,
        }
    }
}

/// What the cleaner may write: as much as others wrote.
///
/// ```
/// use catena_core::cleaner::WriteCredit;
///
/// let mut credit = WriteCredit::new(1 << 20, 16 << 20);
/// credit.earn(3 << 20);
/// credit.spend(2 << 20);
/// assert_eq!(credit.available(), 2 << 20);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct WriteCredit {
    available: u64,
    allowance: u64,
    most: u64,
}

impl WriteCredit {
    /// A credit of `allowance` bytes to begin with that grows to `most` bytes.
    pub const fn new(allowance: u64, most: u64) -> Self {
        Self {
            available: allowance,
            allowance,
            most,
        }
    }

    /// Others wrote `bytes`.
    pub fn earn(&mut self, bytes: u64) {
        self.available = self.available.saturating_add(bytes).min(self.most);
    }

    /// The cleaner wrote `bytes`.
    pub const fn spend(&mut self, bytes: u64) {
        self.available = self.available.saturating_sub(bytes);
    }

    /// Bytes that may be written now.
    pub const fn available(&self) -> u64 {
        self.available
    }

    /// Whether a segment may be emptied. What frees as much as it costs can be paid back by those
    /// who use the space, so a full store may always do that. Anything else leaves half of the
    /// allowance for it.
    fn allows(&self, facts: &SegmentFacts, pressure: Pressure) -> bool {
        if facts.pays_for_itself() {
            pressure == Pressure::Full || facts.live_bytes <= self.available
        } else {
            facts.live_bytes + self.allowance / 2 <= self.available
        }
    }
}

/// Chooses the segment to empty next: of those that are worth it and can be paid for, the one with
/// the highest dead x age / live; of equals the oldest. `room_bytes` is what can be written before
/// anything is freed.
///
/// A segment without anything live is nobody's victim: it is freed as it is.
pub fn choose_victim(
    segments: impl IntoIterator<Item = SegmentFacts>,
    pressure: Pressure,
    credit: &WriteCredit,
    room_bytes: u64,
) -> Option<SegmentSeq> {
    let is_worth_it = |facts: &SegmentFacts| {
        facts.live_bytes > 0
            && facts.dead_bytes() * 16 >= facts.file_bytes * pressure.dead_sixteenths_min()
            && facts.live_bytes <= room_bytes
            && credit.allows(facts, pressure)
    };
    let score = |facts: &SegmentFacts| {
        u128::from(facts.dead_bytes()) * u128::from(facts.age) / u128::from(facts.live_bytes)
    };
    let candidates = segments.into_iter().filter(is_worth_it);
    let best = candidates.min_by_key(|facts| (std::cmp::Reverse(score(facts)), facts.segment));
    best.map(|facts| facts.segment)
}

/// Chooses the segment whose batches are to be put in order while nothing else is to do: the one
/// with the smallest extents, if they are small enough to make reading one partition expensive.
pub fn choose_interleaved(
    segments: impl IntoIterator<Item = SegmentFacts>,
    credit: &WriteCredit,
    extent_bytes_max: u64,
) -> Option<SegmentSeq> {
    let is_worth_it = |facts: &SegmentFacts| {
        facts.live_extents > 1
            && facts.live_bytes / facts.live_extents <= extent_bytes_max
            && facts.live_bytes + credit.allowance / 2 <= credit.available
    };
    let candidates = segments.into_iter().filter(is_worth_it);
    let smallest = candidates
        .min_by_key(|facts| (facts.live_bytes / facts.live_extents.max(1), facts.segment));
    smallest.map(|facts| facts.segment)
}

#[cfg(test)]
mod tests;
