//! Segments that the kept checkpoints name, and that must stay although nothing wants them now.
//!
//! A start loads the newest checkpoint that can be read, and that may be the older of the two that
//! are kept. What it names must then still be there: the pages of its index runs, and the batches
//! that those pages lead to. Runs are merged and batches are moved between two checkpoints, so
//! what the state of this moment names is not enough.
//!
//! Trims need no pin: the frame that trimmed is behind both checkpoints' scan positions and is
//! folded again. Pure bookkeeping on the shard's executor.

use std::collections::BTreeSet;

use super::index::SegmentKey;

/// What the two kept checkpoints name, the older one's first.
#[derive(Debug, Default)]
pub struct Pins {
    runs: [BTreeSet<SegmentKey>; 2],
    moved: [BTreeSet<SegmentKey>; 2],
}

impl Pins {
    /// At start: the newest readable checkpoint has runs with pages in these segments. Nothing is
    /// freed before the next checkpoint, so what the other one names does not matter.
    pub fn new(run_segments: BTreeSet<SegmentKey>) -> Pins {
        Pins {
            runs: [BTreeSet::new(), run_segments],
            moved: Default::default(),
        }
    }

    /// A checkpoint that names these segments is durable, and the older of the two does not count
    /// any more.
    pub fn note_checkpoint(&mut self, run_segments: BTreeSet<SegmentKey>) {
        self.runs.rotate_left(1);
        self.runs[1] = run_segments;
        self.moved.rotate_left(1);
        self.moved[1].clear();
    }

    /// Batches were moved out of a segment: both kept checkpoints still lead there. Called in the
    /// same step that changes the index, so that no checkpoint comes between.
    pub fn note_moved(&mut self, from: SegmentKey) {
        for named in &mut self.moved {
            named.insert(from);
        }
    }

    /// Whether a segment that was emptied waits for a checkpoint.
    pub fn hold_moved(&self) -> bool {
        self.moved.iter().any(|named| !named.is_empty())
    }

    /// Whether a kept checkpoint names the segment.
    pub fn contains(&self, segment: SegmentKey) -> bool {
        let mut named = self.runs.iter().chain(&self.moved);
        named.any(|named| named.contains(&segment))
    }
}

#[cfg(test)]
mod tests {
    use catena_core::ids::{JournalId, SegmentSeq};

    use super::*;

    fn segment(number: u32) -> SegmentKey {
        (JournalId::new(0), SegmentSeq::new(number))
    }

    #[test]
    fn the_segments_of_a_merged_run_stay_while_a_kept_checkpoint_names_them() {
        let mut pins = Pins::new([segment(1), segment(2)].into());
        // The runs in 1 and 2 are merged into one in 3.
        pins.note_checkpoint([segment(3)].into());
        for kept in 1..=3 {
            assert!(pins.contains(segment(kept)), "the older checkpoint needs 1");
        }
        pins.note_checkpoint([segment(3)].into());
        assert!(!pins.contains(segment(1)) && !pins.contains(segment(2)));
        assert!(pins.contains(segment(3)));
    }

    #[test]
    fn a_segment_that_batches_were_moved_out_of_stays_for_two_more_checkpoints() {
        let mut pins = Pins::new(BTreeSet::new());
        pins.note_moved(segment(7));
        pins.note_checkpoint(BTreeSet::new());
        assert!(
            pins.contains(segment(7)),
            "the older checkpoint leads into it"
        );
        assert!(pins.hold_moved());
        pins.note_checkpoint(BTreeSet::new());
        assert!(!pins.contains(segment(7)) && !pins.hold_moved());
    }
}
