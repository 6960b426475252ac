//! Index runs: extents sorted by (topic, partition, offset), in pages of at most 16 KiB that are
//! written as journal records, and the directory that finds the page.
//!
//! Invariant: a page stands alone (own checksum, no reference to its neighbours) and its extents
//! are sorted and disjoint; the decoder refuses any other. Pure; any thread.

mod coding;
pub mod directory;

use std::ops::Range;

use catena_protocol::ids::{Offset, TopicPartition};

use super::Extent;
use crate::codec::{self, DecodeError, malformed};
use crate::limits::INDEX_PAGE_BYTES_MAX;

use coding::{EXTENT_BYTES_MIN, Previous, decode_extent, encode_extent};
pub use directory::{PageEntry, PagePlace, RunDirectory};

/// Magic of a page: `CtIp`.
pub const PAGE_MAGIC: u32 = u32::from_le_bytes(*b"CtIp");

/// A place in the order of a run.
pub type RunKey = (TopicPartition, Offset);

/// The offsets of a partition that a page may name whose first extent begins at `first` and whose
/// last one ends at `last`.
pub fn offsets_between(first: RunKey, last: RunKey, tp: TopicPartition) -> Range<Offset> {
    if tp < first.0 || tp > last.0 {
        return Offset(0)..Offset(0);
    }
    let from = if first.0 == tp { first.1 } else { Offset(0) };
    let to = if last.0 == tp {
        last.1
    } else {
        Offset(u64::MAX)
    };
    from..to
}

/// A finished page, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltPage {
    /// The encoded page, at most [`INDEX_PAGE_BYTES_MAX`] bytes.
    pub bytes: Vec<u8>,
    /// Partition and base offset of its first extent.
    pub first: RunKey,
    /// Partition and end offset of its last extent.
    pub last: RunKey,
    /// The latest timestamp in any of its extents.
    pub max_timestamp_ms: i64,
    /// How many extents it holds.
    pub extents: u32,
}

impl BuiltPage {
    /// The directory's entry for this page once it has a place.
    pub const fn placed(&self, place: PagePlace) -> PageEntry {
        PageEntry {
            first: self.first,
            last: self.last,
            max_timestamp_ms: self.max_timestamp_ms,
            place,
        }
    }
}

/// Packs sorted extents into pages.
#[derive(Debug, Default)]
pub struct RunBuilder {
    bytes: Vec<u8>,
    first: Option<RunKey>,
    state: Previous,
    extents: u32,
    max_timestamp_ms: i64,
}

impl RunBuilder {
    /// Adds the next extent; returns the page before it when that is full.
    ///
    /// # Panics
    /// If the extent is not after the one before it: the caller merges sorted input.
    pub fn push(&mut self, tp: TopicPartition, extent: &Extent) -> Option<BuiltPage> {
        let mut full = None;
        if self.first.is_none() {
            self.begin();
        } else {
            let after = (self.state.tp, self.state.end_offset) <= (tp, extent.base_offset);
            assert!(
                after,
                "extents of a run come in order, {tp} at {}",
                extent.base_offset
            );
        }
        let used = self.bytes.len();
        encode_extent(&mut self.bytes, &self.state, self.extents == 0, tp, extent);
        if self.bytes.len() > INDEX_PAGE_BYTES_MAX {
            self.bytes.truncate(used);
            full = self.finish();
            self.begin();
            encode_extent(&mut self.bytes, &self.state, true, tp, extent);
        }
        if self.extents == 0 {
            self.first = Some((tp, extent.base_offset));
            self.max_timestamp_ms = extent.max_timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(extent.max_timestamp_ms);
        self.state = Previous::after(tp, extent);
        self.extents += 1;
        full
    }

    /// The last page, if any extent is in it. The builder is empty again afterwards.
    pub fn finish(&mut self) -> Option<BuiltPage> {
        let first = self.first.take()?;
        let mut bytes = std::mem::take(&mut self.bytes);
        codec::seal_envelope(&mut bytes, 0, PAGE_MAGIC, self.extents);
        let last = (self.state.tp, self.state.end_offset);
        let extents = std::mem::take(&mut self.extents);
        self.state = Previous::default();
        Some(BuiltPage {
            bytes,
            first,
            last,
            max_timestamp_ms: self.max_timestamp_ms,
            extents,
        })
    }

    fn begin(&mut self) {
        self.bytes.clear();
        self.bytes.reserve(INDEX_PAGE_BYTES_MAX);
        codec::begin_envelope(&mut self.bytes);
        self.state = Previous::default();
        self.extents = 0;
    }
}

/// A decoded page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPage {
    extents: Vec<Extent>,
    /// Each partition with the index of its first extent.
    partitions: Vec<(TopicPartition, u32)>,
}

