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
pub struct Pins([BTreeSet<SegmentKey>; 2]);

impl Pins {
    /// At start: the newest readable checkpoint has runs with pages in these segments. Nothing is
    /// freed before the next checkpoint, so what the other one names does not matter.
    pub fn new(run_segments: BTreeSet<SegmentKey>) -> Pins {
        Pins([BTreeSet::new(), run_segments])
    }

    /// A checkpoint that names these segments is durable, and the older of the two does not count
    /// any more.
    pub fn note_checkpoint(&mut self, run_segments: BTreeSet<SegmentKey>) {
        self.0.rotate_left(1);
        self.0[1] = run_segments;
    }

    /// Batches were moved out of a segment: both kept checkpoints still lead there. Called in the
    /// same step that changes the index, so that no checkpoint comes between.
    pub fn note_moved(&mut self, from: SegmentKey) {
        for named in &mut self.0 {
            named.insert(from);
        }
    }

    /// Whether a kept checkpoint names the segment.
    pub fn contains(&self, segment: SegmentKey) -> bool {
        self.0.iter().any(|named| named.contains(&segment))
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
        pins.note_checkpoint(BTreeSet::new());
        assert!(!pins.contains(segment(7)));
    }
}
