//! What is left of batches keeps its offsets, contents and checksums, whatever goes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::batch::{Decompressor, Records, split, verify_body, verify_header};
use crate::compression::Codec;
use crate::ids::{PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId};
use crate::limits::BATCH_BYTES_MAX;
use crate::record::RecordHeader;

const PLACE: TopicPartition = TopicPartition {
    topic: TopicId(7),
    partition: PartitionId(3),
};

/// A record and whether it stays.
#[derive(Clone, Debug)]
struct Planned {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    timestamp_ms: i64,
    with_header: bool,
    stays: bool,
}

fn planned() -> impl Strategy<Value = Planned> {
    let bytes = || proptest::option::of(vec(any::<u8>(), 0..200));
    (
        bytes(),
        bytes(),
        0..100_000i64,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(key, value, timestamp_ms, with_header, stays)| Planned {
            key,
            value,
            timestamp_ms,
            with_header,
            stays,
        })
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)]
}

fn built(records: &[Planned], codec: Codec, base: u64) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        ..BatchOptions::default()
    });
    let header = RecordHeader {
        name: "h",
        value: Some(b"x"),
    };
    for planned in records {
        let record = Record {
            timestamp_ms: planned.timestamp_ms,
            key: planned.key.as_deref(),
            value: planned.value.as_deref(),
            headers: if planned.with_header { &[header] } else { &[] },
            extensions: b"",
        };
        builder.push(&record).expect("a few small records fit");
    }
    builder.set_producer(ProducerId(9), ProducerEpoch(2), Sequence(u32::MAX - 1));
    let mut batch = Vec::new();
    builder.finish_into(&mut batch).expect("the codec works");
    stamp(&mut batch, Offset(base), 1_234, ChainEpoch(5), PLACE);
    batch
}

/// What a reader sees: offset, time, key, value, count of headers.
type Seen = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

/// The records of some batches, which have to verify and to tile.
fn read(bytes: &[u8], base: u64) -> (Vec<Seen>, u64) {
    let (mut seen, mut next) = (Vec::new(), base);
    let mut decompressor = Decompressor::default();
    for batch in split(bytes) {
        let (header, batch) = batch.expect("whole batches");
        let head = batch.first_chunk().expect("a header");
        verify_header(head, PLACE).expect("the header's checksum");
        verify_body(batch).expect("the body's checksum");
        assert_eq!(header.base_offset.0, next, "the batches tile");
        next = header.next_offset().0;
        let records = decompressor.records(&header, batch).expect("it decodes");
        for record in Records::new(&header, records) {
            let record = record.expect("a record");
            seen.push((
                record.offset.0,
                record.timestamp_ms,
                record.key.map(<[u8]>::to_vec),
                record.value.map(<[u8]>::to_vec),
                record.headers.len(),
            ));
        }
    }
    (seen, next)
}

fn rewrite(rewriter: &mut BatchRewriter, batch: &[u8], stays: impl Fn(u64) -> bool) {
    let mut decompressor = Decompressor::default();
    let header = BatchHeader::decode(batch).expect("a header");
    let records = decompressor.records(&header, batch).expect("it decodes");
    rewriter.begin(&header, batch).expect("a batch");
    for record in Records::new(&header, records) {
        let record = record.expect("a record");
        if stays(record.offset.0) {
            rewriter.keep(&record).expect("it fits as it did before");
        }
    }
    rewriter.end().expect("the codec works");
}

proptest! {
    #[test]
    fn what_stays_keeps_offset_time_and_contents_and_the_batches_tile(
        batches in vec((vec(planned(), 1..30), codec(), any::<bool>()), 1..6),
        base in 0..1_000_000u64,
    ) {
        let mut rewriter = BatchRewriter::new(PLACE);
        let (mut next, mut expected) = (base, Vec::new());
        for (records, codec, is_copied) in &batches {
            let batch = built(records, *codec, next);
            let (seen, end) = read(&batch, next);
            let first = next;
            let stays = |offset: u64| {
                let index = usize::try_from(offset - first).expect("a few");
                *is_copied || records[index].stays
            };
            expected.extend(seen.into_iter().filter(|(offset, ..)| stays(*offset)));
            if *is_copied {
                let header = BatchHeader::decode(&batch).expect("a header");
                rewriter.copy(&header, &batch);
            } else {
                rewrite(&mut rewriter, &batch, stays);
            }
            next = end;
        }
        let rewritten = rewriter.finish().expect("there was a batch");
        prop_assert_eq!((rewritten.base_offset.0, rewritten.end_offset.0), (base, next));
        let count = split(&rewritten.bytes).count();
        prop_assert_eq!(usize::try_from(rewritten.batch_count).expect("a few"), count);
        let (seen, end) = read(&rewritten.bytes, base);
        prop_assert_eq!(end, next);
        if let Some(latest) = seen.iter().map(|seen| seen.1).max() {
            prop_assert!(rewritten.max_timestamp_ms >= latest);
        }
        prop_assert_eq!(seen, expected);
        prop_assert!(rewriter.finish().is_none());
    }
}

