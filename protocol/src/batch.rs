//! The record batch: built by a producer, stored and sent to consumers byte for byte.
//!
//! ```text
//!  0 base_offset u64 | 8 append_time_ms i64 | 16 epoch u32 | 20 length u32
//! 24 batch_crc u32   | 28 header_crc u32
//! 32 producer_id u64 | 40 first_timestamp_ms i64 | 48 sequence u32
//! 52 max_timestamp_delta_ms u32
//! 56 producer_epoch u16 | 58 record_count u16 | 60 last_offset_delta u16
//! 62 codec (low 4 bits) and encoding (high 4 bits) u8 | 63 flags u8
//! 64 extensions, if flagged: u32 bytes, then that many bytes
//!    codec none: records (see `record`)
//!    else:       u32 bytes of records, u32 bytes compressed, the compressed records
//!    zeros up to `length`, a multiple of 8
//! ```
//!
//! The broker stamps bytes 0..20 and `header_crc`; everything else is the producer's, and covered
//! by `batch_crc` (CRC-32 of 32..length). `header_crc` is the CRC-32 of 0..28, 32..64, topic u32
//! and partition u32, so that a header in the place of another can not pass.
//!
//! Invariant: `record_count`, never the length, ends the reading of records, so the padding is
//! not taken for one. No I/O; any thread.

mod builder;
mod header;
mod reader;
mod rewriter;

pub use builder::{BatchBuilder, BatchOptions, PushError};
pub use header::{
    BATCH_HEADER_BYTES, BatchFlags, BatchHeader, Encoding, Split, set_producer, split, stamp,
    verify_body, verify_header,
};
pub use reader::{BatchReader, Decompressor, RecordView, Records};
pub use rewriter::{BatchRewriter, RewriteError, Rewritten};

use crate::compression::CompressionError;
use crate::error::ErrorCode;
use crate::ids::TopicPartition;
use crate::limits::{BATCH_BYTES_MAX, DECOMPRESSED_BYTES_MAX};
use crate::record::RecordError;

/// Why a batch can not be taken or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch needs.
    #[error("batch of {expected} bytes, only {actual} are there")]
    Truncated {
        /// Bytes there.
        actual: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The length is below the header's, or not a multiple of 8.
    #[error("batch length {length} is not a multiple of 8 of at least 64")]
    Length {
        /// The length field.
        length: u32,
    },
    /// The batch is over the limit.
    #[error("batch of {length} bytes, at most {BATCH_BYTES_MAX} allowed")]
    TooLarge {
        /// The length field.
        length: u32,
    },
    /// More records than offsets, or none in a batch that was never compacted.
    #[error("batch of {record_count} records spans offsets up to +{last_offset_delta}")]
    Counts {
        /// The count of records.
        record_count: u16,
        /// The last offset, relative to the base.
        last_offset_delta: u16,
    },
    /// Offsets or times pass the end of their number range.
    #[error("batch offsets or timestamps are out of range")]
    Range,
    /// A codec this version does not know.
    #[error("batch codec {codec} is unknown")]
    UnknownCodec {
        /// The number.
        codec: u8,
    },
    /// A record encoding this version does not know.
    #[error("batch encoding {encoding} is unknown")]
    UnknownEncoding {
        /// The number.
        encoding: u8,
    },
    /// Flags this version does not know, or that a producer may not set.
    #[error("batch flags {flags:#010b} are not allowed here")]
    Flags {
        /// The flags.
        flags: u8,
    },
    /// The body is damaged.
    #[error("batch checksum is {actual:#010x}, the header says {expected:#010x}")]
    BodyCrc {
        /// The checksum of the bytes.
        actual: u32,
        /// The checksum in the header.
        expected: u32,
    },
    /// The header is damaged, or belongs to another partition.
    #[error("batch header checksum for {place} is {actual:#010x}, expected {expected:#010x}")]
    HeaderCrc {
        /// The partition the batch was looked for in.
        place: TopicPartition,
        /// The checksum of the bytes.
        actual: u32,
        /// The checksum in the header.
        expected: u32,
    },
    /// The sizes of extensions or compressed records do not fit into the batch.
    #[error("batch sections do not fit into its length")]
    Sections,
    /// The records are larger than the limit when decompressed.
    #[error("batch of {bytes} bytes decompressed, at most {DECOMPRESSED_BYTES_MAX} allowed")]
    DecompressedTooLarge {
        /// Bytes announced.
        bytes: u32,
    },
    /// The codec failed.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A record does not follow the format.
    #[error(transparent)]
    Record(#[from] RecordError),
}

impl BatchError {
    /// The code a broker answers with.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::BatchTooLarge,
            Self::Truncated { .. } | Self::BodyCrc { .. } | Self::HeaderCrc { .. } => {
                ErrorCode::BatchCorrupt
            }
            Self::Length { .. }
            | Self::Counts { .. }
            | Self::Range
            | Self::UnknownCodec { .. }
            | Self::UnknownEncoding { .. }
            | Self::Flags { .. }
            | Self::Sections
            | Self::DecompressedTooLarge { .. }
            | Self::Compression(_)
            | Self::Record(_) => ErrorCode::InvalidBatch,
        }
    }
}

#[cfg(test)]
mod tests;
