//! One producer in one partition: the last few runs of (sequence, offset), and what follows.
//!
//! Invariant: the runs' sequences follow each other without a gap up to `next_sequence`, each run
//! at most [`PRODUCER_RUN_RECORDS_MAX`] long, so that distances on the circle of sequences order
//! them.

use catena_protocol::ids::{Offset, ProducerEpoch, Sequence};

use super::{ProducerBatch, Verdict};
use crate::codec::{DecodeError, Put, Reader, malformed};
use crate::limits::{OFFSET_MAX, PRODUCER_RUN_RECORDS_MAX, PRODUCER_RUNS_MAX};

/// Encoded bytes of a row, without its key.
pub(crate) const PRODUCER_ROW_BYTES: usize = 12 + 12 * PRODUCER_RUNS_MAX;

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
    pub(super) fn begin(batch: &ProducerBatch, base_offset: Offset, append_time_ms: i64) -> Self {
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
    pub(super) fn extend(
        &mut self,
        batch: &ProducerBatch,
        base_offset: Offset,
        append_time_ms: i64,
    ) {
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

    pub(super) fn check(&self, batch: &ProducerBatch) -> Verdict {
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

    /// Whether a batch is the next one.
    pub(super) fn continues_with(&self, batch: &ProducerBatch) -> bool {
        self.epoch == batch.epoch && self.next_sequence == batch.sequence
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

const _: () = assert!(PRODUCER_ROW_BYTES + 16 <= 64);

/// Whole seconds since 1970, clamped to what a row can hold (until the year 2106).
pub(crate) fn seconds(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / 1000).unwrap_or(u32::MAX)
}
