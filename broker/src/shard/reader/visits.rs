//! Who reads where: whether a reader that wants little of some blocks is alone there.
//!
//! Remembered for regions of 1 MiB, [`READ_VISITS_MAX`] of them and for [`READ_VISIT_US`]. Whom it
//! forgets reads a little twice, or a little too much. Pure.

use std::collections::{BTreeMap, VecDeque};

use catena_core::ids::{JournalId, SegmentSeq};
use catena_core::limits::BLOCK_BYTES_MAX_U32;
use catena_protocol::ids::TopicPartition;

use super::chunk::Chunk;
use crate::limits::{READ_VISIT_US, READ_VISITS_MAX};

type Region = (JournalId, SegmentSeq, u32);

struct Visit {
    tp: TopicPartition,
    at_us: u64,
}

/// The regions in which partitions were read in parts of late.
#[derive(Default)]
pub(super) struct Visits {
    regions: BTreeMap<Region, Visit>,
    /// The regions, oldest first.
    order: VecDeque<Region>,
}

impl Visits {
    /// Notes that a partition is read where a chunk begins; whether another one was, too, of late.
    pub(super) fn meets(&mut self, tp: TopicPartition, chunk: Chunk, now_us: u64) -> bool {
        let region = chunk.start / BLOCK_BYTES_MAX_U32;
        let region = (chunk.journal, chunk.segment, region);
        let is_late = |visit: &Visit| now_us.saturating_sub(visit.at_us) < READ_VISIT_US;
        match self.regions.get_mut(&region) {
            Some(visit) if is_late(visit) && visit.tp != tp => {
                visit.at_us = now_us;
                true
            }
            Some(visit) => {
                *visit = Visit { tp, at_us: now_us };
                false
            }
            None => {
                self.regions.insert(region, Visit { tp, at_us: now_us });
                self.order.push_back(region);
                if self.order.len() > READ_VISITS_MAX
                    && let Some(oldest) = self.order.pop_front()
                {
                    self.regions.remove(&oldest);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use catena_core::ids::BlockLocation;
    use catena_protocol::ids::{PartitionId, TopicId};

    use super::*;

    const MIB: u32 = 1 << 20;

    fn at(offset: u32) -> Chunk {
        Chunk::of(BlockLocation {
            journal: JournalId(0),
            segment: SegmentSeq(1),
            offset,
            bytes: 4096,
        })
    }

    fn tp(partition: u32) -> TopicPartition {
        let (topic, partition) = (TopicId(1), PartitionId(partition));
        TopicPartition { topic, partition }
    }

    #[test]
    fn another_partition_in_the_same_mebibyte_is_met() {
        let mut visits = Visits::default();
        assert!(!visits.meets(tp(1), at(4096), 0));
        assert!(!visits.meets(tp(1), at(8192), 0), "oneself is nobody else");
        assert!(!visits.meets(tp(2), at(MIB), 0), "elsewhere");
        assert!(visits.meets(tp(2), at(MIB - 4096), READ_VISIT_US - 1));
        assert!(
            visits.meets(tp(3), at(0), 2 * READ_VISIT_US - 2),
            "that was another visit"
        );
    }

    #[test]
    fn old_visits_do_not_count() {
        let mut visits = Visits::default();
        assert!(!visits.meets(tp(1), at(0), 5));
        assert!(!visits.meets(tp(2), at(0), 5 + READ_VISIT_US));
        assert!(
            visits.meets(tp(1), at(0), 6 + READ_VISIT_US),
            "the second one does"
        );
    }

    #[test]
    fn no_more_are_remembered_than_the_bound() {
        let mut visits = Visits::default();
        let regions = u32::try_from(READ_VISITS_MAX).expect("small") + 1;
        for region in 0..regions {
            let mut chunk = at(0);
            chunk.segment = SegmentSeq(region + 1);
            assert!(!visits.meets(tp(1), chunk, 0));
        }
        assert_eq!(visits.regions.len(), READ_VISITS_MAX);
        assert_eq!(visits.order.len(), READ_VISITS_MAX);
        assert!(!visits.meets(tp(2), at(0), 0), "the first was forgotten");
    }
}
