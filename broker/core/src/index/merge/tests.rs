//! A merge keeps each live extent once and in order, and refuses pages that contradict each other.

use proptest::prelude::*;

use super::super::Extent;
use super::super::run::tests::{build_run, sorted_extents};
use super::*;
use crate::ids::BlockLocation;

type Extents = Vec<(TopicPartition, Extent)>;

/// Runs a merge to its end; counts the pages that are in memory at once.
fn merge(
    runs: &[(RunDirectory, Vec<Vec<u8>>)],
    mut live: impl FnMut(TopicPartition, Offset) -> bool,
) -> Result<Extents, MergeError> {
    let directories: Vec<&RunDirectory> = runs.iter().map(|(directory, _)| directory).collect();
    let mut merger = RunMerger::new(&directories, |tp, extent| live(tp, extent.end_offset));
    let mut out = Vec::new();
    loop {
        match merger.poll()? {
            MergeStep::NeedPage { run, page } => {
                let other = (run + 1) % runs.len();
                if other != run && !merger.inputs[other].needs_page() {
                    let refused = merger.supply(other, &runs[run].1[page]);
                    assert_eq!(refused, Err(MergeError::NotNeeded { run: other }));
                }
                merger.supply(run, &runs[run].1[page])?;
            }
            MergeStep::Page(built) => {
                let page = RunPage::decode(&built.bytes).expect("just built");
                out.extend((0..page.len()).filter_map(|index| page.get(index)));
            }
            MergeStep::Done => return Ok(out),
        }
    }
}

proptest! {
    #[test]
    fn a_merge_holds_every_live_extent_once_and_in_order(
        extents in sorted_extents(),
        deal in prop::collection::vec(0..4usize, 1..200),
        dead_topic in 0..20u32,
        log_start in 0..1_000_000u64,
    ) {
        let mut parts: Vec<Extents> = vec![Vec::new(); 4];
        for (number, entry) in extents.iter().enumerate() {
            parts[deal[number % deal.len()]].push(*entry);
        }
        let runs: Vec<_> = parts.iter().map(|part| build_run(part)).collect();
        let live = |tp: TopicPartition, end_offset: Offset| {
            tp.topic.get() != dead_topic && end_offset > Offset(log_start)
        };
        let expected: Extents =
            extents.into_iter().filter(|(tp, e)| live(*tp, e.end_offset)).collect();
        prop_assert_eq!(merge(&runs, live), Ok(expected));
    }

    #[test]
    fn of_two_equal_extents_the_newer_run_gives_its_own(extents in sorted_extents()) {
        let moved: Extents = extents
            .iter()
            .map(|(tp, extent)| (*tp, Extent { offset_in_block: 7, ..*extent }))
            .collect();
        let runs = [build_run(&extents), build_run(&moved)];
        prop_assert_eq!(merge(&runs, |_, _| true), Ok(moved));
    }
}

fn one_extent(base: u64, end: u64) -> Extents {
    vec![(
        super::super::tests::partition(0),
        super::super::tests::extent(base, end, 1),
    )]
}

#[test]
fn extents_that_overlap_in_part_stop_the_merge() {
    let runs = [build_run(&one_extent(0, 10)), build_run(&one_extent(5, 15))];
    let error = merge(&runs, |_, _| true).expect_err("they contradict each other");
    let tp = super::super::tests::partition(0);
    let (base_offset, end_offset) = (Offset(5), Offset(10));
    assert_eq!(
        error,
        MergeError::Overlap {
            tp,
            base_offset,
            end_offset
        }
    );
}

#[test]
fn a_page_of_another_run_is_refused_and_still_needed() {
    let (right, wrong) = (
        build_run(&one_extent(0, 10)),
        build_run(&one_extent(10, 20)),
    );
    let mut merger = RunMerger::new(&[&right.0], |_, _| true);
    let need = MergeStep::NeedPage { run: 0, page: 0 };
    assert_eq!(merger.poll(), Ok(need.clone()));
    assert!(matches!(
        merger.supply(0, &wrong.1[0]),
        Err(MergeError::Misplaced { .. })
    ));
    assert!(matches!(
        merger.supply(0, b"nothing"),
        Err(MergeError::Page { .. })
    ));
    assert_eq!(merger.poll(), Ok(need));
    merger.supply(0, &right.1[0]).expect("the page asked for");
    assert!(matches!(merger.poll(), Ok(MergeStep::Page(_))));
    assert_eq!(merger.poll(), Ok(MergeStep::Done));
}

#[test]
fn a_full_tier_is_merged_and_the_number_of_runs_stays_small() {
    let run = |bytes| RunDirectory {
        bytes,
        ..RunDirectory::default()
    };
    assert_eq!(merge_plan(&[]), None);
    let mut runs: Vec<RunDirectory> = Vec::new();
    let mut rewritten = 0;
    for _ in 0..4096 {
        runs.push(run(RUN_TIER_BYTES_MIN));
        while let Some(plan) = merge_plan(&runs) {
            assert_eq!(plan.len(), RUN_MERGE_FAN_IN);
            let bytes = runs[plan.clone()].iter().map(|run| run.bytes).sum();
            rewritten += bytes;
            runs.splice(plan, [run(bytes)]);
        }
        assert!(runs.len() <= 4 * RUN_MERGE_FAN_IN, "{} runs", runs.len());
    }
    assert!(
        rewritten <= 4 * 4096 * RUN_TIER_BYTES_MIN,
        "each extent once per tier"
    );
}

