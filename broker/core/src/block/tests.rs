//! Golden bytes of every kind of entry, and blocks of any content written and read back.

use catena_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader, verify_body, verify_header};
use catena_protocol::ids::{PartitionId, TopicId};
use proptest::prelude::*;

use super::*;
use crate::entry::control::{DropTopic, Truncate};
use crate::entry::{EntryError, EntryView, FrameKind, RecordKind};
use crate::layout::hex;

const SALT: u64 = 0x1122_3344_5566_7788;
const SEGMENT: SegmentSeq = SegmentSeq(5);
const POSITION: u32 = 0x0002_0000;

fn tp(topic: u32, partition: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(topic),
        partition: PartitionId(partition),
    }
}

fn stamp(lsn: u64) -> FrameStamp {
    FrameStamp {
        chain: ChainId(9),
        epoch: ChainEpoch(4),
        lsn: Lsn(lsn),
        prev_frame_crc: 0xAABB_CCDD,
        commit_lsn_hint: Lsn(lsn - 1),
    }
}

fn seal(group_index: u16, group_count: u16) -> BlockSeal {
    BlockSeal {
        salt: SALT,
        segment: SEGMENT,
        position: POSITION,
        group_seq: 77,
        group_index,
        group_count,
        flushed: JournalPos::new(SEGMENT, 0x0001_F000),
    }
}

/// A batch of `bytes` that the broker would take, with nothing in it but a header and a filler.
fn batch(bytes: usize, records: u16, filler: u8) -> Vec<u8> {
    let mut out = vec![filler; bytes];
    let header = BatchHeader {
        length: to_u32(bytes),
        first_timestamp_ms: 1000,
        max_timestamp_delta_ms: u32::from(filler),
        record_count: records,
        last_offset_delta: records - 1,
        ..BatchHeader::default()
    };
    out[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
    let crc = crc32fast::hash(&out[32..]);
    put_u32(&mut out, 24, crc);
    out
}

fn place(tp: TopicPartition, base_offset: u64, batch: &[u8]) -> BatchPlace {
    let bytes = batch.len();
    BatchPlace {
        tp,
        base_offset: Offset(base_offset),
        append_time_ms: 0x0102,
        bytes,
    }
}

/// A block with one entry of each kind that has a body of its own kind.
fn golden_block() -> Vec<u8> {
    let mut buf = vec![0xAA; 8192];
    let mut writer = BlockWriter::new(&mut buf);
    let (first, second) = (batch(72, 2, 0x11), batch(64, 1, 0x22));
    writer.push_batches(
        &stamp(3),
        &[
            (place(tp(1, 2), 10, &first), &first),
            (place(tp(1, 3), 20, &second), &second),
        ],
    );
    let body = DropTopic { topic: TopicId(6) }.encode();
    writer.push_frame(FrameKind::DropTopic, &stamp(4), &body);
    writer.push_frame(FrameKind::Metadata, &stamp(5), b"command");
    writer.push_record(RecordKind::Promise, ChainId(9), ChainEpoch(4), &[]);
    let body = Truncate { keep: Lsn(2) }.encode();
    writer.push_record(RecordKind::Truncate, ChainId(9), ChainEpoch(4), &body);
    let (used, entries) = (writer.used(), writer.entry_count());
    let sealed = seal_block(&mut buf, &seal(1, 3), used, entries);
    buf.truncate(to_usize(sealed.length));
    buf
}

#[test]
fn a_block_with_each_kind_of_entry_has_golden_bytes() {
    let block = golden_block();
    let found: Vec<String> = block[..0x200].chunks(32).map(hex).collect();
    let expected: Vec<&str> = include_str!("tests/golden_block.hex").lines().collect();
    assert_eq!(found, expected, "{}", found.join("\n"));
    assert!(
        block[0x200..].iter().all(|&byte| byte == 0),
        "padding is zero"
    );
}

#[test]
fn the_golden_block_reads_as_it_was_written() {
    let block = golden_block();
    let view = parse_block(&block, SALT, SEGMENT, POSITION).expect("the block is whole");
    assert_eq!(view.header().flushed, JournalPos::new(SEGMENT, 0x0001_F000));
    assert_eq!(
        (view.header().group_index, view.header().group_count),
        (1, 3)
    );
    view.verify_bodies().expect("the bodies are whole");
    let entries: Vec<_> = view.entries().collect();
    let [
        EntryView::Batches(frame, rows),
        EntryView::Frame(drop, drop_body),
        EntryView::Frame(command, b"command"),
        EntryView::Record(promise, []),
        EntryView::Record(truncate, truncate_body),
    ] = entries.as_slice()
    else {
        panic!("{entries:?}");
    };
    assert_eq!((frame.lsn, frame.prev_frame_crc), (Lsn(3), 0xAABB_CCDD));
    assert_eq!((frame.chain, frame.epoch), (ChainId(9), ChainEpoch(4)));
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (row.tp, row.batch_count, row.bytes.len()))
        .collect();
    assert_eq!(rows, [(tp(1, 2), 1, 72), (tp(1, 3), 1, 64)]);
    assert_eq!(
        (drop.kind, command.kind),
        (FrameKind::DropTopic, FrameKind::Metadata)
    );
    assert_eq!(
        DropTopic::decode(drop_body),
        Ok(DropTopic { topic: TopicId(6) })
    );
    assert_eq!(
        (promise.kind, truncate.kind),
        (RecordKind::Promise, RecordKind::Truncate)
    );
    assert_eq!(
        Truncate::decode(truncate_body),
        Ok(Truncate { keep: Lsn(2) })
    );
}

