//! Control frames: trims, dropped topics, expired producers.
//!
//! Invariant: a control frame takes effect when it is committed, live as in recovery. Until then
//! nothing may happen that its effect would contradict: a topic that is to be dropped admits
//! nothing, and a producer that is to expire waits.

use catena_protocol::ids::{ChainId, Offset, TopicId, TopicPartition};
use thiserror::Error;

use super::ShardLog;
use crate::entry::FrameKind;
use crate::entry::control::{ControlBodyError, DropTopic, ProducerExpiry, Trim};
use crate::ids::Lsn;
use crate::limits::{PRODUCER_EXPIRY_ROWS_MAX, PRODUCER_IDLE_S_MAX};
use crate::producer::{PRODUCER_ENTRY_BYTES, ProducerKey, seconds};
use crate::slot::PartitionSlot;

/// A partition that was dropped, as it was at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DroppedPartition {
    /// The partition.
    pub tp: TopicPartition,
    /// The chain it lived in.
    pub chain: ChainId,
    /// Its log start.
    pub log_start: Offset,
    /// Its high watermark.
    pub high_watermark: Offset,
    /// Bytes of its committed batches.
    pub bytes: u64,
}

/// A control frame's body cannot be what its kind says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The body cannot be read.
    #[error(transparent)]
    Body(#[from] ControlBodyError),
    /// The kind is no control frame of a data chain.
    #[error("a frame of kind {kind:?} has no control body")]
    Kind {
        /// The kind.
        kind: FrameKind,
    },
}

/// A decoded control body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Control {
    Trim(Trim),
    DropTopic(DropTopic),
    ProducerExpiry(ProducerExpiry),
    /// A command of the metadata chain; the log only counts it.
    Opaque,
}

impl Control {
    pub(super) fn decode(kind: FrameKind, body: &[u8]) -> Result<Self, ControlError> {
        match kind {
            FrameKind::Trim => Ok(Self::Trim(Trim::decode(body)?)),
            FrameKind::DropTopic => Ok(Self::DropTopic(DropTopic::decode(body)?)),
            FrameKind::ProducerExpiry => Ok(Self::ProducerExpiry(ProducerExpiry::decode(body)?)),
            FrameKind::Metadata => Ok(Self::Opaque),
            FrameKind::Batches => Err(ControlError::Kind { kind }),
        }
    }
}

impl ShardLog {
    /// Tells that a control frame is durable and applies it; returns the partitions it dropped,
    /// in order.
    ///
    /// # Errors
    /// [`ControlError`] when the body does not belong to the kind; nothing changes.
    ///
    /// # Panics
    /// If `lsn` is not the chain's next to commit.
    pub fn committed_control(
        &mut self,
        chain: ChainId,
        lsn: Lsn,
        kind: FrameKind,
        body: &[u8],
    ) -> Result<Vec<DroppedPartition>, ControlError> {
        let control = Control::decode(kind, body)?;
        let index = self.open_index(chain);
        self.pop_frame(index, lsn);
        Ok(self.apply_control(index, &control))
    }

    /// Closes the partitions of a topic: they admit nothing any more. A `DropTopic` frame may be
    /// stamped once [`ShardLog::is_drained`].
    pub fn close_topic(&mut self, topic: TopicId) {
        for state in self
            .partitions
            .iter_mut()
            .filter(|state| state.tp.topic == topic)
        {
            state.is_closed = true;
        }
    }

    /// Whether no batch of the topic is admitted but not committed.
    pub fn is_drained(&self, topic: TopicId) -> bool {
        !self
            .partitions
            .iter()
            .any(|state| state.tp.topic == topic && state.has_uncommitted())
    }

    /// The chains that hold a partition of a topic, in order: each needs a `DropTopic` frame.
    pub fn chains_of_topic(&self, topic: TopicId) -> Vec<ChainId> {
        let has_topic = |slot: &PartitionSlot| self.partitions[slot.index()].tp.topic == topic;
        let chains = self
            .chains
            .iter()
            .filter(|chain| chain.slots.iter().any(has_topic));
        chains.map(|chain| chain.chain).collect()
    }

    /// Drops a topic from all chains at once, frames or not: what recovery does with topics that
    /// the metadata no longer has. Returns the dropped partitions, in order of chain and
    /// partition.
    pub fn drop_topic(&mut self, topic: TopicId) -> Vec<DroppedPartition> {
        (0..self.chains.len())
            .flat_map(|index| self.drop_from_chain(index, topic))
            .collect()
    }

