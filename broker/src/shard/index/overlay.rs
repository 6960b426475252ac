//! One answer of several sources: which extents of a partition count.
//!
//! The index in memory and each run have extents of their own. Batches that were moved are in a
//! later run over the same offsets as their old place in an earlier one, and the later run counts.
//! Pure.

use catena_core::index::Extent;
use catena_protocol::ids::Offset;

/// What one source has of a partition from an offset on.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its extents, in offset order.
    pub(super) extents: Vec<Extent>,
    /// From this offset on the source may have more; `None` if it has not.
    pub(super) more_from: Option<Offset>,
}

/// The extents that count, in offset order, from what each source has, the oldest source first.
///
/// The answer ends where a source that has more was not asked any further.
pub(super) fn overlay(sources: Vec<Found>) -> Vec<Extent> {
    let bound = sources.iter().filter_map(|found| found.more_from).min();
    let ranked = (0_usize..).zip(sources);
    let mut all: Vec<(Extent, usize)> = ranked
        .flat_map(|(rank, found)| found.extents.into_iter().map(move |extent| (extent, rank)))
        .collect();
    all.sort_by_key(|(extent, rank)| (extent.base_offset, usize::MAX - rank));
    let mut answer: Vec<Extent> = Vec::with_capacity(all.len());
    for (extent, _) in all {
        let is_known = bound.is_none_or(|bound| extent.base_offset < bound);
        let end = answer.last().map_or(Offset::new(0), |last| last.end_offset);
        if is_known && extent.base_offset >= end {
            answer.push(extent);
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};

    use super::*;

    fn extent(base: u64, end: u64, segment: u32) -> Extent {
        Extent {
            base_offset: Offset::new(base),
            end_offset: Offset::new(end),
            block: BlockLocation {
                journal: JournalId::new(0),
                segment: SegmentSeq::new(segment),
                offset: 4096,
                bytes: 4096,
            },
            offset_in_block: 128,
            bytes: 100,
            max_timestamp_ms: 0,
        }
    }

    fn whole(extents: Vec<Extent>) -> Found {
        Found {
            extents,
            more_from: None,
        }
    }

    fn front(extents: Vec<Extent>) -> Found {
        let more_from = extents.last().map(|last| last.end_offset);
        Found { extents, more_from }
    }

    #[test]
    fn sources_that_follow_each_other_are_joined() {
        let joined = overlay(vec![
            whole(vec![extent(0, 3, 1)]),
            Found::default(),
            whole(vec![extent(3, 5, 2)]),
        ]);
        assert_eq!(joined, [extent(0, 3, 1), extent(3, 5, 2)]);
    }

    #[test]
    fn what_a_later_source_covers_does_not_count() {
        let before = vec![extent(0, 3, 1), extent(3, 5, 1), extent(5, 9, 1)];
        let counted = overlay(vec![whole(before), whole(vec![extent(0, 5, 7)])]);
        assert_eq!(counted, [extent(0, 5, 7), extent(5, 9, 1)]);
    }

    #[test]
    fn nothing_counts_beyond_what_a_source_was_asked_for() {
        // The later source may cover [5, 9), too.
        let before = vec![extent(0, 3, 1), extent(3, 5, 1), extent(5, 9, 1)];
        let counted = overlay(vec![whole(before.clone()), front(vec![extent(0, 5, 7)])]);
        assert_eq!(counted, [extent(0, 5, 7)]);
        // The earlier may have more before 20.
        let counted = overlay(vec![front(before), whole(vec![extent(20, 30, 7)])]);
        assert_eq!(counted.last(), Some(&extent(5, 9, 1)));
    }

    #[test]
    fn the_same_extent_twice_counts_once() {
        let both = vec![extent(0, 3, 1), extent(3, 5, 1)];
        let counted = overlay(vec![front(both.clone()), front(both.clone())]);
        assert_eq!(counted, both);
    }
}
