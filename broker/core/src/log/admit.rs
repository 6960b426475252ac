//! Admission of a batch: the checks, the offset, the overlay.
//!
//! Invariant: a refusal changes nothing. On the hot path of every batch: one lookup of the
//! partition, one of the producer, no allocation once the queues have grown.

use catena_protocol::batch::{BatchError, BatchHeader};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{ChainId, Offset, ProducerEpoch, ProducerId, Sequence, TopicPartition};
use thiserror::Error;

use super::ShardLog;
use super::chain::PendingBatch;
use super::partition::Home;
use crate::limits::OFFSET_MAX;
use crate::producer::{ProducerBatch, ProducerKey, Verdict};

/// A batch's place in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// The chain whose next frame takes the batch.
    pub chain: ChainId,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// Its append time, in milliseconds since 1970; never before that of an earlier batch.
    pub append_time_ms: i64,
}

/// Why a batch is not appended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProduceRefusal {
    /// The partition is not on this shard, or its topic is being dropped.
    #[error("partition {tp} is not here")]
    UnknownPartition {
        /// The partition.
        tp: TopicPartition,
    },
    /// The batch may not be appended.
    #[error("invalid batch: {0}")]
    InvalidBatch(BatchError),
    /// The partition has no offsets left.
    #[error("partition {tp} has no offsets left after {log_end}")]
    OffsetsExhausted {
        /// The partition.
        tp: TopicPartition,
        /// Its log end.
        log_end: Offset,
    },
    /// It was appended before. Success, once the partition's high watermark has reached
    /// `commit_offset`; until then its fate is that of the batch it repeats.
    #[error("a duplicate of a batch that was appended before")]
    Duplicate {
        /// The offset it got then, if that is still known.
        base_offset: Option<Offset>,
        /// The reply waits for this high watermark.
        commit_offset: Offset,
    },
    /// A batch before it is missing.
    #[error("batch starts at sequence {found}, expected {expected}")]
    OutOfOrder {
        /// The sequence that the next batch must start with.
        expected: Sequence,
        /// The sequence that it starts with.
        found: Sequence,
    },
    /// The producer id has a newer epoch.
    #[error("producer epoch {found} is fenced by {current}")]
    Fenced {
        /// The newest epoch seen.
        current: ProducerEpoch,
        /// The epoch of the batch.
        found: ProducerEpoch,
    },
    /// Nothing is known of the producer, and the batch is not its first.
    #[error("producer {producer} is not known, and sequence {found} is not its first")]
    UnknownProducer {
        /// The producer.
        producer: ProducerId,
        /// The sequence that the batch starts with.
        found: Sequence,
    },
    /// The producer was idle for so long that its state is just being dropped.
    #[error("the state of producer {producer} is being dropped")]
    ProducerExpiring {
        /// The producer.
        producer: ProducerId,
    },
}

impl ProduceRefusal {
    /// The code and detail of the answer. A duplicate is a success.
    pub const fn answer(&self) -> (ErrorCode, u64) {
        match self {
            Self::UnknownPartition { .. } => (ErrorCode::UnknownPartition, 0),
            Self::InvalidBatch(_) | Self::OffsetsExhausted { .. } => (ErrorCode::InvalidBatch, 0),
            Self::Duplicate {
                base_offset: Some(offset),
                ..
            } => (ErrorCode::None, offset.get()),
            Self::Duplicate {
                base_offset: None, ..
            } => (ErrorCode::DuplicateOffsetUnknown, 0),
            Self::OutOfOrder { expected, .. } => {
                (ErrorCode::OutOfOrderSequence, expected.get() as u64)
            }
            Self::Fenced { current, .. } => (ErrorCode::FencedProducer, current.get() as u64),
            Self::UnknownProducer { .. } => (ErrorCode::UnknownProducer, 0),
            Self::ProducerExpiring { .. } => (ErrorCode::Overloaded, 0),
        }
    }
}