    /// Chooses the producers of a chain whose rows a `ProducerExpiry` frame shall drop: those
    /// idle for a day, and the least recently used beyond `bytes_max` bytes of rows. Until that
    /// frame commits, their producers are told to wait. `None` when there is nothing to drop or
    /// an earlier expiry is under way.
    ///
    /// # Panics
    /// If the chain is not open.
    pub fn begin_expiry(
        &mut self,
        chain: ChainId,
        now_ms: i64,
        bytes_max: usize,
    ) -> Option<ProducerExpiry> {
        let index = self.open_index(chain);
        let partitions = &self.partitions;
        let state = &mut self.chains[index];
        if !state.expiring.is_empty() {
            return None;
        }
        let idle_before_s = seconds(now_ms).saturating_sub(PRODUCER_IDLE_S_MAX);
        let rows_max = bytes_max / PRODUCER_ENTRY_BYTES;
        let limit = PRODUCER_EXPIRY_ROWS_MAX;
        let mut keys = state
            .producers
            .expired(idle_before_s, rows_max, limit, |key, row| {
                row.end_offset() <= partitions[key.slot.index()].high_watermark
            });
        if keys.is_empty() {
            return None;
        }
        keys.sort_unstable();
        let row = |key: &ProducerKey| (partitions[key.slot.index()].tp, key.producer);
        let mut rows: Vec<_> = keys.iter().map(row).collect();
        rows.sort_unstable();
        state.expiring = keys;
        Some(ProducerExpiry { rows })
    }

    /// Producer rows of all chains together, and the bytes that count against their budget.
    pub fn producer_rows(&self) -> (usize, usize) {
        let rows = self.chains.iter().map(|chain| chain.producers.len()).sum();
        (rows, rows * PRODUCER_ENTRY_BYTES)
    }

    pub(super) fn apply_control(
        &mut self,
        chain_index: usize,
        control: &Control,
    ) -> Vec<DroppedPartition> {
        match control {
            Control::Trim(trim) => self.apply_trim(trim),
            Control::DropTopic(drop) => return self.drop_from_chain(chain_index, drop.topic),
            Control::ProducerExpiry(expiry) => self.apply_expiry(chain_index, expiry),
            Control::Opaque => {}
        }
        Vec::new()
    }

    fn apply_trim(&mut self, trim: &Trim) {
        let Some(slot) = self.slot(trim.tp) else {
            return;
        };
        let state = &mut self.partitions[slot.index()];
        let log_start = trim.log_start.min(state.high_watermark);
        if log_start <= state.log_start {
            return;
        }
        state.log_start = log_start;
        state.bytes = state.bytes.saturating_sub(trim.dropped_bytes);
        // Batches that committed after the trim was decided keep the older bound, which is safe.
        if trim.first_timestamp_ms != i64::MIN {
            state.first_timestamp_ms = trim.first_timestamp_ms;
        }
        if let Some(compacted) = self.compacted.get_mut(&trim.tp) {
            let left_bytes = state.is_empty().then_some(state.bytes);
            compacted.note_trim(trim.dropped_bytes, left_bytes);
        }
        if let Some(ranges) = self.lost.get_mut(&trim.tp) {
            ranges.retain(|range| range.end > log_start);
            if ranges.is_empty() {
                self.lost.remove(&trim.tp);
            }
        }
    }

    fn apply_expiry(&mut self, chain_index: usize, expiry: &ProducerExpiry) {
        let chain = &mut self.chains[chain_index];
        for (tp, producer) in &expiry.rows {
            if let Some(home) = self.homes.get(*tp) {
                chain.producers.remove(ProducerKey {
                    slot: home.slot,
                    producer: *producer,
                });
            }
        }
        chain.expiring.clear();
    }

    fn drop_from_chain(&mut self, chain_index: usize, topic: TopicId) -> Vec<DroppedPartition> {
        let partitions = &self.partitions;
        let chain = &mut self.chains[chain_index];
        let mut dropped: Vec<PartitionSlot> = Vec::new();
        chain.slots.retain(|slot| {
            let keep = partitions[slot.index()].tp.topic != topic;
            if !keep {
                dropped.push(*slot);
            }
            keep
        });
        if dropped.is_empty() {
            return Vec::new();
        }
        dropped.sort_unstable();
        let is_dropped = |slot: PartitionSlot| dropped.binary_search(&slot).is_ok();
        chain.pending.retain(|batch| !is_dropped(batch.slot));
        // Not from `expiring`: it must not be empty while the frame of an expiry is under way.
        chain.producers.retain_partitions(|slot| !is_dropped(slot));
        let mut states = Vec::with_capacity(dropped.len());
        for slot in &dropped {
            let state = &mut self.partitions[slot.index()];
            states.push(DroppedPartition {
                tp: state.tp,
                chain: state.chain,
                log_start: state.log_start,
                high_watermark: state.high_watermark,
                bytes: state.bytes,
            });
            self.homes.remove(state.tp);
            self.lost.remove(&state.tp);
            self.compacted.remove(&state.tp);
            state.vacate();
            self.free.push(*slot);
        }
        states.sort_unstable_by_key(|state| state.tp);
        states
    }
}