#[test]
fn batches_in_place_make_the_same_block_as_copied_ones() {
    let batches = [batch(72, 2, 1), batch(80, 3, 9), batch(64, 1, 2)];
    let places = [
        place(tp(1, 1), 10, &batches[0]),
        place(tp(1, 1), 12, &batches[1]),
        place(tp(2, 0), 5, &batches[2]),
    ];
    let mut copied = vec![0x55; 4096];
    let mut writer = BlockWriter::new(&mut copied);
    let items: Vec<_> = places
        .iter()
        .copied()
        .zip(batches.iter().map(Vec::as_slice))
        .collect();
    let from_copy = writer.push_batches(&stamp(3), &items);
    let (used, entries) = (writer.used(), writer.entry_count());
    seal_block(&mut copied, &seal(0, 1), used, entries);

    let mut received = vec![0x77; 4096];
    let rows = count_rows(places.iter().map(|place| place.tp));
    let at = body_offset(rows);
    received[at..at + 216].copy_from_slice(&batches.concat());
    let mut writer = BlockWriter::new(&mut received);
    let in_place = writer.place_batches(&stamp(3), &places);
    let (used, entries) = (writer.used(), writer.entry_count());
    seal_block(&mut received, &seal(0, 1), used, entries);

    assert_eq!(from_copy, in_place);
    assert_eq!(copied, received);
    assert_eq!(to_usize(in_place.bytes), frame_bytes(2, 216));
    let row = PlacedRow {
        tp: tp(1, 1),
        offset_in_block: to_u32(at),
        bytes: 152,
        base_offset: Offset(10),
        end_offset: Offset(15),
        max_timestamp_ms: 1009,
    };
    assert_eq!(in_place.rows[0], row);
}

#[test]
fn a_placed_row_points_at_stamped_batches() {
    let batch = batch(96, 4, 3);
    let mut buf = vec![0; 4096];
    let mut writer = BlockWriter::new(&mut buf);
    writer.push_record(RecordKind::Promise, ChainId(1), ChainEpoch(1), &[]);
    let placed = writer.push_batches(&stamp(8), &[(place(tp(4, 5), 100, &batch), &batch)]);
    let at = to_usize(placed.rows[0].offset_in_block);
    let stored = &buf[at..at + 96];
    let header = BatchHeader::decode(stored).expect("the batch is whole");
    assert_eq!(
        (header.base_offset, header.epoch),
        (Offset(100), ChainEpoch(4))
    );
    assert_eq!(verify_body(stored), Ok(()));
    let head = stored.first_chunk().expect("the batch is whole");
    assert_eq!(verify_header(head, tp(4, 5)), Ok(()));
    assert!(verify_header(head, tp(4, 6)).is_err());
}

