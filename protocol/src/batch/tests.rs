//! The batch: what its checksums catch, what its builder and reader refuse.

use bytes::Bytes;

use super::*;
use crate::compression::Codec;
use crate::generated::wire;
use crate::ids::{ChainEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use crate::record::Record;

const PLACE: TopicPartition = TopicPartition::new(TopicId(3), PartitionId(1));

fn batch_of(values: &[&[u8]]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for value in values {
        builder
            .push(&Record::from_value(value))
            .expect("the samples fit");
    }
    let mut batch = builder.finish().expect("no codec can fail").to_vec();
    stamp(&mut batch, Offset(100), 5, ChainEpoch(1), PLACE);
    batch
}

fn header_of(batch: &[u8]) -> &[u8; BATCH_HEADER_BYTES] {
    batch.first_chunk().expect("a batch has a header")
}

/// A batch whose record section is `section`, with the rest as `header` says.
fn batch_with_section(mut header: BatchHeader, section: &[u8]) -> Vec<u8> {
    let length = (BATCH_HEADER_BYTES + section.len()).next_multiple_of(8);
    header.length = u32::try_from(length).expect("the samples are small");
    let mut batch = header.encode().to_vec();
    batch.extend_from_slice(section);
    batch.resize(length, 0);
    batch
}

fn one_record() -> BatchHeader {
    BatchHeader {
        record_count: 1,
        ..BatchHeader::default()
    }
}

/// An offset and a value.
type Row = (u64, Option<Vec<u8>>);

fn read(batch: &[u8]) -> Result<Vec<Row>, BatchError> {
    let mut decompressor = Decompressor::default();
    BatchReader::open(batch, &mut decompressor)?
        .map(|record| {
            let record = record?;
            Ok((record.offset.get(), record.value.map(<[u8]>::to_vec)))
        })
        .collect()
}

#[test]
fn every_flipped_bit_is_caught() {
    let batch = batch_of(&[b"hello", b"world"]);
    assert_eq!(verify_header(header_of(&batch), PLACE), Ok(()));
    assert_eq!(verify_body(&batch), Ok(()));
    for at in 0..batch.len() * 8 {
        let mut damaged = batch.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        let whole = verify_header(header_of(&damaged), PLACE).and_then(|()| verify_body(&damaged));
        assert!(whole.is_err(), "bit {at}");
    }
}

#[test]
fn a_batch_of_another_partition_is_caught() {
    let batch = batch_of(&[b"hello"]);
    for place in [
        TopicPartition {
            topic: TopicId(4),
            ..PLACE
        },
        TopicPartition {
            partition: PartitionId(2),
            ..PLACE
        },
        TopicPartition::new(TopicId(1), PartitionId(3)),
    ] {
        let verified = verify_header(header_of(&batch), place);
        assert!(matches!(verified, Err(BatchError::HeaderCrc { .. })));
    }
}

#[test]
fn the_stamp_leaves_what_the_producer_signed() {
    let before = batch_of(&[b"hello"]);
    let mut after = before.clone();
    stamp(&mut after, Offset(u64::MAX - 9), -4, ChainEpoch(9), PLACE);
    assert_eq!(before[20..28], after[20..28]);
    assert_eq!(before[32..], after[32..]);
    let header = BatchHeader::decode(&after).expect("it is well formed");
    assert_eq!(
        (header.base_offset, header.append_time_ms),
        (Offset(u64::MAX - 9), -4)
    );
    assert_eq!(
        (header.epoch, header.next_offset()),
        (ChainEpoch(9), Offset(u64::MAX - 8))
    );
}

#[test]
fn a_renumbered_batch_is_whole() {
    let mut batch = batch_of(&[b"hello", b"world"]);
    set_producer(
        &mut batch,
        ProducerId(8),
        ProducerEpoch(3),
        Sequence(u32::MAX),
    );
    assert_eq!(verify_body(&batch), Ok(()));
    let header = BatchHeader::decode(&batch).expect("it is well formed");
    assert_eq!(
        (header.producer_id, header.producer_epoch),
        (ProducerId(8), ProducerEpoch(3))
    );
    assert_eq!(
        (header.sequence, header.next_sequence()),
        (Sequence(u32::MAX), Sequence(1))
    );
}

#[test]
fn the_header_has_the_layout_of_the_schema() {
    let header = BatchHeader {
        base_offset: Offset(1),
        append_time_ms: -2,
        epoch: ChainEpoch(3),
        length: 4,
        batch_crc: 5,
        header_crc: 6,
        producer_id: ProducerId(7),
        first_timestamp_ms: -8,
        sequence: Sequence(9),
        max_timestamp_delta_ms: 10,
        producer_epoch: ProducerEpoch(11),
        record_count: 12,
        last_offset_delta: 13,
        codec: Codec::Zstd,
        encoding: Encoding::Native,
        flags: BatchFlags(14),
    };
    let schema = wire::BatchHeader::new(1, -2, 3, 4, 5, 6, 7, -8, 9, 10, 11, 12, 13, 2, 14);
    assert_eq!(header.encode(), schema.0);
}

#[test]
fn a_header_that_breaks_a_rule_is_refused() {
    let good = BatchHeader {
        length: 64,
        ..one_record()
    };
    assert!(BatchHeader::decode(&good.encode()).is_ok());
    let limit = u32::try_from(BATCH_BYTES_MAX).expect("the limit is a u32");
    let cases = [
        (
            BatchHeader { length: 56, ..good },
            BatchError::Length { length: 56 },
        ),
        (
            BatchHeader { length: 68, ..good },
            BatchError::Length { length: 68 },
        ),
        (
            BatchHeader {
                length: limit + 8,
                ..good
            },
            BatchError::TooLarge { length: limit + 8 },
        ),
        (
            BatchHeader {
                record_count: 0,
                ..good
            },
            BatchError::Counts {
                record_count: 0,
                last_offset_delta: 0,
            },
        ),
        (
            BatchHeader {
                record_count: 3,
                last_offset_delta: 1,
                ..good
            },
            BatchError::Counts {
                record_count: 3,
                last_offset_delta: 1,
            },
        ),
        (
            BatchHeader {
                base_offset: Offset(u64::MAX),
                ..good
            },
            BatchError::Range,
        ),
        (
            BatchHeader {
                first_timestamp_ms: i64::MAX,
                max_timestamp_delta_ms: 1,
                ..good
            },
            BatchError::Range,
        ),
        (
            BatchHeader {
                flags: BatchFlags(16),
                ..good
            },
            BatchError::Flags { flags: 16 },
        ),
    ];
    for (header, expected) in cases {
        assert_eq!(BatchHeader::decode(&header.encode()), Err(expected));
    }
    for (byte, expected) in [
        (0x03, BatchError::UnknownCodec { codec: 3 }),
        (0x10, BatchError::UnknownEncoding { encoding: 1 }),
    ] {
        let mut bytes = good.encode();
        bytes[62] = byte;
        assert_eq!(BatchHeader::decode(&bytes), Err(expected));
    }
}

#[test]
fn a_producer_may_not_set_what_belongs_to_the_broker() {
    let good = one_record();
    assert_eq!(good.check_produced(), Ok(()));
    assert_eq!(
        BatchHeader {
            flags: BatchFlags::EXTENSIONS,
            ..good
        }
        .check_produced(),
        Ok(())
    );
    for flags in [
        BatchFlags::CONTROL,
        BatchFlags::TRANSACTIONAL,
        BatchFlags::COMPACTED,
    ] {
        assert!(BatchHeader { flags, ..good }.check_produced().is_err());
    }
    assert!(
        BatchHeader {
            last_offset_delta: 1,
            ..good
        }
        .check_produced()
        .is_err()
    );
}

#[test]
fn a_full_builder_stays_as_it_was() {
    let options = BatchOptions {
        batch_bytes_max: 128,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    let value = [7; 100];
    let large = builder.push(&Record::from_value(&value));
    assert_eq!(
        large,
        Err(PushError::TooLarge {
            bytes: 104,
            batch_bytes_max: 128
        })
    );
    assert!(builder.is_empty());
    assert_eq!(builder.push(&Record::from_value(&value[..30])), Ok(()));
    assert_eq!(
        builder.push(&Record::from_value(&value[..30])),
        Err(PushError::Full)
    );
    let large = builder.push(&Record::from_value(&value));
    assert_eq!(
        large,
        Err(PushError::TooLarge {
            bytes: 104,
            batch_bytes_max: 128
        })
    );
    assert_eq!((builder.record_count(), builder.size_bytes()), (1, 104));
    let batch = builder.finish().expect("no codec can fail");
    assert_eq!(read(&batch), Ok(vec![(0, Some(value[..30].to_vec()))]));
}

#[test]
fn times_too_far_apart_end_a_batch() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let at = |timestamp_ms| Record {
        timestamp_ms,
        ..Record::from_value(b"v")
    };
    let far_ms = i64::from(u32::MAX);
    assert_eq!(builder.push(&at(0)), Ok(()));
    assert_eq!(builder.push(&at(far_ms)), Ok(()));
    assert_eq!(builder.push(&at(far_ms + 1)), Err(PushError::Full));
    assert_eq!(builder.push(&at(i64::MIN)), Ok(()));
    builder.clear();
    assert_eq!(builder.push(&at(i64::MAX)), Ok(()));
    // The distance itself is no i64: the record waits for the next batch.
    assert_eq!(builder.push(&at(-2)), Err(PushError::Full));
}

#[test]
fn a_batch_holds_65535_records() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..u16::MAX {
        builder.push(&Record::default()).expect("it fits");
    }
    assert_eq!(builder.push(&Record::default()), Err(PushError::Full));
    let batch = builder.finish().expect("no codec can fail");
    assert_eq!(read(&batch).map(|records| records.len()), Ok(65_535));
}

