//! Reads the records of a batch, in place or out of a decompression buffer.
//!
//! Invariant: no allocation per record; at most `DECOMPRESSED_BYTES_MAX` per batch; exactly
//! `record_count` records are read, with offsets that rise and stay inside the batch. A
//! decompressor belongs to one thread at a time.

use bytes::Bytes;

use super::BatchError;
use super::header::{BATCH_HEADER_BYTES, BatchFlags, BatchHeader};
use crate::bytes_at::u32_at;
use crate::compression::{Codec, Expander};
use crate::ids::Offset;
use crate::limits::DECOMPRESSED_BYTES_MAX;
use crate::record::{RawRecord, RecordError, RecordHeaders};

/// A record as a consumer sees it. Null (`None`) and empty differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// The record's offset in its partition.
    pub offset: Offset,
    /// The producer's time, in ms since 1970.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The headers, in order.
    pub headers: RecordHeaders<'a>,
    /// Extensions (TLVs), or empty.
    pub extensions: &'a [u8],
}

/// The records of a batch, in order. Stops after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    base_offset: u64,
    first_timestamp_ms: i64,
    last_offset_delta: u64,
    /// The lowest offset delta the next record may have.
    delta_min: u64,
    index: u16,
    record_count: u16,
}

impl<'a> Records<'a> {
    /// Reads `records`, the record section of the batch with `header`, decompressed (see
    /// [`Decompressor`]).
    pub fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        Self {
            bytes: records,
            base_offset: header.base_offset.0,
            first_timestamp_ms: header.first_timestamp_ms,
            last_offset_delta: header.last_offset_delta.into(),
            delta_min: 0,
            index: 0,
            record_count: header.record_count,
        }
    }

    fn take(&mut self) -> Result<RecordView<'a>, RecordError> {
        let index = self.index;
        let raw = RawRecord::take(&mut self.bytes, index)?;
        let delta = raw.offset_delta.unwrap_or_else(|| index.into());
        let timestamp_ms = self.first_timestamp_ms.checked_add(raw.timestamp_delta);
        let offset = self.base_offset.checked_add(delta);
        let (Some(timestamp_ms), Some(offset)) = (timestamp_ms, offset) else {
            return Err(RecordError::Range { index });
        };
        if delta < self.delta_min || delta > self.last_offset_delta {
            return Err(RecordError::Range { index });
        }
        self.delta_min = delta + 1;
        Ok(RecordView {
            offset: Offset(offset),
            timestamp_ms,
            key: raw.key,
            value: raw.value,
            headers: raw.headers,
            extensions: raw.extensions,
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.record_count {
            return None;
        }
        let record = self.take();
        if record.is_ok() {
            self.index += 1;
        } else {
            self.record_count = 0;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.record_count.saturating_sub(self.index));
        (left.min(1), Some(left))
    }
}

impl std::iter::FusedIterator for Records<'_> {}

/// Gives the record section of a batch, decompressed. Keeps its codec's context and its buffer
/// from batch to batch.
#[derive(Debug, Default)]
pub struct Decompressor {
    expander: Expander,
    buffer: Vec<u8>,
}

impl Decompressor {
    /// How many bytes [`records`](Self::records) would give, as the batch announces them.
    pub fn records_bytes(header: &BatchHeader, batch: &[u8]) -> Result<usize, BatchError> {
        let section = record_section(header, batch)?;
        if header.codec == Codec::None {
            return Ok(section.len());
        }
        let announced = section.get(..4).ok_or(BatchError::Sections)?;
        Ok(u32_at(announced, 0) as usize)
    }

    /// The records of `batch`, which `header` was decoded from: a part of `batch`, or of this
    /// decompressor's buffer. Checks no checksum.
    pub fn records<'a>(
        &'a mut self,
        header: &BatchHeader,
        batch: &'a [u8],
    ) -> Result<&'a [u8], BatchError> {
        let section = record_section(header, batch)?;
        if header.codec == Codec::None {
            return Ok(section);
        }
        self.buffer.clear();
        expand(&mut self.expander, header.codec, section, &mut self.buffer)?;
        Ok(&self.buffer)
    }

    /// As [`Decompressor::records`], for holders of [`Bytes`]: shares the batch's memory, or
    /// gives memory of its own if the records were compressed.
    pub fn records_shared(
        &mut self,
        header: &BatchHeader,
        batch: &Bytes,
    ) -> Result<Bytes, BatchError> {
        let section = record_section(header, batch)?;
        if header.codec == Codec::None {
            return Ok(batch.slice_ref(section));
        }
        let mut records = Vec::new();
        expand(&mut self.expander, header.codec, section, &mut records)?;
        Ok(Bytes::from(records))
    }
}

/// The bytes behind header and extensions, padding included.
fn record_section<'a>(header: &BatchHeader, batch: &'a [u8]) -> Result<&'a [u8], BatchError> {
    Ok(sections(header, batch)?.1)
}

/// The extensions of a batch with their length before them; nothing if it has none.
pub(super) fn extensions_of<'a>(
    header: &BatchHeader,
    batch: &'a [u8],
) -> Result<&'a [u8], BatchError> {
    Ok(sections(header, batch)?.0)
}

/// The extensions, and what is behind them.
fn sections<'a>(header: &BatchHeader, batch: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), BatchError> {
    let expected = header.length as usize;
    let Some(body) = batch.get(BATCH_HEADER_BYTES..expected) else {
        return Err(BatchError::Truncated {
            actual: batch.len(),
            expected,
        });
    };
    if !header.flags.contains(BatchFlags::EXTENSIONS) {
        return Ok(body.split_at(0));
    }
    let length = body.get(..4).ok_or(BatchError::Sections)?;
    let end = (u32_at(length, 0) as usize).saturating_add(4);
    body.split_at_checked(end).ok_or(BatchError::Sections)
}

fn expand(
    expander: &mut Expander,
    codec: Codec,
    mut section: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let lengths = section.split_off(..8).ok_or(BatchError::Sections)?;
    let (bytes, compressed_bytes) = (u32_at(lengths, 0), u32_at(lengths, 4) as usize);
    let compressed = section
        .get(..compressed_bytes)
        .ok_or(BatchError::Sections)?;
    if bytes as usize > DECOMPRESSED_BYTES_MAX {
        return Err(BatchError::DecompressedTooLarge { bytes });
    }
    Ok(expander.expand(codec, compressed, bytes as usize, out)?)
}

/// A batch and its records: the header is decoded, the records are read one by one.
#[derive(Clone, Debug)]
pub struct BatchReader<'a> {
    header: BatchHeader,
    records: Records<'a>,
}

impl<'a> BatchReader<'a> {
    /// Opens the batch at the start of `batch`. Checks structure, not checksums: see
    /// [`verify_body`](super::verify_body) and [`verify_header`](super::verify_header).
    pub fn open(batch: &'a [u8], decompressor: &'a mut Decompressor) -> Result<Self, BatchError> {
        let header = BatchHeader::decode(batch)?;
        let records = Records::new(&header, decompressor.records(&header, batch)?);
        Ok(Self { header, records })
    }

    /// The batch's header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }
}

impl<'a> Iterator for BatchReader<'a> {
    type Item = Result<RecordView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.records.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.records.size_hint()
    }
}
