//! Segments that other shards may still read.
//!
//! When the number of shards changes, a chain's old data stays in the journal that wrote it, and
//! its new owner reads it there. Each segment found at start is therefore claimed by every other
//! shard until that shard says that it wants nothing of it. Segments written since then hold only
//! chains of their own shard and are never claimed. Pure bookkeeping on the owner's executor.

use std::collections::{BTreeMap, BTreeSet};

use catena_protocol::ids::ShardId;

use super::index::SegmentKey;

/// Who may still read which segment.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<SegmentKey, BTreeSet<ShardId>>);

impl Claims {
    /// Every one of `others` claims every one of `segments`.
    pub fn new(segments: impl Iterator<Item = SegmentKey>, others: &BTreeSet<ShardId>) -> Claims {
        if others.is_empty() {
            return Claims::default();
        }
        Claims(segments.map(|segment| (segment, others.clone())).collect())
    }

    /// Whether any other shard may still read the segment.
    pub fn is_claimed(&self, segment: SegmentKey) -> bool {
        self.0.contains_key(&segment)
    }

    /// Notes that `shard` wants nothing of these segments any more.
    pub fn release(&mut self, shard: ShardId, segments: &[SegmentKey]) {
        for segment in segments {
            if let Some(claimants) = self.0.get_mut(segment) {
                claimants.remove(&shard);
                if claimants.is_empty() {
                    self.0.remove(segment);
                }
            }
        }
    }
}
