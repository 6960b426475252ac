//! The pages of index runs that were decoded last.
//!
//! A look-up asks a page of each run, and look-ups in the order of the partitions ask the same
//! pages again and again. Once fewer pages are kept than there are runs, each look-up decodes all
//! of them.
//!
//! Invariant: the page that was asked for last is the first, and the last is the next to go. A
//! place is never written twice, so no page goes stale.

use std::collections::VecDeque;
use std::rc::Rc;

use catena_core::index::run::{PagePlace, RunPage};

use crate::limits::INDEX_PAGES_DECODED_MAX;

/// Up to [`INDEX_PAGES_DECODED_MAX`] pages by place.
#[derive(Default)]
pub(super) struct DecodedPages {
    pages: VecDeque<(PagePlace, Rc<RunPage>)>,
}

impl DecodedPages {
    /// The page at a place, if it is kept.
    pub(super) fn get(&mut self, place: PagePlace) -> Option<Rc<RunPage>> {
        let at = self.pages.iter().position(|(of, _)| *of == place)?;
        if at > 0 {
            let found = self.pages.remove(at)?;
            self.pages.push_front(found);
        }
        self.pages.front().map(|(_, page)| Rc::clone(page))
    }

    /// Keeps a page, and forgets the one that was not asked for the longest.
    pub(super) fn insert(&mut self, place: PagePlace, page: Rc<RunPage>) {
        if self.get(place).is_some() {
            // Two look-ups missed it at once.
            return;
        }
        self.pages.truncate(INDEX_PAGES_DECODED_MAX - 1);
        self.pages.push_front((place, page));
    }
}

#[cfg(test)]
mod tests {
    use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
    use catena_core::index::Extent;
    use catena_core::index::run::RunBuilder;
    use catena_core::limits::RUN_MERGE_FAN_IN;
    use catena_protocol::ids::{Offset, PartitionId, TopicId, TopicPartition};

    use super::*;

    fn block(run: u32, offset: u32) -> BlockLocation {
        BlockLocation {
            journal: JournalId(1),
            segment: SegmentSeq(run),
            offset,
            bytes: 4096,
        }
    }

    fn place(run: u32, page: u32) -> PagePlace {
        PagePlace {
            block: block(run, page * 4096),
            offset_in_block: 0,
            bytes: 100,
        }
    }

    fn page() -> Rc<RunPage> {
        let tp = TopicPartition {
            topic: TopicId(1),
            partition: PartitionId(0),
        };
        let extent = Extent {
            base_offset: Offset(0),
            end_offset: Offset(1),
            block: block(0, 0),
            offset_in_block: 64,
            bytes: 100,
            max_timestamp_ms: 0,
        };
        let mut builder = RunBuilder::default();
        assert!(builder.push(tp, &extent).is_none(), "one extent fits");
        let built = builder.finish().expect("it has an extent");
        Rc::new(RunPage::decode(&built.bytes).expect("it was just built"))
    }

    /// Looks all partitions up in order: the pages of run `r` hold `spans[r]` partitions each.
    fn pages_decoded(spans: &[u32], partitions: u32) -> usize {
        let mut decoded = DecodedPages::default();
        let mut count = 0;
        for partition in 0..partitions {
            for (run, span) in (1..).zip(spans) {
                let place = place(run, partition / span);
                if decoded.get(place).is_none() {
                    decoded.insert(place, page());
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn lookups_in_order_decode_each_page_once_however_many_runs_there_are() {
        // As many runs as four full tiers have, from dense to sparse ones.
        let per_tier = RUN_MERGE_FAN_IN - 1;
        let spans: Vec<u32> = [4, 40, 400, 4000]
            .iter()
            .flat_map(|span| std::iter::repeat_n(*span, per_tier))
            .collect();
        let all: u32 = spans.iter().map(|span| 4000 / span).sum();
        assert_eq!(pages_decoded(&spans, 4000), all as usize);
    }

    #[test]
    fn the_page_that_was_not_asked_for_the_longest_goes_first() {
        let mut decoded = DecodedPages::default();
        let kept = u32::try_from(INDEX_PAGES_DECODED_MAX).expect("a small number");
        for run in 0..kept {
            decoded.insert(place(run, 0), page());
        }
        assert!(decoded.get(place(0, 0)).is_some());
        decoded.insert(place(kept, 0), page());
        assert!(decoded.get(place(0, 0)).is_some());
        assert!(decoded.get(place(1, 0)).is_none());
        assert!(decoded.get(place(2, 0)).is_some());
    }
}
