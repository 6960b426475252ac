//! Offsets of partitions that nothing names, and which of the batches that were found belong there.
//!
//! Two places ask: a start without any checkpoint, whose batches may have been moved out of their
//! frames, and the index, when a page of it cannot be read. Both read the journal, find each batch
//! as often as it was written, and want the newest copy of what they have no place for.
//!
//! Invariant: the ranges of a partition are in order and do not touch. Pure; any thread.

use std::collections::BTreeMap;
use std::ops::Range;

use catena_protocol::ids::{Offset, TopicPartition};

use super::Extent;

/// Ranges of offsets per partition.
///
/// ```
/// use catena_core::index::gaps::Gaps;
/// use catena_protocol::ids::{Offset, PartitionId, TopicId, TopicPartition};
///
/// let tp = TopicPartition::new(TopicId(1), PartitionId(0));
/// let mut gaps = Gaps::default();
/// gaps.open(tp, Offset(0)..Offset(10));
/// gaps.close(tp, &(Offset(3)..Offset(5)));
/// assert!(!gaps.overlap(tp, &(Offset(3)..Offset(5))));
/// assert!(gaps.overlap(tp, &(Offset(4)..Offset(6))));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    ranges: BTreeMap<TopicPartition, Vec<Range<Offset>>>,
}

impl Gaps {
    /// Adds offsets that nothing names.
    pub fn open(&mut self, tp: TopicPartition, range: Range<Offset>) {
        if range.is_empty() {
            return;
        }
        let ranges = self.ranges.entry(tp).or_default();
        let first = ranges.partition_point(|at| at.end < range.start);
        let behind = ranges.partition_point(|at| at.start <= range.end);
        let touched = &ranges[first..behind];
        let start = touched.first().map_or(range.start, |at| at.start);
        let end = touched.last().map_or(range.end, |at| at.end);
        let joined = start.min(range.start)..end.max(range.end);
        ranges.splice(first..behind, [joined]);
    }

    /// Takes offsets out that something names.
    pub fn close(&mut self, tp: TopicPartition, range: &Range<Offset>) {
        let Some(ranges) = self.ranges.get_mut(&tp) else {
            return;
        };
        let (first, behind) = overlapping(ranges, range);
        if first == behind {
            return;
        }
        let before = ranges[first].start..range.start;
        let after = range.end..ranges[behind - 1].end;
        let left = [before, after].into_iter().filter(|part| !part.is_empty());
        ranges.splice(first..behind, left);
        if ranges.is_empty() {
            self.ranges.remove(&tp);
        }
    }

    /// Whether any of these offsets is in a gap.
    pub fn overlap(&self, tp: TopicPartition, range: &Range<Offset>) -> bool {
        let of_partition = self.ranges.get(&tp);
        of_partition.is_some_and(|ranges| {
            let (first, behind) = overlapping(ranges, range);
            first < behind
        })
    }

    /// The parts of these offsets that are in gaps.
    fn parts(&self, tp: TopicPartition, range: &Range<Offset>) -> Vec<Range<Offset>> {
        let ranges = self.ranges.get(&tp).map_or(&[][..], Vec::as_slice);
        let (first, behind) = overlapping(ranges, range);
        let parts = ranges[first..behind].iter();
        parts
            .map(|at| at.start.max(range.start)..at.end.min(range.end))
            .collect()
    }

    /// What is missing of the offsets at or above a partition's start.
    pub fn above(&self, tp: TopicPartition, start: Offset) -> Vec<Range<Offset>> {
        self.parts(tp, &(start..Offset(u64::MAX)))
    }

    /// The partitions with gaps, in order.
    pub fn partitions(&self) -> impl Iterator<Item = TopicPartition> {
        self.ranges.keys().copied()
    }

