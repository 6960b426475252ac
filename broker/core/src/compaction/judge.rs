//! Which records of a batch go.
//!
//! Invariant: a record goes only if a newer one of its key was noted, or if it is a tombstone
//! below the offset up to which their time is over. Steps are bounded by a count of records.

use catena_protocol::batch::{
    BatchError, BatchFlags, BatchHeader, Decompressor, RecordView, Records,
};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::Offset;
use catena_protocol::limits::KEYED_RECORDS_BYTES_MAX;
use catena_protocol::record::RecordError;
use thiserror::Error;

use super::{KeyHasher, KeyMap, KeysFull};
use crate::planted::{self, Bug};

/// Why the records of a batch cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JudgeError {
    /// The batch cannot be read.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record of it cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its records are too many bytes for one step.
    #[error("{bytes} bytes of records in one batch; at most {limit} are compacted")]
    TooLarge {
        /// The bytes, decompressed.
        bytes: usize,
        /// The most that are looked at.
        limit: usize,
    },
}

impl JudgeError {
    /// What a producer of such a batch is answered.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Batch(error) => error.code(),
            Self::Record(_) => ErrorCode::InvalidBatch,
            Self::TooLarge { .. } => ErrorCode::BatchTooLarge,
        }
    }
}

/// What was found out about a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Verdicts {
    /// For each record in order, whether it stays.
    pub stays: Vec<bool>,
    /// Records that do not.
    pub dropped: u64,
    /// Of these, tombstones whose time is over.
    pub expired: u64,
    /// Whether a tombstone stays.
    pub has_tombstones: bool,
}

/// The map of keys is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the map of keys is full at offset {at}")]
pub struct NotedTo {
    /// The first record that was not noted.
    pub at: Offset,
}

/// Decides about records.
#[derive(Debug)]
pub struct Judge {
    hasher: KeyHasher,
    keys: KeyMap,
    tombstones_below: Offset,
}

impl Judge {
    /// Judges by the keys that a [pass](super::Pass) notes; tombstones below `tombstones_below`
    /// go, too.
    pub const fn new(hasher: KeyHasher, keys: KeyMap, tombstones_below: Offset) -> Self {
        Self {
            hasher,
            keys,
            tombstones_below,
        }
    }

    /// The records of a batch, decompressed, if they are few enough bytes for one step. A batch
    /// that only the broker writes has none that count.
    ///
    /// # Errors
    /// [`JudgeError`].
    pub fn open<'a>(
        header: &BatchHeader,
        batch: &'a [u8],
        decompressor: &'a mut Decompressor,
    ) -> Result<Records<'a>, JudgeError> {
        let bytes = Decompressor::records_bytes(header, batch)?;
        if bytes > KEYED_RECORDS_BYTES_MAX {
            let limit = KEYED_RECORDS_BYTES_MAX;
            return Err(JudgeError::TooLarge { bytes, limit });
        }
        Ok(Records::new(header, decompressor.records(header, batch)?))
    }

    /// Notes the keys of up to `most` further records, of those from the offset `from` on; gives
    /// whether there were so many, and more may follow.
    ///
    /// # Errors
    /// The outer one if a record cannot be read, the inner one if the map is full. What was noted
    /// before stays.
    pub(super) fn note(
        &mut self,
        records: &mut Records<'_>,
        most: usize,
        from: Offset,
    ) -> Result<Result<bool, NotedTo>, JudgeError> {
        let mut seen = 0;
        for record in records.by_ref().take(most) {
            let record = record?;
            seen += 1;
            let Some(key) = record.key.filter(|_| record.offset >= from) else {
                continue;
            };
            let key = self.hasher.hash(key);
            if let Err(KeysFull) = self.keys.note(key, record.offset) {
                return Ok(Err(NotedTo { at: record.offset }));
            }
        }
        Ok(Ok(seen == most))
    }

    /// Judges up to `most` further records; gives whether there were so many.
    ///
    /// # Errors
    /// If a record cannot be read.
    pub fn judge(
        &self,
        records: &mut Records<'_>,
        most: usize,
        verdicts: &mut Verdicts,
    ) -> Result<bool, JudgeError> {
        let mut judged = 0;
        for record in records.by_ref().take(most) {
            let record = record?;
            judged += 1;
            let is_expired = self.is_expired(&record);
            let stays = !is_expired && !self.is_superseded(&record);
            verdicts.stays.push(stays);
            verdicts.dropped += u64::from(!stays);
            verdicts.expired += u64::from(is_expired);
            verdicts.has_tombstones |= stays && is_tombstone(&record);
        }
        Ok(judged == most)
    }

    /// Whether every record of a batch counts as it is, whatever is in it.
    pub const fn leaves(header: &BatchHeader) -> bool {
        header.record_count == 0 || header.flags.contains(BatchFlags::CONTROL)
    }

    fn is_superseded(&self, record: &RecordView<'_>) -> bool {
        let newest = record.key.and_then(|key| {
            let key = self.hasher.hash(key);
            self.keys.newest(key)
        });
        if planted::is(Bug::CompactionDropsNewest) {
            return newest.is_some_and(|newest| newest >= record.offset);
        }
        newest.is_some_and(|newest| newest > record.offset)
    }

    fn is_expired(&self, record: &RecordView<'_>) -> bool {
        is_tombstone(record) && record.offset < self.tombstones_below
    }

    /// Keys noted.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }
}

const fn is_tombstone(record: &RecordView<'_>) -> bool {
    record.key.is_some() && record.value.is_none()
}
