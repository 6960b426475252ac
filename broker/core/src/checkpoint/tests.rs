//! A checkpoint comes back whole, any damaged byte of it is found, and a section has golden bytes.

use catena_protocol::batch::BatchHeader;
use catena_protocol::ids::{
    ChainEpoch, ChainId, Offset, PartitionId, ProducerId, TopicId, TopicPartition,
};
use proptest::prelude::*;

use super::*;
use crate::block::PlacedRow;
use crate::compaction::CompactedPartition;
use crate::entry::FrameKind;
use crate::ids::{BlockLocation, Lsn, SegmentSeq};
use crate::index::run::{PageEntry, PagePlace};
use crate::log::ShardLog;

fn tp(number: u32) -> TopicPartition {
    TopicPartition {
        topic: TopicId(3),
        partition: PartitionId(number),
    }
}

/// A log of two chains: one frame in the first, nothing in the second.
fn chains() -> Vec<ChainSection> {
    let mut log = ShardLog::default();
    for chain in [1, 2] {
        log.open_chain(ChainSection::fresh(ChainId(chain)), ChainEpoch(6))
            .expect("new");
        log.ensure_partition(tp(chain), ChainId(chain))
            .expect("new");
    }
    let header = BatchHeader {
        producer_id: ProducerId(5),
        record_count: 4,
        last_offset_delta: 3,
        ..BatchHeader::default()
    };
    log.admit(tp(1), &header, 9_000).expect("valid");
    let lsn = log.stamp(ChainId(1)).lsn;
    log.placed(ChainId(1), lsn, 0xabcd, FrameKind::Batches);
    let row = PlacedRow {
        tp: tp(1),
        offset_in_block: 128,
        bytes: 256,
        base_offset: Offset(0),
        end_offset: Offset(4),
        max_timestamp_ms: 8_000,
    };
    log.committed(ChainId(1), lsn, &[row]);
    [1, 2]
        .map(|chain| log.section(ChainId(chain)).expect("open"))
        .to_vec()
}

fn checkpoint() -> ShardCheckpoint {
    let mut run = RunDirectory::default();
    let block = BlockLocation {
        journal: JournalId(2),
        segment: SegmentSeq(8),
        offset: 4096,
        bytes: 20_480,
    };
    let place = PagePlace {
        block,
        offset_in_block: 112,
        bytes: 900,
    };
    let (first, last) = ((tp(1), Offset(0)), (tp(1), Offset(4)));
    run.push(
        PageEntry {
            first,
            last,
            max_timestamp_ms: 8_000,
            place,
        },
        1,
    );
    ShardCheckpoint {
        store_uuid: [9; 16],
        journal: JournalId(2),
        sequence: 12,
        shard_count: 4,
        layout_generation: 3,
        scan_from: JournalPos::new(SegmentSeq(8), 8192),
        index_covered: JournalPos::new(SegmentSeq(8), 4096),
        runs: vec![run.clone(), run],
        chains: chains(),
    }
}

#[test]
fn a_checkpoint_comes_back_whole_and_with_padding() {
    let checkpoint = checkpoint();
    let mut bytes = checkpoint.encode();
    assert_eq!(ShardCheckpoint::decode(&bytes).as_ref(), Ok(&checkpoint));
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    assert_eq!(ShardCheckpoint::decode(&bytes), Ok(checkpoint));
}

#[test]
fn any_damaged_byte_is_found() {
    let bytes = checkpoint().encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x04;
        assert!(
            ShardCheckpoint::decode(&damaged).is_err(),
            "byte {at} is not covered"
        );
    }
    for length in 0..bytes.len() {
        assert!(
            ShardCheckpoint::decode(&bytes[..length]).is_err(),
            "cut at {length}"
        );
    }
}

#[test]
fn sections_of_different_checkpoints_do_not_mix() {
    let (one, mut two) = (checkpoint(), checkpoint());
    two.sequence += 1;
    let (one_bytes, two_bytes) = (one.encode(), two.encode());
    let mut head = CheckpointEncoder::default();
    let head_bytes = head.head(&one).len();
    let mixed = [&one_bytes[..head_bytes], &two_bytes[head_bytes..]].concat();
    let refused = ShardCheckpoint::decode(&mixed);
    assert!(matches!(
        refused,
        Err(DecodeError::Checksum {
            what: "checkpoint",
            ..
        })
    ));
}

#[test]
fn the_content_hash_ignores_what_only_this_replica_lost() {
    let mut section = chains().swap_remove(0);
    let hash = section.content_hash();
    section.lost.push(LostRange {
        tp: tp(1),
        range: Offset(1)..Offset(2),
    });
    assert_eq!(section.content_hash(), hash);
    section.lsn = Lsn(2);
    assert_ne!(section.content_hash(), hash);
}

