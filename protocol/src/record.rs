//! The record: one message inside a batch.
//!
//! ```text
//! attributes       u8      bit 0: a timestamp delta follows; bit 1: an offset delta follows;
//!                          bit 2: the value is null; bit 3: extensions follow; others 0
//! length           varint  bytes of the record after this field
//! timestamp delta  zigzag  to the batch's first timestamp; 0 if absent
//! offset delta     varint  to the batch's base offset; the record's index if absent
//! key length + 1   varint  0: the key is null
//! key
//! header count     varint
//!   name length    varint  UTF-8
//!   name
//!   length + 1     varint  0: the header's value is null
//!   value
//! extensions       varint  their length, if flagged
//!   bytes
//! value                    the rest; none if it is null
//! ```
//!
//! Varints are LEB128 (7 bits a byte, low bits first), of at most 10 bytes. A small record has 4
//! to 9 bytes of overhead. Invariant: a decoded record lies wholly inside its announced length,
//! and decoding allocates nothing. Any thread.

pub(crate) mod varint;

use crate::limits::{HEADER_NAME_BYTES_MAX, HEADERS_PER_RECORD_MAX};
use varint::{read_varint, unzigzag, varint_bytes, write_varint, zigzag};

const HAS_TIMESTAMP_DELTA: u8 = 1;
const HAS_OFFSET_DELTA: u8 = 1 << 1;
const VALUE_IS_NULL: u8 = 1 << 2;
const HAS_EXTENSIONS: u8 = 1 << 3;
const ATTRIBUTES_KNOWN: u8 = 0b1111;

/// A record to be written. Null (`None`) and empty differ, for key, value and header values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// The producer's time, in ms since 1970.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The headers, in order; names may repeat.
    pub headers: &'a [RecordHeader<'a>],
    /// Extensions (TLVs), or empty.
    pub extensions: &'a [u8],
}

impl<'a> Record<'a> {
    /// A record of a value alone, with time 0.
    pub const fn from_value(value: &'a [u8]) -> Self {
        Self {
            timestamp_ms: 0,
            key: None,
            value: Some(value),
            headers: &[],
            extensions: &[],
        }
    }
}

/// A header of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    /// The name.
    pub name: &'a str,
    /// The value.
    pub value: Option<&'a [u8]>,
}

/// Why a record can not be read, or may not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end inside the record, or a part leaves the record's length.
    #[error("record {index} ends before its parts do")]
    Truncated {
        /// The record's index in its batch.
        index: u16,
    },
    /// A varint of more than 10 bytes or 64 bits.
    #[error("record {index} has a number that is too long")]
    Varint {
        /// The record's index in its batch.
        index: u16,
    },
    /// Attributes this version does not know.
    #[error("record {index} has unknown attributes {attributes:#010b}")]
    Attributes {
        /// The record's index in its batch.
        index: u16,
        /// The attributes.
        attributes: u8,
    },
    /// The offset leaves the batch or does not rise, or the timestamp leaves its number range.
    #[error("record {index} has an offset or timestamp outside its batch")]
    Range {
        /// The record's index in its batch.
        index: u16,
    },
    /// More headers than allowed, or a name that is too long.
    #[error("record {index} has too many headers or too long a name")]
    Headers {
        /// The record's index in its batch.
        index: u16,
    },
    /// A header's name is not UTF-8.
    #[error("record {index} has a header name that is not UTF-8")]
    HeaderName {
        /// The record's index in its batch.
        index: u16,
    },
    /// A null value with bytes behind it.
    #[error("record {index} has a null value of some bytes")]
    NullValue {
        /// The record's index in its batch.
        index: u16,
    },
}

/// The sizes of a record that is about to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordPlan {
    timestamp_delta: i64,
    /// `None`: the record's index.
    offset_delta: Option<u64>,
    body_bytes: usize,
    /// Bytes of the whole record.
    pub(crate) bytes: usize,
}

