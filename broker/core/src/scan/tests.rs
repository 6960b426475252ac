//! Tables of crash and damage images, each with what the scan must say. `model` has the same
//! against a plain model.

mod image;
mod model;

use proptest::prelude::*;

use self::image::{Image, JOURNAL, PAGE, SEGMENT_BYTES, Scanned, TP, Written, lsns};
use super::*;
use crate::layout::to_usize;

/// Places inside the test blocks, by what covers them.
const IN_BLOCK_HEADER: u32 = 20;
const IN_ENTRY_HEADER: u32 = 70;
const IN_ROW: u32 = 115;
const IN_BATCH_HEADER: u32 = 130;
const IN_BATCH_BODY: u32 = 200;

const HEADS: [u32; 4] = [IN_BLOCK_HEADER, IN_ENTRY_HEADER, IN_ROW, IN_BATCH_HEADER];

fn at(segment: u32, offset: u32) -> JournalPos {
    JournalPos::new(SegmentSeq(segment), offset)
}

/// Groups of 1, 3 and 2 blocks of different sizes.
fn three_groups() -> (Image, Vec<Written>) {
    let mut image = Image::new();
    let mut blocks = image.write_group(&[100]);
    blocks.extend(image.write_group(&[100, 300_000, 5_000]));
    blocks.extend(image.write_group(&[9_000, 100]));
    (image, blocks)
}

fn assert_clean(scanned: &Scanned) {
    assert_eq!(scanned.outcome.torn, None);
    assert_eq!(scanned.outcome.corrupt, []);
    assert_eq!(scanned.outcome.unlinked, []);
}

/// Exactly this block is reported, as a whole, and the scan went on behind it.
fn assert_only_corrupt(scanned: &Scanned, blocks: &[Written], lost: usize, end: JournalPos) {
    let ranges: Vec<_> = scanned
        .outcome
        .corrupt
        .iter()
        .map(|it| (it.segment, it.start, it.end))
        .collect();
    let lost_block = &blocks[lost];
    let expected = (lost_block.at.segment, lost_block.start(), lost_block.end());
    assert_eq!(ranges, [expected], "{:?}", scanned.outcome);
    let kept = blocks.iter().filter(|block| block.lsn != lost_block.lsn);
    assert_eq!(scanned.lsns, lsns(kept));
    assert_eq!(scanned.outcome.torn, None);
    assert_eq!(scanned.outcome.end, end);
}

/// Everything before block `cut` is kept, nothing from it on.
fn assert_cut(scanned: &Scanned, blocks: &[Written], cut: usize) {
    assert_eq!(scanned.lsns, lsns(&blocks[..cut]));
    assert_eq!(scanned.outcome.corrupt, []);
    let torn = scanned.outcome.torn.expect("the tail is torn");
    assert_eq!(torn.at, blocks[cut].at.start());
    assert_eq!(scanned.outcome.end, torn.at);
    let before = cut.checked_sub(1).map_or(0, |last| blocks[last].crc);
    assert_eq!(scanned.outcome.last_block_crc, before);
}

#[test]
fn a_clean_journal_is_read_to_its_end() {
    let (image, blocks) = three_groups();
    let scanned = image.scan();
    assert_clean(&scanned);
    assert_eq!(scanned.lsns, lsns(&blocks));
    assert_eq!(
        scanned.blocks,
        blocks.iter().map(|block| block.at).collect::<Vec<_>>()
    );
    assert_eq!(scanned.outcome.end, image.end);
    assert_eq!(scanned.outcome.last_block_crc, blocks[5].crc);
    assert_eq!(scanned.outcome.next_group_seq, 4);
    assert_eq!(scanned.outcome.next_segment(), SegmentSeq(2));
    // The journal once, and once more the rest of the segment to look for later headers.
    assert!(
        scanned.reads <= 2 * to_usize(SEGMENT_BYTES >> 20) + 1,
        "{} reads",
        scanned.reads
    );
}

#[test]
fn an_empty_segment_is_an_empty_journal() {
    let scanned = Image::new().scan();
    assert_clean(&scanned);
    assert_eq!(scanned.outcome.end, at(1, 4096));
    assert_eq!(scanned.outcome.last_block_crc, 0);
    assert_eq!(scanned.outcome.next_group_seq, 1);
}

