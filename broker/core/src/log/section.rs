//! Between the log and a checkpoint: the committed state of a chain, out and in.
//!
//! Invariant: a section depends only on the chain's frames up to its LSN, never on what is
//! admitted but not committed, on slots, or on the order of a hash map.

use std::collections::BTreeMap;

use catena_protocol::ids::{ChainId, TopicPartition};
use rustc_hash::FxHashMap;

use super::ShardLog;
use super::chain::ChainState;
use super::commit::is_committed;
use crate::checkpoint::{ChainSection, LostRange, PartitionRow, ProducerEntry};
use crate::compaction::CompactedPartition;
use crate::producer::{ProducerKey, ProducerRow};
use crate::slot::PartitionSlot;

/// What uncommitted batches changed, as it was before them.
#[derive(Default)]
struct Overlay {
    append_times_ms: FxHashMap<PartitionSlot, i64>,
    producers: BTreeMap<ProducerKey, Option<ProducerRow>>,
}

impl ShardLog {
    /// The state of a chain at its commit LSN, or `None` if it is not open. Takes time in
    /// proportion to the chain's partitions and producers.
    pub fn section(&self, chain: ChainId) -> Option<ChainSection> {
        let state = &self.chains[self.chain_index(chain).ok()?];
        let overlay = self.overlay(state);
        Some(ChainSection {
            chain,
            lsn: state.commit_lsn,
            last_frame_crc: state.commit_frame_crc,
            epoch_history: state.epoch_history.clone(),
            partitions: self.partition_rows(state, &overlay),
            producers: self.producer_entries(state, &overlay),
            lost: self.lost_of(state),
            compacted: self.compacted_of(state),
        })
    }

    fn overlay(&self, chain: &ChainState) -> Overlay {
        let mut overlay = Overlay::default();
        // The oldest entry of a partition or producer knows the committed state.
        let uncommitted = chain
            .pending
            .iter()
            .filter(|batch| !is_committed(&self.partitions, batch));
        for batch in uncommitted {
            overlay
                .append_times_ms
                .entry(batch.slot)
                .or_insert(batch.append_time_before_ms);
            if let Some(key) = batch.producer_key() {
                overlay.producers.entry(key).or_insert(batch.row_before);
            }
        }
        overlay
    }

    fn partition_rows(&self, chain: &ChainState, overlay: &Overlay) -> Vec<PartitionRow> {
        let row = |slot: &PartitionSlot| {
            let state = &self.partitions[slot.index()];
            // A partition without a committed frame exists only in the metadata.
            (state.high_watermark.get() > 0).then(|| PartitionRow {
                tp: state.tp,
                log_start: state.log_start,
                log_end: state.high_watermark,
                bytes: state.bytes,
                first_timestamp_ms: state.first_timestamp_ms,
                append_time_ms: *overlay
                    .append_times_ms
                    .get(slot)
                    .unwrap_or(&state.append_time_ms),
            })
        };
        let mut rows: Vec<PartitionRow> = chain.slots.iter().filter_map(row).collect();
        rows.sort_unstable_by_key(|row| row.tp);
        rows
    }

    fn producer_entries(&self, chain: &ChainState, overlay: &Overlay) -> Vec<ProducerEntry> {
        let entry = |(key, row): (ProducerKey, ProducerRow)| {
            let row = match overlay.producers.get(&key) {
                Some(before) => (*before)?,
                None => row,
            };
            let tp = self.partitions[key.slot.index()].tp;
            Some(ProducerEntry {
                tp,
                producer: key.producer,
                row,
            })
        };
        let mut entries: Vec<_> = chain.producers.rows().filter_map(entry).collect();
        entries.sort_unstable_by_key(|entry| (entry.tp, entry.producer));
        entries
    }

    fn lost_of(&self, chain: &ChainState) -> Vec<LostRange> {
        let in_chain = self.lost.iter().filter(|(tp, _)| {
            self.partition(**tp)
                .is_some_and(|state| state.chain == chain.chain)
        });
        in_chain
            .flat_map(|(tp, ranges)| {
                ranges.iter().map(|range| LostRange {
                    tp: *tp,
                    range: range.clone(),
                })
            })
            .collect()
    }

    fn compacted_of(&self, chain: &ChainState) -> BTreeMap<TopicPartition, CompactedPartition> {
        let is_of_chain = |tp: &TopicPartition| {
            self.partition(*tp)
                .is_some_and(|state| state.chain == chain.chain)
        };
        let of_chain = self.compacted.iter().filter(|(tp, _)| is_of_chain(tp));
        of_chain
            .map(|(tp, compacted)| (*tp, compacted.clone()))
            .collect()
    }

    pub(super) fn restore_section(&mut self, chain_index: usize, section: ChainSection) {
        for row in section.partitions {
            let slot = self.add_partition(row.tp, chain_index);
            let state = &mut self.partitions[slot.index()];
            state.log_start = row.log_start;
            state.log_end = row.log_end;
            state.high_watermark = row.log_end;
            state.bytes = row.bytes;
            state.first_timestamp_ms = row.first_timestamp_ms;
            state.append_time_ms = row.append_time_ms;
        }
        let producers = &mut self.chains[chain_index].producers;
        for entry in section.producers {
            let home = self.homes.get(entry.tp);
            let home = home.expect("a section holds the partition of each of its producers");
            producers.restore(
                ProducerKey {
                    slot: home.slot,
                    producer: entry.producer,
                },
                Some(entry.row),
            );
        }
        for LostRange { tp, range } in section.lost {
            self.lost.entry(tp).or_default().push(range);
        }
        self.compacted.extend(section.compacted);
    }
}
