//! Extents in the order of their arrival, for all partitions of a shard.
//!
//! A commit adds one extent to each of many partitions. A list per partition would cost a cache
//! miss for each; one list for all is written from front to back. Each entry links back to the
//! entry of its partition before it, and to the last ones at two wider, regular distances, as in a
//! skip list without chance (Pugh 1990), so that any extent is found in a few hundred steps among
//! a quarter of a million.
//!
//! Invariant: along the links offsets and depths fall. What ends at or below the `start` of a
//! partition is dropped; it keeps its memory until the whole list goes.

use catena_protocol::ids::{Offset, TopicPartition};

use super::Extent;
use crate::codec::{index_of, length_u32};
use crate::partition_map::PartitionMap;

/// Entries are allocated by the chunk, so that a growing list never moves.
const CHUNK_ENTRIES: usize = 512;

/// Link `k` of an entry leads to the last entry before it whose depth is a multiple of `SPANS[k]`.
const SPANS: [u32; 3] = [1, 64, 4096];

/// No entry: the end of the links.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    extent: Extent,
    /// Entries of the partition before this one.
    depth: u32,
    links: [u32; SPANS.len()],
}

/// The newest entries of a partition, and all that the next one needs to know of them: entries are
/// cold by then.
#[derive(Debug, Clone, Copy)]
struct Head {
    /// The links of the next entry.
    newest: [u32; SPANS.len()],
    depth: u32,
    /// Extents that end at or below are dropped.
    start: Offset,
    end_offset: Offset,
}

#[derive(Debug, Default)]
pub(super) struct Recent {
    heads: PartitionMap<Head>,
    chunks: Vec<Vec<Entry>>,
}

impl Recent {
    /// Adds the newest extent of a partition.
    ///
    /// # Panics
    /// If it starts before the end of the newest one.
    pub(super) fn insert(&mut self, tp: TopicPartition, extent: Extent) {
        let at = length_u32(self.len());
        let head = self.heads.get_or_insert_with(tp, || Head {
            newest: [NONE; SPANS.len()],
            depth: NONE,
            start: Offset(0),
            end_offset: Offset(0),
        });
        assert!(
            head.end_offset <= extent.base_offset,
            "{tp}: extent at {} inserted behind the end {}",
            extent.base_offset,
            head.end_offset,
        );
        let links = head.newest;
        let depth = head.depth.wrapping_add(1);
        for (newest, span) in head.newest.iter_mut().zip(SPANS) {
            if depth.is_multiple_of(span) {
                *newest = at;
            }
        }
        head.depth = depth;
        head.end_offset = extent.end_offset;
        self.push(Entry {
            extent,
            depth,
            links,
        });
    }

    /// Up to `max` extents in offset order, from the one that contains `offset` or the first above.
    pub(super) fn floor(&self, tp: TopicPartition, offset: Offset, max: usize) -> Vec<Extent> {
        let Some(head) = self.head_above(tp, offset) else {
            return Vec::new();
        };
        let from = self.earliest_above(&head, offset.max(head.start)).depth;
        let count = max.min(index_of(head.depth - from) + 1);
        let to = from + length_u32(count) - 1;
        let last = self.back_while(&head, |entry| entry.depth >= to);
        self.walk(last, count)
    }

    /// All extents of each of some partitions, in offset order.
    pub(super) fn all_of(&self, partitions: &[TopicPartition]) -> Vec<Vec<Extent>> {
        let heads = partitions.iter().map(|tp| self.heads.get(*tp));
        let mut walks: Vec<(Option<&Entry>, Offset, Vec<Extent>)> = heads
            .map(|head| match head {
                Some(head) => (Some(self.newest(head)), head.start, Vec::new()),
                None => (None, Offset(0), Vec::new()),
            })
            .collect();
        // A step in each of them by turns: the entries lie far apart, and the processor fetches
        // those of different partitions side by side.
        let mut is_done = false;
        while !is_done {
            is_done = true;
            for (at, start, extents) in &mut walks {
                if let Some(entry) = *at {
                    extents.push(entry.extent);
                    let [previous, ..] = entry.links;
                    let previous = self.entry(previous);
                    *at = previous.filter(|entry| entry.extent.end_offset > *start);
                    is_done = false;
                }
            }
        }
        let in_order = |(_, _, mut extents): (_, _, Vec<Extent>)| {
            extents.reverse();
            extents
        };
        walks.into_iter().map(in_order).collect()
    }

