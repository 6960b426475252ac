//! What a replica remembers of the compaction of a partition.
//!
//! It lies in the checkpoint beside the index runs that name the compacted batches, so both come
//! back together: what is remembered is true of the bytes that the index names.
//!
//! ```text
//! n u32 | n x { topic u32, partition u32, clean_to u64, clean_bytes u64, saved_bytes u64,
//!               left_from u64 (0 without flag 2), compacted_at_ms i64,
//!               flags u8 (1: tombstones are left; 2: left_from is set),
//!               m u32, m x { below u64, at_ms i64 } }
//! ```

use std::collections::BTreeMap;

use catena_protocol::ids::{Offset, TopicPartition};

use super::CompactionPolicy;
use crate::codec::{self, DecodeError, Put, Reader, malformed};
use crate::limits::{COMPACTION_CLEANINGS_MAX, OFFSET_MAX};

/// Bytes of an entry without cleanings.
const ENTRY_BYTES_MIN: usize = 8 + 5 * 8 + 1 + 4;
const CLEANING_BYTES: usize = 16;
const HAS_TOMBSTONES: u8 = 1;
const HAS_LEFT: u8 = 2;

/// A pass that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cleaning {
    /// No key has two records below this offset.
    pub below: Offset,
    /// When the pass ended, in milliseconds since 1970.
    pub at_ms: i64,
}

/// What a replica knows of a compacted partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactedPartition {
    /// Everything below has been through a pass.
    pub clean_to: Offset,
    /// Bytes of the batches below that are left.
    pub clean_bytes: u64,
    /// By how much compaction made the partition smaller than the log counts it.
    pub saved_bytes: u64,
    /// From here on there may be superseded records that no pass will find any more. Tombstones
    /// from here on stay.
    pub left_from: Option<Offset>,
    /// When the last pass ended, in milliseconds since 1970; `i64::MIN` before the first.
    pub compacted_at_ms: i64,
    /// Whether the last pass left tombstones.
    pub has_tombstones: bool,
    /// Earlier passes, both fields ascending: what tombstones count their time from.
    pub cleanings: Vec<Cleaning>,
}

impl Default for CompactedPartition {
    fn default() -> Self {
        Self {
            clean_to: Offset(0),
            clean_bytes: 0,
            saved_bytes: 0,
            left_from: None,
            compacted_at_ms: i64::MIN,
            has_tombstones: false,
            cleanings: Vec::new(),
        }
    }
}

impl CompactedPartition {
    /// Whether a pass shall begin: `bytes` of batches are there, the first of them of
    /// `first_timestamp_ms`.
    pub fn is_due(
        &self,
        policy: &CompactionPolicy,
        now_ms: i64,
        bytes: u64,
        first_timestamp_ms: i64,
    ) -> bool {
        let dirty = self.dirty_bytes(bytes);
        let is_dirty = dirty > 0
            && u128::from(dirty) * 100 >= u128::from(bytes) * u128::from(policy.dirty_percent);
        is_dirty
            || self.is_late(policy, now_ms, bytes, first_timestamp_ms)
            || self.tombstones_are_due(policy, now_ms)
    }

    /// Whether something new has waited for as long as it may.
    pub fn is_late(
        &self,
        policy: &CompactionPolicy,
        now_ms: i64,
        bytes: u64,
        first_timestamp_ms: i64,
    ) -> bool {
        let since_ms = self.compacted_at_ms.max(first_timestamp_ms);
        self.dirty_bytes(bytes) > 0 && is_over(since_ms, policy.lag_max_ms, now_ms)
    }

    /// Of `bytes` of batches, those that came since the last pass.
    pub const fn dirty_bytes(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.clean_bytes)
    }

    /// Tombstones below this offset have been kept long enough.
    pub fn tombstones_below(&self, policy: &CompactionPolicy, now_ms: i64) -> Offset {
        let old = self
            .cleanings
            .iter()
            .rev()
            .find(|cleaning| is_over(cleaning.at_ms, policy.tombstone_ms, now_ms));
        old.map_or(Offset(0), |cleaning| cleaning.below)
    }

    /// Whether tombstones have been kept long enough that had not been when the last pass ended.
    pub(super) fn tombstones_are_due(&self, policy: &CompactionPolicy, now_ms: i64) -> bool {
        self.has_tombstones
            && self.tombstones_below(policy, now_ms)
                > self.tombstones_below(policy, self.compacted_at_ms)
    }

    /// Notes that a pass ended at `now_ms` which left nothing behind below `below`.
    pub fn note_cleaning(&mut self, below: Offset, now_ms: i64) {
        self.compacted_at_ms = now_ms;
        // What is no longer known to be clean, or was of a clock that ran ahead, counts anew.
        self.cleanings
            .retain(|cleaning| cleaning.below <= below && cleaning.at_ms < now_ms);
        // What was clean already has been so since then.
        let newest = self.cleanings.last().map_or(Offset(0), |last| last.below);
        if below > newest {
            let at_ms = now_ms;
            self.cleanings.push(Cleaning { below, at_ms });
        }
        self.thin_out();
    }

    /// Forgets the cleaning that is closest in time to the one after it. Tombstones between the
    /// two count from the later one: they are kept longer, never shorter.
    fn thin_out(&mut self) {
        while self.cleanings.len() > COMPACTION_CLEANINGS_MAX {
            let gaps = self.cleanings.windows(2).enumerate();
            let closest = gaps.min_by_key(|(_, two)| two[1].at_ms.abs_diff(two[0].at_ms));
            let (index, _) = closest.expect("there are two at least");
            self.cleanings.remove(index);
        }
    }

    /// The log start moved: `dropped_bytes` of batches went. `left_bytes` is what the log counts
    /// if nothing is left of the partition.
    pub fn note_trim(&mut self, dropped_bytes: u64, left_bytes: Option<u64>) {
        self.clean_bytes = self.clean_bytes.saturating_sub(dropped_bytes);
        if let Some(left_bytes) = left_bytes {
            self.saved_bytes = left_bytes;
            self.clean_bytes = 0;
            self.left_from = None;
        }
    }

    /// The bytes that are there, of those that the log counts.
    pub const fn stored_bytes(&self, counted_bytes: u64) -> u64 {
        counted_bytes.saturating_sub(self.saved_bytes)
    }
}

