//! Producer state: what makes a retried batch land once.
//!
//! Sequences count the records of a producer in a partition, as a `u32` that wraps. A batch is
//! appended only if it starts at the expected sequence, so a batch whose last sequence is not
//! above the last one stored is a duplicate, however long ago it was written; its offset is known
//! if it lies in one of the last few *runs* of (sequence, offset) that the row remembers.
//!
//! Invariant: a row is a function of the batches appended since the row began, in order; the same
//! batches give the same row live and in recovery. Owned by one shard; not shared.

mod row;

use std::hash::BuildHasher;

use catena_protocol::batch::BatchHeader;
use catena_protocol::ids::{Offset, ProducerEpoch, ProducerId, Sequence};
use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

use crate::planted::{self, Bug};
use crate::slot::PartitionSlot;

pub use row::ProducerRow;
pub(crate) use row::{PRODUCER_ROW_BYTES, seconds};

/// A row is dropped by its partition and producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerKey {
    /// The partition.
    pub slot: PartitionSlot,
    /// The producer.
    pub producer: ProducerId,
}

/// The producer's side of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// Who sent it. Zero means that the batch is not idempotent and is never checked.
    pub producer: ProducerId,
    /// The epoch of the producer id.
    pub epoch: ProducerEpoch,
    /// Sequence of its first record.
    pub sequence: Sequence,
    /// Its records, 1 or more.
    pub record_count: u16,
}

impl ProducerBatch {
    /// The producer's fields of a batch header.
    pub const fn of(header: &BatchHeader) -> Self {
        Self {
            producer: header.producer_id,
            epoch: header.producer_epoch,
            sequence: header.sequence,
            record_count: header.record_count,
        }
    }
}

/// What is to be done with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Append it.
    Append,
    /// It was appended before. Its reply may say so once the partition's high watermark has
    /// reached `end_offset`, the end of the producer's last appended batch.
    Duplicate {
        /// The offset it got, if that is still known.
        base_offset: Option<Offset>,
        /// The end of the producer's last appended batch.
        end_offset: Offset,
    },
    /// A batch before it is missing, or it straddles the last stored sequence.
    Gap {
        /// The sequence that the next batch must start with.
        expected: Sequence,
    },
    /// The producer id has a newer epoch.
    Fenced {
        /// That epoch.
        current: ProducerEpoch,
    },
    /// Nothing is known of the producer, and the batch is not its first.
    Unknown,
}

/// A row with its key, in a cache line of its own: with many partitions each batch fetches one.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    key: ProducerKey,
    row: ProducerRow,
}

/// The rows of all producers in the partitions of one chain.
#[derive(Debug, Default)]
pub struct ProducerTable {
    rows: HashTable<Entry>,
}

impl ProducerTable {
    /// What is to be done with a batch; changes nothing.
    pub fn check(&self, slot: PartitionSlot, batch: &ProducerBatch) -> Verdict {
        if batch.producer == ProducerId(0) || planted::is(Bug::DuplicateOnReconnect) {
            return Verdict::Append;
        }
        let key = ProducerKey {
            slot,
            producer: batch.producer,
        };
        match self.row(key) {
            Some(row) => row.check(batch),
            None if batch.sequence == Sequence(0) => Verdict::Append,
            None => Verdict::Unknown,
        }
    }

    /// Notes an appended batch; returns the row as it was before, which undoes it. The batch is
    /// taken as it is: one that does not continue its row begins it anew.
    pub fn record(
        &mut self,
        slot: PartitionSlot,
        batch: &ProducerBatch,
        base_offset: Offset,
        append_time_ms: i64,
    ) -> Option<ProducerRow> {
        let key = ProducerKey {
            slot,
            producer: batch.producer,
        };
        if let Some(Entry { row, .. }) = self.rows.find_mut(hash(&key), |entry| entry.key == key) {
            let before = *row;
            if row.continues_with(batch) {
                row.extend(batch, base_offset, append_time_ms);
            } else {
                *row = ProducerRow::begin(batch, base_offset, append_time_ms);
            }
            return Some(before);
        }
        self.insert(key, ProducerRow::begin(batch, base_offset, append_time_ms));
        None
    }

    /// Puts a row back as it was, or away if there was none.
    pub(crate) fn restore(&mut self, key: ProducerKey, row: Option<ProducerRow>) {
        match row {
            Some(row) => self.insert(key, row),
            None => drop(self.remove(key)),
        }
    }

    /// Drops one row and returns it.
    pub(crate) fn remove(&mut self, key: ProducerKey) -> Option<ProducerRow> {
        let found = self.rows.find_entry(hash(&key), |entry| entry.key == key);
        found.ok().map(|found| found.remove().0.row)
    }

    /// Keeps the rows of those partitions only that `keep` names.
    pub(crate) fn retain_partitions(&mut self, keep: impl Fn(PartitionSlot) -> bool) {
        self.rows.retain(|entry| keep(entry.key.slot));
    }

    /// The row of one producer in one partition.
    pub fn row(&self, key: ProducerKey) -> Option<&ProducerRow> {
        let entry = self.rows.find(hash(&key), |entry| entry.key == key);
        entry.map(|entry| &entry.row)
    }

    /// All rows, in no order: sort them before they show.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (ProducerKey, ProducerRow)> {
        self.rows.iter().map(|entry| (entry.key, entry.row))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Memory held, in bytes, counted by capacity.
    pub fn bytes(&self) -> usize {
        self.rows.allocation_size()
    }

    /// The rows to drop: those idle since before `idle_before_s`, and beyond that the least
    /// recently used until `rows_max` are left; only those that `may_drop` agrees to, at most
    /// `limit`, the longest idle first.
    pub(crate) fn expired(
        &self,
        idle_before_s: u32,
        rows_max: usize,
        limit: usize,
        may_drop: impl Fn(&ProducerKey, &ProducerRow) -> bool,
    ) -> Vec<ProducerKey> {
        let over = self.rows.len().saturating_sub(rows_max);
        let candidate = |Entry { key, row }: &Entry| {
            let wanted = over > 0 || row.last_append_s() < idle_before_s;
            (wanted && may_drop(key, row)).then_some((row.last_append_s(), *key))
        };
        let mut candidates: Vec<_> = self.rows.iter().filter_map(candidate).collect();
        candidates.sort_unstable();
        let idle = candidates.partition_point(|(last_append_s, _)| *last_append_s < idle_before_s);
        candidates.truncate(idle.max(over).min(limit));
        candidates.into_iter().map(|(_, key)| key).collect()
    }

    fn insert(&mut self, key: ProducerKey, row: ProducerRow) {
        let same = |entry: &Entry| entry.key == key;
        let rehash = |entry: &Entry| hash(&entry.key);
        let place = self.rows.entry(hash(&key), same, rehash);
        place.insert(Entry { key, row });
    }
}

fn hash(key: &ProducerKey) -> u64 {
    FxBuildHasher.hash_one(key)
}

/// Bytes of a row with its key in memory.
pub const PRODUCER_ENTRY_BYTES: usize = size_of::<Entry>();

const _: () = assert!(PRODUCER_ENTRY_BYTES == 64);

#[cfg(test)]
mod tests;