impl RunPage {
    /// Decodes a page.
    ///
    /// # Errors
    /// Any [`DecodeError`]; a page that is not exactly what [`RunBuilder`] writes is refused.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > INDEX_PAGE_BYTES_MAX {
            let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let limit = u64::try_from(INDEX_PAGE_BYTES_MAX).unwrap_or(u64::MAX);
            return Err(DecodeError::Limit {
                what: "index page bytes",
                limit,
                found,
            });
        }
        let envelope = codec::open_envelope(bytes, PAGE_MAGIC)?;
        let mut body = envelope.body;
        let count = body.check_count(envelope.count, EXTENT_BYTES_MIN, "extents of a page")?;
        if count == 0 || !envelope.rest.is_empty() {
            return Err(malformed("index page"));
        }
        let mut page = Self {
            extents: Vec::with_capacity(count),
            partitions: Vec::new(),
        };
        let mut previous = Previous::default();
        for index in 0..envelope.count {
            let (tp, extent) = decode_extent(&mut body, &previous, index == 0)?;
            if index == 0 || tp != previous.tp {
                page.partitions.push((tp, index));
            }
            previous = Previous::after(tp, &extent);
            page.extents.push(extent);
        }
        body.finish("bytes after the extents of a page")?;
        Ok(page)
    }

    /// How many extents the page holds.
    pub const fn len(&self) -> usize {
        self.extents.len()
    }

    /// Never true: a page without extents is not written.
    pub const fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The extents of `tp` that reach above `from`, in order.
    pub fn extents(&self, tp: TopicPartition, from: Offset) -> impl Iterator<Item = Extent> {
        let of_partition = match self.partitions.binary_search_by_key(&tp, |(tp, _)| *tp) {
            Ok(index) => {
                let end = self
                    .partitions
                    .get(index + 1)
                    .map_or(self.extents.len(), start_index);
                &self.extents[start_index(&self.partitions[index])..end]
            }
            Err(_) => &[],
        };
        let first = of_partition.partition_point(|extent| extent.end_offset <= from);
        of_partition[first..].iter().copied()
    }

    /// The extent at `index` in the page's order, with its partition.
    pub fn get(&self, index: usize) -> Option<(TopicPartition, Extent)> {
        let extent = *self.extents.get(index)?;
        let partition = self
            .partitions
            .partition_point(|entry| start_index(entry) <= index);
        Some((self.partitions[partition - 1].0, extent))
    }

    /// Partition and base offset of the first extent.
    pub fn first(&self) -> RunKey {
        (self.partitions[0].0, self.extents[0].base_offset)
    }

    /// Partition and end offset of the last extent.
    pub fn last(&self) -> RunKey {
        let last_partition = self.partitions.last().expect("a page is not empty").0;
        (
            last_partition,
            self.extents.last().expect("a page is not empty").end_offset,
        )
    }
}

fn start_index(entry: &(TopicPartition, u32)) -> usize {
    codec::index_of(entry.1)
}

#[cfg(test)]
pub(super) mod tests;
