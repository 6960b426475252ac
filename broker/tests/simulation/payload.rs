//! Records whose bytes follow from who sent them, so that a wrong byte shows.

use std::ops::Range;

use bytes::Bytes;
use catena_protocol::batch::{
    BATCH_HEADER_BYTES, BatchBuilder, BatchOptions, BatchReader, Decompressor, set_producer, split,
    verify_body, verify_header,
};
use catena_protocol::compression::Codec;
use catena_protocol::ids::{ProducerEpoch, ProducerId, Sequence, TopicPartition};
use catena_protocol::record::Record;

use crate::model::Value;

/// Sender and number, before the filling.
const HEAD_BYTES: usize = 8;

/// A batch of one record per value, each of about `bytes` bytes, with one of `keys` keys.
pub(crate) fn batch(values: &[Value], bytes: usize, keys: Option<u32>) -> Vec<u8> {
    let codecs = [Codec::None, Codec::Lz4, Codec::Zstd];
    let sender = usize::try_from(values[0].sender).expect("a few");
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: keys.map_or(Codec::None, |_| codecs[sender % codecs.len()]),
        ..BatchOptions::default()
    });
    for value in values {
        let content = content(*value, bytes);
        let key = keys.map(|keys| value.key(keys).to_le_bytes());
        let pushed = builder.push(&Record {
            key: key.as_ref().map(<[u8; 4]>::as_slice),
            ..Record::from_value(&content)
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
            found.push((
                record.offset.get(),
                value_of(record.value.unwrap_or_default()),
            ));
        }
    }
    Some(Fetched {
        offsets: first?..next?,
        records: found,
    })
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