#[test]
fn small_records_have_4_to_9_bytes_of_overhead() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let mut bytes = BATCH_HEADER_BYTES;
    let mut overhead = |record: &Record<'_>| {
        builder.push(record).expect("it fits");
        let payload = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        let before = std::mem::replace(&mut bytes, builder.unpadded_bytes());
        bytes - before - payload
    };
    assert_eq!(overhead(&Record::from_value(b"value")), 4);
    assert_eq!(
        overhead(&Record {
            timestamp_ms: 3,
            ..Record::from_value(b"value")
        }),
        5
    );
    let key = [1; 30];
    let value = [2; 800];
    let record = Record {
        timestamp_ms: 900_000,
        key: Some(&key),
        ..Record::from_value(&value)
    };
    assert_eq!(overhead(&record), 8);
}

#[test]
fn padding_is_no_record_and_missing_records_are_an_error() {
    let batch = batch_of(&[b"1", b"2"]);
    assert_eq!(batch.len(), 80);
    assert_eq!(read(&batch).map(|records| records.len()), Ok(2));
    // Three records, where only two and the padding are: the padding ends too early.
    let header = BatchHeader {
        record_count: 3,
        last_offset_delta: 2,
        ..one_record()
    };
    let section = [0, 3, 0, 0, b'1', 0, 3, 0, 0, b'2'];
    let read = read(&batch_with_section(header, &section));
    assert_eq!(
        read,
        Err(BatchError::Record(RecordError::Truncated { index: 2 }))
    );
}