#[test]
fn no_segment_is_an_empty_journal() {
    let input = ScanInput {
        journal: JOURNAL,
        segments: vec![],
        ledger: None,
        start: None,
    };
    let expected = ScanOutcome {
        next_group_seq: 1,
        ..ScanOutcome::default()
    };
    assert_eq!(JournalScan::new(input).next(), ScanStep::Done(expected));
}

#[test]
fn a_full_segment_ends_at_its_end() {
    let mut image = Image::new();
    let blocks: Vec<_> = (0..4)
        .flat_map(|_| image.write_group(&[1_000_000 - 80_000]))
        .collect();
    let room = SEGMENT_BYTES - image.end.offset;
    let filler = to_usize(room) - 300;
    let mut blocks = blocks;
    blocks.extend(image.write_group(&[filler]));
    assert_eq!(image.end.offset, SEGMENT_BYTES);
    let scanned = image.scan();
    assert_clean(&scanned);
    assert_eq!(scanned.lsns, lsns(&blocks));
    assert_eq!(scanned.outcome.end, image.end);
}

#[test]
fn a_torn_last_group_keeps_its_prefix() {
    let (image, blocks) = three_groups();
    for lost in [4, 5] {
        let mut image = image.clone();
        image.drop_block(&blocks[lost]);
        assert_cut(&image.scan(), &blocks, lost);
    }
}

#[test]
fn a_hole_in_the_last_group_cuts_what_is_behind_it() {
    let mut image = Image::new();
    let mut blocks = image.write_group(&[100]);
    blocks.extend(image.write_group(&[5_000, 70_000, 100, 9_000]));
    image.drop_block(&blocks[2]);
    let scanned = image.scan();
    assert_cut(&scanned, &blocks, 2);
    let torn = scanned.outcome.torn.expect("the tail is torn");
    assert_eq!(torn.at.offset + torn.bytes, blocks[4].end());
    assert_eq!(
        scanned.outcome.next_group_seq, 3,
        "above the group that was cut"
    );
}

#[test]
fn a_flip_in_the_unflushed_tail_is_torn() {
    let (image, blocks) = three_groups();
    for offset in HEADS.into_iter().chain([IN_BATCH_BODY]) {
        let mut image = image.clone();
        image.flip(&blocks[4], offset);
        assert_cut(&image.scan(), &blocks, 4);
    }
}

#[test]
fn a_flip_below_the_ledger_is_corrupt() {
    let (mut image, blocks) = three_groups();
    image.set_ledger(image.end);
    for lost in [0, 2, 4, 5] {
        for offset in HEADS {
            let mut image = image.clone();
            image.flip(&blocks[lost], offset);
            assert_only_corrupt(&image.scan(), &blocks, lost, image.end);
        }
    }
}

#[test]
fn a_flip_below_a_known_flushed_position_ahead_is_corrupt() {
    let (image, blocks) = three_groups();
    for lost in 0..4 {
        for offset in HEADS {
            let mut image = image.clone();
            image.flip(&blocks[lost], offset);
            assert_only_corrupt(&image.scan(), &blocks, lost, image.end);
        }
    }
}

#[test]
fn a_flip_below_a_recorded_end_is_corrupt() {
    let (mut image, mut blocks) = three_groups();
    image.roll();
    for lost in 0..6 {
        for offset in HEADS {
            let mut image = image.clone();
            image.flip(&blocks[lost], offset);
            assert_only_corrupt(&image.scan(), &blocks, lost, at(2, 4096));
        }
    }
    blocks.extend(image.write_group(&[100]));
    image.flip(&blocks[5], IN_ROW);
    assert_only_corrupt(&image.scan(), &blocks, 5, image.end);
}