impl RecordPlan {
    /// The plan for `record` in a batch whose first timestamp is `timestamp_delta` before its
    /// own. `None` if its headers are outside the limits. An absent `offset_delta` stands for the
    /// record's index.
    pub(crate) fn new(
        record: &Record<'_>,
        timestamp_delta: i64,
        offset_delta: Option<u64>,
    ) -> Option<Self> {
        let mut body_bytes = optional_bytes(record.key) + varint_bytes(len_u64(record.headers));
        if timestamp_delta != 0 {
            body_bytes += varint_bytes(zigzag(timestamp_delta));
        }
        body_bytes += offset_delta.map_or(0, varint_bytes);
        if record.headers.len() > HEADERS_PER_RECORD_MAX {
            return None;
        }
        for header in record.headers {
            if header.name.len() > HEADER_NAME_BYTES_MAX {
                return None;
            }
            body_bytes += varint_bytes(len_u64(header.name.as_bytes())) + header.name.len();
            body_bytes += optional_bytes(header.value);
        }
        if !record.extensions.is_empty() {
            body_bytes += varint_bytes(len_u64(record.extensions)) + record.extensions.len();
        }
        body_bytes += record.value.map_or(0, <[u8]>::len);
        let bytes = 1 + varint_bytes(body_bytes as u64) + body_bytes;
        Some(Self {
            timestamp_delta,
            offset_delta,
            body_bytes,
            bytes,
        })
    }

    /// Appends the record.
    pub(crate) fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(self.bytes);
        out.push(self.attributes(record));
        write_varint(out, self.body_bytes as u64);
        if self.timestamp_delta != 0 {
            write_varint(out, zigzag(self.timestamp_delta));
        }
        if let Some(delta) = self.offset_delta {
            write_varint(out, delta);
        }
        write_optional(out, record.key);
        write_varint(out, len_u64(record.headers));
        for header in record.headers {
            write_varint(out, len_u64(header.name.as_bytes()));
            out.extend_from_slice(header.name.as_bytes());
            write_optional(out, header.value);
        }
        if !record.extensions.is_empty() {
            write_varint(out, len_u64(record.extensions));
            out.extend_from_slice(record.extensions);
        }
        out.extend_from_slice(record.value.unwrap_or_default());
        debug_assert_eq!(
            out.len() - start,
            self.bytes,
            "the plan counts what is written"
        );
    }

    fn attributes(&self, record: &Record<'_>) -> u8 {
        let mut attributes = 0;
        if self.timestamp_delta != 0 {
            attributes |= HAS_TIMESTAMP_DELTA;
        }
        if self.offset_delta.is_some() {
            attributes |= HAS_OFFSET_DELTA;
        }
        if record.value.is_none() {
            attributes |= VALUE_IS_NULL;
        }
        if !record.extensions.is_empty() {
            attributes |= HAS_EXTENSIONS;
        }
        attributes
    }
}

fn len_u64<T>(slice: &[T]) -> u64 {
    slice.len() as u64
}

fn optional_bytes(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint_bytes(len_u64(bytes) + 1) + bytes.len())
}

fn write_optional(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => out.push(0),
        Some(bytes) => {
            write_varint(out, len_u64(bytes) + 1);
            out.extend_from_slice(bytes);
        }
    }
}

