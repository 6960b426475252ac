//! The body of a `Batches` frame or a `Relocation` record: a directory of rows, then the batches in
//! row order.
//!
//! ```text
//! row:  0 topic u32 | 4 partition u32 | 8 batch_count u32 | 12 bytes u32
//! ```
//!
//! Invariant: the batches of a [`BatchRows`] tile its body exactly, row by row.

use catena_protocol::batch::{self, BATCH_HEADER_BYTES, BatchError, BatchHeader};
use catena_protocol::ids::{PartitionId, TopicId, TopicPartition};
use crc32fast::Hasher;

use super::{EntryError, ROW_BYTES};
use crate::layout::{put_u32, to_u32, to_usize, u32_at};

/// Where a batch's length lies in its header.
const BATCH_LENGTH_AT: usize = 20;

/// Writes a directory row into the first [`ROW_BYTES`] of `out`.
///
/// # Panics
/// If `out` is shorter than that.
pub fn write_row(out: &mut [u8], tp: TopicPartition, batch_count: u32, bytes: u32) {
    put_u32(out, 0, tp.topic.0);
    put_u32(out, 4, tp.partition.0);
    put_u32(out, 8, batch_count);
    put_u32(out, 12, bytes);
}

/// The rows of a frame or a relocation, in the order of its batches.
#[derive(Clone, Copy, Debug)]
pub struct BatchRows<'a> {
    directory: &'a [u8],
    batches: &'a [u8],
}

/// The batches of one partition in a frame.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    pub tp: TopicPartition,
    pub batch_count: u32,
    /// Where the first batch starts, from the start of the frame's body.
    pub offset_in_body: u32,
    /// The batches, one behind the other.
    pub bytes: &'a [u8],
}

/// One batch of a row.
#[derive(Clone, Copy, Debug)]
pub struct BatchView<'a> {
    pub tp: TopicPartition,
    pub header: BatchHeader,
    /// The whole batch, header included.
    pub bytes: &'a [u8],
    /// Where the batch starts, from the start of the frame's body.
    pub offset_in_body: u32,
}

impl BatchView<'_> {
    /// Checks the batch's own two crcs: that the header belongs to this partition and that the body
    /// is what the producer sent.
    pub fn verify(&self) -> Result<(), BatchError> {
        let header = self
            .bytes
            .first_chunk()
            .expect("a batch is no shorter than its header");
        batch::verify_header(header, self.tp)?;
        batch::verify_body(self.bytes)
    }
}

impl<'a> BatchRows<'a> {
    /// Checks that rows and batch lengths tile `body`.
    pub(super) fn check_geometry(body: &'a [u8], row_count: u16) -> Result<Self, EntryError> {
        let directory_bytes = usize::from(row_count) * ROW_BYTES;
        if directory_bytes > body.len() {
            return Err(EntryError::Directory {
                row_count,
                body_bytes: to_u32(body.len()),
            });
        }
        let (directory, mut rest) = body.split_at(directory_bytes);
        for (row, entry) in (0u16..).zip(directory.chunks_exact(ROW_BYTES)) {
            let row_bytes = to_usize(u32_at(entry, 12));
            let Some((batches, behind)) = rest.split_at_checked(row_bytes) else {
                return Err(EntryError::Row { row });
            };
            let found = count_batches(batches).ok_or(EntryError::Row { row })?;
            if found == 0 || found != u32_at(entry, 8) {
                return Err(EntryError::Row { row });
            }
            rest = behind;
        }
        if row_count == 0 || !rest.is_empty() {
            return Err(EntryError::Directory {
                row_count,
                body_bytes: to_u32(body.len()),
            });
        }
        Ok(Self {
            directory,
            batches: &body[directory_bytes..],
        })
    }

    /// Rows over a body that was checked before, or was just written.
    pub(super) fn new_trusted(body: &'a [u8], row_count: u16) -> Self {
        let (directory, batches) = body.split_at(usize::from(row_count) * ROW_BYTES);
        Self { directory, batches }
    }

    /// Adds what the entry's crc covers of the body: rows, then every batch's header.
    pub(super) fn hash_heads(&self, hasher: &mut Hasher) {
        hasher.update(self.directory);
        let mut rest = self.batches;
        while !rest.is_empty() {
            let length = to_usize(u32_at(rest, BATCH_LENGTH_AT));
            hasher.update(&rest[..BATCH_HEADER_BYTES]);
            rest = &rest[length..];
        }
    }

    /// Checks the fields of every batch header, so that iteration cannot fail later.
    pub(super) fn check_batch_headers(&self) -> Result<(), EntryError> {
        for (row, view) in (0u16..).zip(self.iter()) {
            let mut rest = view.bytes;
            while !rest.is_empty() {
                let header = BatchHeader::decode(rest)
                    .map_err(|source| EntryError::Batch { row, source })?;
                rest = &rest[to_usize(header.length)..];
            }
        }
        Ok(())
    }

    /// How many rows there are.
    pub const fn row_count(&self) -> usize {
        self.directory.len() / ROW_BYTES
    }

    /// The rows in order.
    pub fn iter(&self) -> impl Iterator<Item = RowView<'a>> + use<'a> {
        let batches = self.batches;
        let directory_bytes = self.directory.len();
        let mut at = 0;
        self.directory.chunks_exact(ROW_BYTES).map(move |row| {
            let row_bytes = to_usize(u32_at(row, 12));
            let view = RowView {
                tp: TopicPartition {
                    topic: TopicId(u32_at(row, 0)),
                    partition: PartitionId(u32_at(row, 4)),
                },
                batch_count: u32_at(row, 8),
                offset_in_body: to_u32(directory_bytes + at),
                bytes: &batches[at..at + row_bytes],
            };
            at += row_bytes;
            view
        })
    }

    /// All batches of all rows, in order.
    pub fn batches(&self) -> impl Iterator<Item = BatchView<'a>> + use<'a> {
        self.iter().flat_map(|row| row.batches())
    }
}

impl<'a> RowView<'a> {
    /// The row's batches in order.
    pub const fn batches(&self) -> Batches<'a> {
        Batches {
            tp: self.tp,
            offset_in_body: self.offset_in_body,
            rest: self.bytes,
        }
    }
}

/// Iterator over the batches of a row.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    tp: TopicPartition,
    offset_in_body: u32,
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = BatchView<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let header = BatchHeader::decode(self.rest).expect("the frame's batch headers are checked");
        let (bytes, rest) = self.rest.split_at(to_usize(header.length));
        let offset_in_body = self.offset_in_body;
        self.rest = rest;
        self.offset_in_body += header.length;
        Some(BatchView {
            tp: self.tp,
            header,
            bytes,
            offset_in_body,
        })
    }
}

/// How many batches tile `bytes`, or `None` if their lengths do not.
fn count_batches(bytes: &[u8]) -> Option<u32> {
    let mut rest = bytes;
    let mut count = 0;
    while !rest.is_empty() {
        if rest.len() < BATCH_HEADER_BYTES {
            return None;
        }
        let length = to_usize(u32_at(rest, BATCH_LENGTH_AT));
        if length < BATCH_HEADER_BYTES || length > rest.len() {
            return None;
        }
        rest = &rest[length..];
        count += 1;
    }
    Some(count)
}
