//! Victims by the rules, and relocations that read as what was put into them.

use catena_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader, stamp, verify_body, verify_header};
use catena_protocol::ids::{ChainEpoch, Offset, PartitionId, TopicId, TopicPartition};
use proptest::prelude::*;

use super::*;
use crate::block::{BlockSeal, BlockWriter, parse_block, seal_block};
use crate::entry::EntryView;
use crate::ids::{BlockLocation, JournalId, JournalPos};
use crate::index::Extent;

const MIB: u64 = 1 << 20;

fn facts(segment: u32, live_sixteenths: u64, age: u64) -> SegmentFacts {
    SegmentFacts {
        segment: SegmentSeq(segment),
        file_bytes: 16 * MIB,
        live_bytes: live_sixteenths * MIB,
        live_extents: 100,
        age,
    }
}

fn plenty() -> WriteCredit {
    WriteCredit::new(1 << 40, 1 << 40)
}

fn chosen(segments: &[SegmentFacts], pressure: Pressure, credit: WriteCredit) -> Option<u32> {
    let room = 1 << 40;
    let victim = choose_victim(segments.iter().copied(), pressure, &credit, room);
    victim.map(SegmentSeq::get)
}

#[test]
fn pressure_follows_what_is_used() {
    assert_eq!(Pressure::new(50, 100, false), Pressure::Easy);
    assert_eq!(Pressure::new(51, 100, false), Pressure::Tight);
    assert_eq!(Pressure::new(1500, 1600, false), Pressure::Full);
    assert_eq!(Pressure::new(1, 100, true), Pressure::Full);
}

#[test]
fn the_victim_is_the_one_with_most_dead_for_its_live_and_oldest() {
    let segments = [
        facts(1, 6, 9),
        facts(2, 2, 5),
        facts(3, 3, 9),
        facts(4, 0, 99),
    ];
    // dead x age / live: 1: 10*9/6, 2: 14*5/2, 3: 13*9/3; 4 is freed as it is.
    assert_eq!(chosen(&segments, Pressure::Tight, plenty()), Some(3));
    assert_eq!(chosen(&segments, Pressure::Easy, plenty()), Some(2));
    let equal = [facts(8, 2, 5), facts(7, 2, 5)];
    assert_eq!(chosen(&equal, Pressure::Tight, plenty()), Some(7));
}

#[test]
fn what_is_mostly_wanted_moves_only_when_the_store_is_full() {
    let segments = [facts(1, 11, 9)];
    assert_eq!(chosen(&segments, Pressure::Easy, plenty()), None);
    assert_eq!(chosen(&segments, Pressure::Tight, plenty()), None);
    assert_eq!(chosen(&segments, Pressure::Full, plenty()), Some(1));
    assert_eq!(chosen(&[facts(1, 12, 9)], Pressure::Full, plenty()), None);
}

#[test]
fn nothing_moves_that_cannot_be_paid_for_or_has_no_room() {
    let credit = WriteCredit::new(2 * MIB, 64 * MIB);
    let half = [facts(1, 8, 9)];
    assert_eq!(chosen(&half, Pressure::Tight, credit), None);
    // It gives back what it costs, so a full store is never stuck for want of credit.
    assert_eq!(chosen(&half, Pressure::Full, credit), Some(1));
    let more = [facts(1, 11, 9)];
    assert_eq!(chosen(&more, Pressure::Full, credit), None);
    let rich = WriteCredit::new(20 * MIB, 64 * MIB);
    assert_eq!(chosen(&more, Pressure::Full, rich), None, "half stays back");
    let richer = WriteCredit::new(24 * MIB, 64 * MIB);
    assert_eq!(chosen(&more, Pressure::Full, richer), Some(1));
    let no_room = choose_victim(half, Pressure::Full, &plenty(), 7 * MIB);
    assert_eq!(no_room, None);
}

#[test]
fn small_extents_are_put_in_order_while_there_is_credit() {
    let of = |segment, live_extents| SegmentFacts {
        live_extents,
        ..facts(segment, 8, 3)
    };
    let segments = [of(1, 1000), of(2, 4000), of(3, 1)];
    let choose = |credit: &WriteCredit, max| choose_interleaved(segments, credit, max);
    assert_eq!(choose(&plenty(), 32 << 10), Some(SegmentSeq(2)));
    assert_eq!(choose(&plenty(), 1 << 10), None, "they are large enough");
    assert_eq!(choose(&WriteCredit::new(8 * MIB, MIB), 32 << 10), None);
}

