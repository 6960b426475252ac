//! Writes batches anew without some of their records: what compaction leaves of them.
//!
//! Invariant: what comes out tiles exactly the offsets of what went in; a record that stays keeps
//! its offset, its time and its contents; a batch that is copied keeps every byte. Where nothing
//! stays an empty batch stands for the offsets. Belongs to one thread at a time; no I/O.

use super::BatchError;
use super::builder::{BatchBuilder, BatchOptions, PushError};
use super::header::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader, stamp};
use super::reader::{RecordView, extensions_of};
use crate::bytes_at::put_at;
use crate::compression::Codec;
use crate::ids::{ChainEpoch, Offset, TopicPartition};
use crate::limits::{BATCH_BYTES_MAX, BATCH_OFFSETS_MAX, REWRITTEN_BYTES_MIN};
use crate::record::Record;

/// Timestamp of a batch without records. No record is found by it, and no limit by age keeps it.
const EMPTY_TIMESTAMP_MS: i64 = 0;

/// Why a batch could not be written anew. What was begun is worthless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The codec failed, or the batch cannot be read.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record fits into no batch: it was larger than one before it was compressed.
    #[error(transparent)]
    Record(#[from] PushError),
}

/// Batches that were written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// One behind the other.
    pub bytes: Vec<u8>,
    /// How many.
    pub batch_count: u32,
    /// The first offset that they stand for.
    pub base_offset: Offset,
    /// The offset after the last.
    pub end_offset: Offset,
    /// The latest timestamp of their records, in ms since 1970; 0 if there are none.
    pub max_timestamp_ms: i64,
}

/// Offsets of which no record is left.
#[derive(Clone, Copy, Debug)]
struct Gap {
    base: u64,
    end: u64,
    append_time_ms: i64,
    epoch: ChainEpoch,
}

/// Writes batches of one partition anew, in offset order and without holes between them.
///
/// ```
/// use catena_protocol::batch::{
///     BatchBuilder, BatchOptions, BatchReader, BatchRewriter, Decompressor,
/// };
/// use catena_protocol::ids::{Offset, TopicPartition};
/// use catena_protocol::record::Record;
///
/// let mut builder = BatchBuilder::new(BatchOptions::default());
/// for value in [&b"old"[..], b"new"] {
///     builder.push(&Record { key: Some(b"k"), ..Record::from_value(value) })?;
/// }
/// let batch = builder.finish()?;
///
/// let mut decompressor = Decompressor::default();
/// let reader = BatchReader::open(&batch, &mut decompressor)?;
/// let mut rewriter = BatchRewriter::new(TopicPartition::default());
/// rewriter.begin(reader.header(), &batch)?;
/// for record in reader {
///     let record = record?;
///     if record.value == Some(b"new") {
///         rewriter.keep(&record)?;
///     }
/// }
/// rewriter.end()?;
/// let rewritten = rewriter.finish().expect("a batch was written");
///
/// let mut reader = BatchReader::open(&rewritten.bytes, &mut decompressor)?;
/// assert_eq!(reader.header().next_offset(), Offset(2));
/// assert_eq!(reader.next().expect("one record is left")?.offset, Offset(1));
/// assert!(reader.next().is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchRewriter {
    place: TopicPartition,
    builder: BatchBuilder,
    /// The batch that is being written anew.
    source: BatchHeader,
    extensions: Vec<u8>,
    /// Where the next batch of it begins.
    base: u64,
    gap: Option<Gap>,
    out: Vec<u8>,
    batch_count: u32,
    /// First offset and the one after the last of all that was taken in.
    span: Option<(Offset, Offset)>,
    max_timestamp_ms: Option<i64>,
}

impl BatchRewriter {
    /// Writes batches of the partition `place`.
    pub fn new(place: TopicPartition) -> Self {
        Self {
            place,
            builder: BatchBuilder::new(BatchOptions::default()),
            source: BatchHeader::default(),
            extensions: Vec::new(),
            base: 0,
            gap: None,
            out: Vec::new(),
            batch_count: 0,
            span: None,
            max_timestamp_ms: None,
        }
    }

    /// Takes a whole batch as it is.
    pub fn copy(&mut self, header: &BatchHeader, batch: &[u8]) {
        self.extend_span(header);
        if header.record_count == 0 {
            self.widen_gap(header, header.base_offset.0);
            return;
        }
        self.close_gap();
        self.out.extend_from_slice(batch);
        self.batch_count += 1;
        self.note_timestamp(header.max_timestamp_ms());
    }

