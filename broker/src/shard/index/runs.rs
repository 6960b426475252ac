//! The index runs that lookups need, the oldest first.
//!
//! The order is part of the meaning: where two runs hold extents over the same offsets, those of
//! the later run count. So runs are merged with their neighbours only, and a merged run takes their
//! place. Pure bookkeeping on the shard's executor.

use std::collections::BTreeSet;
use std::ops::{Deref, Range};

use catena_core::index::run::RunDirectory;

use super::SegmentKey;

/// The runs, and the segments that hold their pages.
#[derive(Debug, Default)]
pub struct Runs {
    runs: Vec<RunDirectory>,
    segments: BTreeSet<SegmentKey>,
}

impl Runs {
    /// The runs that a start found.
    pub fn new(runs: Vec<RunDirectory>) -> Runs {
        let mut found = Runs {
            runs,
            segments: BTreeSet::new(),
        };
        found.find_segments();
        found
    }

    /// Adds the newest run; one without pages is left out.
    pub fn push(&mut self, run: RunDirectory) {
        if !run.pages.is_empty() {
            self.segments.extend(run.segments());
            self.runs.push(run);
        }
    }

    /// Puts one run in the place of some that follow each other.
    pub fn replace(&mut self, merged: Range<usize>, run: RunDirectory) {
        let put = (!run.pages.is_empty()).then_some(run);
        self.runs.splice(merged, put);
        self.find_segments();
    }

    /// The segments that hold pages of the runs.
    pub const fn segments(&self) -> &BTreeSet<SegmentKey> {
        &self.segments
    }

    fn find_segments(&mut self) {
        let of_runs = self.runs.iter().flat_map(RunDirectory::segments);
        self.segments = of_runs.collect();
    }
}

impl Deref for Runs {
    type Target = [RunDirectory];

    fn deref(&self) -> &[RunDirectory] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
    use catena_core::index::run::{PageEntry, PagePlace};
    use catena_protocol::ids::{Offset, TopicPartition};

    use super::*;

    fn run_in(segment: u32) -> RunDirectory {
        let mut run = RunDirectory::default();
        let tp = TopicPartition::default();
        let block = BlockLocation {
            journal: JournalId::new(0),
            segment: SegmentSeq::new(segment),
            offset: 4096,
            bytes: 4096,
        };
        let place = PagePlace {
            block,
            offset_in_block: 112,
            bytes: 40,
        };
        let entry = PageEntry {
            first: (tp, Offset::new(0)),
            last: (tp, Offset::new(1)),
            max_timestamp_ms: 0,
            place,
        };
        run.push(entry, 1);
        run
    }

    fn places(runs: &Runs) -> Vec<u32> {
        runs.iter()
            .map(|run| run.pages[0].place.block.segment.get())
            .collect()
    }

    #[test]
    fn a_merged_run_takes_the_place_of_its_inputs_and_only_its_segments_stay() {
        let mut runs = Runs::new((1..=4).map(run_in).collect());
        runs.replace(1..3, run_in(5));
        runs.push(run_in(6));
        assert_eq!(places(&runs), [1, 5, 4, 6]);
        let segments: Vec<u32> = runs.segments().iter().map(|key| key.1.get()).collect();
        assert_eq!(segments, [1, 4, 5, 6]);
        runs.replace(0..4, RunDirectory::default());
        assert!(runs.is_empty() && runs.segments().is_empty());
        runs.push(RunDirectory::default());
        assert!(runs.is_empty(), "a run without pages is none");
    }
}