#[test]
fn an_unknown_kind_is_given_with_its_weight() {
    for (number, is_critical) in [(0x3F, true), (0x7F, false), (0x9F, true), (0xC1, false)] {
        let mut buf = vec![0; 4096];
        let mut writer = BlockWriter::new(&mut buf);
        writer.push_frame(FrameKind::Metadata, &stamp(3), b"later");
        let (used, entries) = (writer.used(), writer.entry_count());
        buf[BLOCK_HEADER_BYTES] = number;
        crate::entry::seal_entry(&mut buf[BLOCK_HEADER_BYTES..used], 0);
        seal_block(&mut buf, &seal(0, 1), used, entries);
        let view = parse_block(&buf, SALT, SEGMENT, POSITION).expect("the block is whole");
        let Some(EntryView::Unknown(header, b"later")) = view.entries().next() else {
            panic!("{view:?}");
        };
        assert_eq!(
            (header.kind.number(), header.kind.is_critical()),
            (number, is_critical)
        );
    }
}

#[test]
fn a_block_of_another_place_is_refused() {
    let block = golden_block();
    let parse = |salt, segment, position| parse_block(&block, salt, segment, position).err();
    assert!(matches!(
        parse(SALT + 1, SEGMENT, POSITION),
        Some(BlockError::Crc { .. })
    ));
    assert!(matches!(
        parse(SALT, SegmentSeq(6), POSITION),
        Some(BlockError::Misplaced { .. })
    ));
    assert!(matches!(
        parse(SALT, SEGMENT, POSITION + 4096),
        Some(BlockError::Misplaced { .. })
    ));
}

#[test]
fn a_single_entry_can_be_read_without_its_block() {
    let mut buf = vec![0; 8192];
    let mut writer = BlockWriter::new(&mut buf);
    writer.push_record(RecordKind::Promise, ChainId(1), ChainEpoch(1), &[]);
    let page = vec![7; 5001];
    let placed = writer.push_record(RecordKind::IndexPage, ChainId(0), ChainEpoch(0), &page);
    let at = to_usize(placed.offset_in_block);
    let entry = &mut buf[at..at + to_usize(placed.bytes)];
    let Ok(EntryView::Record(record, body)) = EntryView::parse(entry, at) else {
        panic!("the page is whole");
    };
    assert_eq!(
        (record.kind, body),
        (RecordKind::IndexPage, page.as_slice())
    );
    entry[1000] ^= 1;
    assert!(matches!(
        EntryView::parse(entry, at),
        Err(EntryError::Crc { .. })
    ));
}

/// What a random block is filled with.
#[derive(Clone, Debug)]
enum Filling {
    Batches(Vec<(u32, usize, u8)>),
    Frame(Vec<u8>),
    Record(Vec<u8>),
}

fn filling() -> impl Strategy<Value = Filling> {
    let batches = proptest::collection::vec((0u32..4, 0usize..60, any::<u8>()), 1..12);
    let body = proptest::collection::vec(any::<u8>(), 0..400);
    prop_oneof![
        3 => batches.prop_map(Filling::Batches),
        1 => body.clone().prop_map(Filling::Frame),
        1 => body.prop_map(Filling::Record),
    ]
}

