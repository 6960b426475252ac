//! Index runs: extents sorted by (topic, partition, offset), in pages of at most 16 KiB that are
//! written as journal records, and the directory that finds the page.
//!
//! Invariant: a page stands alone (own checksum, no reference to its neighbours) and its extents
//! are sorted and disjoint; the decoder refuses any other. Pure; any thread.
//!
//! A page is an envelope (see [`crate::codec`]) with `count` extents, at least one. Each is
//!
//! ```text
//! flags u8: 1 new partition, 2 gap, 4 new journal, 8 new segment, 16 new block
//! new partition: topic delta varint | partition varint (a delta when the topic delta is 0)
//! gap: base offset - previous end offset, varint (a new partition's previous end is 0)
//! end offset - base offset, varint
//! new journal: journal varint
//! new segment: segment - previous segment, zigzag
//! new block: block offset - previous, zigzag | block bytes varint (both rotated right by 12)
//! offset in block varint | bytes varint | max timestamp - previous, zigzag
//! ```
//!
//! All "previous" values are 0 at the start of a page. Block offsets and sizes are multiples of
//! 4096; the rotation makes them small numbers and loses nothing if they are not.

pub mod directory;

use catena_protocol::ids::{Offset, PartitionId, TopicId, TopicPartition};

use super::Extent;
use crate::codec::{self, DecodeError, Put, Reader, malformed};
use crate::ids::{BlockLocation, JournalId, SegmentSeq};
use crate::limits::{INDEX_PAGE_BYTES_MAX, OFFSET_MAX};

pub use directory::{PageEntry, PagePlace, RunDirectory};

/// Magic of a page: `CtIp`.
pub const PAGE_MAGIC: u32 = u32::from_le_bytes(*b"CtIp");

/// The smallest encoded extent: flags and five one-byte numbers.
const EXTENT_BYTES_MIN: usize = 5;

const NEW_PARTITION: u8 = 1;
const GAP: u8 = 2;
const NEW_JOURNAL: u8 = 4;
const NEW_SEGMENT: u8 = 8;
const NEW_BLOCK: u8 = 16;
const FLAGS: u8 = NEW_PARTITION | GAP | NEW_JOURNAL | NEW_SEGMENT | NEW_BLOCK;

/// A place in the order of a run.
pub type RunKey = (TopicPartition, Offset);

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

/// What the next extent is written relative to.
#[derive(Debug, Clone, Copy)]
struct Previous {
    tp: TopicPartition,
    end_offset: Offset,
    block: BlockLocation,
    max_timestamp_ms: i64,
}

impl Default for Previous {
    fn default() -> Self {
        Self {
            tp: TopicPartition {
                topic: TopicId(0),
                partition: PartitionId(0),
            },
            end_offset: Offset(0),
            block: BlockLocation {
                journal: JournalId(0),
                segment: SegmentSeq(0),
                offset: 0,
                bytes: 0,
            },
            max_timestamp_ms: 0,
        }
    }
}

impl Previous {
    const fn after(tp: TopicPartition, extent: &Extent) -> Self {
        Self {
            tp,
            end_offset: extent.end_offset,
            block: extent.block,
            max_timestamp_ms: extent.max_timestamp_ms,
        }
    }
}

fn encode_extent(
    out: &mut Vec<u8>,
    previous: &Previous,
    first: bool,
    tp: TopicPartition,
    extent: &Extent,
) {
    let new_partition = first || tp != previous.tp;
    let previous_end = if new_partition {
        0
    } else {
        previous.end_offset.get()
    };
    let gap = extent.base_offset.get() - previous_end;
    let (block, before) = (extent.block, previous.block);
    let mut flags = 0;
    flags |= if new_partition { NEW_PARTITION } else { 0 };
    flags |= if gap > 0 { GAP } else { 0 };
    flags |= if block.journal == before.journal {
        0
    } else {
        NEW_JOURNAL
    };
    flags |= if block.segment == before.segment {
        0
    } else {
        NEW_SEGMENT
    };
    let same_block = block.offset == before.offset && block.bytes == before.bytes;
    flags |= if same_block { 0 } else { NEW_BLOCK };
    out.put_u8(flags);
    if new_partition {
        let topic_delta = tp.topic.get() - previous.tp.topic.get();
        let partition_from = if topic_delta == 0 {
            previous.tp.partition.get()
        } else {
            0
        };
        out.put_varint(topic_delta.into());
        out.put_varint((tp.partition.get() - partition_from).into());
    }
    if gap > 0 {
        out.put_varint(gap);
    }
    out.put_varint(extent.end_offset.get() - extent.base_offset.get());
    if flags & NEW_JOURNAL != 0 {
        out.put_varint(block.journal.0.into());
    }
    if flags & NEW_SEGMENT != 0 {
        out.put_zigzag(i64::from(block.segment.0) - i64::from(before.segment.0));
    }
    if flags & NEW_BLOCK != 0 {
        out.put_zigzag(rotated(block.offset) - rotated(before.offset));
        out.put_varint(block.bytes.rotate_right(12).into());
    }
    out.put_varint(extent.offset_in_block.into());
    out.put_varint(extent.bytes.into());
    out.put_zigzag(
        extent
            .max_timestamp_ms
            .wrapping_sub(previous.max_timestamp_ms),
    );
}