#[test]
fn what_is_known_of_compaction_makes_a_section_of_version_2_with_the_same_hash() {
    let mut section = chains().swap_remove(0);
    let (hash, before) = (section.content_hash(), section.clone());
    let known = CompactedPartition {
        clean_to: Offset(4),
        saved_bytes: 100,
        ..CompactedPartition::default()
    };
    section.compacted.insert(tp(1), known);
    assert_eq!(section.content_hash(), hash);
    for (section, version) in [(before, 1), (section, 2)] {
        let bytes = CheckpointEncoder::default().chain(&section);
        assert_eq!(bytes[4..6], [version, 0]);
        let (decoded, rest) = ChainSection::decode_front(&bytes).expect("just encoded");
        assert_eq!((&decoded, rest.len()), (&section, 0));
        let mut log = ShardLog::default();
        log.open_chain(decoded, ChainEpoch(6)).expect("it opens");
        assert_eq!(log.section(ChainId(1)), Some(section));
    }
}

#[test]
fn a_section_that_contradicts_itself_is_refused() {
    let spoil: [fn(&mut ChainSection); 9] = [
        |section| section.partitions[0].log_start = Offset(5),
        |section| section.partitions[0].tp = tp(9),
        |section| section.partitions.push(section.partitions[0]),
        |section| section.producers.push(section.producers[0]),
        |section| section.producers[0].producer = ProducerId(0),
        |section| section.epoch_history.push((ChainEpoch(5), Lsn(1))),
        |section| {
            section.lost.push(LostRange {
                tp: tp(1),
                range: Offset(3)..Offset(9),
            });
        },
        |section| {
            let known = CompactedPartition {
                clean_to: Offset(5),
                ..CompactedPartition::default()
            };
            section.compacted.insert(tp(1), known);
        },
        |section| {
            let known = CompactedPartition::default();
            section.compacted.insert(tp(9), known);
        },
    ];
    for (number, spoil) in spoil.into_iter().enumerate() {
        let mut section = chains().swap_remove(0);
        spoil(&mut section);
        let spoiled = ShardCheckpoint {
            chains: vec![section],
            ..ShardCheckpoint::default()
        };
        let refused = ShardCheckpoint::decode(&spoiled.encode());
        assert!(
            matches!(refused, Err(DecodeError::Malformed { .. })),
            "{number}: {refused:?}"
        );
    }
}

#[test]
fn a_section_has_golden_bytes() {
    let section = chains().swap_remove(0);
    let bytes = CheckpointEncoder::default().chain(&section);
    assert_eq!(bytes[..4], *b"CtCs");
    let fold = &bytes[codec::ENVELOPE_BYTES + 20..];
    let golden = [
        1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xcd, 0xab, 0, 0, // chain, lsn, frame crc
        1, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // epoch 6 from lsn 1
        1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, // one partition, 3/1
        0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, // log start, log end
        0, 1, 0, 0, 0, 0, 0, 0, 0x40, 0x1f, 0, 0, 0, 0, 0, 0, // bytes, first timestamp
        0x28, 0x23, 0, 0, 0, 0, 0, 0, // append time
        1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, // producer 5 in 3/1
        0, 0, 1, 0, 4, 0, 0, 0, 9, 0, 0, 0, // epoch, runs, next sequence, last append
    ];
    assert_eq!(fold[..golden.len()], golden);
    assert_eq!(
        fold.len(),
        golden.len() + 36 + 4,
        "three runs, no lost range"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
        let _ = ShardCheckpoint::decode(&bytes);
    }

    #[test]
    fn no_fold_makes_the_decoder_panic(
        at in 0..200usize,
        patch in prop::collection::vec(any::<u8>(), 1..9),
    ) {
        // The damage is sealed in, so that it gets past the checksums.
        let section = chains().swap_remove(0);
        let bytes = CheckpointEncoder::default().chain(&section);
        let mut body = bytes[codec::ENVELOPE_BYTES..].to_vec();
        let fold_at = 20 + at % (body.len() - 20);
        for (byte, new) in body[fold_at..].iter_mut().zip(&patch) {
            *byte = *new;
        }
        let fold_bytes = u32::from_le_bytes([body[16], body[17], body[18], body[19]]);
        let fold = &body[20..20 + usize::try_from(fold_bytes).expect("small")];
        let hash = xxhash_rust::xxh3::xxh3_128(fold).to_le_bytes();
        body[..16].copy_from_slice(&hash);
        let mut sealed = Vec::new();
        let start = codec::begin_envelope(&mut sealed);
        sealed.put(&body);
        codec::seal_envelope(&mut sealed, start, CHAIN_SECTION_MAGIC, 0);
        if let Ok((section, _)) = ChainSection::decode_front(&sealed) {
            let epoch = section.epoch();
            let mut log = ShardLog::default();
            log.open_chain(section.clone(), epoch).expect("what decodes can be opened");
            let chain = section.chain;
            let expected = ChainSection {
                partitions: section
                    .partitions
                    .iter()
                    .copied()
                    .filter(|row| row.log_end > Offset(0))
                    .collect(),
                ..section
            };
            prop_assert_eq!(log.section(chain), Some(expected));
        }
    }
}