/// Writes what fits, each time with a new writer over the same buffer, and seals.
fn write(buf: &mut [u8], fillings: &[Filling]) -> usize {
    let (mut used, mut entries) = (BLOCK_HEADER_BYTES, 0);
    for (lsn, filling) in (1u64..).zip(fillings) {
        let mut writer = BlockWriter::open(buf, used, entries);
        match filling {
            Filling::Batches(list) => {
                let mut list = list.clone();
                list.sort_by_key(|&(partition, ..)| partition);
                let bytes: Vec<_> = list
                    .iter()
                    .map(|&(_, words, filler)| batch(64 + words * 8, 1, filler))
                    .collect();
                let places = (0u64..).zip(&list).zip(&bytes);
                let items: Vec<_> = places
                    .map(|((offset, &(partition, ..)), bytes)| {
                        (place(tp(1, partition), offset, bytes), bytes.as_slice())
                    })
                    .collect();
                let rows = count_rows(items.iter().map(|(place, _)| place.tp));
                if writer.fits(frame_bytes(rows, bytes.iter().map(Vec::len).sum())) {
                    writer.push_batches(&stamp(lsn), &items);
                }
            }
            Filling::Frame(body) if writer.fits(entry_bytes(body.len())) => {
                writer.push_frame(FrameKind::Metadata, &stamp(lsn), body);
            }
            Filling::Record(body) if writer.fits(entry_bytes(body.len())) => {
                writer.push_record(RecordKind::IndexPage, ChainId(1), ChainEpoch(1), body);
            }
            Filling::Frame(_) | Filling::Record(_) => {}
        }
        (used, entries) = (writer.used(), writer.entry_count());
    }
    seal_block(buf, &seal(0, 1), used, entries);
    used
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(fillings in proptest::collection::vec(filling(), 0..20)) {
        let mut buf = vec![0xAA; 32 << 10];
        write(&mut buf, &fillings);
        let view = parse_block(&buf, SALT, SEGMENT, POSITION).expect("the block is whole");
        prop_assert_eq!(view.verify_bodies(), Ok(()));
        prop_assert_eq!(view.entries().count(), to_usize(view.header().entry_count));
        let bytes: u32 = view.entries().map(|entry| entry.bytes()).sum();
        prop_assert_eq!(bytes + to_u32(BLOCK_HEADER_BYTES), view.header().used);
        for entry in view.entries() {
            if let EntryView::Batches(_, rows) = entry {
                let listed: usize = rows.iter().map(|row| to_usize(row.batch_count)).sum();
                prop_assert_eq!(rows.batches().count(), listed);
            }
        }
    }

    #[test]
    fn any_flip_below_used_is_found(
        fillings in proptest::collection::vec(filling(), 1..6),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut buf = vec![0; 32 << 10];
        let used = write(&mut buf, &fillings);
        let at = at.index(used);
        buf[at] ^= 1 << bit;
        let intact = parse_block(&buf, SALT, SEGMENT, POSITION)
            .is_ok_and(|view| view.verify_bodies().is_ok());
        // The pad behind an entry's body is the only part that nothing covers.
        prop_assert!(!intact || is_pad(&fillings, &buf, at), "flip at {at} of {used}");
    }

    #[test]
    fn any_bytes_are_answered(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..9000),
        is_dressed: bool,
    ) {
        if is_dressed && bytes.len() >= 4096 {
            dress(&mut bytes);
        }
        if let Ok(view) = parse_block(&bytes, SALT, SEGMENT, POSITION) {
            prop_assert!(view.verify_bodies().is_err() || view.entries().count() > 0);
        }
        if let Ok(entry) = EntryView::parse(&bytes, 0) {
            prop_assert!(to_usize(entry.bytes()) <= bytes.len());
        }
    }
}

/// Whether `at` lies in the pad of an entry.
fn is_pad(fillings: &[Filling], buf: &[u8], at: usize) -> bool {
    let mut whole = buf.to_vec();
    write(&mut whole, fillings);
    let view = parse_block(&whole, SALT, SEGMENT, POSITION).expect("the block is whole");
    view.entries().any(|entry| match entry {
        EntryView::Record(record, body) => {
            let end = to_usize(record.offset_in_block) + ENTRY_HEADER_BYTES + body.len();
            (end..to_usize(record.offset_in_block + record.bytes)).contains(&at)
        }
        EntryView::Frame(frame, body) => {
            let end = to_usize(frame.offset_in_block) + ENTRY_HEADER_BYTES + body.len();
            (end..to_usize(frame.offset_in_block + frame.bytes)).contains(&at)
        }
        _ => false,
    })
}

/// Gives random bytes a header, one entry and crcs that pass, so that the checks behind are met.
fn dress(bytes: &mut [u8]) {
    let length = 4096 - BLOCK_HEADER_BYTES;
    let entry = &mut bytes[BLOCK_HEADER_BYTES..4096];
    put_u32(entry, 4, to_u32(length));
    put_u32(entry, 36, to_u32(length - ENTRY_HEADER_BYTES));
    entry[0] = 1;
    put_u16(entry, 40, 1);
    let batch_bytes = to_u32(length - ENTRY_HEADER_BYTES - ROW_BYTES);
    put_u32(entry, ENTRY_HEADER_BYTES + 8, 1);
    put_u32(entry, ENTRY_HEADER_BYTES + 12, batch_bytes);
    put_u32(entry, ENTRY_HEADER_BYTES + ROW_BYTES + 20, batch_bytes);
    crate::entry::seal_entry(entry, 1);
    seal_block(bytes, &seal(0, 1), 4096, 1);
}