fn decode_extent(
    body: &mut Reader<'_>,
    previous: &Previous,
    first: bool,
) -> Result<(TopicPartition, Extent), DecodeError> {
    let flags = body.u8("extent flags")?;
    let new_partition = flags & NEW_PARTITION != 0;
    if flags & !FLAGS != 0 || (first && !new_partition) {
        return Err(malformed("extent flags"));
    }
    let mut tp = previous.tp;
    let mut previous_end = previous.end_offset.get();
    if new_partition {
        tp = decode_partition(body, previous.tp, first)?;
        previous_end = 0;
    }
    let gap = if flags & GAP == 0 {
        0
    } else {
        body.varint("offset gap")?
    };
    let length = body.varint("extent length")?;
    let base_offset = previous_end
        .checked_add(gap)
        .ok_or(malformed("base offset"))?;
    let end_offset = base_offset
        .checked_add(length)
        .ok_or(malformed("end offset"))?;
    if length == 0 || end_offset > OFFSET_MAX {
        return Err(malformed("end offset"));
    }
    let block = decode_block(body, flags, previous.block)?;
    let offset_in_block = body.varint_u32("offset in block")?;
    let bytes = body.varint_u32("extent bytes")?;
    let timestamp_delta = body.zigzag("extent timestamp")?;
    let extent = Extent {
        base_offset: Offset(base_offset),
        end_offset: Offset(end_offset),
        block,
        offset_in_block,
        bytes,
        max_timestamp_ms: previous.max_timestamp_ms.wrapping_add(timestamp_delta),
    };
    Ok((tp, extent))
}

fn decode_partition(
    body: &mut Reader<'_>,
    previous: TopicPartition,
    first: bool,
) -> Result<TopicPartition, DecodeError> {
    let topic_delta = body.varint_u32("topic")?;
    let partition_delta = body.varint_u32("partition")?;
    let topic = previous
        .topic
        .get()
        .checked_add(topic_delta)
        .ok_or(malformed("topic"))?;
    let from = if topic_delta == 0 {
        previous.partition.get()
    } else {
        0
    };
    let partition = from
        .checked_add(partition_delta)
        .ok_or(malformed("partition"))?;
    let tp = TopicPartition {
        topic: TopicId(topic),
        partition: PartitionId(partition),
    };
    if !first && tp <= previous {
        return Err(malformed("order of partitions"));
    }
    Ok(tp)
}

fn decode_block(
    body: &mut Reader<'_>,
    flags: u8,
    before: BlockLocation,
) -> Result<BlockLocation, DecodeError> {
    let mut block = before;
    if flags & NEW_JOURNAL != 0 {
        let journal = body.varint("journal")?;
        block.journal = JournalId(u16::try_from(journal).map_err(|_| malformed("journal"))?);
    }
    if flags & NEW_SEGMENT != 0 {
        let delta = body.zigzag("segment")?;
        let segment = i64::from(before.segment.0).checked_add(delta);
        let segment = segment.and_then(|segment| u32::try_from(segment).ok());
        block.segment = SegmentSeq(segment.ok_or(malformed("segment"))?);
    }
    if flags & NEW_BLOCK != 0 {
        let delta = body.zigzag("block offset")?;
        let offset = rotated(before.offset).checked_add(delta);
        let offset = offset.and_then(|offset| u32::try_from(offset).ok());
        block.offset = offset.ok_or(malformed("block offset"))?.rotate_left(12);
        block.bytes = body.varint_u32("block bytes")?.rotate_left(12);
    }
    Ok(block)
}

fn rotated(value: u32) -> i64 {
    value.rotate_right(12).into()
}

#[cfg(test)]
pub(super) mod tests;