    /// What belongs in the gaps of `found`, stretches of batches in the order in which they were
    /// written: of each the newest copy. Closes the gaps that are filled.
    ///
    /// A stretch with records counts if all its offsets are missing. A batch without records may
    /// stand for many, of which some are still where they were; it is named for each part that is
    /// missing.
    pub fn fill(&mut self, found: &[(TopicPartition, Extent)]) -> Filled {
        let mut filled = Filled::default();
        for (tp, extent) in found.iter().rev() {
            let offsets = extent.offsets();
            let missing = self.parts(*tp, &offsets);
            let is_whole = missing == [offsets];
            if !is_whole && extent.holds_records() {
                if !missing.is_empty() {
                    filled.partly.push((*tp, *extent));
                }
                continue;
            }
            for part in missing {
                self.close(*tp, &part);
                let part = Extent {
                    base_offset: part.start,
                    end_offset: part.end,
                    ..*extent
                };
                filled.wanted.push((*tp, part));
            }
        }
        filled
            .wanted
            .sort_by_key(|(tp, extent)| (*tp, extent.base_offset));
        filled.wanted = join(filled.wanted);
        filled
    }
}

/// What [`Gaps::fill`] gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filled {
    /// What belongs in the gaps, in order of partition and offset, neighbours in a block joined.
    pub wanted: Vec<(TopicPartition, Extent)>,
    /// Stretches of which only some offsets were missing, the newest first. A single batch of them
    /// is a copy: it stands for one that was produced, and that one is in one place. Several may
    /// hold some that belong in what is still missing.
    pub partly: Vec<(TopicPartition, Extent)>,
}

/// The indexes of the ranges that share offsets with `range`.
fn overlapping(ranges: &[Range<Offset>], range: &Range<Offset>) -> (usize, usize) {
    let first = ranges.partition_point(|at| at.end <= range.start);
    let behind = ranges.partition_point(|at| at.start < range.end);
    if range.is_empty() {
        return (first, first);
    }
    (first, behind.max(first))
}

/// Joins neighbours that follow each other in a block, too.
pub fn join(extents: Vec<(TopicPartition, Extent)>) -> Vec<(TopicPartition, Extent)> {
    let mut joined: Vec<(TopicPartition, Extent)> = Vec::with_capacity(extents.len());
    for (tp, extent) in extents {
        match joined.last_mut() {
            Some((of, last)) if *of == tp && last.is_followed_by(&extent) => {
                last.end_offset = extent.end_offset;
                last.bytes += extent.bytes;
                last.max_timestamp_ms = last.max_timestamp_ms.max(extent.max_timestamp_ms);
            }
            _ => joined.push((tp, extent)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use catena_protocol::ids::{PartitionId, TopicId};
    use proptest::prelude::*;

    use super::*;

    const TP: TopicPartition = TopicPartition::new(TopicId(1), PartitionId(0));

    fn range(start: u64, end: u64) -> Range<Offset> {
        Offset(start)..Offset(end)
    }

    proptest! {
        /// Opening and closing ranges is what it is for single offsets.
        #[test]
        fn gaps_are_sets_of_offsets(
            steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0_u64..12), 0..30),
            asked in (0_u64..40, 0_u64..12),
        ) {
            let mut gaps = Gaps::default();
            let mut model = BTreeSet::new();
            for (opens, start, length) in steps {
                let offsets = range(start, start + length);
                if opens {
                    gaps.open(TP, offsets);
                    model.extend(start..start + length);
                } else {
                    gaps.close(TP, &offsets);
                    model.retain(|at| !(start..start + length).contains(at));
                }
                let ranges = gaps.ranges.get(&TP).map_or(&[][..], Vec::as_slice);
                prop_assert!(ranges.iter().all(|at| at.start < at.end));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
            }
            let (start, length) = asked;
            let offsets = range(start, start + length);
            let expected: Vec<u64> = model.range(start..start + length).copied().collect();
            let parts = gaps.parts(TP, &offsets);
            let found: Vec<u64> = parts.iter().flat_map(|part| part.start.0..part.end.0).collect();
            prop_assert_eq!(gaps.overlap(TP, &offsets), !expected.is_empty());
            prop_assert_eq!(found, expected);
        }
    }
}