#[test]
fn a_batch_that_is_copied_keeps_every_byte() {
    let batch = built(&[plain(10)], Codec::None, 5);
    let mut rewriter = BatchRewriter::new(PLACE);
    rewriter.copy(&BatchHeader::decode(&batch).expect("a header"), &batch);
    let rewritten = rewriter.finish().expect("a batch");
    assert_eq!(rewritten.bytes, batch);
    assert_eq!(rewritten.max_timestamp_ms, 10);
}

fn plain(timestamp_ms: i64) -> Planned {
    Planned {
        key: Some(b"k".to_vec()),
        value: Some(b"v".to_vec()),
        timestamp_ms,
        with_header: false,
        stays: true,
    }
}

#[test]
fn an_emptied_stretch_becomes_one_batch_per_65536_offsets() {
    let mut rewriter = BatchRewriter::new(PLACE);
    let records = vec![plain(10); 1000];
    let mut next = 0;
    for _ in 0..66 {
        let batch = built(&records, Codec::None, next);
        rewrite(&mut rewriter, &batch, |_| false);
        next += 1000;
    }
    let rewritten = rewriter.finish().expect("something was taken in");
    assert_eq!(rewritten.bytes.len(), 2 * BATCH_HEADER_BYTES);
    assert_eq!(rewritten.max_timestamp_ms, 0);
    assert_eq!(read(&rewritten.bytes, 0), (Vec::new(), 66_000));
    // Once more, with batches that are empty already.
    for batch in split(&rewritten.bytes) {
        let (header, batch) = batch.expect("a batch");
        rewriter.copy(&header, batch);
    }
    assert_eq!(rewriter.finish(), Some(rewritten));
}

#[test]
fn what_is_left_of_a_large_batch_comes_in_pieces_with_their_sequences() {
    let records = vec![
        Planned {
            value: Some(vec![b'v'; 1000]),
            ..plain(10)
        };
        900
    ];
    let batch = built(&records, Codec::None, 100);
    let mut rewriter = BatchRewriter::new(PLACE);
    rewrite(&mut rewriter, &batch, |offset| offset != 100);
    let rewritten = rewriter.finish().expect("a batch");
    let headers: Vec<_> = split(&rewritten.bytes)
        .map(|batch| batch.expect("a batch").0)
        .collect();
    assert!(headers.len() > 5, "{} pieces", headers.len());
    for header in &headers {
        let ahead = u32::try_from(header.base_offset.0 - 100).expect("a few");
        assert_eq!(header.sequence, Sequence(u32::MAX - 1).wrapping_add(ahead));
        assert!(header.flags.contains(BatchFlags::COMPACTED));
        assert_eq!(
            (header.append_time_ms, header.epoch),
            (1_234, ChainEpoch(5))
        );
    }
    assert_eq!(read(&rewritten.bytes, 100).0.len(), 899);
}

#[test]
fn extensions_of_a_batch_stay_with_it() {
    let mut batch = built(&[plain(1), plain(2), plain(3)], Codec::None, 0);
    let extensions = [5u32.to_le_bytes().as_slice(), b"hello"].concat();
    batch.splice(64..64, extensions.iter().copied());
    batch.resize(batch.len().next_multiple_of(8), 0);
    let mut header = BatchHeader::decode(&batch).expect("a header");
    header.length = u32::try_from(batch.len()).expect("small");
    header.flags = BatchFlags::EXTENSIONS;
    batch[..64].copy_from_slice(&header.encode());
    let mut rewriter = BatchRewriter::new(PLACE);
    rewrite(&mut rewriter, &batch, |offset| offset == 1);
    let rewritten = rewriter.finish().expect("a batch");
    assert_eq!(rewritten.bytes[64..64 + 9], extensions[..]);
    let (seen, end) = read(&rewritten.bytes, 0);
    assert_eq!((seen.len(), seen[0].0, end), (1, 1, 3));
}

#[test]
fn a_record_that_is_larger_than_a_batch_is_an_error() {
    let value = vec![0; BATCH_BYTES_MAX];
    let record = RecordView {
        offset: Offset(0),
        timestamp_ms: 0,
        key: Some(b"k"),
        value: Some(&value),
        headers: crate::record::RecordHeaders::default(),
        extensions: b"",
    };
    let mut rewriter = BatchRewriter::new(PLACE);
    let batch = built(&[plain(1)], Codec::Zstd, 0);
    let header = BatchHeader::decode(&batch).expect("a header");
    rewriter.begin(&header, &batch).expect("a batch");
    let refused = rewriter.keep(&record);
    assert!(
        matches!(
            refused,
            Err(RewriteError::Record(PushError::TooLarge { .. }))
        ),
        "{refused:?}"
    );
}
