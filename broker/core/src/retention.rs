//! Retention: how far a partition's log start may move.
//!
//! Invariant: only whole extents go, the oldest first, never one that is not committed; by size
//! the partition keeps at least its limit. Pure; the head of the chain decides with its clock and
//! says so in a `Trim` frame, which is all that anyone else follows.

use catena_protocol::ids::{Offset, TopicPartition};

use crate::entry::control::Trim;
use crate::index::Extent;
use crate::log::PartitionState;

/// What a topic wants to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// At least so many bytes of batches per partition; `None` for all.
    pub bytes: Option<u64>,
    /// Records not older than this, in milliseconds; `None` for all.
    pub age_ms: Option<u64>,
}

impl Policy {
    /// Whether anything is ever too much or too old.
    pub const fn is_limited(&self) -> bool {
        self.bytes.is_some() || self.age_ms.is_some()
    }

    /// Whether anything of a partition can be trimmed: a cheap test before its extents are read.
    pub fn may_trim(&self, now_ms: i64, state: &PartitionState) -> bool {
        let too_many = self.bytes.is_some_and(|limit| state.bytes > limit);
        let too_old = self.is_too_old(now_ms, state.first_timestamp_ms);
        !state.is_empty() && (too_many || too_old)
    }

    fn is_too_old(&self, now_ms: i64, timestamp_ms: i64) -> bool {
        let oldest_kept = self
            .age_ms
            .map(|age_ms| now_ms.saturating_sub_unsigned(age_ms));
        oldest_kept.is_some_and(|oldest_kept| timestamp_ms < oldest_kept)
    }
}

/// Where a partition can be trimmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimPoint {
    /// The new log start.
    pub log_start: Offset,
    /// Bytes of the batches below it.
    pub dropped_bytes: u64,
    /// The latest timestamp in the first extent that stays; `i64::MIN` when none was seen.
    pub first_timestamp_ms: i64,
}

impl TrimPoint {
    /// The body of the frame that does it.
    pub const fn frame(&self, tp: TopicPartition) -> Trim {
        Trim {
            tp,
            log_start: self.log_start,
            dropped_bytes: self.dropped_bytes,
            first_timestamp_ms: self.first_timestamp_ms,
        }
    }
}

/// Decides extent by extent, so that they can come from pages that are read meanwhile.
#[derive(Debug)]
pub struct Trimmer {
    policy: Policy,
    now_ms: i64,
    high_watermark: Offset,
    bytes_left: u64,
    point: Option<TrimPoint>,
}

impl Trimmer {
    /// Starts at the log start of `state`, at `now_ms` (milliseconds since 1970).
    pub const fn new(policy: Policy, now_ms: i64, state: &PartitionState) -> Self {
        let (high_watermark, bytes_left) = (state.high_watermark, state.bytes);
        Self {
            policy,
            now_ms,
            high_watermark,
            bytes_left,
            point: None,
        }
    }

    /// Looks at the next extent, in order from the log start on; returns whether it goes. Once
    /// one stays the rest stays too and need not be shown.
    pub fn offer(&mut self, extent: &Extent) -> bool {
        let left_without = self.bytes_left.saturating_sub(extent.bytes.into());
        let too_many = self.policy.bytes.is_some_and(|limit| left_without >= limit);
        let too_old = self.policy.is_too_old(self.now_ms, extent.max_timestamp_ms);
        let goes = extent.end_offset <= self.high_watermark && (too_many || too_old);
        if goes {
            self.bytes_left = left_without;
            let dropped_before = self.point.map_or(0, |point| point.dropped_bytes);
            self.point = Some(TrimPoint {
                log_start: extent.end_offset,
                dropped_bytes: dropped_before + u64::from(extent.bytes),
                first_timestamp_ms: i64::MIN,
            });
        } else if let Some(point) = &mut self.point {
            point.first_timestamp_ms = extent.max_timestamp_ms;
        }
        goes
    }

    /// The decision; `None` when everything stays.
    pub const fn finish(self) -> Option<TrimPoint> {
        self.point
    }
}

/// The decision over extents that are at hand, in order from the log start on.
pub fn trim_to<'a>(
    policy: Policy,
    now_ms: i64,
    state: &PartitionState,
    extents: impl IntoIterator<Item = &'a Extent>,
) -> Option<TrimPoint> {
    let mut trimmer = Trimmer::new(policy, now_ms, state);
    for extent in extents {
        if !trimmer.offer(extent) {
            break;
        }
    }
    trimmer.finish()
}

#[cfg(test)]
mod tests;