#[test]
fn a_block_that_starts_at_the_flushed_position_is_torn_and_one_before_it_is_not() {
    let (mut image, blocks) = three_groups();
    image.set_ledger(blocks[4].at.start());
    let mut torn = image.clone();
    torn.flip(&blocks[4], IN_BLOCK_HEADER);
    assert_cut(&torn.scan(), &blocks, 4);
    // Both blocks of the last group are gone, so only the ledger knows.
    image.drop_block(&blocks[4]);
    image.drop_block(&blocks[5]);
    image.flip(&blocks[3], IN_BLOCK_HEADER);
    let scanned = image.scan();
    assert_only_corrupt(&scanned, &blocks[..4], 3, blocks[4].at.start());
    assert_eq!(
        scanned.outcome.last_block_crc, 0,
        "no block that counts ends there"
    );
}

#[test]
fn a_damaged_body_below_f_loses_only_its_batch() {
    let (mut image, blocks) = three_groups();
    image.flip(&blocks[2], IN_BATCH_BODY);
    let scanned = image.scan();
    assert_eq!(scanned.lsns, lsns(&blocks), "the block's heads count");
    let [range] = scanned.outcome.corrupt.as_slice() else {
        panic!("{:?}", scanned.outcome)
    };
    assert!(range.start > blocks[2].start() && range.end <= blocks[2].end());
    let Damage::Body(body) = &range.what else {
        panic!("{range:?}")
    };
    assert_eq!((body.tp, body.base_offset.0, body.end_offset.0), (TP, 3, 4));
    assert_eq!(scanned.outcome.torn, None);
}

#[test]
fn damage_of_neighbours_is_one_range() {
    let (mut image, blocks) = three_groups();
    image.flip(&blocks[1], IN_BLOCK_HEADER);
    image.drop_block(&blocks[2]);
    let scanned = image.scan();
    let [range] = scanned.outcome.corrupt.as_slice() else {
        panic!("{:?}", scanned.outcome)
    };
    assert_eq!(
        (range.start, range.end),
        (blocks[1].start(), blocks[2].end())
    );
    assert!(
        matches!(range.what, Damage::Head(BlockError::Crc { .. })),
        "{range:?}"
    );
    assert_eq!(scanned.lsns, [1, 4, 5, 6]);
}

#[test]
fn flips_in_the_padding_change_nothing() {
    let (mut image, blocks) = three_groups();
    image.flip(&blocks[5], 4000);
    let scanned = image.scan();
    assert_clean(&scanned);
    assert_eq!(scanned.lsns, lsns(&blocks));
}

#[test]
fn an_unreadable_page_is_a_bad_block() {
    let (image, blocks) = three_groups();
    // The page in the middle of a block of many: only that block is lost.
    let middle = blocks[2].start() + 10 * PAGE;
    let mut corrupt = image.clone();
    corrupt.unreadable.push((1, middle, middle + 1));
    let scanned = corrupt.scan();
    assert_only_corrupt(&scanned, &blocks, 2, image.end);
    assert_eq!(scanned.outcome.corrupt[0].what, Damage::Read);
    let mut torn = image.clone();
    torn.unreadable
        .push((1, blocks[4].start(), blocks[4].start() + 1));
    assert_cut(&torn.scan(), &blocks, 4);
    // Behind the end nothing was written, so nothing is lost.
    let mut behind = image.clone();
    behind.unreadable.push((1, 3 << 20, (3 << 20) + 1));
    let scanned = behind.scan();
    assert_eq!(scanned.lsns, lsns(&blocks));
    assert_eq!(
        (scanned.outcome.end, scanned.outcome.corrupt),
        (image.end, vec![])
    );
}

#[test]
fn a_dead_device_ends_the_scan() {
    let (mut image, blocks) = three_groups();
    image.set_ledger(blocks[4].at.start());
    image.unreadable.push((1, 0, SEGMENT_BYTES));
    let scanned = image.scan();
    assert_eq!(scanned.lsns, []);
    assert_eq!(scanned.outcome.end, blocks[4].at.start());
    let [range] = scanned.outcome.corrupt.as_slice() else {
        panic!("{:?}", scanned.outcome)
    };
    assert_eq!((range.start, range.end), (4096, blocks[4].start()));
}

#[test]
fn blocks_of_an_earlier_life_of_the_file_do_not_count() {
    let mut old = Image::new();
    for _ in 0..20 {
        old.write_group(&[100, 5_000]);
    }
    // A file that was segment 1 of this journal becomes segment 2: same pages, later groups.
    let (mut image, mut blocks) = three_groups();
    image.roll_into(old.bytes(1).clone());
    blocks.extend(image.write_group(&[100]));
    let scanned = image.scan();
    assert_clean(&scanned);
    assert_eq!(scanned.lsns, lsns(&blocks));
    assert_eq!(scanned.outcome.end, image.end);
}

