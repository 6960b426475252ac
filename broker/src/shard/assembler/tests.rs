//! Blocks are grouped by chain and partition, filled to their limit, and keep offsets in order.

use catena_core::block::parse_block;
use catena_core::block::{BlockSeal, seal_block};
use catena_core::checkpoint::ChainSection;
use catena_core::entry::{EntryView, write_row};
use catena_core::ids::{JournalPos, SegmentSeq};
use catena_protocol::batch::{BatchBuilder, BatchHeader, BatchOptions};
use catena_protocol::ids::{Offset, PartitionId, TopicId};
use catena_protocol::record::Record;

use super::*;
use crate::runtime::testing::run;

fn log() -> ShardLog {
    let mut log = ShardLog::default();
    for chain in 1..=2 {
        log.open_chain(ChainSection::fresh(ChainId(chain)), ChainEpoch(1))
            .expect("a new chain");
    }
    for partition in 0..4 {
        log.ensure_partition(tp(partition), ChainId(1 + partition % 2))
            .expect("a new partition");
    }
    log
}

fn tp(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(1),
        partition: PartitionId(partition),
    }
}

fn batch(value: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder
        .push(&Record {
            value: Some(value),
            ..Record::default()
        })
        .expect("it fits");
    builder.finish().expect("a batch")
}

fn admit(log: &mut ShardLog, partition: u32, bytes: Bytes) -> AdmittedBatch {
    let header = BatchHeader::decode(&bytes).expect("a header");
    let admitted = log.admit(tp(partition), &header, 1_000).expect("admitted");
    let place = BatchPlace {
        tp: tp(partition),
        base_offset: admitted.base_offset,
        append_time_ms: admitted.append_time_ms,
        bytes: bytes.len(),
    };
    AdmittedBatch {
        chain: admitted.chain,
        place,
        bytes,
    }
}

/// Partition, base offset and first value byte of every batch, in the order of the blocks.
fn contents(filled: &mut [FilledBlock]) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    for filled in filled {
        let seal = BlockSeal {
            salt: 1,
            segment: SegmentSeq(1),
            position: 4096,
            group_seq: 1,
            group_index: 0,
            group_count: 1,
            flushed: JournalPos::default(),
        };
        let block = &mut filled.block;
        seal_block(&mut block.buffer, &seal, block.used, block.entries);
        let view = parse_block(&block.buffer, 1, SegmentSeq(1), 4096).expect("a sound block");
        view.verify_bodies().expect("sound bodies");
        for entry in view.entries() {
            if let EntryView::Batches(_, rows) = entry {
                for batch in rows.iter().flat_map(|row| row.batches()) {
                    found.push((batch.tp.partition.get(), batch.header.base_offset.get()));
                }
            }
        }
    }
    found
}

#[test]
fn small_batches_share_a_block_grouped_by_chain_and_partition() {
    run(|| async {
        let (mut log, mut assembler) = (log(), Assembler::default());
        for partition in [3, 0, 1, 2, 0, 3] {
            let admitted = admit(&mut log, partition, batch(b"value"));
            assembler.add(admitted, &mut log);
        }
        let mut filled = assembler.take(&mut log);
        assert_eq!(filled.len(), 1);
        assert_eq!(filled[0].frames.len(), 2, "one frame per chain");
        let expected = vec![(0, 0), (0, 1), (2, 0), (1, 0), (3, 0), (3, 1)];
        assert_eq!(contents(&mut filled), expected);
        assert!(assembler.is_empty());
    });
}

#[test]
fn moved_batches_lie_behind_what_somebody_waits_for() {
    run(|| async {
        let (mut log, mut assembler) = (log(), Assembler::default());
        let mut old = batch(b"old").to_vec();
        catena_protocol::batch::stamp(&mut old, Offset(7), 5, ChainEpoch(1), tp(2));
        let mut body = vec![0; ROW_BYTES];
        let bytes = u32::try_from(old.len()).expect("a small batch");
        write_row(&mut body, tp(2), 1, bytes);
        body.extend(old);
        assembler.add_relocation(5, 1, body.into(), &mut log);
        let admitted = admit(&mut log, 0, batch(b"new"));
        assembler.add(admitted, &mut log);
        let mut filled = assembler.take(&mut log);
        let record = &filled[0].records[0];
        assert!((record.ticket, record.is_relocation) == (5, true));
        let frame = &filled[0].frames[0].placed;
        assert_eq!(record.offset_in_block, frame.offset + frame.bytes);
        assert_eq!(contents(&mut filled), [(0, 0)], "and every body is sound");
    });
}

#[test]
fn a_block_is_filled_to_its_limit_and_never_beyond() {
    run(|| async {
        let (mut log, mut assembler) = (log(), Assembler::default());
        for round in 0..2_000_u32 {
            let admitted = admit(&mut log, round % 4, batch(&[7; 1000]));
            assembler.add(admitted, &mut log);
        }
        let mut filled = assembler.take(&mut log);
        assert!(
            filled
                .iter()
                .all(|filled| filled.block.used <= BLOCK_BYTES_MAX)
        );
        assert!(
            filled[..filled.len() - 1]
                .iter()
                .all(|f| f.block.used > BLOCK_BYTES_MAX * 9 / 10)
        );
        assert_eq!(contents(&mut filled).len(), 2_000);
    });
}

#[test]
fn a_block_received_in_place_keeps_the_order_of_offsets() {
    run(|| async {
        let (mut log, mut assembler) = (log(), Assembler::default());
        let first = admit(&mut log, 0, batch(b"first"));
        assembler.add(first, &mut log);
        let large = admit(&mut log, 0, batch(&[1; 5000]));
        let start = block::body_offset(1);
        let mut buffer = buffer::allocate((start + large.bytes.len()).next_multiple_of(4096));
        buffer[start..start + large.bytes.len()].copy_from_slice(&large.bytes);
        assembler.add_in_place(buffer, large.chain, &[large.place], &mut log);
        let last = admit(&mut log, 0, batch(b"last"));
        assembler.add(last, &mut log);
        let mut filled = assembler.take(&mut log);
        let lsns: Vec<u64> = filled
            .iter()
            .flat_map(|f| &f.frames)
            .map(|frame| frame.lsn.get())
            .collect();
        assert_eq!(lsns, [1, 2, 3]);
        assert_eq!(contents(&mut filled), [(0, 0), (0, 1), (0, 2)]);
    });
}

#[test]
fn control_frames_and_records_come_back_with_their_tickets() {
    run(|| async {
        let (mut log, mut assembler) = (log(), Assembler::default());
        let admitted = admit(&mut log, 0, batch(b"value"));
        assembler.add(admitted, &mut log);
        assembler.add_control(7, ChainId(1), FrameKind::DropTopic, Bytes::new(), &mut log);
        let nowhere = (ChainId(0), ChainEpoch(0));
        let page = Bytes::from_static(b"page");
        assembler.add_record(9, RecordKind::IndexPage, nowhere, page, &mut log);
        let filled = assembler.take(&mut log);
        let control = filled[0].frames[1]
            .control
            .as_ref()
            .expect("a control frame");
        assert_eq!((control.ticket, filled[0].frames[1].lsn), (7, Lsn(2)));
        assert_eq!(filled[0].records[0].ticket, 9);
        let at = usize::try_from(filled[0].records[0].offset_in_block).expect("small");
        let body = at + ENTRY_HEADER_BYTES;
        assert_eq!(&filled[0].block.buffer[body..body + 4], b"page");
    });
}