    /// The first extent with a record at or after a time: timestamps are in no order.
    pub(super) fn floor_time(&self, tp: TopicPartition, timestamp_ms: i64) -> Option<Extent> {
        let head = self.heads.get(tp)?;
        let first = self.earliest_above(head, head.start).depth;
        let count = index_of(head.depth - first) + 1;
        let extents = self.walk(self.newest(head), count);
        extents
            .into_iter()
            .find(|extent| extent.max_timestamp_ms >= timestamp_ms)
    }

    /// Drops the extents of a partition that end at or below `log_start`.
    pub(super) fn trim(&mut self, tp: TopicPartition, log_start: Offset) {
        match self.heads.get_mut(tp) {
            Some(head) if head.end_offset > log_start => head.start = head.start.max(log_start),
            _ => self.forget(tp),
        }
    }

    /// Drops all extents of a partition.
    pub(super) fn forget(&mut self, tp: TopicPartition) {
        self.heads.remove(tp);
    }

    /// The partitions that have extents, in order.
    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        let mut partitions: Vec<TopicPartition> = self.heads.iter().map(|(tp, _)| tp).collect();
        partitions.sort_unstable();
        partitions
    }

    pub(super) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Memory held, in bytes, counted by capacity.
    pub(super) fn bytes(&self) -> usize {
        self.heads.bytes()
            + self.chunks.len() * CHUNK_ENTRIES * size_of::<Entry>()
            + self.chunks.capacity() * size_of::<Vec<Entry>>()
    }

    /// The partition's head, if it has an extent that ends above `offset`.
    fn head_above(&self, tp: TopicPartition, offset: Offset) -> Option<Head> {
        let head = self.heads.get(tp).copied();
        head.filter(|head| head.end_offset > offset)
    }

    /// The earliest entry that ends above `offset`; the newest does.
    fn earliest_above(&self, head: &Head, offset: Offset) -> &Entry {
        self.back_while(head, |entry| entry.extent.end_offset > offset)
    }

    /// The earliest entry for which `holds`: it does for the newest, and up to some depth.
    fn back_while(&self, head: &Head, holds: impl Fn(&Entry) -> bool) -> &Entry {
        let mut at = self.newest(head);
        for level in (0..SPANS.len()).rev() {
            while let Some(before) = self.entry(at.links[level])
                && holds(before)
            {
                at = before;
            }
        }
        at
    }

    /// The `count` extents up to an entry, in offset order.
    fn walk(&self, last: &Entry, count: usize) -> Vec<Extent> {
        let [previous, ..] = last.links;
        let before = std::iter::successors(self.entry(previous), |entry| {
            let [previous, ..] = entry.links;
            self.entry(previous)
        });
        let mut extents = Vec::with_capacity(count);
        extents.push(last.extent);
        extents.extend(before.map(|entry| entry.extent).take(count - 1));
        extents.reverse();
        extents
    }

    fn newest(&self, head: &Head) -> &Entry {
        let [newest, ..] = head.newest;
        self.entry(newest).expect("a partition has an entry")
    }

    fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::len);
        self.chunks.len().saturating_sub(1) * CHUNK_ENTRIES + last
    }

    fn push(&mut self, entry: Entry) {
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK_ENTRIES => chunk.push(entry),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK_ENTRIES);
                chunk.push(entry);
                self.chunks.push(chunk);
            }
        }
    }

    /// The entry at a place, unless that is [`NONE`].
    fn entry(&self, at: u32) -> Option<&Entry> {
        let at = index_of(at);
        self.chunks.get(at / CHUNK_ENTRIES)?.get(at % CHUNK_ENTRIES)
    }
}

const _: () = assert!(size_of::<Entry>() <= 64, "an entry is at most a cache line");
