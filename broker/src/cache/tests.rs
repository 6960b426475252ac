//! The cache keeps its budget, never holds two entries over one place, and forgets freed segments.

use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};

use super::*;
use crate::runtime::buffer::BUFFER_BYTES_MAX;
use crate::runtime::testing::run;

const PAGE: u32 = 4096;

fn at(offset: u32, bytes: u32) -> BlockLocation {
    BlockLocation {
        journal: JournalId(0),
        segment: SegmentSeq(1),
        offset,
        bytes,
    }
}

fn whole(buffer: Buffer) -> CachedBytes {
    CachedBytes {
        start: 0,
        bytes: buffer.len(),
        buffer: Rc::new(buffer),
    }
}

fn insert(cache: &mut BlockCache, offset: u32, pages: u32, fill: u8) {
    let bytes = usize::try_from(pages * PAGE).expect("small");
    let mut buffer = buffer::allocate(bytes);
    buffer.fill(fill);
    buffer.truncate(bytes);
    cache.insert(
        JournalId(0),
        SegmentSeq(1),
        offset,
        whole(buffer),
        Holding::Blocks,
    );
}

fn budget(pages: usize) -> usize {
    pages * 4096
}

#[test]
fn a_block_inside_a_longer_entry_is_found() {
    run(|| async {
        let mut cache = BlockCache::new(budget(100));
        insert(&mut cache, 8 * PAGE, 4, 7);
        let inside = cache.get(at(9 * PAGE, 2 * PAGE)).expect("cached");
        assert_eq!((inside.start, inside.bytes), (4096, 8192));
        assert!(inside.as_slice().iter().all(|byte| *byte == 7));
        assert!(
            cache.get(at(11 * PAGE, 2 * PAGE)).is_none(),
            "its end lies outside"
        );
        assert!(cache.get(at(7 * PAGE, PAGE)).is_none());
    });
}

#[test]
fn the_budget_holds_and_what_is_read_stays_longer() {
    run(|| async {
        let mut cache = BlockCache::new(budget(3));
        for page in 0..3 {
            insert(&mut cache, page * PAGE, 1, 0);
        }
        assert!(cache.get(at(0, PAGE)).is_some());
        insert(&mut cache, 3 * PAGE, 1, 0);
        assert!(cache.charged_bytes() <= budget(3));
        assert!(cache.get(at(0, PAGE)).is_some(), "it was read");
        assert!(
            cache.get(at(PAGE, PAGE)).is_none(),
            "the oldest that was not"
        );
    });
}

#[test]
fn an_entry_larger_than_the_budget_is_not_kept() {
    run(|| async {
        let mut cache = BlockCache::new(budget(2));
        insert(&mut cache, 0, 3, 0);
        assert_eq!(cache.charged_bytes(), 0);
    });
}

#[test]
fn entries_never_overlap() {
    run(|| async {
        let mut cache = BlockCache::new(budget(100));
        insert(&mut cache, 0, 4, 1);
        insert(&mut cache, 2 * PAGE, 4, 2);
        assert!(cache.get(at(0, PAGE)).is_none());
        let kept = cache.get(at(3 * PAGE, PAGE)).expect("the newer entry");
        assert!(kept.as_slice().iter().all(|byte| *byte == 2));
        assert_eq!(cache.charged_bytes(), budget(4));
    });
}

#[test]
fn a_forgotten_segment_leaves_nothing_behind() {
    run(|| async {
        let mut cache = BlockCache::new(budget(100));
        insert(&mut cache, 0, 4, 1);
        insert(&mut cache, 4 * PAGE, 4, 2);
        cache.forget_segment(JournalId(0), SegmentSeq(1));
        assert_eq!(cache.charged_bytes(), 0);
        assert!(cache.get(at(0, PAGE)).is_none());
    });
}

#[test]
fn blocks_that_replace_each_other_leave_no_trace() {
    run(|| async {
        let mut cache = BlockCache::new(budget(100));
        for round in 0..10_000_u32 {
            insert(&mut cache, round % 7 * PAGE, 1, 0);
            if round % 100 == 0 {
                cache.forget_segment(JournalId(0), SegmentSeq(1));
            }
        }
        assert!(cache.entries.len() <= 7);
        assert!(
            cache.hand.len() <= 2 * 7 + HAND_SLACK + 1,
            "{}",
            cache.hand.len()
        );
        for page in 0..200 {
            insert(&mut cache, page * PAGE, 1, 0);
            assert!(cache.charged_bytes() <= budget(100));
        }
    });
}

#[test]
fn memory_of_a_forgotten_segment_is_there_for_the_next() {
    const BLOCKS: u32 = 8;
    buffer::set_pool_bytes_max(0);
    let mut cache = BlockCache::new(8 * BUFFER_BYTES_MAX);
    let mut fill = |segment| {
        for block in 0..BLOCKS {
            let memory = whole(buffer::allocate(BUFFER_BYTES_MAX));
            let bytes = u32::try_from(BUFFER_BYTES_MAX).expect("1 MiB");
            let (journal, segment) = (JournalId(0), SegmentSeq::new(segment));
            cache.insert(journal, segment, block * bytes, memory, Holding::Blocks);
        }
        cache.forget_segment(JournalId(0), SegmentSeq::new(segment));
    };
    fill(1);
    let fresh = buffer::stats().fresh;
    fill(2);
    assert_eq!(buffer::stats().fresh, fresh);
    // Its budget holds for both: a full cache lends nothing.
    assert_eq!(buffer::stats().free_bytes, 8 * BUFFER_BYTES_MAX);
    let held: Vec<_> = (0..8).map(|_| buffer::allocate(BUFFER_BYTES_MAX)).collect();
    for (at, memory) in (0..).zip(held) {
        cache.insert(
            JournalId(0),
            SegmentSeq::new(3),
            at << 20,
            whole(memory),
            Holding::Blocks,
        );
    }
    drop(buffer::allocate(BUFFER_BYTES_MAX));
    assert_eq!(buffer::stats().free_bytes, 0);
}

#[test]
fn a_part_of_a_block_is_found_and_no_blocks_begin_with_it() {
    run(|| async {
        let mut cache = BlockCache::new(budget(100));
        let part = whole(buffer::allocate(2 * 4096)).slice(100, 5000);
        let (journal, segment) = (JournalId(0), SegmentSeq(1));
        cache.insert(journal, segment, 3 * PAGE + 100, part, Holding::Part);
        let inside = cache.get(at(3 * PAGE + 200, 300)).expect("cached");
        assert_eq!((inside.start, inside.bytes), (200, 300));
        assert!(
            cache.get(at(3 * PAGE, PAGE)).is_none(),
            "not its whole page"
        );
        assert_eq!(cache.next_blocks(at(0, 9 * PAGE), 0), None);
        insert(&mut cache, 7 * PAGE, 2, 0);
        assert_eq!(cache.next_blocks(at(0, 9 * PAGE), 0), Some(7 * PAGE));
        assert_eq!(cache.next_blocks(at(0, 9 * PAGE), 2 * PAGE), None);
        insert(&mut cache, 2 * PAGE, 4, 1);
        assert_eq!(
            cache.charged_bytes(),
            budget(6),
            "the block around it takes its place"
        );
    });
}
