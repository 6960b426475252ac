//! Recovery without a checkpoint: batches whose frames are gone, and that the cleaner kept.
//!
//! Invariant: a partition ends behind every batch that is known, and what is known of it is not
//! noted as lost.

use std::ops::Range;

use catena_protocol::ids::{ChainId, Offset, TopicPartition};

use super::{OpenRefusal, ShardLog};
use crate::index::Extent;

impl ShardLog {
    /// Takes into account an extent that no frame holds, unless it lies below the log start.
    /// Extents of a partition come in the order of their offsets, after all frames.
    ///
    /// # Errors
    /// [`OpenRefusal`] if the partition cannot live in this chain; nothing changes.
    ///
    /// # Panics
    /// If batches of the partition wait for their commit: recovery is over by then.
    pub fn restore_moved(
        &mut self,
        tp: TopicPartition,
        chain: ChainId,
        extent: &Extent,
    ) -> Result<(), OpenRefusal> {
        let state = self.recovering(tp, chain)?;
        if extent.end_offset <= state.log_start {
            return Ok(());
        }
        let oldest = if state.is_empty() {
            extent.max_timestamp_ms
        } else {
            state.first_timestamp_ms.min(extent.max_timestamp_ms)
        };
        state.first_timestamp_ms = oldest;
        state.bytes += u64::from(extent.bytes);
        let end = state.high_watermark;
        if extent.end_offset > end {
            (state.high_watermark, state.log_end) = (extent.end_offset, extent.end_offset);
        }
        if extent.base_offset > end {
            self.note_lost(tp, end..extent.base_offset);
        }
        self.note_found(tp, &(extent.base_offset..extent.end_offset));
        Ok(())
    }

    fn note_found(&mut self, tp: TopicPartition, found: &Range<Offset>) {
        let Some(lost) = self.lost.remove(&tp) else {
            return;
        };
        let left = lost.into_iter().flat_map(|range| {
            let before = range.start..range.end.min(found.start);
            let behind = range.start.max(found.end)..range.end;
            [before, behind]
        });
        let left = left.filter(|range| range.start < range.end);
        // One range may have become two.
        for range in left {
            self.note_lost(tp, range);
        }
    }
}