/// Whether `ms` milliseconds have passed.
fn is_over(since_ms: i64, ms: u64, now_ms: i64) -> bool {
    since_ms <= now_ms.saturating_sub_unsigned(ms)
}

type CompactedPartitions = BTreeMap<TopicPartition, CompactedPartition>;

/// Appends the list of a chain's compacted partitions.
pub(crate) fn encode_compacted(partitions: &CompactedPartitions, out: &mut Vec<u8>) {
    out.put_u32(codec::length_u32(partitions.len()));
    for (tp, partition) in partitions {
        out.put_topic_partition(*tp);
        out.put_u64(partition.clean_to.get());
        out.put_u64(partition.clean_bytes);
        out.put_u64(partition.saved_bytes);
        out.put_u64(partition.left_from.map_or(0, Offset::get));
        out.put_i64(partition.compacted_at_ms);
        let tombstones = u8::from(partition.has_tombstones) * HAS_TOMBSTONES;
        let left = u8::from(partition.left_from.is_some()) * HAS_LEFT;
        out.put_u8(tombstones | left);
        out.put_u32(codec::length_u32(partition.cleanings.len()));
        for cleaning in &partition.cleanings {
            out.put_u64(cleaning.below.get());
            out.put_i64(cleaning.at_ms);
        }
    }
}

/// Reads the list.
///
/// # Errors
/// Any [`DecodeError`].
pub(crate) fn decode_compacted(body: &mut Reader<'_>) -> Result<CompactedPartitions, DecodeError> {
    let mut partitions = CompactedPartitions::new();
    for _ in 0..body.count(ENTRY_BYTES_MIN, "compacted partitions")? {
        let tp = body.topic_partition("compacted partition")?;
        let is_ordered = partitions
            .last_key_value()
            .is_none_or(|(last, _)| *last < tp);
        let partition = decode_partition(body)?;
        if !is_ordered || !partition.is_sane() {
            return Err(malformed("compacted partitions"));
        }
        partitions.insert(tp, partition);
    }
    Ok(partitions)
}

fn decode_partition(body: &mut Reader<'_>) -> Result<CompactedPartition, DecodeError> {
    let mut partition = CompactedPartition {
        clean_to: body.offset("compacted partition")?,
        clean_bytes: body.u64("compacted partition")?,
        saved_bytes: body.u64("compacted partition")?,
        left_from: Some(body.offset("compacted partition")?),
        compacted_at_ms: body.i64("compacted partition")?,
        ..CompactedPartition::default()
    };
    let flags = body.u8("compacted partition")?;
    if flags & !(HAS_TOMBSTONES | HAS_LEFT) != 0 {
        return Err(malformed("flags of a compacted partition"));
    }
    partition.has_tombstones = flags & HAS_TOMBSTONES != 0;
    partition.left_from = partition.left_from.filter(|_| flags & HAS_LEFT != 0);
    for _ in 0..body.count(CLEANING_BYTES, "cleanings")? {
        partition.cleanings.push(Cleaning {
            below: body.offset("cleaning")?,
            at_ms: body.i64("cleaning")?,
        });
    }
    Ok(partition)
}

impl CompactedPartition {
    fn is_sane(&self) -> bool {
        let ascends =
            |one: &Cleaning, two: &Cleaning| one.below < two.below && one.at_ms < two.at_ms;
        let last = self.cleanings.last().map_or(Offset(0), |last| last.below);
        self.cleanings.is_sorted_by(ascends)
            && self.cleanings.len() <= COMPACTION_CLEANINGS_MAX
            && last <= self.clean_to
            && self.clean_to.get() <= OFFSET_MAX
            && self.clean_bytes <= OFFSET_MAX
            && self.saved_bytes <= OFFSET_MAX
    }
}
