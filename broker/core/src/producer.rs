//! Producer state: what makes a retried batch land once.
//!
//! Sequences count the records of a producer in a partition, as a `u32` that wraps. A batch is
//! appended only if it starts at the expected sequence, so a batch whose last sequence is not
//! above the last one stored is a duplicate, however long ago it was written; its offset is known
//! if it lies in one of the last few *runs* of (sequence, offset) that the row remembers.
//!
//! Invariant: a row is a function of the batches appended since the row began, in order; the same
//! batches give the same row live and in recovery. Owned by one shard; not shared.

use catena_protocol::batch::BatchHeader;
use catena_protocol::ids::{Offset, ProducerEpoch, ProducerId, Sequence};
use rustc_hash::FxHashMap;

use crate::codec::{DecodeError, Put, Reader, malformed};
use crate::limits::{OFFSET_MAX, PRODUCER_RUN_RECORDS_MAX, PRODUCER_RUNS_MAX};
use crate::log::PartitionSlot;

/// Encoded bytes of a row, without its key.
pub(crate) const PRODUCER_ROW_BYTES: usize = 12 + 12 * PRODUCER_RUNS_MAX;

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

/// What is remembered of a producer in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerRow {
    /// Base offset of each run, the oldest first; unused ones are zero.
    offsets: [Offset; PRODUCER_RUNS_MAX],
    /// First sequence of each run.
    sequences: [Sequence; PRODUCER_RUNS_MAX],
    /// The sequence that the next batch must start with.
    next_sequence: Sequence,
    /// Append time of the last batch, in seconds since 1970.
    last_append_s: u32,
    epoch: ProducerEpoch,
    /// Runs in use, 1 or more.
    run_count: u8,
}

impl ProducerRow {
    /// The row after the producer's first batch.
    fn begin(batch: &ProducerBatch, base_offset: Offset, append_time_ms: i64) -> Self {
        let mut offsets = [Offset(0); PRODUCER_RUNS_MAX];
        let mut sequences = [Sequence(0); PRODUCER_RUNS_MAX];
        offsets[0] = base_offset;
        sequences[0] = batch.sequence;
        Self {
            offsets,
            sequences,
            next_sequence: batch.sequence.wrapping_add(batch.record_count.into()),
            last_append_s: seconds(append_time_ms),
            epoch: batch.epoch,
            run_count: 1,
        }
    }

    /// The row after the next batch of the same epoch.
    fn extend(&mut self, batch: &ProducerBatch, base_offset: Offset, append_time_ms: i64) {
        let records = u32::from(batch.record_count);
        let last = self.last_run();
        let length = self.next_sequence.distance_from(self.sequences[last]);
        let adjacent = self.end_offset() == base_offset;
        if !adjacent || length > PRODUCER_RUN_RECORDS_MAX - records {
            let next = last + 1;
            if next < PRODUCER_RUNS_MAX {
                self.run_count += 1;
            } else {
                self.offsets.rotate_left(1);
                self.sequences.rotate_left(1);
            }
            let at = next.min(PRODUCER_RUNS_MAX - 1);
            self.offsets[at] = base_offset;
            self.sequences[at] = batch.sequence;
        }
        self.next_sequence = self.next_sequence.wrapping_add(records);
        self.last_append_s = seconds(append_time_ms);
    }

    fn check(&self, batch: &ProducerBatch) -> Verdict {
        if batch.epoch < self.epoch {
            return Verdict::Fenced {
                current: self.epoch,
            };
        }
        if batch.epoch > self.epoch {
            let first = batch.sequence == Sequence(0);
            return if first {
                Verdict::Append
            } else {
                Verdict::Gap {
                    expected: Sequence(0),
                }
            };
        }
        if batch.sequence == self.next_sequence {
            return Verdict::Append;
        }
        let end = batch.sequence.wrapping_add(batch.record_count.into());
        if end == self.next_sequence || end.precedes(self.next_sequence) {
            let base_offset = self.offset_of(batch);
            return Verdict::Duplicate {
                base_offset,
                end_offset: self.end_offset(),
            };
        }
        Verdict::Gap {
            expected: self.next_sequence,
        }
    }

    /// The offset of a batch that was appended before, if one run holds all of it.
    fn offset_of(&self, batch: &ProducerBatch) -> Option<Offset> {
        // Distances back from the next sequence order the runs on the circle.
        let back = self.next_sequence.distance_from(batch.sequence);
        let mut run_end_back = 0;
        for run in (0..=self.last_run()).rev() {
            let run_back = self.next_sequence.distance_from(self.sequences[run]);
            if back <= run_back {
                let fits = back - run_end_back >= u32::from(batch.record_count);
                return fits.then(|| Offset(self.offsets[run].get() + u64::from(run_back - back)));
            }
            run_end_back = run_back;
        }
        None
    }

    /// The offset after the last appended batch.
    pub fn end_offset(&self) -> Offset {
        let last = self.last_run();
        let length = self.next_sequence.distance_from(self.sequences[last]);
        Offset(self.offsets[last].get() + u64::from(length))
    }

    /// Append time of the last batch, in seconds since 1970.
    pub const fn last_append_s(&self) -> u32 {
        self.last_append_s
    }

    /// The epoch of the last appended batch.
    pub const fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// The sequence that the next batch must start with.
    pub const fn next_sequence(&self) -> Sequence {
        self.next_sequence
    }