impl ShardLog {
    /// Looks at what [`ShardLog::admit`] will need of some batches' partitions and producers. With
    /// many partitions that is memory which the processor's caches have lost; asked for in one go,
    /// it comes side by side and not one after the other.
    pub fn fetch_ahead(&self, batches: impl Iterator<Item = (TopicPartition, ProducerId)>) {
        let seen = batches.fold(0, |seen: u64, (tp, producer)| {
            let Some(&Home { slot, chain_index }) = self.homes.get(tp) else {
                return seen;
            };
            let chain = &self.chains[crate::codec::index_of(chain_index)];
            let row = chain.producers.row(ProducerKey { slot, producer });
            let row_end = row.map_or(0, |row| row.end_offset().get());
            seen ^ row_end ^ self.partitions[slot.index()].log_end.get()
        });
        std::hint::black_box(seen);
    }

    /// Checks a batch and gives it the next offsets of its partition. `now_ms` is the wall clock,
    /// in milliseconds since 1970. The batch must be placed in a frame of its chain, in order
    /// within its partition.
    ///
    /// # Errors
    /// [`ProduceRefusal`]; nothing changes.
    pub fn admit(
        &mut self,
        tp: TopicPartition,
        header: &BatchHeader,
        now_ms: i64,
    ) -> Result<Admitted, ProduceRefusal> {
        let Some(&Home { slot, chain_index }) = self.homes.get(tp) else {
            return Err(ProduceRefusal::UnknownPartition { tp });
        };
        let state = &mut self.partitions[slot.index()];
        if state.is_closed {
            return Err(ProduceRefusal::UnknownPartition { tp });
        }
        header
            .check_produced()
            .map_err(ProduceRefusal::InvalidBatch)?;
        let base_offset = state.log_end;
        let end_offset = Offset(base_offset.get() + u64::from(header.record_count));
        if end_offset.get() > OFFSET_MAX {
            return Err(ProduceRefusal::OffsetsExhausted {
                tp,
                log_end: base_offset,
            });
        }
        let chain = &mut self.chains[crate::codec::index_of(chain_index)];
        let batch = ProducerBatch::of(header);
        let key = ProducerKey {
            slot,
            producer: batch.producer,
        };
        if !chain.expiring.is_empty() && chain.expiring.binary_search(&key).is_ok() {
            return Err(ProduceRefusal::ProducerExpiring {
                producer: batch.producer,
            });
        }
        refuse_unless_append(chain.producers.check(slot, &batch), &batch)?;

        let append_time_ms = now_ms.max(state.append_time_ms);
        let row_before = if batch.producer == ProducerId(0) {
            None
        } else {
            chain
                .producers
                .record(slot, &batch, base_offset, append_time_ms)
        };
        chain.pending.push_back(PendingBatch {
            slot,
            end_offset,
            append_time_before_ms: state.append_time_ms,
            producer: batch.producer,
            row_before,
        });
        state.log_end = end_offset;
        state.append_time_ms = append_time_ms;
        Ok(Admitted {
            chain: chain.chain,
            base_offset,
            append_time_ms,
        })
    }
}

fn refuse_unless_append(verdict: Verdict, batch: &ProducerBatch) -> Result<(), ProduceRefusal> {
    let found = batch.sequence;
    match verdict {
        Verdict::Append => Ok(()),
        Verdict::Duplicate {
            base_offset,
            end_offset,
        } => Err(ProduceRefusal::Duplicate {
            base_offset,
            commit_offset: end_offset,
        }),
        Verdict::Gap { expected } => Err(ProduceRefusal::OutOfOrder { expected, found }),
        Verdict::Fenced { current } => Err(ProduceRefusal::Fenced {
            current,
            found: batch.epoch,
        }),
        Verdict::Unknown => Err(ProduceRefusal::UnknownProducer {
            producer: batch.producer,
            found,
        }),
    }
}
