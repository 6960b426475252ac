//! What recovery keeps of a frame is what the writer placed.

use catena_protocol::batch::BatchHeader;
use catena_protocol::ids::{PartitionId, TopicId};

use super::*;
use crate::block::{
    BatchPlace, BlockSeal, BlockWriter, FrameStamp, PlacedFrame, parse_block, seal_block,
};
use crate::entry::RecordKind;
use crate::entry::control::DropTopic;
use crate::ids::{JournalId, JournalPos, SegmentSeq};

fn tp(number: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(1),
        partition: PartitionId(number),
    }
}

fn produced(sequence: u32, records: u16) -> Vec<u8> {
    let header = BatchHeader {
        length: 64,
        producer_id: ProducerId(8),
        sequence: Sequence(sequence),
        record_count: records,
        last_offset_delta: records - 1,
        first_timestamp_ms: 1_000,
        max_timestamp_delta_ms: sequence,
        ..BatchHeader::default()
    };
    header.encode().to_vec()
}

const BLOCK: BlockLocation = BlockLocation {
    journal: JournalId(1),
    segment: SegmentSeq(1),
    offset: 4096,
    bytes: 4096,
};

/// Seals a block of a promise, a frame of batches and a frame that drops a topic, and returns what
/// was placed for the batches and what is kept of the two frames.
fn written(
    stamp: &FrameStamp,
    batches: &[(BatchPlace, &[u8])],
    drop: &[u8],
) -> (PlacedFrame, Vec<FrameSummary>) {
    let mut buffer = vec![0; 8192];
    let mut writer = BlockWriter::new(&mut buffer);
    writer.push_record(RecordKind::Promise, stamp.chain, stamp.epoch, &[]);
    let placed = writer.push_batches(stamp, batches);
    let next = FrameStamp {
        lsn: Lsn(stamp.lsn.get() + 1),
        prev_frame_crc: placed.crc,
        ..*stamp
    };
    writer.push_frame(FrameKind::DropTopic, &next, drop);
    let (used, entries) = (writer.used(), writer.entry_count());
    let seal = BlockSeal {
        salt: 1,
        segment: BLOCK.segment,
        position: BLOCK.offset,
        group_seq: 1,
        group_index: 0,
        group_count: 1,
        flushed: JournalPos::default(),
    };
    let sealed = seal_block(&mut buffer, &seal, used, entries);
    assert_eq!(sealed.length, BLOCK.bytes);
    let view = parse_block(&buffer, 1, BLOCK.segment, BLOCK.offset).expect("just sealed");
    let summaries = view
        .entries()
        .filter_map(|entry| FrameSummary::from_entry(&entry, BLOCK))
        .collect();
    (placed, summaries)
}

#[test]
fn a_summary_says_what_the_writer_placed() {
    let stamp = FrameStamp {
        chain: ChainId(3),
        epoch: ChainEpoch(2),
        lsn: Lsn(7),
        prev_frame_crc: 99,
        commit_lsn_hint: Lsn(6),
    };
    let sent = [produced(0, 4), produced(4, 2), produced(0, 1)];
    let place = |tp, base, append_time_ms| BatchPlace {
        tp,
        base_offset: Offset(base),
        append_time_ms,
        bytes: 64,
    };
    let places = [place(tp(0), 10, 5), place(tp(0), 14, 6), place(tp(2), 0, 7)];
    let sent = sent.iter().map(Vec::as_slice);
    let batches: Vec<(BatchPlace, &[u8])> = places.into_iter().zip(sent).collect();
    let drop = DropTopic { topic: TopicId(9) }.encode();

    let (placed, summaries) = written(&stamp, &batches, &drop);
    let [frame, control] = &summaries[..] else {
        panic!("{} frames, the record is none", summaries.len());
    };

    assert_eq!(
        (frame.chain, frame.lsn, frame.epoch),
        (stamp.chain, stamp.lsn, stamp.epoch)
    );
    assert_eq!((frame.crc, frame.prev_frame_crc), (placed.crc, 99));
    assert_eq!(frame.rows.len(), placed.rows.len());
    for ((row_tp, extent), row) in frame.rows.iter().zip(&placed.rows) {
        assert_eq!(*row_tp, row.tp);
        assert_eq!(
            (extent.base_offset, extent.end_offset),
            (row.base_offset, row.end_offset)
        );
        assert_eq!(
            (extent.offset_in_block, extent.bytes),
            (row.offset_in_block, row.bytes)
        );
        assert_eq!(
            (extent.max_timestamp_ms, extent.block),
            (row.max_timestamp_ms, BLOCK)
        );
    }
    let found: Vec<_> = frame
        .batches
        .iter()
        .map(|b| {
            (
                b.tp,
                b.base_offset,
                b.append_time_ms,
                b.sequence,
                b.record_count,
            )
        })
        .collect();
    let expected = [
        (tp(0), Offset(10), 5, Sequence(0), 4),
        (tp(0), Offset(14), 6, Sequence(4), 2),
        (tp(2), Offset(0), 7, Sequence(0), 1),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        (control.kind, control.lsn, &control.body[..]),
        (FrameKind::DropTopic, Lsn(8), &drop[..])
    );
    assert_eq!(control.prev_frame_crc, placed.crc);
}
