//! Damage of which nobody can tell what it held: which chains it may have hit.
//!
//! The LSNs of a chain are dense, so a chain that goes on behind the damage without a hole lost
//! nothing. One with a hole, or that is not seen again behind it, may have lost its newest frames,
//! and their offsets must not be given out a second time: a reader that has seen the lost records
//! would take the new ones for them and skip them. Pure; any thread.

use std::collections::{BTreeMap, BTreeSet};

use catena_protocol::ids::{ChainId, TopicPartition};

use super::FrameSummary;
use crate::ids::{JournalId, JournalPos, Lsn};
use crate::limits::{PRESUMED_OFFSETS_MIN, PRESUMED_OFFSETS_PER_BYTE};

/// Bytes that were acknowledged and of which nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownLoss {
    /// The journal.
    pub journal: JournalId,
    /// Where they start.
    pub at: JournalPos,
    /// How many there are, or at least were read over.
    pub bytes: u64,
}

/// How many offsets a partition may have lost with them: more than any block of that many bytes
/// holds, and never few.
pub fn presumed_offsets(losses: &[UnknownLoss]) -> u64 {
    let bytes: u64 = losses.iter().map(|loss| loss.bytes).sum();
    bytes
        .saturating_mul(PRESUMED_OFFSETS_PER_BYTE)
        .max(PRESUMED_OFFSETS_MIN)
}

/// The partitions of a chain that lost nothing at their end, whatever the damage held; none if the
/// chain as a whole lost nothing, so that no partition needs a second look.
///
/// `folded` is the LSN of the chain's section, `frames` are its frames that were read back, in
/// order of their LSNs.
pub fn spared(
    chain: ChainId,
    folded: Lsn,
    frames: &[FrameSummary],
    losses: &[UnknownLoss],
) -> Option<BTreeSet<TopicPartition>> {
    let frames = || frames.iter().filter(|frame| frame.chain == chain);
    let mut newest: BTreeMap<JournalId, JournalPos> = BTreeMap::new();
    let mut last = folded;
    let mut hole = None;
    for frame in frames() {
        let seen = newest.entry(frame.block.journal).or_default();
        *seen = frame.block.start().max(*seen);
        if frame.lsn.get().saturating_sub(last.get()) > 1 {
            hole = Some(last);
        }
        last = last.max(frame.lsn);
    }
    let goes_on = |loss: &UnknownLoss| newest.get(&loss.journal).is_some_and(|at| *at > loss.at);
    if !losses.iter().all(goes_on) {
        hole = Some(last);
    }
    let hole = hole?;
    let behind = frames().filter(|frame| frame.lsn > hole);
    Some(
        behind
            .flat_map(|frame| frame.rows.iter().map(|(tp, _)| *tp))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use catena_protocol::ids::{ChainEpoch, Offset, PartitionId, TopicId};

    use super::*;
    use crate::entry::FrameKind;
    use crate::ids::{BlockLocation, SegmentSeq};
    use crate::index::Extent;

    const CHAIN: ChainId = ChainId(4);

    fn tp(partition: u32) -> TopicPartition {
        TopicPartition {
            topic: TopicId(1),
            partition: PartitionId(partition),
        }
    }

    /// A frame of partition `partition` with this LSN, at this offset of segment 1.
    fn frame(lsn: u64, offset: u32, partition: u32) -> FrameSummary {
        let block = BlockLocation {
            journal: JournalId(0),
            segment: SegmentSeq(1),
            offset,
            bytes: 4096,
        };
        let extent = Extent {
            base_offset: Offset(lsn),
            end_offset: Offset(lsn + 1),
            block,
            offset_in_block: 128,
            bytes: 64,
            max_timestamp_ms: 0,
        };
        FrameSummary {
            chain: CHAIN,
            lsn: Lsn(lsn),
            epoch: ChainEpoch(1),
            crc: 0,
            prev_frame_crc: 0,
            kind: FrameKind::Batches,
            block,
            batches: Vec::new(),
            rows: vec![(tp(partition), extent)],
            body: Vec::new(),
        }
    }

    fn loss(offset: u32) -> UnknownLoss {
        UnknownLoss {
            journal: JournalId(0),
            at: JournalPos::new(SegmentSeq(1), offset),
            bytes: 4096,
        }
    }

    #[test]
    fn a_chain_without_a_hole_that_goes_on_behind_the_damage_lost_nothing() {
        let frames = [frame(6, 4096, 0), frame(7, 12_288, 1)];
        assert_eq!(spared(CHAIN, Lsn(5), &frames, &[loss(8192)]), None);
        assert_eq!(spared(CHAIN, Lsn(5), &[], &[]), None);
        // What the section holds already proves as much.
        assert_eq!(spared(CHAIN, Lsn(9), &frames, &[loss(8192)]), None);
    }

    #[test]
    fn a_chain_that_is_not_seen_behind_the_damage_may_have_lost_its_end() {
        let frames = [frame(6, 4096, 0)];
        let none = BTreeSet::new();
        assert_eq!(
            spared(CHAIN, Lsn(5), &frames, &[loss(8192)]),
            Some(none.clone())
        );
        assert_eq!(spared(CHAIN, Lsn(5), &[], &[loss(8192)]), Some(none));
    }

    #[test]
    fn behind_a_hole_only_partitions_that_were_written_again_are_sure() {
        let frames = [frame(6, 4096, 0), frame(8, 12_288, 1)];
        let sure = BTreeSet::from([tp(1)]);
        assert_eq!(spared(CHAIN, Lsn(5), &frames, &[loss(8192)]), Some(sure));
    }

    #[test]
    fn more_offsets_are_presumed_than_the_damage_can_have_held() {
        assert_eq!(presumed_offsets(&[]), PRESUMED_OFFSETS_MIN);
        let large = UnknownLoss {
            bytes: 1 << 40,
            ..loss(0)
        };
        assert_eq!(presumed_offsets(&[large]), 1 << 50);
    }
}