    fn last_run(&self) -> usize {
        usize::from(self.run_count) - 1
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.epoch.get());
        out.put_u8(self.run_count);
        out.put_u8(0);
        out.put_u32(self.next_sequence.get());
        out.put_u32(self.last_append_s);
        for run in 0..PRODUCER_RUNS_MAX {
            out.put_u32(self.sequences[run].get());
            out.put_u64(self.offsets[run].get());
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let epoch = ProducerEpoch(reader.u16("producer epoch")?);
        let run_count = reader.u8("producer runs")?;
        let reserved = reader.u8("reserved byte of a producer row")?;
        let next_sequence = Sequence(reader.u32("producer sequence")?);
        let last_append_s = reader.u32("producer append time")?;
        let mut offsets = [Offset(0); PRODUCER_RUNS_MAX];
        let mut sequences = [Sequence(0); PRODUCER_RUNS_MAX];
        for run in 0..PRODUCER_RUNS_MAX {
            sequences[run] = Sequence(reader.u32("producer run")?);
            offsets[run] = Offset(reader.u64("producer run")?);
        }
        let row = Self {
            offsets,
            sequences,
            next_sequence,
            last_append_s,
            epoch,
            run_count,
        };
        let used = usize::from(run_count);
        if used == 0 || used > PRODUCER_RUNS_MAX || reserved != 0 || !row.is_sane() {
            return Err(malformed("producer row"));
        }
        Ok(row)
    }

    /// Whether the runs are within bounds and on the circle in their order.
    fn is_sane(&self) -> bool {
        let used = usize::from(self.run_count);
        let unused_zero = self.offsets[used..]
            .iter()
            .all(|offset| *offset == Offset(0))
            && self.sequences[used..]
                .iter()
                .all(|sequence| *sequence == Sequence(0));
        let offsets_bounded = self.offsets.iter().all(|offset| offset.get() <= OFFSET_MAX);
        let mut previous_back = 0;
        let lengths_bounded = self.sequences[..used].iter().rev().all(|sequence| {
            let back = self.next_sequence.distance_from(*sequence);
            let length = back.wrapping_sub(previous_back);
            let bounded = back > previous_back && length <= PRODUCER_RUN_RECORDS_MAX;
            previous_back = back;
            bounded
        });
        unused_zero && offsets_bounded && lengths_bounded
    }
}

/// The rows of all producers in the partitions of one chain.
#[derive(Debug, Default)]
pub struct ProducerTable {
    rows: FxHashMap<ProducerKey, ProducerRow>,
}

impl ProducerTable {
    /// What is to be done with a batch; changes nothing.
    pub fn check(&self, slot: PartitionSlot, batch: &ProducerBatch) -> Verdict {
        if batch.producer == ProducerId(0) {
            return Verdict::Append;
        }
        match self.rows.get(&ProducerKey {
            slot,
            producer: batch.producer,
        }) {
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
        match self.rows.get_mut(&key) {
            Some(row) => {
                let before = *row;
                if row.epoch == batch.epoch && row.next_sequence == batch.sequence {
                    row.extend(batch, base_offset, append_time_ms);
                } else {
                    *row = ProducerRow::begin(batch, base_offset, append_time_ms);
                }
                Some(before)
            }
            None => self
                .rows
                .insert(key, ProducerRow::begin(batch, base_offset, append_time_ms)),
        }
    }

    /// Puts a row back as it was, or away if there was none.
    pub(crate) fn restore(&mut self, key: ProducerKey, row: Option<ProducerRow>) {
        match row {
            Some(row) => self.rows.insert(key, row),
            None => self.rows.remove(&key),
        };
    }

    /// Drops one row and returns it.
    pub(crate) fn remove(&mut self, key: ProducerKey) -> Option<ProducerRow> {
        self.rows.remove(&key)
    }

    /// Keeps the rows of those partitions only that `keep` names.
    pub(crate) fn retain_partitions(&mut self, keep: impl Fn(PartitionSlot) -> bool) {
        self.rows.retain(|key, _| keep(key.slot));
    }

    /// The row of one producer in one partition.
    pub fn row(&self, key: ProducerKey) -> Option<&ProducerRow> {
        self.rows.get(&key)
    }

    /// All rows, in no order: sort them before they show.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (ProducerKey, ProducerRow)> {
        self.rows.iter().map(|(key, row)| (*key, *row))
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
        self.rows.capacity() * (PRODUCER_ENTRY_BYTES + 1)
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
        let candidate = |(key, row): (&ProducerKey, &ProducerRow)| {
            let wanted = over > 0 || row.last_append_s < idle_before_s;
            (wanted && may_drop(key, row)).then_some((row.last_append_s, *key))
        };
        let mut candidates: Vec<_> = self.rows.iter().filter_map(candidate).collect();
        candidates.sort_unstable();
        let idle = candidates.partition_point(|(last_append_s, _)| *last_append_s < idle_before_s);
        candidates.truncate(idle.max(over).min(limit));
        candidates.into_iter().map(|(_, key)| key).collect()
    }
}

/// Bytes of a row with its key in memory.
pub const PRODUCER_ENTRY_BYTES: usize = size_of::<(ProducerKey, ProducerRow)>();

const _: () = assert!(PRODUCER_ENTRY_BYTES <= 64);
const _: () = assert!(PRODUCER_ROW_BYTES + 16 <= 64);

/// Whole seconds since 1970, clamped to what a row can hold (until the year 2106).
pub(crate) fn seconds(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / 1000).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
