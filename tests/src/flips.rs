//! Single flipped bits in every kind of file of a store: each must be noticed, and none may make
//! anybody read wrong bytes or lose an intact record.
//!
//! Two ways to try one. *Offline*: `catena journal verify` as a library reads the damaged journal,
//! and the broker's own rules (scan, fold, index, block checks) read every batch back; thousands
//! of places in a minute. *Online*: a real broker starts on a damaged copy, a client reads and
//! writes everything. Which places are harmless is decided by where they lie, before anything is
//! tried: padding, bytes behind the end of a journal, segments that were prepared and never begun.

pub mod offline;
pub mod online;
pub mod places;
pub mod store;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use offline::Offline;
use online::{Online, Verdict};
use places::{Kind, Place};

/// How much is tried.
#[derive(Clone, Debug)]
pub struct FlipConfig {
    /// Decides which bytes and bits.
    pub seed: u64,
    /// Places to try offline, over all kinds.
    pub offline: usize,
    /// Places to try with a real broker.
    pub online: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct FlipReport {
    /// Bits flipped.
    pub tried: u64,
    /// Noticed by `verify` or by the broker.
    pub detected: u64,
    /// Not noticed, in a place that means nothing.
    pub harmless: u64,
    /// Noticed nowhere, or answered wrongly: one line for each.
    pub wrong: Vec<String>,
    /// Tried and detected, by kind.
    pub by_kind: BTreeMap<Kind, (u64, u64)>,
    /// Starts that were refused, as they must be for damaged metadata.
    pub refused_starts: u64,
}

impl FlipReport {
    /// Counts one flip.
    pub fn note(&mut self, place: &Place, verdict: Result<bool, String>) {
        self.tried += 1;
        let of_kind = self.by_kind.entry(place.kind).or_default();
        of_kind.0 += 1;
        match verdict {
            Ok(true) => {
                self.detected += 1;
                of_kind.1 += 1;
            }
            Ok(false) if place.kind.is_harmless() => self.harmless += 1,
            Ok(false) => self.wrong.push(format!("{place}: nobody noticed")),
            Err(why) => self.wrong.push(format!("{place}: {why}")),
        }
    }

    /// Counts one flip that a broker was started on. What it did not notice and served in full
    /// did no harm to that start; that `verify` notices it is tried offline.
    pub fn note_online(&mut self, place: &Place, verdict: Result<Verdict, String>) {
        match verdict {
            Ok(Verdict::Whole) => {
                self.tried += 1;
                self.harmless += 1;
                self.by_kind.entry(place.kind).or_default().0 += 1;
            }
            Ok(Verdict::Noticed) => self.note(place, Ok(true)),
            Err(why) => self.note(place, Err(why)),
        }
    }

    /// Adds another report.
    pub fn add(&mut self, other: Self) {
        self.tried += other.tried;
        self.detected += other.detected;
        self.harmless += other.harmless;
        self.refused_starts += other.refused_starts;
        self.wrong.extend(other.wrong);
        for (kind, (tried, detected)) in other.by_kind {
            let of_kind = self.by_kind.entry(kind).or_default();
            of_kind.0 += tried;
            of_kind.1 += detected;
        }
    }
}

impl fmt::Display for FlipReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, (tried, detected)) in &self.by_kind {
            writeln!(f, "  {kind:?}: {tried} tried, {detected} detected")?;
        }
        for wrong in self.wrong.iter().take(20) {
            writeln!(f, "  WRONG {wrong}")?;
        }
        write!(
            f,
            "{} flips tried, {} detected, {} harmless, {} starts refused, {} wrong",
            self.tried,
            self.detected,
            self.harmless,
            self.refused_starts,
            self.wrong.len()
        )
    }
}

/// Builds a store with a real broker and tries flips on it, once as `kill -9` left it and once as
/// a clean stop did.
///
/// # Panics
/// If the store cannot be built, or is not read back whole before anything is damaged.
pub async fn run(config: FlipConfig) -> FlipReport {
    let built = store::build().await;
    let mut report = FlipReport::default();
    let stores: [&PathBuf; 2] = [&built.killed, &built.stopped];
    for (seed, dir) in (config.seed..).zip(stores) {
        let places = places::of_store(dir);
        let mut offline = Offline::new(dir);
        for place in places.choose(seed, config.offline / 2) {
            let verdict = offline.try_place(&place);
            report.note(&place, verdict);
        }
        let mut online = Online::new(dir, &built).await;
        for place in places.choose(seed ^ 0xF11B, config.online / 2) {
            report.note_online(&place, online.try_place(&place).await);
        }
        report.refused_starts += online.refused_starts;
    }
    report
}
