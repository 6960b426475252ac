//! Finds out which batches of a piece the index names, and moves them. The order of the steps is
//! in the head of [`super`]. Runs on the shard's executor.

use std::cmp::Reverse;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use catena_core::block::BLOCK_HEADER_BYTES;
use catena_core::cleaner::{MovedExtent, Pressure, Relocation, RelocationBuilder};
use catena_core::index::Extent;
use catena_core::limits::BLOCK_ALIGN_U32;
use catena_protocol::batch::{split, verify_body, verify_header};
use catena_protocol::ids::{Offset, TopicPartition};
use tracing::{debug, warn};

use super::walk::FoundRow;
use crate::journal::JournalError;
use crate::limits::{
    CLEANER_BYTES_PER_SECOND, CLEANER_EXTENTS_AHEAD, CLEANER_JOIN_AGE_DIVISOR, CLEANER_RECORD_BYTES,
};
use crate::runtime::clock;
use crate::runtime::executor;
use crate::shard::Shard;
use crate::shard::index::RunWriter;

/// Batches that go somewhere else.
#[derive(Debug)]
pub(in crate::shard) struct Located {
    pub(in crate::shard) moved: MovedExtent,
    pub(in crate::shard) batch_count: u32,
    /// The extents that the index names in their place now.
    pub(in crate::shard) from: Vec<Extent>,
    /// How long its topic keeps records: what goes together lies together.
    pub(in crate::shard) keep_ms: u64,
}

/// What the index has of one partition from an offset on.
#[derive(Default)]
struct Known {
    tp: Option<TopicPartition>,
    extents: Vec<Extent>,
}

impl Shard {
    /// Of what was found, the extents that the index names there, whole and intact.
    pub(super) async fn locate(self: &Rc<Self>, mut found: Vec<FoundRow>) -> Vec<Located> {
        found.sort_by_key(|row| (row.tp, row.base_offset));
        let mut known = Known::default();
        let mut located = Vec::new();
        for row in &found {
            let log_start = self.log.borrow().partition(row.tp).map(|p| p.log_start);
            let Some(log_start) = log_start else { continue };
            let mut at = row.base_offset.max(log_start);
            while at < row.end_offset {
                let Some(extent) = self.known_extent(&mut known, row.tp, at).await else {
                    break;
                };
                if extent.base_offset >= row.end_offset {
                    break;
                }
                at = extent.end_offset;
                if let Some(bytes) = row.bytes_of(&extent) {
                    located.extend(self.checked(row.tp, extent, bytes));
                }
            }
            executor::yield_if_needed().await;
        }
        located
    }

    /// The extent that holds an offset, or the next above it. None if that cannot be told.
    async fn known_extent(
        self: &Rc<Self>,
        known: &mut Known,
        tp: TopicPartition,
        at: Offset,
    ) -> Option<Extent> {
        let reaches = |known: &Known| known.extents.last().is_some_and(|e| e.end_offset > at);
        if known.tp != Some(tp) || !reaches(known) {
            let extents = self.extents_from(tp, at, CLEANER_EXTENTS_AHEAD).await;
            known.tp = Some(tp);
            known.extents = extents.unwrap_or_default();
        }
        let index = known.extents.partition_point(|e| e.end_offset <= at);
        known.extents.get(index).copied()
    }

    /// The extent with its batches, if each of them is what its producer sent.
    fn checked(&self, tp: TopicPartition, extent: Extent, bytes: &[u8]) -> Option<Located> {
        let mut batch_count = 0;
        for batch in split(bytes) {
            let intact = batch.ok().and_then(|(_, batch)| {
                let header = batch.first_chunk()?;
                verify_header(header, tp).ok()?;
                verify_body(batch).ok()
            });
            if intact.is_none() {
                warn!(partition = %tp, at = %extent.block, "a damaged batch is not moved");
                return None;
            }
            batch_count += 1;
        }
        let metadata = self.metadata.borrow();
        let topic = metadata.topic(tp.topic);
        let keep_ms = topic.and_then(|topic| topic.config.retention_ms);
        Some(Located {
            moved: MovedExtent {
                tp,
                extent,
                bytes: bytes.to_vec(),
                join_ms: keep_ms.map_or(u64::MAX, |keep| keep / CLEANER_JOIN_AGE_DIVISOR),
            },
            batch_count,
            from: vec![extent],
            keep_ms: keep_ms.unwrap_or(u64::MAX),
        })
    }

