//! What clients did and saw, as data.
//!
//! Producers, pollers and the final read of a run write down what they asked and what they were
//! told ([`recorder`]); [`checker`] says what of it must not happen. Plain values: no clock, no
//! I/O, any thread.

pub mod checker;
pub mod recorder;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

/// A moment: later ones are larger, and no two are equal.
pub type Tick = u64;

/// Stands for the bytes of a value. Every produced value is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// That of these bytes, the same in every run.
    pub fn of(value: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(value);
        Self(hasher.finish())
    }
}

/// What became of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It must survive. The offset, if it was told.
    Acknowledged(Option<u64>),
    /// It must never appear.
    Failed,
    /// It may appear, once.
    Unknown,
    /// There was no answer by the end of the run, long after all faults.
    Unanswered,
}

/// One send.
#[derive(Clone, Debug)]
pub struct Produced {
    /// Who sent it.
    pub producer: u32,
    /// Where to.
    pub partition: u32,
    /// The how manieth of this producer in this partition.
    pub number: u64,
    /// What.
    pub value: Fingerprint,
    /// When it was handed in.
    pub sent: Tick,
    /// When its outcome was known.
    pub answered: Tick,
    /// The outcome.
    pub outcome: Outcome,
}

/// What one request of a reader gave.
#[derive(Clone, Debug)]
pub struct Poll {
    /// Who asked.
    pub consumer: u32,
    /// For which partition.
    pub partition: u32,
    /// From which offset on, if the reader said so: otherwise it goes on where it was.
    pub position: Option<u64>,
    /// When it asked.
    pub asked: Tick,
    /// When it was answered.
    pub answered: Tick,
    /// The end of what is committed, if it was told.
    pub high_watermark: Option<u64>,
    /// Offsets and values.
    pub records: Vec<(u64, Fingerprint)>,
}

/// What a reader was told is damaged, instead of being given it. It goes on behind that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who was told.
    pub consumer: u32,
    /// Of which partition.
    pub partition: u32,
    /// Which offsets.
    pub offsets: Range<u64>,
}

/// Everything that a partition holds after all faults, read when nothing was under way any more.
#[derive(Clone, Debug, Default)]
pub struct FinalRead {
    /// The first offset.
    pub log_start: u64,
    /// The end.
    pub high_watermark: u64,
    /// Offsets and values.
    pub records: Vec<(u64, Fingerprint)>,
    /// Offsets of which the broker says itself that their bytes are damaged.
    pub damaged: Vec<Range<u64>>,
}

impl FinalRead {
    fn is_damaged(&self, offset: u64) -> bool {
        self.damaged.iter().any(|range| range.contains(&offset))
    }
}

/// One run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All sends.
    pub produced: Vec<Produced>,
    /// All polls; those of one consumer in their order.
    pub polls: Vec<Poll>,
    /// What readers were told is damaged. It may be there in the final read, if reads failed for a
    /// while only.
    pub reports: Vec<Report>,
    /// The final read of each partition.
    pub finals: BTreeMap<u32, FinalRead>,
    /// What did not go on although everything was well again, in words.
    pub stuck: Vec<String>,
}
