//! The broker in a simulation: seeds that must pass, and planted bugs that must be found.
//!
//! Needs the features `simulation` and `planted-bugs`. More seeds: the program `catena-simulate`.

mod compaction_trouble;
mod consumer;
mod disk_trouble;
mod model;
mod node;
mod payload;
mod plan;
mod producer;
mod quiet;
mod refused_reads;
mod run;
mod wire;
mod world;

use catena_core::planted::{self, Bug};

use plan::Trouble;
use run::run_seed;

/// Seeds that failed once. Each line: the seed, then what was wrong.
const KEPT: &str = include_str!("seeds.txt");

/// Seeds that each run of the tests tries besides.
const FRESH: std::ops::Range<u64> = 0..400;

/// The seeds of a kind of trouble, in order.
fn seeds_with(trouble: Trouble) -> impl Iterator<Item = u64> {
    (0..).filter(move |seed| Trouble::of_seed(*seed) == trouble)
}

fn assert_passes(seed: u64) {
    let summary = run_seed(seed, false);
    assert_eq!(
        summary.failure, None,
        "seed {seed}; again: catena-simulate --from {seed} --seeds 1 --verbose"
    );
}

#[test]
fn seeds_that_failed_once_pass() {
    for line in KEPT.lines().filter(|line| !line.starts_with('#')) {
        let seed = line.split_whitespace().next().unwrap_or_default();
        assert_passes(seed.parse().expect("a line begins with a seed"));
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    FRESH.for_each(assert_passes);
}

#[test]
fn a_seed_gives_one_trace() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..24 {
        let (first, second) = (run_seed(seed, false), run_seed(seed, false));
        assert_eq!(first, second, "seed {seed} came out in two ways");
        assert_eq!(first.failure, None, "seed {seed}");
        traces.insert(first.trace);
    }
    assert_eq!(traces.len(), 24, "every seed is a run of its own");
}

/// Each bug, where it shows, and how many runs of that kind it may take to find it.
const FOUND: [(Bug, Trouble, usize); 12] = [
    (Bug::AckBeforeFlush, Trouble::Crashes, 100),
    (Bug::MissingDirectoryFlush, Trouble::Crashes, 100),
    (Bug::RetryFailedFlush, Trouble::Errors, 200),
    (Bug::TruncateAtBadBlock, Trouble::Damage, 4000),
    (Bug::DuplicateOnReconnect, Trouble::Crashes, 100),
    (Bug::HighWatermarkOffByOne, Trouble::Crashes, 400),
    (Bug::IndexOffByOneAtRoll, Trouble::SlowReaders, 100),
    (Bug::FreeWithoutLease, Trouble::SlowReaders, 400),
    (Bug::SkipLedger, Trouble::Damage, 8000),
    (Bug::CompactionDropsNewest, Trouble::Crashes, 100),
    (Bug::FreeWithoutCheckpoint, Trouble::SlowReaders, 400),
    (Bug::TombstoneLeavesOlder, Trouble::Crashes, 800),
];

fn fails_with(bug: Option<Bug>, seed: u64) -> bool {
    planted::set_on_thread(bug);
    let summary = run_seed(seed, false);
    planted::set_on_thread(None);
    summary.failure.is_some()
}

#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    for (bug, trouble, seeds_max) in FOUND {
        let mut seeds = seeds_with(trouble).take(seeds_max);
        // What fails without the bug, too, does not count.
        if !seeds.any(|seed| fails_with(Some(bug), seed) && !fails_with(None, seed)) {
            missed.push(bug.name());
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
