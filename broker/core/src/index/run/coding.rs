//! How an extent is written relative to the one before it.
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

use catena_protocol::ids::{Offset, PartitionId, TopicId, TopicPartition};

use crate::codec::{DecodeError, Put, Reader, malformed};
use crate::ids::{BlockLocation, JournalId, SegmentSeq};
use crate::index::Extent;
use crate::limits::OFFSET_MAX;

/// The smallest encoded extent: flags and four one-byte numbers.
pub(super) const EXTENT_BYTES_MIN: usize = 5;

const NEW_PARTITION: u8 = 1;
const GAP: u8 = 2;
const NEW_JOURNAL: u8 = 4;
const NEW_SEGMENT: u8 = 8;
const NEW_BLOCK: u8 = 16;
const FLAGS: u8 = NEW_PARTITION | GAP | NEW_JOURNAL | NEW_SEGMENT | NEW_BLOCK;

/// What the next extent is written relative to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Previous {
    pub(super) tp: TopicPartition,
    pub(super) end_offset: Offset,
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
    pub(super) const fn after(tp: TopicPartition, extent: &Extent) -> Self {
        Self {
            tp,
            end_offset: extent.end_offset,
            block: extent.block,
            max_timestamp_ms: extent.max_timestamp_ms,
        }
    }
}

pub(super) fn encode_extent(
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

pub(super) fn decode_extent(
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