#[test]
fn the_salt_tells_lives_of_one_segment_apart() {
    // The worst case: blocks of the same segment number, positions and groups.
    let mut other = Image::with_salt(0x7000_0000_0000_0000);
    let stale = other.write_group(&[100, 5_000]);
    other.write_group(&[100]);
    let mut image = Image::new();
    image.bytes(1).copy_from_slice(other.bytes(1));
    let scanned = image.scan();
    assert_eq!(scanned.lsns, []);
    assert_eq!(scanned.outcome.end, at(1, 4096));
    assert_eq!(scanned.outcome.corrupt, []);
    // Blocks of this life over them end where they end.
    let written = image.write_group(&[100]);
    assert_eq!(written[0].end(), stale[0].end());
    let scanned = image.scan();
    assert_eq!(scanned.lsns, lsns(&written));
    assert_eq!(scanned.outcome.end, image.end);
}

#[test]
fn a_group_that_goes_backwards_does_not_count() {
    let (mut image, blocks) = three_groups();
    image.next_group_seq = 2;
    let mut backwards = blocks.clone();
    backwards.extend(image.write_group(&[100]));
    assert_cut(&image.scan(), &backwards, 6);
}

#[test]
fn what_was_cut_never_comes_back() {
    let mut image = Image::new();
    let mut blocks = image.write_group(&[100]);
    let tail = image.write_group(&[5_000, 100, 9_000]);
    image.drop_block(&tail[0]);
    let first = image.scan();
    assert_eq!(first.lsns, lsns(&blocks));
    // The two other blocks of the group lie intact behind the cut for ever.
    image.reopen(&first.outcome);
    assert_eq!(image.scan().lsns, lsns(&blocks));
    blocks.extend(image.write_group(&[100]));
    image.set_ledger(image.end);
    let second = image.scan();
    assert_clean(&second);
    assert_eq!(second.lsns, lsns(&blocks));
    assert_eq!(second.outcome.end, image.end);
}

#[test]
fn segments_are_scanned_from_a_position_in_the_middle() {
    let (mut image, mut blocks) = three_groups();
    let start = blocks[4].at.start();
    image.roll();
    blocks.extend(image.write_group(&[100, 100]));
    image.roll();
    blocks.extend(image.write_group(&[5_000]));
    let scanned = image.scan_from(Some(start));
    assert_clean(&scanned);
    assert_eq!(scanned.lsns, lsns(&blocks[4..]));
    assert_eq!(scanned.outcome.end, image.end);
    // Older files may be gone by then.
    let start = at(2, 4096);
    image.lose_segment(1);
    let scanned = image.scan_from(Some(start));
    assert_clean(&scanned);
    assert_eq!(scanned.lsns, lsns(&blocks[6..]));
}

#[test]
fn a_start_at_the_very_end_finds_nothing_and_ends_there() {
    let (image, _) = three_groups();
    let scanned = image.scan_from(Some(image.end));
    assert_clean(&scanned);
    assert_eq!((scanned.lsns, scanned.outcome.end), (vec![], image.end));
}

#[test]
fn a_segment_without_a_header_is_named() {
    let (mut image, mut blocks) = three_groups();
    image.roll();
    let lost = image.write_group(&[100, 100]);
    let lost_end = image.end.offset;
    image.roll();
    blocks.extend(image.write_group(&[100]));
    image.lose_segment(2);
    let scanned = image.scan();
    assert_eq!(scanned.lsns, lsns(&blocks));
    assert!(scanned.lsns.iter().all(|lsn| *lsn != lost[0].lsn));
    let what = Damage::SegmentMissing {
        through: SegmentSeq(2),
    };
    let range = CorruptRange {
        segment: SegmentSeq(2),
        start: 0,
        end: lost_end,
        what,
    };
    assert_eq!(scanned.outcome.corrupt, std::slice::from_ref(&range));
    // The same for the newest segment, when the ledger knows of it.
    image.lose_segment(3);
    image.set_ledger(at(2, lost_end));
    let scanned = image.scan();
    assert_eq!(scanned.lsns, lsns(&blocks[..6]));
    assert_eq!(scanned.outcome.corrupt, [range]);
    assert_eq!(scanned.outcome.end, at(2, lost_end));
    assert_eq!(scanned.outcome.next_segment(), SegmentSeq(3));
}