#[test]
fn extensions_of_a_batch_are_skipped() {
    let header = BatchHeader {
        flags: BatchFlags::EXTENSIONS,
        ..one_record()
    };
    let section = [3, 0, 0, 0, 0xee, 0xee, 0xee, 0, 3, 0, 0, b'v'];
    let expected = Ok(vec![(0, Some(b"v".to_vec()))]);
    assert_eq!(read(&batch_with_section(header, &section)), expected);
    let section = [13, 0, 0, 0, 0xee, 0xee, 0xee, 0, 3, 0, 0, b'v'];
    assert_eq!(
        read(&batch_with_section(header, &section)),
        Err(BatchError::Sections)
    );
}

#[test]
fn sparse_offsets_rise_inside_the_batch() {
    let header = BatchHeader {
        base_offset: Offset(50),
        record_count: 2,
        last_offset_delta: 9,
        flags: BatchFlags::COMPACTED,
        ..BatchHeader::default()
    };
    let sparse = |first, second| {
        let section = [2, 4, first, 0, 0, b'a', 2, 4, second, 0, 0, b'b'];
        read(&batch_with_section(header, &section))
    };
    let expected = vec![(54, Some(b"a".to_vec())), (59, Some(b"b".to_vec()))];
    assert_eq!(sparse(4, 9), Ok(expected));
    let out_of_range = Err(BatchError::Record(RecordError::Range { index: 1 }));
    assert_eq!(sparse(4, 4), out_of_range);
    assert_eq!(sparse(4, 10), out_of_range);
}

