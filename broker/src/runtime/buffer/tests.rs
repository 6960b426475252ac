//! Buffers are aligned, memory serves one class after the other, and the pool keeps to its bound.

use std::fs;
use std::ops::Range;
use std::rc::Rc;

use proptest::prelude::*;

use super::memory::PAGE_BYTES;
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
            fresh: 1,
            reused: 2,
            free_bytes: PAGE_BYTES - (64 << 10),
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
        set_pool_bytes_max(4 * BUFFER_BYTES_MAX);
        let held: Vec<_> = (0..8).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        drop(held);
        assert_eq!(stats().free_bytes, 4 * BUFFER_BYTES_MAX);
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
fn two_of_the_largest_share_a_huge_page() {
    run(|| async {
        let (mut one, other) = (allocate(BUFFER_BYTES_MAX), allocate(BUFFER_BYTES_MAX));
        let (first, second) = (one.as_ptr(), other.as_ptr());
        assert_eq!(first.align_offset(PAGE_BYTES), 0);
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
        set_pool_bytes_max(2 * BUFFER_BYTES_MAX);
        let held: Vec<_> = (0..6).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        lend(2 * BUFFER_BYTES_MAX);
        drop(held);
        assert_eq!(stats().free_bytes, 4 * BUFFER_BYTES_MAX);
        let held: Vec<_> = (0..3).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        drop((held, allocate(BUFFER_BYTES_MIN)));
        assert_eq!(
            stats().free_bytes,
            4 * BUFFER_BYTES_MAX,
            "not one byte more"
        );
        lend(0);
        assert_eq!(stats().free_bytes, 2 * BUFFER_BYTES_MAX);
    });
}

#[test]
fn memory_of_many_small_buffers_serves_large_ones() {
    run(|| async {
        let small: Vec<_> = (0..1024).map(|_| allocate(BUFFER_BYTES_MIN)).collect();
        assert_eq!(stats().fresh, 2, "4 MiB in two pages");
        drop(small);
        let large: Vec<_> = (0..4).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        assert_eq!((stats().fresh, stats().free_bytes), (2, 0));
        drop(large);
        let small: Vec<_> = (0..1024).map(|_| allocate(BUFFER_BYTES_MIN)).collect();
        assert_eq!((stats().fresh, stats().free_bytes), (2, 0));
        drop(small);
    });
}

#[test]
fn small_buffers_leave_whole_pages_alone() {
    run(|| async {
        let held: Vec<_> = (0..2)
            .map(|_| (allocate(BUFFER_BYTES_MAX), allocate(BUFFER_BYTES_MAX)))
            .collect();
        let _one = allocate(BUFFER_BYTES_MIN);
        drop(held);
        let _other = allocate(BUFFER_BYTES_MIN);
        let _large: Vec<_> = (0..5).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        assert_eq!(stats().fresh, 3, "both small ones lie in the third page");
    });
}

#[test]
fn what_is_above_the_bound_goes_by_whole_pages_and_then_the_smallest() {
    run(|| async {
        let small = allocate(BUFFER_BYTES_MIN);
        let (half, rest) = (allocate(BUFFER_BYTES_MAX), allocate(512 << 10));
        let page = (allocate(BUFFER_BYTES_MAX), allocate(BUFFER_BYTES_MAX));
        drop((page, half));
        let at = stats().free_bytes;
        set_pool_bytes_max(at - 1);
        assert_eq!(stats().free_bytes, at - PAGE_BYTES);
        set_pool_bytes_max(BUFFER_BYTES_MAX);
        assert_eq!(stats().free_bytes, BUFFER_BYTES_MAX);
        let fresh = stats().fresh;
        drop(allocate(BUFFER_BYTES_MAX));
        assert_eq!(stats().fresh, fresh, "the half page was kept");
        drop((small, rest));
    });
}

/// The mappings of this process with what the kernel says of them.
fn mappings() -> Vec<(Range<usize>, String)> {
    let mut mappings: Vec<(Range<usize>, String)> = Vec::new();
    let smaps = fs::read_to_string("/proc/self/smaps").expect("the kernel has it");
    for line in smaps.lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let hexadecimal = |digits| usize::from_str_radix(digits, 16).ok();
        let range = range.and_then(|(start, end)| Some(hexadecimal(start)?..hexadecimal(end)?));
        if let Some(range) = range {
            mappings.push((range, String::new()));
        } else if let Some((_, about)) = mappings.last_mut() {
            about.push_str(line);
            about.push('\n');
        }
    }
    mappings
}

#[test]
fn pages_beside_each_other_are_one_mapping() {
    run(|| async {
        let held: Vec<_> = (0..64).map(|_| allocate(BUFFER_BYTES_MAX)).collect();
        let mappings = mappings();
        let of_buffers = mappings.iter().filter(|(range, _)| {
            held.iter()
                .any(|buffer| range.contains(&buffer.as_ptr().addr()))
        });
        let count = of_buffers.count();
        assert!(count <= 4, "32 pages in {count} mappings");
    });
}

#[test]
fn what_is_given_back_of_a_page_does_not_come_back() {
    run(|| async {
        let (one, other) = (allocate(BUFFER_BYTES_MAX), allocate(BUFFER_BYTES_MAX));
        let address = one.as_ptr().addr();
        let is_huge = || {
            let mappings = mappings();
            let of_page = mappings.iter().find(|(range, _)| range.contains(&address));
            let (_, about) = of_page.expect("it is mapped");
            let flags = about.lines().find_map(|line| line.strip_prefix("VmFlags:"));
            flags
                .expect("a mapping has flags")
                .split(' ')
                .any(|flag| flag == "hg")
        };
        assert!(is_huge());
        set_pool_bytes_max(0);
        drop(other);
        assert!(!is_huge(), "or the kernel would fill the hole some time");
        drop(one);
    });
}

/// A class, whether to take one of it, and which to drop otherwise.
fn step() -> impl Strategy<Value = (u32, bool, prop::sample::Index)> {
    (0..9_u32, any::<bool>(), any::<prop::sample::Index>())
}

proptest! {
    /// Contents of buffers that are held at once do not touch each other, whatever is taken and
    /// dropped in between, and what is free stays within the bound.
    #[test]
    fn buffers_never_overlap(
        steps in proptest::collection::vec(step(), 1..200),
        bound in 0..4 * PAGE_BYTES,
    ) {
        set_pool_bytes_max(bound);
        let mut held: Vec<(Buffer, u8)> = Vec::new();
        for (step, (class, take, which)) in (0_u8..=255).cycle().zip(steps) {
            if take || held.is_empty() {
                let mut buffer = allocate(BUFFER_BYTES_MIN << class);
                buffer.fill(step);
                held.push((buffer, step));
            } else {
                let (buffer, fill) = held.swap_remove(which.index(held.len()));
                prop_assert!(buffer.iter().all(|byte| *byte == fill));
            }
            prop_assert!(stats().free_bytes <= bound);
        }
        for (buffer, fill) in held {
            prop_assert!(buffer.iter().all(|byte| *byte == fill));
        }
        prop_assert!(stats().free_bytes <= bound);
    }
}
