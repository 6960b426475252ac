//! Builds a batch, record by record, in one buffer that is kept for the next batch.
//!
//! Invariant: the buffer always holds a header's room and whole records, and a batch that
//! `finish` gives is inside the limits. Belongs to one thread at a time.

use bytes::Bytes;

use super::BatchError;
use super::header::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, Encoding};
use crate::bytes_at::put_at;
use crate::compression::{Codec, Compressor};
use crate::ids::{ProducerEpoch, ProducerId, Sequence};
use crate::limits::{BATCH_BYTES_MAX, RECORDS_PER_BATCH_MAX};
use crate::record::{Record, RecordPlan};

/// Bytes in front of compressed records: their two lengths.
const COMPRESSED_LENGTHS_BYTES: usize = 8;

/// How a builder builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Bytes of a batch before compression, header and padding included; at most
    /// [`BATCH_BYTES_MAX`] counts.
    pub batch_bytes_max: usize,
    /// How to compress. A batch that would not shrink is left as it is.
    pub codec: Codec,
    /// The level of zstd, 1 to 22; lz4 has none.
    pub zstd_level: i32,
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self {
            batch_bytes_max: BATCH_BYTES_MAX,
            codec: Codec::None,
            zstd_level: 3,
        }
    }
}

/// Why a record was not taken. The builder is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// It does not fit beside those already there, by bytes, count or time: finish this batch and
    /// push the record into the next.
    #[error("the batch is full")]
    Full,
    /// It fits into no batch of this builder.
    #[error("a record of {bytes} bytes does not fit into a batch of {batch_bytes_max} bytes")]
    TooLarge {
        /// Bytes of the record, encoded.
        bytes: usize,
        /// The builder's limit.
        batch_bytes_max: usize,
    },
    /// It has too many headers or too long a header name.
    #[error("a record has too many headers or too long a header name")]
    Headers,
}

/// Builds batches.
///
/// ```
/// use catena_protocol::batch::{BatchBuilder, BatchOptions, BatchReader, Decompressor};
/// use catena_protocol::record::Record;
///
/// let mut builder = BatchBuilder::new(BatchOptions::default());
/// builder.push(&Record { timestamp_ms: 17, ..Record::from_value(b"hello") })?;
/// let batch = builder.finish()?;
///
/// let mut decompressor = Decompressor::default();
/// let mut reader = BatchReader::open(&batch, &mut decompressor)?;
/// let record = reader.next().expect("one record was pushed")?;
/// assert_eq!(record.value, Some(&b"hello"[..]));
/// assert_eq!(record.timestamp_ms, 17);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchBuilder {
    options: BatchOptions,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    sequence: Sequence,
    first_timestamp_ms: i64,
    max_timestamp_delta_ms: u32,
    record_count: u16,
    /// Room for the header, then the records.
    buffer: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor,
}

impl BatchBuilder {
    /// An empty builder, for a producer without idempotence. Takes no memory for records yet.
    pub fn new(options: BatchOptions) -> Self {
        let batch_bytes_max = options.batch_bytes_max.min(BATCH_BYTES_MAX);
        Self {
            options: BatchOptions {
                batch_bytes_max,
                ..options
            },
            producer_id: ProducerId(0),
            producer_epoch: ProducerEpoch(0),
            sequence: Sequence(0),
            first_timestamp_ms: 0,
            max_timestamp_delta_ms: 0,
            record_count: 0,
            buffer: vec![0; BATCH_HEADER_BYTES],
            compressed: Vec::new(),
            compressor: Compressor::default(),
        }
    }

