//! The 64-byte batch header: decode, encode, stamp, and the two checksums.
//!
//! Invariant: `stamp` and the `verify_*` functions touch only the bytes named in the format and
//! allocate nothing: the broker calls them for every batch. Any thread.

use super::BatchError;
use crate::bytes_at::{i64_at, put_at, u16_at, u32_at, u64_at};
use crate::compression::Codec;
use crate::ids::{ChainEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition};
use crate::limits::BATCH_BYTES_MAX;

/// Bytes of a batch header.
pub const BATCH_HEADER_BYTES: usize = 64;

/// How the records are encoded. Other numbers are reserved for batches of other protocols.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// The format of [`crate::record`].
    #[default]
    Native = 0,
}

/// The flags of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct BatchFlags(pub u8);

impl BatchFlags {
    /// Extensions lie between header and records.
    pub const EXTENSIONS: Self = Self(1);
    /// Control records of the broker. Reserved.
    pub const CONTROL: Self = Self(1 << 1);
    /// Part of a transaction. Reserved.
    pub const TRANSACTIONAL: Self = Self(1 << 2);
    /// Compacted: records may be missing, offsets are sparse.
    pub const COMPACTED: Self = Self(1 << 3);

    const KNOWN: u8 = 0b1111;

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }
}

/// The header of a batch, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchHeader {
    /// The offset of the first record. Stamped by the broker.
    pub base_offset: Offset,
    /// When the broker appended the batch, in ms since 1970. Stamped by the broker.
    pub append_time_ms: i64,
    /// The chain's epoch at append. Stamped by the broker.
    pub epoch: ChainEpoch,
    /// Bytes of the whole batch, a multiple of 8.
    pub length: u32,
    /// CRC-32 of bytes 32..length.
    pub batch_crc: u32,
    /// CRC-32 of bytes 0..28, 32..64 and the partition. Stamped by the broker.
    pub header_crc: u32,
    /// The idempotent producer, or 0.
    pub producer_id: ProducerId,
    /// The base of the records' timestamps, in ms since 1970.
    pub first_timestamp_ms: i64,
    /// The sequence of the first record.
    pub sequence: Sequence,
    /// How far the newest timestamp is after the base.
    pub max_timestamp_delta_ms: u32,
    /// The epoch of the producer.
    pub producer_epoch: ProducerEpoch,
    /// Records in the batch.
    pub record_count: u16,
    /// The last offset of the batch, relative to the base.
    pub last_offset_delta: u16,
    /// How the records are compressed.
    pub codec: Codec,
    /// How the records are encoded.
    pub encoding: Encoding,
    /// See [`BatchFlags`].
    pub flags: BatchFlags,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes` and checks its structure: length, counts, number
    /// ranges, codec, encoding, flags. Does not check the checksums, nor that the whole batch is
    /// in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(bytes) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            let (actual, expected) = (bytes.len(), BATCH_HEADER_BYTES);
            return Err(BatchError::Truncated { actual, expected });
        };
        let header = Self {
            base_offset: Offset(u64_at(bytes, 0)),
            append_time_ms: i64_at(bytes, 8),
            epoch: ChainEpoch(u32_at(bytes, 16)),
            length: u32_at(bytes, 20),
            batch_crc: u32_at(bytes, 24),
            header_crc: u32_at(bytes, 28),
            producer_id: ProducerId(u64_at(bytes, 32)),
            first_timestamp_ms: i64_at(bytes, 40),
            sequence: Sequence(u32_at(bytes, 48)),
            max_timestamp_delta_ms: u32_at(bytes, 52),
            producer_epoch: ProducerEpoch(u16_at(bytes, 56)),
            record_count: u16_at(bytes, 58),
            last_offset_delta: u16_at(bytes, 60),
            codec: decode_codec(bytes[62])?,
            encoding: decode_encoding(bytes[62])?,
            flags: BatchFlags(bytes[63]),
        };
        header.check()?;
        Ok(header)
    }

    /// The bytes of this header.
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        put_at(&mut bytes, 0, self.base_offset.0.to_le_bytes());
        put_at(&mut bytes, 8, self.append_time_ms.to_le_bytes());
        put_at(&mut bytes, 16, self.epoch.0.to_le_bytes());
        put_at(&mut bytes, 20, self.length.to_le_bytes());
        put_at(&mut bytes, 24, self.batch_crc.to_le_bytes());
        put_at(&mut bytes, 28, self.header_crc.to_le_bytes());
        put_at(&mut bytes, 32, self.producer_id.0.to_le_bytes());
        put_at(&mut bytes, 40, self.first_timestamp_ms.to_le_bytes());
        put_at(&mut bytes, 48, self.sequence.0.to_le_bytes());
        put_at(&mut bytes, 52, self.max_timestamp_delta_ms.to_le_bytes());
        put_at(&mut bytes, 56, self.producer_epoch.0.to_le_bytes());
        put_at(&mut bytes, 58, self.record_count.to_le_bytes());
        put_at(&mut bytes, 60, self.last_offset_delta.to_le_bytes());
        bytes[62] = self.codec as u8 | (self.encoding as u8) << 4;
        bytes[63] = self.flags.0;
        bytes
    }

    /// The offset after the batch: base + last delta + 1.
    pub const fn next_offset(&self) -> Offset {
        // `decode` refuses a base so high that this would wrap.
        Offset(
            self.base_offset
                .0
                .saturating_add(self.last_offset_delta as u64 + 1),
        )
    }

    /// The sequence after the batch.
    pub const fn next_sequence(&self) -> Sequence {
        self.sequence.wrapping_add(self.record_count as u32)
    }

    /// The newest timestamp of the records, in ms since 1970.
    pub const fn max_timestamp_ms(&self) -> i64 {
        self.first_timestamp_ms
            .saturating_add(self.max_timestamp_delta_ms as i64)
    }

    /// What a broker demands of a producer's batch beyond its structure: at least one record,
    /// dense offsets, and none of the flags that only the broker sets.
    pub fn check_produced(&self) -> Result<(), BatchError> {
        if self.flags.0 & !BatchFlags::EXTENSIONS.0 != 0 {
            return Err(BatchError::Flags {
                flags: self.flags.0,
            });
        }
        if u32::from(self.record_count) != u32::from(self.last_offset_delta) + 1 {
            return Err(self.counts_error());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), BatchError> {
        let length = self.length;
        if (length as usize) < BATCH_HEADER_BYTES || !length.is_multiple_of(8) {
            return Err(BatchError::Length { length });
        }
        if length as usize > BATCH_BYTES_MAX {
            return Err(BatchError::TooLarge { length });
        }
        if self.flags.0 & !BatchFlags::KNOWN != 0 {
            return Err(BatchError::Flags {
                flags: self.flags.0,
            });
        }
        let empty = self.record_count == 0 && !self.flags.contains(BatchFlags::COMPACTED);
        if empty || u32::from(self.record_count) > u32::from(self.last_offset_delta) + 1 {
            return Err(self.counts_error());
        }
        let span = u64::from(self.last_offset_delta) + 1;
        let newest = self
            .first_timestamp_ms
            .checked_add(self.max_timestamp_delta_ms.into());
        if self.base_offset.checked_add(span).is_none() || newest.is_none() {
            return Err(BatchError::Range);
        }
        Ok(())
    }

    const fn counts_error(&self) -> BatchError {
        let (record_count, last_offset_delta) = (self.record_count, self.last_offset_delta);
        BatchError::Counts {
            record_count,
            last_offset_delta,
        }
    }
}

fn decode_codec(byte: u8) -> Result<Codec, BatchError> {
    let codec = byte & 0x0f;
    Codec::from_wire(codec).ok_or(BatchError::UnknownCodec { codec })
}

fn decode_encoding(byte: u8) -> Result<Encoding, BatchError> {
    match byte >> 4 {
        0 => Ok(Encoding::Native),
        encoding => Err(BatchError::UnknownEncoding { encoding }),
    }
}

/// Writes what the broker adds to a batch: bytes 0..20 and the header checksum. The checksum
/// covers `batch_crc`, which stays as it is.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn stamp(
    batch: &mut [u8],
    base_offset: Offset,
    append_time_ms: i64,
    epoch: ChainEpoch,
    place: TopicPartition,
) {
    let header = batch
        .first_chunk_mut::<BATCH_HEADER_BYTES>()
        .expect("a batch has a header");
    put_at(header, 0, base_offset.0.to_le_bytes());
    put_at(header, 8, append_time_ms.to_le_bytes());
    put_at(header, 16, epoch.0.to_le_bytes());
    let crc = header_checksum(header, place);
    put_at(header, 28, crc.to_le_bytes());
}

/// Gives a finished batch another producer id, epoch and sequence, and a new body checksum. For
/// clients that renumber what they resend.
///
/// # Panics
/// If `batch` is not one whole batch.
pub fn set_producer(batch: &mut [u8], id: ProducerId, epoch: ProducerEpoch, sequence: Sequence) {
    assert!(batch.len() >= BATCH_HEADER_BYTES, "a batch has a header");
    assert!(
        u32_at(batch, 20) as usize == batch.len(),
        "one whole batch is given"
    );
    put_at(batch, 32, id.0.to_le_bytes());
    put_at(batch, 48, sequence.0.to_le_bytes());
    put_at(batch, 56, epoch.0.to_le_bytes());
    let crc = crc32fast::hash(&batch[32..]);
    put_at(batch, 24, crc.to_le_bytes());
}

/// Compares `batch_crc` with bytes 32..length of the batch at the start of `batch`.
pub fn verify_body(batch: &[u8]) -> Result<(), BatchError> {
    if batch.len() < BATCH_HEADER_BYTES {
        let (actual, expected) = (batch.len(), BATCH_HEADER_BYTES);
        return Err(BatchError::Truncated { actual, expected });
    }
    let length = u32_at(batch, 20);
    if (length as usize) < BATCH_HEADER_BYTES {
        return Err(BatchError::Length { length });
    }
    let Some(body) = batch.get(32..length as usize) else {
        return Err(BatchError::Truncated {
            actual: batch.len(),
            expected: length as usize,
        });
    };
    let (actual, expected) = (crc32fast::hash(body), u32_at(batch, 24));
    if actual == expected {
        Ok(())
    } else {
        Err(BatchError::BodyCrc { actual, expected })
    }
}

/// Compares `header_crc` with the header's bytes and the partition it should belong to.
pub fn verify_header(
    header: &[u8; BATCH_HEADER_BYTES],
    place: TopicPartition,
) -> Result<(), BatchError> {
    let (actual, expected) = (header_checksum(header, place), u32_at(header, 28));
    if actual == expected {
        Ok(())
    } else {
        Err(BatchError::HeaderCrc {
            place,
            actual,
            expected,
        })
    }
}

/// One pass over a copy: three updates of a hasher cost more than moving 68 bytes.
fn header_checksum(header: &[u8; BATCH_HEADER_BYTES], place: TopicPartition) -> u32 {
    let mut covered = [0; 28 + 32 + 8];
    covered[0..28].copy_from_slice(&header[0..28]);
    covered[28..60].copy_from_slice(&header[32..64]);
    put_at(&mut covered, 60, place.topic.0.to_le_bytes());
    put_at(&mut covered, 64, place.partition.0.to_le_bytes());
    crc32fast::hash(&covered)
}

/// The batches of `bytes`, which lie one behind the other. Stops after the first error.
///
/// ```
/// use catena_protocol::batch::{BatchBuilder, BatchOptions, split};
/// use catena_protocol::record::Record;
///
/// let mut builder = BatchBuilder::new(BatchOptions::default());
/// let mut bytes = Vec::new();
/// for value in [&b"first"[..], b"second"] {
///     builder.push(&Record::from_value(value))?;
///     builder.finish_into(&mut bytes)?;
/// }
/// assert_eq!(split(&bytes).count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn split(bytes: &[u8]) -> Split<'_> {
    Split { bytes }
}

/// The iterator of [`split`]: each batch's header, and its bytes with the header.
#[derive(Clone, Debug)]
pub struct Split<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Split<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.bytes);
        let header = match BatchHeader::decode(bytes) {
            Ok(header) => header,
            Err(error) => return Some(Err(error)),
        };
        let expected = header.length as usize;
        let Some((batch, rest)) = bytes.split_at_checked(expected) else {
            return Some(Err(BatchError::Truncated {
                actual: bytes.len(),
                expected,
            }));
        };
        self.bytes = rest;
        Some(Ok((header, batch)))
    }
}

impl std::iter::FusedIterator for Split<'_> {}
