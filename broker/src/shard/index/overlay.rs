//! One answer of several sources: which extents of a partition count.
//!
//! The index in memory and each run have extents of their own. Batches that were moved are in a
//! later run over the same offsets as their old place in an earlier one, and the later run counts.
//! Pure.

use catena_core::index::Extent;
use catena_core::index::run::PageEntry;
use catena_protocol::ids::{Offset, TopicPartition};

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

/// Offsets of a partition that a page of a run may name, which cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hidden {
    from: Offset,
    /// `None`: it is not known where they end.
    to: Option<Offset>,
}

impl Hidden {
    /// The offsets from `offset` on that a page hides.
    pub(super) fn by(page: &PageEntry, tp: TopicPartition, offset: Offset) -> Hidden {
        let (first, last) = (page.first, page.last);
        let from = if first.0 == tp { first.1 } else { offset };
        Hidden {
            from: from.max(offset),
            to: (last.0 == tp).then_some(last.1),
        }
    }

    /// Takes out of the sources before its run what the page may have put in the place of, in an
    /// answer from `offset` on.
    pub(super) fn apply(self, sources: &mut Vec<Found>, offset: Offset) {
        if self.from <= offset {
            sources.clear();
        } else {
            sources.push(Found {
                extents: Vec::new(),
                more_from: Some(self.from),
            });
        }
    }

    /// The first offset above `offset` that may be readable, if this hides it: what the sources
    /// name next, or what the page cannot hold.
    pub(super) fn next(self, extents: &[Extent], offset: Offset) -> Option<Offset> {
        let named = extents.iter().map(|extent| extent.base_offset);
        let bounds = [Some(self.from), self.to].into_iter().flatten();
        named.chain(bounds).filter(|next| *next > offset).min()
    }
}

/// Cuts what does not follow without a hole from `offset` on: in a hole may be what is hidden.
pub(super) fn keep_what_follows(extents: &mut Vec<Extent>, offset: Offset) {
    let mut next = offset;
    let follows = extents.iter().take_while(|extent| {
        let follows = extent.base_offset <= next;
        next = extent.end_offset;
        follows
    });
    let count = follows.count();
    extents.truncate(count);
}

#[cfg(test)]
mod tests {
    use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
    use catena_core::index::run::PagePlace;
    use catena_protocol::ids::{PartitionId, TopicId};

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

    fn page(first: (u32, u64), last: (u32, u64)) -> PageEntry {
        let of = |(topic, offset): (u32, u64)| {
            let tp = TopicPartition::new(TopicId(topic), PartitionId(0));
            (tp, Offset::new(offset))
        };
        let place = PagePlace {
            block: extent(0, 1, 9).block,
            offset_in_block: 112,
            bytes: 40,
        };
        PageEntry {
            first: of(first),
            last: of(last),
            max_timestamp_ms: 0,
            place,
        }
    }

    /// What a lookup of topic 2 at an offset comes to if a run between two others has this page,
    /// which cannot be read: the bases of the extents, or where to go on.
    fn looked_up(page: &PageEntry, offset: u64) -> Result<Vec<u64>, Option<u64>> {
        let offset = Offset::new(offset);
        let is_wanted = |extent: &Extent| extent.end_offset > offset;
        let of = |bounds: &[(u64, u64)], segment| {
            let extents = bounds
                .iter()
                .map(|(base, end)| extent(*base, *end, segment));
            whole(extents.filter(is_wanted).collect())
        };
        let tp = TopicPartition::new(TopicId(2), PartitionId(0));
        let mut sources = vec![of(&[(0, 10), (10, 20), (20, 30)], 1)];
        let hidden = Hidden::by(page, tp, offset);
        hidden.apply(&mut sources, offset);
        sources.push(of(&[(40, 50), (50, 60), (70, 80)], 3));
        let mut extents = overlay(sources);
        let next = hidden.next(&extents, offset);
        keep_what_follows(&mut extents, offset);
        if extents.is_empty() {
            return Err(next.map(Offset::get));
        }
        Ok(extents
            .iter()
            .map(|extent| extent.base_offset.get())
            .collect())
    }

    #[test]
    fn a_page_that_cannot_be_read_hides_what_it_may_name_and_no_more() {
        // Its first and last extent are of the partition: it names 20 to 40.
        let inside = page((2, 20), (2, 40));
        assert_eq!(looked_up(&inside, 0), Ok(vec![0, 10]));
        assert_eq!(looked_up(&inside, 15), Ok(vec![10]));
        assert_eq!(
            looked_up(&inside, 20),
            Err(Some(40)),
            "which it may have moved"
        );
        assert_eq!(looked_up(&inside, 39), Err(Some(40)));
        // The partition goes on in it, and other partitions follow.
        let end = page((2, 20), (3, 5));
        assert_eq!(looked_up(&end, 19), Ok(vec![10]));
        assert_eq!(
            looked_up(&end, 25),
            Err(Some(40)),
            "the later run goes on there"
        );
        assert_eq!(
            looked_up(&end, 45),
            Ok(vec![40, 50]),
            "what counts over it is known"
        );
        assert_eq!(
            looked_up(&end, 60),
            Err(Some(70)),
            "the hole may be in the page"
        );
        assert_eq!(looked_up(&end, 90), Err(None));
        // Others are before and behind: it may name any offset.
        let around = page((1, 0), (3, 5));
        assert_eq!(looked_up(&around, 0), Err(Some(40)));
        assert_eq!(looked_up(&around, 55), Ok(vec![50]));
        // The partition ends in it.
        let before = page((1, 0), (2, 25));
        assert_eq!(looked_up(&before, 5), Err(Some(25)));
    }

    #[test]
    fn the_same_extent_twice_counts_once() {
        let both = vec![extent(0, 3, 1), extent(3, 5, 1)];
        let counted = overlay(vec![front(both.clone()), front(both.clone())]);
        assert_eq!(counted, both);
    }
}
