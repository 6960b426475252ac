//! Records whose bytes follow from who sent them, so that a wrong byte shows.

use std::ops::Range;

use bytes::Bytes;
use catena_protocol::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchOptions, BatchReader, Decompressor, RecordView,
    set_producer, split, verify_body, verify_header,
};
use catena_protocol::compression::Codec;
use catena_protocol::ids::{ProducerEpoch, ProducerId, Sequence, TopicPartition};
use catena_protocol::record::{Record, RecordHeader};

use crate::model::{Keys, Value};

/// Sender and number, before the filling.
const HEAD_BYTES: usize = 8;

/// The header that holds them in a tombstone, which has no value.
const TOMBSTONE_HEADER: &str = "of";

/// A batch of one record per value, each of about `bytes` bytes, with one of `keys`. Tombstones
/// have no more than their head.
pub(crate) fn batch(values: &[Value], bytes: usize, keys: Option<Keys>) -> Vec<u8> {
    let codecs = [Codec::None, Codec::Lz4, Codec::Zstd];
    let sender = usize::try_from(values[0].sender).expect("a few");
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: keys.map_or(Codec::None, |_| codecs[sender % codecs.len()]),
        ..BatchOptions::default()
    });
    for value in values {
        let content = content(*value, bytes);
        let key = keys.map(|keys| keys.of(*value).to_le_bytes());
        let deletes = keys.is_some_and(|keys| keys.deletes(*value));
        let head = [RecordHeader {
            name: TOMBSTONE_HEADER,
            value: Some(&content[..HEAD_BYTES]),
        }];
        let pushed = builder.push(&Record {
            key: key.as_ref().map(<[u8; 4]>::as_slice),
            value: (!deletes).then_some(&content),
            headers: if deletes { &head } else { &[] },
            ..Record::default()
        });
        pushed.expect("a batch of a few records fits");
    }
    let batch: Bytes = builder.finish().expect("there is a record in it");
    batch.to_vec()
}

/// Gives a batch its producer and sequence.
pub(crate) fn number(batch: &mut [u8], producer: ProducerId, sequence: u32) {
    set_producer(batch, producer, ProducerEpoch(0), Sequence(sequence));
}

fn content(value: Value, bytes: usize) -> Vec<u8> {
    let mut content = vec![filling(value); bytes.max(HEAD_BYTES)];
    content[..4].copy_from_slice(&value.sender.to_le_bytes());
    content[4..8].copy_from_slice(&value.number.to_le_bytes());
    content
}

fn filling(value: Value) -> u8 {
    let [low, ..] = value
        .number
        .wrapping_mul(31)
        .wrapping_add(value.sender)
        .to_le_bytes();
    low
}

/// What a fetch response holds of a partition.
pub(crate) struct Fetched {
    /// The offsets that its batches stand for.
    pub(crate) offsets: Range<u64>,
    pub(crate) records: Vec<(u64, Value)>,
}

/// The records of a fetch response, with their offsets; none without a batch. Every checksum and
/// byte is verified.
///
/// # Panics
/// If anything is not as it was sent, or there is a gap between batches.
pub(crate) fn records(tp: TopicPartition, payload: &[u8]) -> Option<Fetched> {
    let mut found = Vec::new();
    let (mut first, mut next) = (None, None);
    for batch in split(payload) {
        let (header, bytes) = batch.unwrap_or_else(|error| panic!("corrupt: {tp} {error}"));
        let head = bytes.first_chunk::<BATCH_HEADER_BYTES>();
        verify_header(head.expect("a decoded header is there"), tp)
            .unwrap_or_else(|error| panic!("corrupt: served {error}"));
        verify_body(bytes).unwrap_or_else(|error| panic!("corrupt: {tp} served {error}"));
        let base = header.base_offset.get();
        assert!(
            next.is_none_or(|next| next == base),
            "gap: {tp} a batch at {base} follows {next:?}"
        );
        first = first.or(Some(base));
        next = Some(header.next_offset().get());
        let mut decompressor = Decompressor::default();
        let reader = BatchReader::open(bytes, &mut decompressor).expect("its checksum is right");
        for record in reader {
            let record = record.expect("its checksum is right");
            let value = record
                .value
                .map_or_else(|| value_of_tombstone(&record), value_of);
            found.push((record.offset.get(), value));
        }
    }
    Some(Fetched {
        offsets: first?..next?,
        records: found,
    })
}

fn value_of_tombstone(record: &RecordView<'_>) -> Value {
    let head = record
        .headers
        .clone()
        .next()
        .expect("a tombstone has its head");
    assert_eq!(head.name, TOMBSTONE_HEADER, "corrupt: {record:?}");
    value_of(head.value.expect("a tombstone has its head"))
}

fn value_of(content: &[u8]) -> Value {
    let word = |at: usize| {
        let bytes = content[at..at + 4].first_chunk::<4>();
        u32::from_le_bytes(*bytes.expect("four bytes"))
    };
    let value = Value {
        sender: word(0),
        number: word(4),
    };
    let filling = filling(value);
    assert!(
        content[HEAD_BYTES..].iter().all(|byte| *byte == filling),
        "corrupt: wrong bytes in {value:?}"
    );
    value
}