    /// Begins a batch of which only the records that are [kept](Self::keep) stay, until
    /// [`end`](Self::end).
    pub fn begin(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<(), RewriteError> {
        self.extensions.clear();
        self.extensions
            .extend_from_slice(extensions_of(header, batch)?);
        self.builder.clear();
        self.builder.set_codec(header.codec);
        self.source = *header;
        self.base = header.base_offset.0;
        Ok(())
    }

    /// Keeps the next record.
    pub fn keep(&mut self, record: &RecordView<'_>) -> Result<(), RewriteError> {
        // Pieces of this size compress in a fraction of a millisecond, and begin without gaps.
        if self.builder.size_bytes() >= REWRITTEN_BYTES_MIN {
            self.seal(record.offset.0)?;
        }
        match self.push(record) {
            Err(PushError::Full) => {
                self.seal(record.offset.0)?;
                Ok(self.push(record)?)
            }
            pushed => Ok(pushed?),
        }
    }

    /// Ends the batch.
    pub fn end(&mut self) -> Result<(), RewriteError> {
        let source = self.source;
        self.extend_span(&source);
        if self.builder.is_empty() {
            self.widen_gap(&source, self.base);
            return Ok(());
        }
        self.seal(source.next_offset().0)
    }

    /// Bytes written so far, without what stands for offsets at the end that have no record.
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// What was written, if anything was taken in; the rewriter is empty again.
    pub fn finish(&mut self) -> Option<Rewritten> {
        self.close_gap();
        let (base_offset, end_offset) = self.span.take()?;
        Some(Rewritten {
            bytes: std::mem::take(&mut self.out),
            batch_count: std::mem::take(&mut self.batch_count),
            base_offset,
            end_offset,
            max_timestamp_ms: self.max_timestamp_ms.take().unwrap_or(EMPTY_TIMESTAMP_MS),
        })
    }

    /// Drops everything that was taken in.
    pub fn clear(&mut self) {
        self.builder.clear();
        self.gap = None;
        self.out.clear();
        self.batch_count = 0;
        self.span = None;
        self.max_timestamp_ms = None;
    }

    fn push(&mut self, record: &RecordView<'_>) -> Result<(), PushError> {
        let headers: Vec<_> = record.headers.clone().collect();
        let delta = record.offset.0 - self.base;
        let is_implied = delta == u64::from(self.builder.record_count());
        let record = Record {
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: &headers,
            extensions: record.extensions,
        };
        self.builder
            .push_at(&record, (!is_implied).then_some(delta))
    }

    /// Writes the records that wait as a batch that reaches up to `end`.
    fn seal(&mut self, end: u64) -> Result<(), RewriteError> {
        self.close_gap();
        let source = self.source;
        let ahead = delta_u16(self.base - source.base_offset.0);
        self.builder.set_producer(
            source.producer_id,
            source.producer_epoch,
            source.sequence.wrapping_add(ahead.into()),
        );
        let at = self.out.len();
        self.builder.finish_into(&mut self.out)?;
        let body_at = at + BATCH_HEADER_BYTES;
        self.out
            .splice(body_at..body_at, self.extensions.iter().copied());
        let batch_bytes = (self.out.len() - at).next_multiple_of(8);
        if batch_bytes > BATCH_BYTES_MAX {
            let length = u32::try_from(batch_bytes).unwrap_or(u32::MAX);
            return Err(BatchError::TooLarge { length }.into());
        }
        self.out.resize(at + batch_bytes, 0);
        let mut header = BatchHeader::decode(&self.out[at..])?;
        header.last_offset_delta = delta_u16(end - self.base - 1);
        let extensions = source.flags.0 & BatchFlags::EXTENSIONS.0;
        header.flags = BatchFlags(BatchFlags::COMPACTED.0 | extensions);
        header.append_time_ms = source.append_time_ms;
        header.epoch = source.epoch;
        header.base_offset = Offset(self.base);
        self.note_timestamp(header.max_timestamp_ms());
        self.complete(at, header);
        self.base = end;
        Ok(())
    }

    /// Writes the header, with its checksums, of the batch that begins at `at` and is the last.
    fn complete(&mut self, at: usize, mut header: BatchHeader) {
        let batch = &mut self.out[at..];
        header.length = u32::try_from(batch.len()).expect("a batch is below 1 MiB");
        batch[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
        let crc = crc32fast::hash(&batch[32..]);
        put_at(batch, 24, crc.to_le_bytes());
        let (base, time) = (header.base_offset, header.append_time_ms);
        stamp(batch, base, time, header.epoch, self.place);
        self.batch_count += 1;
    }

    fn widen_gap(&mut self, header: &BatchHeader, from: u64) {
        let gap = self.gap.get_or_insert(Gap {
            base: from,
            end: from,
            append_time_ms: header.append_time_ms,
            epoch: header.epoch,
        });
        gap.end = header.next_offset().0;
        gap.append_time_ms = gap.append_time_ms.max(header.append_time_ms);
        gap.epoch = header.epoch;
    }

    /// Writes empty batches for the gap.
    fn close_gap(&mut self) {
        let Some(mut gap) = self.gap.take() else {
            return;
        };
        while gap.base < gap.end {
            let end = gap.end.min(gap.base + BATCH_OFFSETS_MAX);
            let at = self.out.len();
            self.out.resize(at + BATCH_HEADER_BYTES, 0);
            let header = BatchHeader {
                base_offset: Offset(gap.base),
                append_time_ms: gap.append_time_ms,
                epoch: gap.epoch,
                first_timestamp_ms: EMPTY_TIMESTAMP_MS,
                last_offset_delta: delta_u16(end - gap.base - 1),
                codec: Codec::None,
                flags: BatchFlags::COMPACTED,
                ..BatchHeader::default()
            };
            self.complete(at, header);
            gap.base = end;
        }
    }

    fn extend_span(&mut self, header: &BatchHeader) {
        let next = header.next_offset();
        match &mut self.span {
            None => self.span = Some((header.base_offset, next)),
            Some((_, end)) => {
                assert!(
                    *end == header.base_offset,
                    "{}: a batch at {} follows the end {end}",
                    self.place,
                    header.base_offset
                );
                *end = next;
            }
        }
    }

    fn note_timestamp(&mut self, timestamp_ms: i64) {
        let latest = self.max_timestamp_ms.unwrap_or(timestamp_ms);
        self.max_timestamp_ms = Some(latest.max(timestamp_ms));
    }
}

fn delta_u16(delta: u64) -> u16 {
    u16::try_from(delta).expect("a batch spans at most 65,536 offsets")
}

#[cfg(test)]
mod tests;