/// A record as it lies in the batch, its deltas not yet added to the batch's bases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawRecord<'a> {
    pub(crate) timestamp_delta: i64,
    pub(crate) offset_delta: Option<u64>,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: RecordHeaders<'a>,
    pub(crate) extensions: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Takes the first record off `bytes`. `index` only goes into errors.
    pub(crate) fn take(bytes: &mut &'a [u8], index: u16) -> Result<Self, RecordError> {
        let attributes = *bytes
            .split_off_first()
            .ok_or(RecordError::Truncated { index })?;
        if attributes & !ATTRIBUTES_KNOWN != 0 {
            return Err(RecordError::Attributes { index, attributes });
        }
        let length = read_number(bytes, index)?;
        let mut body = take_bytes(bytes, length, index)?;
        let timestamp_delta = match attributes & HAS_TIMESTAMP_DELTA {
            0 => 0,
            _ => unzigzag(read_number(&mut body, index)?),
        };
        let offset_delta = match attributes & HAS_OFFSET_DELTA {
            0 => None,
            _ => Some(read_number(&mut body, index)?),
        };
        let key = take_optional(&mut body, index)?;
        let headers = RecordHeaders::take(&mut body, index)?;
        let extensions = if attributes & HAS_EXTENSIONS == 0 {
            &[]
        } else {
            let length = read_number(&mut body, index)?;
            take_bytes(&mut body, length, index)?
        };
        let value = match (attributes & VALUE_IS_NULL != 0, body.is_empty()) {
            (true, true) => None,
            (true, false) => return Err(RecordError::NullValue { index }),
            (false, _) => Some(body),
        };
        Ok(Self {
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers,
            extensions,
        })
    }
}

fn read_number(bytes: &mut &[u8], index: u16) -> Result<u64, RecordError> {
    match read_varint(bytes) {
        Some(number) => Ok(number),
        None if bytes.len() < varint::VARINT_BYTES_MAX
            && bytes.iter().all(|byte| *byte >= 0x80) =>
        {
            Err(RecordError::Truncated { index })
        }
        None => Err(RecordError::Varint { index }),
    }
}

fn take_bytes<'a>(bytes: &mut &'a [u8], length: u64, index: u16) -> Result<&'a [u8], RecordError> {
    let length = usize::try_from(length).map_err(|_| RecordError::Truncated { index })?;
    bytes
        .split_off(..length)
        .ok_or(RecordError::Truncated { index })
}

fn take_optional<'a>(bytes: &mut &'a [u8], index: u16) -> Result<Option<&'a [u8]>, RecordError> {
    match read_number(bytes, index)?.checked_sub(1) {
        None => Ok(None),
        Some(length) => take_bytes(bytes, length, index).map(Some),
    }
}

/// The headers of a record that was read, in order. Already checked: the iterator has no errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordHeaders<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> RecordHeaders<'a> {
    /// Walks over the headers at the start of `bytes` and takes them off.
    fn take(bytes: &mut &'a [u8], index: u16) -> Result<Self, RecordError> {
        let count = read_number(bytes, index)?;
        if count == 0 {
            return Ok(Self::default());
        }
        let count = usize::try_from(count).map_err(|_| RecordError::Headers { index })?;
        if count > HEADERS_PER_RECORD_MAX {
            return Err(RecordError::Headers { index });
        }
        let start = *bytes;
        for _ in 0..count {
            let name_bytes = read_number(bytes, index)?;
            if name_bytes > HEADER_NAME_BYTES_MAX as u64 {
                return Err(RecordError::Headers { index });
            }
            let name = take_bytes(bytes, name_bytes, index)?;
            str::from_utf8(name).map_err(|_| RecordError::HeaderName { index })?;
            take_optional(bytes, index)?;
        }
        Ok(Self {
            count,
            bytes: &start[..start.len() - bytes.len()],
        })
    }
}

impl<'a> Iterator for RecordHeaders<'a> {
    type Item = RecordHeader<'a>;

    fn next(&mut self) -> Option<RecordHeader<'a>> {
        self.count = self.count.checked_sub(1)?;
        let checked = "the headers were checked when the record was read";
        let name_bytes = read_varint(&mut self.bytes).expect(checked);
        let name = take_bytes(&mut self.bytes, name_bytes, 0).expect(checked);
        let name = str::from_utf8(name).expect(checked);
        let value = take_optional(&mut self.bytes, 0).expect(checked);
        Some(RecordHeader { name, value })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for RecordHeaders<'_> {}