    /// Moves extents; false if the shard stops meanwhile and nothing was moved.
    pub(in crate::shard) async fn relocate(
        self: &Rc<Self>,
        mut located: Vec<Located>,
        pressure: Pressure,
    ) -> Result<bool, JournalError> {
        if located.is_empty() {
            return Ok(true);
        }
        located.sort_by_key(|located| {
            let moved = &located.moved;
            (Reverse(located.keep_ms), moved.tp, moved.extent.base_offset)
        });
        let mut builder = RelocationBuilder::new(CLEANER_RECORD_BYTES);
        let mut placed = Vec::with_capacity(located.len());
        for item in &located {
            if let Some(full) = builder.push(&item.moved, item.batch_count) {
                self.write_relocation(full, pressure, &mut placed).await?;
            }
            if self.is_stopping() {
                // What was written so far is named by nothing.
                return Ok(false);
            }
        }
        if let Some(last) = builder.finish() {
            self.write_relocation(last, pressure, &mut placed).await?;
        }
        placed.sort_by_key(|(tp, extent)| (*tp, extent.base_offset));
        let mut writer = RunWriter::new(self);
        for (tp, extent) in &placed {
            writer.push(*tp, extent).await?;
        }
        let run = writer.finish().await?;
        self.cleaner.spend(run.bytes);
        // From here to the end nothing waits: the index, the count and the pin change together.
        self.index.runs.borrow_mut().push(run);
        let mut live = self.index.live.borrow_mut();
        let mut pins = self.pins.borrow_mut();
        for extent in located.iter().flat_map(|item| &item.from) {
            live.remove(extent);
            pins.note_moved(extent.block.segment_key());
        }
        for (_, extent) in &placed {
            live.add(extent);
        }
        debug!(
            moved = located.len(),
            extents_after = placed.len(),
            "moved a piece"
        );
        Ok(true)
    }

    /// Writes one record, and rests for as long as its bytes may take.
    async fn write_relocation(
        self: &Rc<Self>,
        relocation: Relocation,
        pressure: Pressure,
        placed: &mut Vec<(TopicPartition, Extent)>,
    ) -> Result<(), JournalError> {
        let body = Bytes::copy_from_slice(&relocation.body);
        let place = self.append_relocation(relocation.row_count, body).await?;
        placed.extend(relocation.placed(place.block, place.offset_in_block));
        let bytes = u64::from(place.bytes);
        let is_alone = padded_block(place.bytes) == place.block.bytes;
        let written = if is_alone {
            place.block.bytes
        } else {
            place.bytes
        };
        self.cleaner.spend(written.into());
        self.metrics.cleaner_bytes.add(bytes);
        if pressure < Pressure::Full {
            let rest_us = bytes * 1_000_000 / CLEANER_BYTES_PER_SECOND;
            clock::sleep(Duration::from_micros(rest_us)).await;
        }
        Ok(())
    }
}

/// Bytes of a block with one entry.
fn padded_block(entry_bytes: u32) -> u32 {
    let head = u32::try_from(BLOCK_HEADER_BYTES).expect("a small number");
    (head + entry_bytes).next_multiple_of(BLOCK_ALIGN_U32)
}

impl FoundRow {
    /// The bytes of an extent, if this is where it lies.
    fn bytes_of(&self, extent: &Extent) -> Option<&[u8]> {
        if extent.block != self.block {
            return None;
        }
        let start = extent.offset_in_block.checked_sub(self.offset_in_block)?;
        let start = usize::try_from(start).ok()?;
        let bytes = usize::try_from(extent.bytes).ok()?;
        self.bytes.get(start..start.checked_add(bytes)?)
    }
}
