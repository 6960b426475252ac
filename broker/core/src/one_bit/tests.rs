//! Every single flipped bit of a header page or of a block's heads is found; two are not.

use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::ids::{ChainEpoch, ChainId, Offset, PartitionId, TopicId, TopicPartition};
use catena_protocol::record::Record;
use proptest::prelude::*;

use super::*;
use crate::block::{BatchPlace, BlockSeal, BlockWriter, FrameStamp, seal_block};
use crate::entry::RecordKind;
use crate::ids::{JournalPos, Lsn};

const SALT: u64 = 0x5A17;
const SEGMENT: SegmentSeq = SegmentSeq(3);
const POSITION: u32 = 8192;

fn header() -> SegmentHeader {
    SegmentHeader {
        store_uuid: [7; 16],
        journal: JournalId(1),
        segment: SEGMENT,
        salt: SALT,
        segment_bytes: 4 << 20,
        previous: None,
        created_ms: 1,
    }
}

/// A block with two frames of two partitions and a record; gives the bytes in use.
fn block() -> (Vec<u8>, usize) {
    let mut buffer = vec![0; 8192];
    let mut writer = BlockWriter::new(&mut buffer);
    for lsn in [1, 2] {
        let batches: Vec<Vec<u8>> = (0..3u8)
            .map(|fill| {
                let mut builder = BatchBuilder::new(BatchOptions::default());
                let value = [fill; 100];
                builder.push(&Record::from_value(&value)).expect("room");
                builder.finish().expect("a batch").to_vec()
            })
            .collect();
        let items: Vec<_> = (0u32..)
            .zip(&batches)
            .map(|(number, batch)| {
                let tp = TopicPartition {
                    topic: TopicId(1),
                    partition: PartitionId(number / 2),
                };
                let place = BatchPlace {
                    tp,
                    base_offset: Offset(10 * lsn + u64::from(number)),
                    append_time_ms: 5,
                    bytes: batch.len(),
                };
                (place, batch.as_slice())
            })
            .collect();
        let stamp = FrameStamp {
            chain: ChainId(2),
            epoch: ChainEpoch(1),
            lsn: Lsn(lsn),
            prev_frame_crc: 0,
            commit_lsn_hint: Lsn(0),
        };
        writer.push_batches(&stamp, &items);
    }
    writer.push_record(RecordKind::IndexPage, ChainId(0), ChainEpoch(0), &[3; 500]);
    let (used, entries) = (writer.used(), writer.entry_count());
    let seal = BlockSeal {
        salt: SALT,
        segment: SEGMENT,
        position: POSITION,
        group_seq: 1,
        group_index: 0,
        group_count: 1,
        flushed: JournalPos::new(SEGMENT, 4096),
    };
    seal_block(&mut buffer, &seal, used, entries);
    (buffer, used)
}

#[test]
fn every_flipped_bit_of_a_segment_header_is_corrected() {
    let page = header().encode();
    assert_eq!(segment_header(&page), Ok((header(), None)));
    for at in 0..page.len() {
        let mut damaged = page;
        let bit = u8::try_from(at % 8).expect("below 8");
        flip_bit(&mut damaged, FlippedBit { at, bit });
        let corrected = segment_header(&damaged).expect("one bit");
        assert_eq!(corrected, (header(), Some(FlippedBit { at, bit })));
    }
}

#[test]
fn every_flipped_bit_of_a_blocks_heads_is_corrected() {
    let (good, used) = block();
    let parses = |bytes: &[u8]| parse_block(bytes, SALT, SEGMENT, POSITION).is_ok();
    assert!(parses(&good));
    for at in 0..used {
        for bit in 0..8 {
            let mut damaged = good.clone();
            flip_bit(&mut damaged, FlippedBit { at, bit });
            let was_damaged = !parses(&damaged);
            let flip = correct_block(&mut damaged, SALT, SEGMENT, POSITION);
            assert_eq!(flip.is_some(), was_damaged, "byte {at} bit {bit}");
            if was_damaged {
                assert_eq!(flip, Some(FlippedBit { at, bit }));
                assert_eq!(damaged, good);
            }
        }
    }
}

#[test]
fn a_damaged_range_gives_back_the_blocks_that_one_bit_explains() {
    let (good, _) = block();
    let mut bytes = [good.as_slice(), &[9; 4096]].concat();
    let block_bytes = u32_at(&good, 28);
    bytes.truncate(to_usize(block_bytes) + 4096);
    bytes[to_usize(block_bytes)..].fill(9);
    bytes[20] ^= 4;
    let mut visited = Vec::new();
    let place = (JournalId(1), SEGMENT, POSITION);
    let unknown = visit_corrected(&mut bytes, SALT, place, &mut |at, view, flip| {
        visited.push((at.offset, view.entries().count(), flip));
    });
    assert_eq!(visited, [(POSITION, 3, FlippedBit { at: 20, bit: 2 })]);
    let end = POSITION + block_bytes;
    let rest = end..end + 4096;
    assert_eq!(unknown, [rest]);
}

proptest! {
    #[test]
    fn two_flipped_bits_are_not_taken_for_one(one in 0..32_768usize, other in 0..32_768usize) {
        prop_assume!(one != other);
        let mut page = header().encode();
        page[one / 8] ^= 1 << (one % 8);
        page[other / 8] ^= 1 << (other % 8);
        prop_assert!(segment_header(&page).is_err());
    }

    #[test]
    fn any_bytes_are_answered(mut bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert!(segment_header(&bytes).is_err());
        prop_assert_eq!(correct_block(&mut bytes, SALT, SEGMENT, POSITION), None);
    }
}
