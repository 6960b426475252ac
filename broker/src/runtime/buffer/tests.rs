//! Buffers are aligned and reused by class, within a bound on what the pool keeps.

use std::rc::Rc;

use super::*;
use crate::runtime::testing::run;

#[test]
fn buffers_are_aligned_and_as_long_as_their_class() {
    run(|| async {
        for (bytes, class) in [(1, 4 << 10), (5000, 8 << 10), (300 << 10, 512 << 10)] {
            let buffer = allocate(bytes);
            assert_eq!((buffer.len(), buffer.capacity()), (class, class));
            assert_eq!(buffer.as_ptr().align_offset(BUFFER_BYTES_MIN), 0);
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    });
}

#[test]
fn a_dropped_buffer_is_the_next_one_of_its_class() {
    run(|| async {
        let mut first = allocate(64 << 10);
        first[0] = 7;
        let address = first.as_ptr();
        let frozen = Rc::new(first);
        let shared = Rc::clone(&frozen);
        drop(frozen);
        assert_ne!(allocate(64 << 10).as_ptr(), address, "still shared");
        drop(shared);
        let second = allocate(33 << 10);
        assert_eq!(
            (second.as_ptr(), second[0]),
            (address, 7),
            "reused without zeroing"
        );
        let expected = PoolStats {
            fresh: 2,
            reused: 1,
            free_bytes: 64 << 10,
        };
        assert_eq!(stats(), expected);
    });
}

#[test]
fn steady_use_allocates_nothing() {
    run(|| async {
        let warm: Vec<_> = (0..8).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        drop(warm);
        let fresh = stats().fresh;
        for _ in 0..1000 {
            let held: Vec<_> = (0..8).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
            drop(held);
        }
        assert_eq!(stats().fresh, fresh);
    });
}

#[test]
fn the_pool_keeps_no_more_than_its_bound() {
    run(|| async {
        set_pool_bytes_max(3 * BUFFER_BYTES_MAX);
        let held: Vec<_> = (0..8).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        drop(held);
        assert_eq!(stats().free_bytes, 3 * BUFFER_BYTES_MAX);
        set_pool_bytes_max(0);
        assert_eq!(stats().free_bytes, 0);
    });
}

#[test]
#[should_panic(expected = "above the largest class")]
fn a_buffer_above_the_largest_class_is_a_bug() {
    drop(allocate(BUFFER_BYTES_MAX + 1));
}

#[test]
fn the_largest_come_in_pairs_that_share_a_huge_page() {
    run(|| async {
        let (mut one, other) = (allocate(BUFFER_BYTES_MAX), allocate(BUFFER_BYTES_MAX));
        let (first, second) = (one.as_ptr(), other.as_ptr());
        assert_eq!(first.align_offset(2 * BUFFER_BYTES_MAX), 0);
        assert_eq!(first.wrapping_add(BUFFER_BYTES_MAX), second);
        assert_eq!((stats().fresh, stats().reused), (1, 1));
        assert!(other.iter().all(|byte| *byte == 0));

        // One half does not take the other with it.
        set_pool_bytes_max(0);
        one.fill(7);
        drop(other);
        assert!(one.iter().all(|byte| *byte == 7));
        drop(one);
        let again = allocate(BUFFER_BYTES_MAX);
        assert!(again.iter().all(|byte| *byte == 0), "fresh memory");
    });
}

#[test]
fn a_loan_is_kept_besides_and_returned_at_once() {
    run(|| async {
        set_pool_bytes_max(BUFFER_BYTES_MAX);
        let held: Vec<_> = (0..6).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        lend(3 * BUFFER_BYTES_MAX);
        drop(held);
        assert_eq!(stats().free_bytes, 4 * BUFFER_BYTES_MAX);
        drop(allocate(BUFFER_BYTES_MIN));
        assert_eq!(
            stats().free_bytes,
            4 * BUFFER_BYTES_MAX,
            "not one byte more"
        );
        lend(0);
        assert_eq!(stats().free_bytes, BUFFER_BYTES_MAX);
    });
}
