//! Which partition of a session is served next.
//!
//! Partitions take turns in the order in which they asked for one. Those that read old data share
//! their turns, and sweep the journals together: in a sweep each has one turn, in the order in
//! which their next batches lie there, so that a chunk that was read serves all of them. Who asks
//! during a sweep waits for the next.
//!
//! Invariant: a partition has one turn at most, and there are as many shared turns as partitions in
//! the two sweeps. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use catena_core::ids::{JournalId, SegmentSeq};
use catena_core::index::Extent;
use catena_protocol::ids::{PartitionId, TopicId, TopicPartition};

/// Where something lies in the journals.
type Place = (JournalId, SegmentSeq, u32);

/// What a partition waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A turn of its own.
    Turn,
    /// A turn of those that read old data, to read this next.
    OldTurn(Extent),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Of(TopicPartition),
    OfOld,
}

/// The partitions that wait for a turn.
#[derive(Default)]
pub(super) struct ReadyList {
    turns: VecDeque<Turn>,
    sweep: Sweep,
    next_sweep: Sweep,
}

/// What partitions that read old data read next.
type Sweep = BTreeMap<(Place, TopicPartition), Extent>;

impl ReadyList {
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Asks for a turn; the partition has none yet.
    pub(super) fn push(&mut self, tp: TopicPartition, asked: Asked) {
        match asked {
            Asked::Turn => self.turns.push_back(Turn::Of(tp)),
            Asked::OldTurn(extent) => {
                self.turns.push_back(Turn::OfOld);
                self.next_sweep.insert((place(&extent), tp), extent);
            }
        }
    }

    /// The partition whose turn it is.
    pub(super) fn pop(&mut self) -> Option<TopicPartition> {
        match self.turns.pop_front()? {
            Turn::Of(tp) => Some(tp),
            Turn::OfOld => {
                if self.sweep.is_empty() {
                    self.sweep = mem::take(&mut self.next_sweep);
                }
                let ((_, tp), _) = self.sweep.pop_first().expect("a shared turn is somebody's");
                Some(tp)
            }
        }
    }

    /// Takes back the turns of all partitions but those to `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(TopicPartition) -> bool) {
        let mut gone = 0;
        for sweep in [&mut self.sweep, &mut self.next_sweep] {
            let before = sweep.len();
            sweep.retain(|(_, tp), _| keep(*tp));
            gone += before - sweep.len();
        }
        self.turns.retain(|turn| match turn {
            Turn::Of(tp) => keep(*tp),
            Turn::OfOld if gone > 0 => {
                gone -= 1;
                false
            }
            Turn::OfOld => true,
        });
    }

    pub(super) fn clear(&mut self) {
        *self = ReadyList::default();
    }

    /// Whether other partitions wait that read old data.
    pub(super) fn has_old(&self) -> bool {
        !self.sweep.is_empty() || !self.next_sweep.is_empty()
    }

    /// What others read behind `extent` in this sweep, in the order of the journals.
    pub(super) fn old_behind(
        &self,
        extent: &Extent,
    ) -> impl Iterator<Item = (TopicPartition, Extent)> {
        let last = TopicPartition::new(TopicId(u32::MAX), PartitionId(u32::MAX));
        let behind = self.sweep.range((place(extent), last)..);
        behind.map(|((_, tp), extent)| (*tp, *extent))
    }
}

/// Where an extent begins.
const fn place(extent: &Extent) -> Place {
    let place = extent.place();
    (place.journal, place.segment, place.offset)
}

#[cfg(test)]
mod tests {
    use catena_core::ids::BlockLocation;
    use catena_protocol::ids::Offset;

    use super::*;

    fn tp(partition: u32) -> TopicPartition {
        TopicPartition::new(TopicId(1), PartitionId(partition))
    }

    fn at(offset: u32) -> Asked {
        Asked::OldTurn(Extent {
            base_offset: Offset(0),
            end_offset: Offset(1),
            block: BlockLocation {
                journal: JournalId(0),
                segment: SegmentSeq(1),
                offset,
                bytes: 4096,
            },
            offset_in_block: 100,
            bytes: 100,
            max_timestamp_ms: 0,
        })
    }

    fn pop(list: &mut ReadyList) -> Option<u32> {
        list.pop().map(|tp| tp.partition.0)
    }

    #[test]
    fn old_data_is_read_in_the_order_of_the_journal_and_new_data_keeps_its_turns() {
        let mut list = ReadyList::default();
        list.push(tp(1), at(30 << 12));
        list.push(tp(2), Asked::Turn);
        list.push(tp(3), at(10 << 12));
        list.push(tp(4), at(20 << 12));
        assert_eq!(pop(&mut list), Some(3));
        assert_eq!(pop(&mut list), Some(2));
        assert_eq!(pop(&mut list), Some(4));
        assert_eq!(pop(&mut list), Some(1));
        assert_eq!(pop(&mut list), None);
    }

    #[test]
    fn who_is_behind_has_a_turn_in_each_sweep_and_no_more() {
        let mut list = ReadyList::default();
        list.push(tp(0), at(1 << 12));
        for ahead in 1..4 {
            list.push(tp(ahead), at((100 + ahead) << 12));
        }
        let mut served = Vec::new();
        for turn in 0..12_u32 {
            let next = pop(&mut list).expect("all ask again");
            served.push(next);
            let step = if next == 0 { turn + 2 } else { 200 + turn };
            list.push(tp(next), at(step << 12));
        }
        assert_eq!(served, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
    }

    #[test]
    fn what_is_taken_back_leaves_no_turn() {
        let mut list = ReadyList::default();
        let all = [(tp(1), at(8192)), (tp(2), Asked::Turn), (tp(3), at(4096))];
        for (tp, asked) in all {
            list.push(tp, asked);
        }
        list.retain(|kept| kept == tp(1));
        assert_eq!(list.turns.len(), 1);
        assert_eq!(pop(&mut list), Some(1));
        assert!(list.is_empty() && !list.has_old());
        assert_eq!(pop(&mut list), None);
    }

    #[test]
    fn what_others_read_behind_an_extent_is_known() {
        let mut list = ReadyList::default();
        for partition in 1..5 {
            list.push(tp(partition), at(partition << 12));
        }
        let Asked::OldTurn(first) = at(1 << 12) else {
            unreachable!()
        };
        assert_eq!(list.old_behind(&first).count(), 0, "no sweep yet");
        assert_eq!(pop(&mut list), Some(1));
        list.push(tp(1), at(9 << 12));
        let behind: Vec<_> = list
            .old_behind(&first)
            .map(|(tp, _)| tp.partition.0)
            .collect();
        assert_eq!(behind, [2, 3, 4], "who was served is in the next sweep");
    }
}