    /// Who produces, and the sequence of the batch's first record. Counts for every batch
    /// finished until the next call, which normally comes before each `finish`.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, sequence: Sequence) {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.sequence = sequence;
    }

    /// Another codec, from the next batch on.
    pub(super) fn set_codec(&mut self, codec: Codec) {
        self.options.codec = codec;
    }

    /// Takes memory for `bytes` of batch at once.
    pub fn reserve(&mut self, bytes: usize) {
        let bytes = bytes.min(self.options.batch_bytes_max);
        self.buffer.reserve(bytes.saturating_sub(self.buffer.len()));
    }

    /// Appends a record.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), PushError> {
        self.push_at(record, None)
    }

    /// Appends a record whose offset, relative to the batch's base, is not its index.
    pub(super) fn push_at(
        &mut self,
        record: &Record<'_>,
        offset_delta: Option<u64>,
    ) -> Result<(), PushError> {
        let delta = if self.record_count == 0 {
            0
        } else {
            record
                .timestamp_ms
                .checked_sub(self.first_timestamp_ms)
                .ok_or(PushError::Full)?
        };
        // A time before the batch's first moves no maximum; one 49 days after it does not fit.
        let ahead_ms = u32::try_from(delta.max(0)).map_err(|_| PushError::Full)?;
        let plan = RecordPlan::new(record, delta, offset_delta).ok_or(PushError::Headers)?;
        let batch_bytes = (self.buffer.len() + plan.bytes).next_multiple_of(8);
        let batch_bytes_max = self.options.batch_bytes_max;
        if batch_bytes > batch_bytes_max {
            return Err(if self.record_count == 0 {
                PushError::TooLarge {
                    bytes: plan.bytes,
                    batch_bytes_max,
                }
            } else {
                self.full_or_too_large(record)
            });
        }
        if usize::from(self.record_count) == RECORDS_PER_BATCH_MAX {
            return Err(PushError::Full);
        }
        if self.record_count == 0 {
            self.first_timestamp_ms = record.timestamp_ms;
            // The newest time must stay a number, see `BatchHeader::decode`.
            self.max_timestamp_delta_ms = 0;
        }
        plan.write(record, &mut self.buffer);
        self.record_count += 1;
        self.max_timestamp_delta_ms = self.max_timestamp_delta_ms.max(ahead_ms);
        Ok(())
    }

    /// Bytes of the batch if it were finished now, before compression.
    pub fn size_bytes(&self) -> usize {
        self.buffer.len().next_multiple_of(8)
    }

    #[cfg(test)]
    pub(super) fn unpadded_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Records pushed since the last `finish`.
    pub fn record_count(&self) -> u16 {
        self.record_count
    }

    /// Whether nothing was pushed since the last `finish`.
    pub fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Drops the records pushed since the last `finish`; keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.truncate(BATCH_HEADER_BYTES);
        self.record_count = 0;
        self.max_timestamp_delta_ms = 0;
    }

    /// The batch, in memory of its own; the builder is empty again and has given its buffer away
    /// (or keeps it, if the records were compressed).
    ///
    /// # Errors
    /// If the codec fails or is not compiled in; the records stay in the builder.
    ///
    /// # Panics
    /// If nothing was pushed.
    pub fn finish(&mut self) -> Result<Bytes, BatchError> {
        if self.compress()? {
            let batch = Bytes::copy_from_slice(&self.compressed);
            self.clear();
            return Ok(batch);
        }
        self.seal_plain();
        let batch = std::mem::take(&mut self.buffer);
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        self.clear();
        Ok(Bytes::from(batch))
    }

    /// Appends the batch to `out` and keeps all memory; returns the bytes appended.
    ///
    /// # Errors
    /// If the codec fails or is not compiled in; the records stay in the builder.
    ///
    /// # Panics
    /// If nothing was pushed.
    pub fn finish_into(&mut self, out: &mut Vec<u8>) -> Result<usize, BatchError> {
        let batch = if self.compress()? {
            &self.compressed
        } else {
            self.seal_plain();
            &self.buffer
        };
        out.extend_from_slice(batch);
        let bytes = batch.len();
        self.clear();
        Ok(bytes)
    }

    /// A record is only `Full` if an empty batch would take it.
    #[cold]
    fn full_or_too_large(&self, record: &Record<'_>) -> PushError {
        let batch_bytes_max = self.options.batch_bytes_max;
        match RecordPlan::new(record, 0, None) {
            Some(plan)
                if (BATCH_HEADER_BYTES + plan.bytes).next_multiple_of(8) > batch_bytes_max =>
            {
                PushError::TooLarge {
                    bytes: plan.bytes,
                    batch_bytes_max,
                }
            }
            _ => PushError::Full,
        }
    }

    /// Compresses into `self.compressed`, a whole batch; false if there is nothing to gain.
    fn compress(&mut self) -> Result<bool, BatchError> {
        assert!(self.record_count > 0, "a batch has a record");
        let codec = self.options.codec;
        if codec == Codec::None {
            return Ok(false);
        }
        let records = &self.buffer[BATCH_HEADER_BYTES..];
        let start = BATCH_HEADER_BYTES + COMPRESSED_LENGTHS_BYTES;
        self.compressed.clear();
        self.compressed.resize(start, 0);
        let level = self.options.zstd_level;
        self.compressor
            .compress(codec, level, records, &mut self.compressed)?;
        let batch_bytes = self.compressed.len().next_multiple_of(8);
        if batch_bytes >= self.size_bytes() {
            return Ok(false);
        }
        let lengths = [records.len(), self.compressed.len() - start];
        for (index, length) in lengths.into_iter().enumerate() {
            let length = u32::try_from(length).expect("a batch is below 1 MiB");
            put_at(
                &mut self.compressed,
                BATCH_HEADER_BYTES + 4 * index,
                length.to_le_bytes(),
            );
        }
        self.compressed.resize(batch_bytes, 0);
        let header = self.header(codec);
        seal(&mut self.compressed, header);
        Ok(true)
    }

    fn seal_plain(&mut self) {
        self.buffer.resize(self.buffer.len().next_multiple_of(8), 0);
        let header = self.header(Codec::None);
        seal(&mut self.buffer, header);
    }

    fn header(&self, codec: Codec) -> BatchHeader {
        BatchHeader {
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            sequence: self.sequence,
            first_timestamp_ms: self.first_timestamp_ms,
            max_timestamp_delta_ms: self.max_timestamp_delta_ms,
            record_count: self.record_count,
            last_offset_delta: self.record_count - 1,
            codec,
            encoding: Encoding::Native,
            flags: BatchFlags::default(),
            ..BatchHeader::default()
        }
    }
}

/// Writes the header and the body's checksum.
fn seal(batch: &mut [u8], mut header: BatchHeader) {
    header.length = u32::try_from(batch.len()).expect("a batch is below 1 MiB");
    batch[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
    let crc = crc32fast::hash(&batch[32..]);
    put_at(batch, 24, crc.to_le_bytes());
}