#[test]
fn a_segment_that_no_later_header_names_does_not_count() {
    let (mut image, mut blocks) = three_groups();
    let before = image.scan().outcome;
    // An opening that a crash undid: its number was skipped by the next one.
    image.roll();
    image.write_group(&[100]);
    let skipped = ScanOutcome {
        end: at(2, 4096),
        ..before.clone()
    };
    image.reopen(&skipped);
    image.relink(3, before.previous());
    blocks.extend(image.write_group(&[100]));
    let scanned = image.scan();
    assert_eq!(scanned.outcome.unlinked, [SegmentSeq(2)]);
    assert_eq!(scanned.outcome.corrupt, []);
    // The image numbers frames on, so the abandoned one leaves a gap.
    assert_eq!(scanned.lsns, lsns(&blocks));
}

#[test]
fn the_last_block_must_be_the_one_that_the_successor_recorded() {
    let (image, blocks) = three_groups();
    let (mut recorded, mut other) = (image.clone(), image);
    let last = recorded.write_group(&[100])[0];
    other.write_group(&[101]);
    recorded.roll();
    let range = to_usize(last.start())..to_usize(last.end());
    let stale = other.bytes(1)[range.clone()].to_vec();
    recorded.bytes(1)[range].copy_from_slice(&stale);
    let scanned = recorded.scan();
    assert_eq!(scanned.lsns, lsns(&blocks));
    let [found] = scanned.outcome.corrupt.as_slice() else {
        panic!("{:?}", scanned.outcome)
    };
    let Damage::Head(error) = &found.what else {
        panic!("{found:?}")
    };
    assert!(matches!(error, BlockError::NotTheRecordedLast { .. }));
}

#[test]
fn a_file_that_is_too_short_has_lost_what_was_flushed() {
    let (mut image, blocks) = three_groups();
    image.roll();
    let cut = blocks[3].start();
    image.bytes(1).truncate(to_usize(cut));
    let scanned = image.scan();
    assert_eq!(scanned.lsns, lsns(&blocks[..3]));
    let range = scanned
        .outcome
        .corrupt
        .iter()
        .map(|it| (it.start, it.end))
        .collect::<Vec<_>>();
    assert_eq!(range, [(cut, blocks[5].end())]);
}

#[test]
fn damage_is_bounded_in_number() {
    let mut ranges = CorruptRanges::default();
    let range = |start| CorruptRange {
        segment: SegmentSeq(1),
        start,
        end: start + 1,
        what: Damage::Read,
    };
    (0..SCAN_CORRUPT_RANGES_MAX as u64 * 2).for_each(|number| {
        ranges.push(range(
            u32::try_from(number * 2).expect("the bound is small"),
        ));
    });
    assert_eq!(ranges.0.len(), SCAN_CORRUPT_RANGES_MAX);
    let last = ranges.0.last().expect("there are ranges");
    assert_eq!(to_usize(last.end), SCAN_CORRUPT_RANGES_MAX * 4 - 1);
}

proptest! {
    #[test]
    fn any_bytes_are_answered(
        noise in proptest::collection::vec((0usize..600_000, any::<u8>()), 0..200),
        ledger in proptest::option::of((0u32..3, any::<u32>())),
        start in proptest::option::of((0u32..3, any::<u32>())),
        cut in 0usize..5_000_000,
    ) {
        let (mut image, _) = three_groups();
        for (index, byte) in noise {
            image.bytes(1)[4096 + index] = byte;
        }
        image.bytes(1).truncate(cut);
        if let Some((segment, offset)) = ledger {
            image.set_ledger(at(segment, offset));
        }
        let start = start.map(|(segment, offset)| at(segment, offset));
        let scanned = image.scan_from(start);
        prop_assert!(scanned.lsns.is_sorted());
    }
}