proptest! {
    #[test]
    fn the_cleaner_writes_no_more_than_others_did(
        steps in prop::collection::vec((0..64u64, 1..15u64, 0..3usize), 1..200),
    ) {
        let allowance = 32 * MIB;
        let mut credit = WriteCredit::new(allowance, 512 * MIB);
        let (mut by_others, mut moved) = (0, 0);
        for (written, live, pressure) in steps {
            by_others += written * MIB;
            credit.earn(written * MIB);
            // A full store pays with what it frees; see the test above.
            let pressure = [Pressure::Easy, Pressure::Tight, Pressure::Tight][pressure];
            let facts = facts(1, live, 3);
            if choose_victim([facts], pressure, &credit, 1 << 40).is_some() {
                moved += facts.live_bytes;
                credit.spend(facts.live_bytes);
            }
            prop_assert!(moved <= by_others + allowance);
        }
    }
}

fn tp(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(7),
        partition: PartitionId(partition),
    }
}

fn moved(partition: u32, base: u64, records: u16, filler: usize, at_ms: i64) -> MovedExtent {
    let length = BATCH_HEADER_BYTES + filler.next_multiple_of(8);
    let mut bytes = vec![0x5A; length];
    let header = BatchHeader {
        length: u32::try_from(length).expect("small"),
        first_timestamp_ms: at_ms,
        record_count: records,
        last_offset_delta: records - 1,
        ..BatchHeader::default()
    };
    bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
    let crc = crc32fast::hash(&bytes[32..]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    stamp(&mut bytes, Offset(base), 5, ChainEpoch(3), tp(partition));
    let extent = Extent {
        base_offset: Offset(base),
        end_offset: Offset(base + u64::from(records)),
        block: BlockLocation {
            journal: JournalId(0),
            segment: SegmentSeq(2),
            offset: 4096,
            bytes: 4096,
        },
        offset_in_block: 128,
        bytes: header.length,
        max_timestamp_ms: at_ms,
    };
    MovedExtent {
        tp: tp(partition),
        extent,
        bytes,
        join_ms: 100,
    }
}

/// Writes a record into a block and gives its place.
fn write(relocation: &Relocation) -> (Vec<u8>, BlockLocation, u32) {
    let mut buffer = vec![0xAA; 1 << 20];
    let mut writer = BlockWriter::new(&mut buffer);
    let entry = writer.push_relocation(relocation.row_count, &relocation.body);
    let (used, entries) = (writer.used(), writer.entry_count());
    let (segment, position) = (SegmentSeq(9), 8192);
    let seal = BlockSeal {
        salt: 1,
        segment,
        position,
        group_seq: 1,
        group_index: 0,
        group_count: 1,
        flushed: JournalPos::new(segment, 4096),
    };
    let sealed = seal_block(&mut buffer, &seal, used, entries);
    let place = BlockLocation {
        journal: JournalId(0),
        segment,
        offset: position,
        bytes: sealed.length,
    };
    (buffer, place, entry.offset_in_block)
}

/// Checks that a block holds the batches of the extents that lead to it, byte for byte.
fn check(relocation: &Relocation, sources: &[MovedExtent]) {
    let (block, place, entry_offset) = write(relocation);
    let view = parse_block(&block, 1, place.segment, place.offset).expect("a good block");
    view.verify_bodies().expect("good batches");
    let Some(EntryView::Relocation(_, rows)) = view.entries().next() else {
        panic!("another entry");
    };
    assert!(rows.batches().all(|batch| batch.verify().is_ok()));
    for (tp, extent) in relocation.placed(place, entry_offset) {
        let start = usize::try_from(extent.offset_in_block).expect("small");
        let bytes = &block[start..][..usize::try_from(extent.bytes).expect("small")];
        let covered = sources.iter().filter(|source| {
            source.tp == tp
                && source.extent.base_offset >= extent.base_offset
                && source.extent.end_offset <= extent.end_offset
        });
        let expected: Vec<u8> = covered.flat_map(|source| source.bytes.clone()).collect();
        assert_eq!(bytes, expected);
        let header = bytes.first_chunk().expect("a batch");
        verify_header(header, tp).expect("the header is of this partition");
        let first = BatchHeader::decode(bytes).expect("it reads");
        let first_bytes = usize::try_from(first.length).expect("small");
        verify_body(&bytes[..first_bytes]).expect("the body is whole");
    }
}

#[test]
fn a_relocation_record_has_golden_bytes() {
    let source = moved(9, 10, 3, 0, 1000);
    let mut builder = RelocationBuilder::new(1 << 17);
    builder.push(&source, 1);
    let relocation = builder.finish().expect("a record");
    let (block, _, entry_offset) = write(&relocation);
    let entry = &block[usize::try_from(entry_offset).expect("small")..][..128];
    let mut expected = vec![0x86, 0, 0, 0, 128, 0, 0, 0];
    // No chain, epoch, LSN, hint or link; 80 bytes of body, one row.
    expected.extend([0; 28]);
    expected.extend([80, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(entry[..44], expected);
    let row = [7, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0];
    assert_eq!(entry[48..64], row);
    assert_eq!(entry[64..], source.bytes);
    // It covers the heads, and the batch's header stands for the batch.
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&entry[..44]);
    hasher.update(&entry[48..]);
    assert_eq!(entry[44..48], hasher.finalize().to_le_bytes());
}

#[test]
fn neighbours_are_joined_unless_time_or_offsets_part_them() {
    let sources = [
        moved(1, 10, 3, 100, 1000),
        moved(1, 13, 2, 50, 1050),
        // Too late to be dropped together with the first.
        moved(1, 15, 1, 50, 1101),
        // 16 is elsewhere.
        moved(1, 17, 1, 50, 1102),
        moved(2, 18, 1, 50, 1102),
    ];
    let mut builder = RelocationBuilder::new(1 << 17);
    assert!(
        sources
            .iter()
            .all(|source| builder.push(source, 1).is_none())
    );
    let relocation = builder.finish().expect("a record");
    assert_eq!(relocation.row_count, 2);
    let (_, place, entry_offset) = write(&relocation);
    let spans: Vec<_> = relocation
        .placed(place, entry_offset)
        .map(|(tp, e)| (tp.partition.get(), e.base_offset.get(), e.end_offset.get()))
        .collect();
    assert_eq!(spans, [(1, 10, 15), (1, 15, 16), (1, 17, 18), (2, 18, 19)]);
    check(&relocation, &sources);
    assert_eq!(builder.finish(), None);
}

proptest! {
    #[test]
    fn relocations_hold_every_extent_once_and_whole(
        shapes in prop::collection::vec((0..4u32, 1..9u16, 0..3000usize, 0..300i64), 1..60),
        bytes_max in 64..8192usize,
    ) {
        let mut sources: Vec<MovedExtent> = Vec::new();
        let mut next = [0_u64; 4];
        for (partition, records, filler, at_ms) in shapes {
            let base = &mut next[usize::try_from(partition).expect("small")];
            sources.push(moved(partition, *base, records, filler, at_ms));
            *base += u64::from(records);
        }
        sources.sort_by_key(|source| (source.tp, source.extent.base_offset));
        let mut builder = RelocationBuilder::new(bytes_max);
        let mut made: Vec<Relocation> =
            sources.iter().filter_map(|source| builder.push(source, 1)).collect();
        made.extend(builder.finish());
        let mut spans = Vec::new();
        for relocation in &made {
            check(relocation, &sources);
            let (_, place, entry_offset) = write(relocation);
            spans.extend(relocation.placed(place, entry_offset));
        }
        let total: u64 = spans.iter().map(|(_, e)| e.end_offset.get() - e.base_offset.get()).sum();
        prop_assert_eq!(total, next.iter().sum::<u64>());
        let in_order = spans.windows(2).all(|pair| {
            (pair[0].0, pair[0].1.end_offset) <= (pair[1].0, pair[1].1.base_offset)
        });
        prop_assert!(in_order);
    }
}
