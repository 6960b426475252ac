//! Says what in a history must not happen. A pure function.
//!
//! Invariant: what it reports is wrong whatever the timing was; what the rules allow (an unknown
//! outcome that is there once or not at all) is never reported.

mod places;
mod polls;
mod sends;

use std::fmt;

use super::History;
use places::Places;

/// Ways to break the promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Acknowledged, and gone although what came after it is there, or after it was read.
    LostWrite,
    /// Acknowledged, and neither read by anybody nor reached by the end of the log.
    Unseen,
    /// One send, two records.
    Duplicate,
    /// One offset with two values, or one value that is found elsewhere than was told.
    InconsistentOffsets,
    /// A value that nobody sent, that is not intact, or whose send failed for certain.
    PhantomValue,
    /// Sends of a producer are in another order than it sent them.
    ReorderedSends,
    /// A send lies behind another that began only after the first was acknowledged.
    ReorderedInTime,
    /// A reader was taken past records.
    PollSkip,
    /// A reader got records again, or backwards.
    NonMonotonicPoll,
    /// Offsets are missing between the first and the end of the log.
    OffsetGap,
    /// A reader got what was not committed: above the high watermark, or gone later.
    ReadAboveCommit,
    /// The high watermark went back.
    HighWatermarkRegression,
    /// Nothing went on after all faults were over.
    Stuck,
}

/// One broken promise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Anomaly {
    /// Which.
    pub kind: Kind,
    /// Where and what, for people.
    pub detail: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)
    }
}

/// What is wrong with a history, sorted by kind; empty if nothing is.
///
/// ```
/// use catena_tests::history::checker::{Kind, check};
/// use catena_tests::history::{Fingerprint, History, Outcome, Produced};
///
/// let lost = Produced {
///     producer: 1,
///     partition: 0,
///     number: 0,
///     value: Fingerprint::of(b"hello"),
///     sent: 1,
///     answered: 2,
///     outcome: Outcome::Acknowledged(Some(0)),
/// };
/// let history = History { produced: vec![lost], ..History::default() };
/// assert_eq!(check(&history)[0].kind, Kind::Unseen);
/// ```
pub fn check(history: &History) -> Vec<Anomaly> {
    let mut found = Found::default();
    let places = Places::of(history);
    sends::check(history, &places, &mut found);
    places.check(&mut found);
    polls::check(history, &places, &mut found);
    for what in &history.stuck {
        found.add(Kind::Stuck, what.clone());
    }
    found.0.sort();
    found.0.dedup();
    found.0
}

/// What was found so far.
#[derive(Default)]
struct Found(Vec<Anomaly>);

impl Found {
    fn add(&mut self, kind: Kind, detail: String) {
        self.0.push(Anomaly { kind, detail });
    }
}

#[cfg(test)]
mod tests;