#[test]
fn runs_with_a_page_in_a_segment_are_found() {
    let mut one = build_run(&one_extent(0, 10)).0;
    let two = build_run(&one_extent(10, 20)).0;
    let place = &mut one.pages[0].place;
    place.block = BlockLocation {
        segment: SegmentSeq(77),
        ..place.block
    };
    let journal = place.block.journal;
    let runs = [one, two];
    assert_eq!(runs_in_segment(&runs, journal, SegmentSeq(77)), [0]);
    assert_eq!(
        runs_in_segment(&runs, JournalId(9), SegmentSeq(77)),
        [0usize; 0]
    );
    assert!(runs[0].segments().contains(&(journal, SegmentSeq(77))));
}

#[test]
fn only_neighbours_are_merged_so_that_the_order_of_runs_stays() {
    let run = |bytes| RunDirectory {
        bytes,
        ..RunDirectory::default()
    };
    let (small, large) = (RUN_TIER_BYTES_MIN, RUN_TIER_BYTES_MIN * 5);
    let mut sizes = vec![small; 7];
    sizes.push(large);
    sizes.extend([small; 7]);
    let runs = |sizes: &[u64]| sizes.iter().copied().map(run).collect::<Vec<_>>();
    assert_eq!(merge_plan(&runs(&sizes)), None, "a larger run lies between");
    sizes.push(small);
    assert_eq!(merge_plan(&runs(&sizes)), Some(8..16));
    // Seven larger ones and an eighth, with small ones between.
    let mut sizes = vec![small; 3];
    for _ in 0..8 {
        sizes.extend([large, small]);
    }
    assert_eq!(merge_plan(&runs(&sizes)), Some(3..18));
}

#[test]
fn an_extent_of_a_newer_run_stands_for_those_that_it_covers() {
    let tp = super::super::tests::partition(0);
    let extent = |base, end, place| (tp, super::super::tests::extent(base, end, place));
    let before = vec![
        extent(0, 3, 1),
        extent(3, 5, 2),
        extent(5, 9, 3),
        extent(9, 12, 4),
    ];
    let moved = vec![extent(3, 9, 7)];
    let again = vec![extent(0, 9, 8)];
    let expected = vec![extent(0, 3, 1), extent(3, 9, 7), extent(9, 12, 4)];
    let runs = [build_run(&before), build_run(&moved)];
    assert_eq!(merge(&runs, |_, _| true), Ok(expected));
    let runs = [build_run(&before), build_run(&moved), build_run(&again)];
    let expected = vec![extent(0, 9, 8), extent(9, 12, 4)];
    assert_eq!(merge(&runs, |_, _| true), Ok(expected));
}

#[test]
fn a_page_that_is_passed_over_leaves_out_its_extents_only() {
    let (one, two) = (
        build_run(&one_extent(0, 10)),
        build_run(&one_extent(10, 20)),
    );
    let mut merger = RunMerger::new(&[&one.0, &two.0], |_, _| true);
    assert_eq!(merger.pass_over(7), Err(MergeError::NotNeeded { run: 7 }));
    let mut found = Vec::new();
    loop {
        match merger.poll_extent().expect("nothing overlaps") {
            ExtentStep::NeedPage { run: 0, .. } => merger.pass_over(0).expect("it is needed"),
            ExtentStep::NeedPage { run, page } => {
                merger.supply(run, &two.1[page]).expect("the page");
            }
            ExtentStep::Extent(tp, extent) => found.push((tp, extent)),
            ExtentStep::Done => break,
        }
    }
    assert_eq!(found, one_extent(10, 20));
}

#[test]
fn a_page_that_is_passed_over_hides_what_older_runs_name_over_its_offsets() {
    let extents = |bounds: &[(u64, u64)]| -> Extents {
        let named = bounds.iter();
        named
            .flat_map(|(base, end)| one_extent(*base, *end))
            .collect()
    };
    let runs = [
        build_run(&extents(&[(0, 10), (10, 20), (20, 30), (30, 40)])),
        build_run(&extents(&[(10, 20), (25, 30)])),
        build_run(&extents(&[(20, 25), (40, 50)])),
    ];
    let directories: Vec<&RunDirectory> = runs.iter().map(|(directory, _)| directory).collect();
    let mut merger = RunMerger::new(&directories, |_, _| true);
    let mut found = Vec::new();
    loop {
        match merger.poll_extent().expect("nothing overlaps") {
            ExtentStep::NeedPage { run: 1, .. } => merger.pass_over(1).expect("it is needed"),
            ExtentStep::NeedPage { run, page } => {
                merger.supply(run, &runs[run].1[page]).expect("the page");
            }
            ExtentStep::Extent(tp, extent) => found.push((tp, extent)),
            ExtentStep::Done => break,
        }
    }
    // The page may name anything from 10 to 30, and only the newer run is believed there.
    assert_eq!(found, extents(&[(0, 10), (20, 25), (30, 40), (40, 50)]));
}
