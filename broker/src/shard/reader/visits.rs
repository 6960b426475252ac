//! Where parts of blocks were read: whether so many that the whole blocks are worth it.
//!
//! Readers that want little of some blocks read their parts. Many of them in one place read it
//! piece by piece, so once a quarter was read that way, the next reads whole blocks, which then
//! serve all.
//! Remembered for regions of 1 MiB, [`READ_VISITS_MAX`] of them, for [`READ_VISIT_US`] after the
//! last part. What is forgotten costs another quarter. Pure.

use std::collections::{BTreeMap, VecDeque};

use catena_core::ids::{JournalId, SegmentSeq};
use catena_core::limits::BLOCK_BYTES_MAX_U32;

use super::chunk::Chunk;
use crate::limits::{READ_VISIT_US, READ_VISITED_BYTES, READ_VISITS_MAX};

type Region = (JournalId, SegmentSeq, u32);

struct Visit {
    bytes: u64,
    at_us: u64,
}

/// The regions in which parts were read of late.
#[derive(Default)]
pub(super) struct Visits {
    regions: BTreeMap<Region, Visit>,
    /// The regions, oldest first.
    order: VecDeque<Region>,
}

impl Visits {
    /// Notes that a part is read.
    pub(super) fn add(&mut self, part: Chunk, now_us: u64) {
        let bytes = u64::from(part.pages().bytes);
        let region = region(part);
        if let Some(visit) = self.regions.get_mut(&region) {
            let before = if visit.is_late(now_us) {
                visit.bytes
            } else {
                0
            };
            *visit = Visit {
                bytes: before + bytes,
                at_us: now_us,
            };
            return;
        }
        self.regions.insert(
            region,
            Visit {
                bytes,
                at_us: now_us,
            },
        );
        self.order.push_back(region);
        if self.order.len() > READ_VISITS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.regions.remove(&oldest);
        }
    }

    /// Whether much was read in parts where a chunk begins.
    pub(super) fn are_many_at(&self, chunk: Chunk, now_us: u64) -> bool {
        let visit = self.regions.get(&region(chunk));
        visit.is_some_and(|visit| visit.is_late(now_us) && visit.bytes >= READ_VISITED_BYTES)
    }
}

impl Visit {
    fn is_late(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.at_us) < READ_VISIT_US
    }
}

const fn region(chunk: Chunk) -> Region {
    let (journal, segment, start) = chunk.key();
    (journal, segment, start / BLOCK_BYTES_MAX_U32)
}

#[cfg(test)]
mod tests {
    use catena_core::ids::BlockLocation;

    use super::*;

    const MIB: u32 = 1 << 20;
    const PART_BYTES: u32 = 64 << 10;

    fn at(offset: u32) -> Chunk {
        Chunk::of(BlockLocation {
            journal: JournalId(0),
            segment: SegmentSeq(1),
            offset,
            bytes: PART_BYTES,
        })
    }

    #[test]
    fn a_quarter_of_a_mebibyte_in_parts_is_much() {
        let mut visits = Visits::default();
        for part in 0..3 {
            visits.add(at(part * PART_BYTES), 0);
            assert!(!visits.are_many_at(at(MIB / 2), 0), "{part}");
        }
        visits.add(at(MIB - PART_BYTES), 0);
        assert!(visits.are_many_at(at(0), 0));
        assert!(!visits.are_many_at(at(MIB), 0), "elsewhere");
    }

    #[test]
    fn old_visits_do_not_count() {
        let mut visits = Visits::default();
        for part in 0..4 {
            visits.add(at(part), 5);
        }
        assert!(visits.are_many_at(at(0), 4 + READ_VISIT_US));
        assert!(!visits.are_many_at(at(0), 5 + READ_VISIT_US));
        visits.add(at(0), 5 + READ_VISIT_US);
        assert!(
            !visits.are_many_at(at(0), 5 + READ_VISIT_US),
            "counted anew"
        );
    }

    #[test]
    fn no_more_are_remembered_than_the_bound() {
        let mut visits = Visits::default();
        for segment in 0..=u32::try_from(READ_VISITS_MAX).expect("small") {
            let mut part = at(0);
            part.segment = SegmentSeq(segment + 1);
            for _ in 0..4 {
                visits.add(part, 0);
            }
            assert!(visits.are_many_at(part, 0));
        }
        assert_eq!(visits.regions.len(), READ_VISITS_MAX);
        assert_eq!(visits.order.len(), READ_VISITS_MAX);
        assert!(!visits.are_many_at(at(0), 0), "the first was forgotten");
    }
}