#[test]
fn null_and_empty_differ() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (key, value) in [(None, Some(&b""[..])), (Some(&b""[..]), None)] {
        builder
            .push(&Record {
                key,
                value,
                ..Record::default()
            })
            .expect("it fits");
    }
    let batch = builder.finish().expect("no codec can fail");
    let mut decompressor = Decompressor::default();
    let reader = BatchReader::open(&batch, &mut decompressor).expect("well formed");
    let records: Vec<_> = reader.map(|record| record.expect("well formed")).collect();
    assert_eq!((records[0].key, records[0].value), (None, Some(&b""[..])));
    assert_eq!((records[1].key, records[1].value), (Some(&b""[..]), None));
}

#[test]
fn split_stops_at_the_first_damage() {
    let one = batch_of(&[b"hello"]);
    let mut log = [&one[..], &one[..]].concat();
    assert_eq!(
        split(&log)
            .map(|batch| batch.expect("whole").1.len())
            .sum::<usize>(),
        log.len()
    );
    log.truncate(log.len() - 8);
    let mut batches = split(&log);
    assert!(batches.next().is_some_and(|batch| batch.is_ok()));
    assert!(matches!(
        batches.next(),
        Some(Err(BatchError::Truncated { .. }))
    ));
    assert!(batches.next().is_none());
}

#[test]
fn records_share_the_memory_of_a_plain_batch() {
    let batch = Bytes::from(batch_of(&[b"hello"]));
    let header = BatchHeader::decode(&batch).expect("well formed");
    let records = Decompressor::default()
        .records_shared(&header, &batch)
        .expect("well formed");
    assert_eq!(records.as_ptr(), batch[BATCH_HEADER_BYTES..].as_ptr());
}

#[cfg(feature = "compression")]
mod with_codecs {
    use super::*;
    use crate::bytes_at::put_at;
    use crate::compression::CompressionError;

    fn compressed(codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec,
            ..BatchOptions::default()
        });
        builder
            .push(&Record::from_value(&[7; 5_000]))
            .expect("it fits");
        let batch = builder.finish().expect("the codec is compiled in");
        assert!(batch.len() < 200, "{codec}");
        assert_eq!(verify_body(&batch), Ok(()));
        batch.to_vec()
    }

    #[test]
    fn decompression_is_bounded_by_the_limit_and_by_what_is_announced() {
        for codec in [Codec::Lz4, Codec::Zstd] {
            let mut batch = compressed(codec);
            assert_eq!(read(&batch), Ok(vec![(0, Some(vec![7; 5_000]))]));
            put_at(&mut batch, 64, 5_004_u32.to_le_bytes());
            let damaged = CompressionError::Damaged {
                codec,
                reason: String::new(),
            };
            assert!(matches!(read(&batch), Err(BatchError::Compression(error))
                if std::mem::discriminant(&error) == std::mem::discriminant(&damaged)));
            put_at(&mut batch, 64, 6_000_u32.to_le_bytes());
            let size = CompressionError::Size {
                codec,
                actual: 5_005,
                expected: 6_000,
            };
            assert_eq!(read(&batch), Err(BatchError::Compression(size)));
            let bytes = (8_u32 << 20) + 1;
            put_at(&mut batch, 64, bytes.to_le_bytes());
            assert_eq!(
                read(&batch),
                Err(BatchError::DecompressedTooLarge { bytes })
            );
            put_at(&mut batch, 68, u32::MAX.to_le_bytes());
            assert_eq!(read(&batch), Err(BatchError::Sections));
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_as_it_is() {
        for codec in [Codec::Lz4, Codec::Zstd] {
            let mut builder = BatchBuilder::new(BatchOptions {
                codec,
                ..BatchOptions::default()
            });
            builder.push(&Record::from_value(b"no")).expect("it fits");
            let batch = builder.finish().expect("the codec is compiled in");
            let header = BatchHeader::decode(&batch).expect("well formed");
            assert_eq!((header.codec, batch.len()), (Codec::None, 72));
        }
    }
}

#[cfg(not(feature = "compression"))]
#[test]
fn a_codec_that_is_not_compiled_in_is_an_error_and_loses_nothing() {
    let options = BatchOptions {
        codec: Codec::Lz4,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    builder.push(&Record::from_value(b"v")).expect("it fits");
    assert!(matches!(builder.finish(), Err(BatchError::Compression(_))));
    assert_eq!(builder.record_count(), 1);
}
