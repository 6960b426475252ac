//! Batches that the cleaner wrote anew, for a start that has no checkpoint to say where they are.
//!
//! Normally the index runs say it, and relocation records mean nothing by themselves. Without any
//! checkpoint the journal is read whole, but the frames that batches came in may have been freed
//! once the batches were moved. The newest copy of each is then as good as its frame, except that
//! it does not say what became of it later: a trim whose frame was freed is undone. Pure; any
//! thread.

use std::collections::BTreeMap;
use std::ops::Range;

use catena_protocol::batch::BATCH_HEADER_BYTES;
use catena_protocol::ids::{Offset, TopicPartition};

use super::FrameSummary;
use crate::entry::{ENTRY_HEADER_BYTES, EntryView};
use crate::ids::BlockLocation;
use crate::index::Extent;
use crate::layout::{to_u32, to_usize};

/// A moved batch: its partition, and where it lies.
pub type MovedBatch = (TopicPartition, Extent);

/// The batches of a relocation record in the block at `block`; none for any other entry.
pub fn moved_batches(entry: &EntryView<'_>, block: BlockLocation) -> Vec<MovedBatch> {
    let EntryView::Relocation(record, rows) = entry else {
        return Vec::new();
    };
    let body = to_usize(record.offset_in_block) + ENTRY_HEADER_BYTES;
    let batches = rows.iter().flat_map(|row| row.batches());
    let moved = batches.map(|batch| {
        let extent = Extent {
            base_offset: batch.header.base_offset,
            end_offset: batch.header.next_offset(),
            block,
            offset_in_block: to_u32(body + to_usize(batch.offset_in_body)),
            bytes: batch.header.length,
            max_timestamp_ms: batch.header.max_timestamp_ms(),
        };
        (batch.tp, extent)
    });
    moved.collect()
}

/// Of batches that were moved, in journal order, the newest copies of those that no frame holds:
/// in order of partition and offset, neighbours in one block joined. One without records is named
/// for each of its parts that nothing else holds.
pub fn only_moved(moved: &[MovedBatch], frames: &[FrameSummary]) -> Vec<MovedBatch> {
    let mut ends: BTreeMap<(TopicPartition, Offset), Offset> = BTreeMap::new();
    for (tp, extent) in frames.iter().flat_map(|frame| &frame.rows) {
        ends.insert((*tp, extent.base_offset), extent.end_offset);
    }
    let mut found: Vec<MovedBatch> = Vec::new();
    for (tp, extent) in moved.iter().rev() {
        let unheld = unheld(&ends, *tp, extent);
        // A batch with records stands for offsets of one that was produced, and that one is in one
        // place: what overlaps is a copy. One without may stand for many, of which some are still
        // where they were; for the others there is nothing else.
        let is_whole = unheld == [extent.base_offset..extent.end_offset];
        if !is_whole && extent.bytes > to_u32(BATCH_HEADER_BYTES) {
            continue;
        }
        for part in unheld {
            ends.insert((*tp, part.start), part.end);
            let part = Extent {
                base_offset: part.start,
                end_offset: part.end,
                ..*extent
            };
            found.push((*tp, part));
        }
    }
    found.sort_by_key(|(tp, extent)| (*tp, extent.base_offset));
    let mut joined: Vec<MovedBatch> = Vec::with_capacity(found.len());
    for (tp, extent) in found {
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

/// The offsets of an extent that nothing in `ends`, which gives the end of what begins at an
/// offset, holds.
fn unheld(
    ends: &BTreeMap<(TopicPartition, Offset), Offset>,
    tp: TopicPartition,
    extent: &Extent,
) -> Vec<Range<Offset>> {
    let first = (tp, extent.base_offset);
    let before = ends.range(..first).next_back();
    let before = before.filter(|((of, _), _)| *of == tp);
    let mut at = before.map_or(first.1, |(_, end)| first.1.max(*end));
    let mut unheld = Vec::new();
    for ((_, start), end) in ends.range(first..(tp, extent.end_offset)) {
        if at < *start {
            unheld.push(at..*start);
        }
        at = at.max(*end);
    }
    if at < extent.end_offset {
        unheld.push(at..extent.end_offset);
    }
    unheld
}

impl Extent {
    fn is_followed_by(&self, next: &Extent) -> bool {
        self.block == next.block
            && self.end_offset == next.base_offset
            && self.offset_in_block + self.bytes == next.offset_in_block
    }
}

#[cfg(test)]
mod tests {
    use catena_protocol::ids::{ChainEpoch, ChainId, PartitionId, TopicId};

    use super::*;
    use crate::entry::FrameKind;
    use crate::ids::{JournalId, Lsn, SegmentSeq};

    fn tp(partition: u32) -> TopicPartition {
        TopicPartition::new(TopicId(1), PartitionId(partition))
    }

    /// Offsets `base..end` at a place of a segment, 100 bytes an offset.
    fn extent(base: u64, end: u64, segment: u32, offset_in_block: u32) -> Extent {
        Extent {
            base_offset: Offset(base),
            end_offset: Offset(end),
            block: BlockLocation {
                journal: JournalId(0),
                segment: SegmentSeq(segment),
                offset: 4096,
                bytes: 8192,
            },
            offset_in_block,
            bytes: u32::try_from(end - base).expect("few") * 100,
            max_timestamp_ms: i64::try_from(end).expect("few"),
        }
    }

    fn frame_of(rows: Vec<MovedBatch>) -> FrameSummary {
        FrameSummary {
            chain: ChainId(1),
            lsn: Lsn(1),
            epoch: ChainEpoch(1),
            crc: 0,
            prev_frame_crc: 0,
            kind: FrameKind::Batches,
            block: rows[0].1.block,
            batches: Vec::new(),
            rows,
            body: Vec::new(),
        }
    }

    #[test]
    fn the_newest_copy_counts_and_neighbours_are_joined() {
        let moved = [
            (tp(0), extent(0, 2, 3, 200)),
            (tp(0), extent(2, 4, 3, 400)),
            (tp(1), extent(4, 6, 3, 600)),
            (tp(0), extent(2, 4, 5, 200)),
            (tp(0), extent(4, 5, 5, 400)),
        ];
        let expected = [
            (tp(0), extent(0, 2, 3, 200)),
            (tp(0), extent(2, 5, 5, 200)),
            (tp(1), extent(4, 6, 3, 600)),
        ];
        assert_eq!(only_moved(&moved, &[]), expected);
    }

    #[test]
    fn what_a_frame_holds_is_read_from_there() {
        let frames = [frame_of(vec![(tp(0), extent(2, 9, 1, 200))])];
        let moved = [
            (tp(0), extent(0, 2, 3, 200)),
            (tp(0), extent(2, 4, 3, 400)),
            (tp(0), extent(8, 9, 3, 600)),
            (tp(1), extent(2, 4, 3, 700)),
        ];
        let expected = [(tp(0), extent(0, 2, 3, 200)), (tp(1), extent(2, 4, 3, 700))];
        assert_eq!(only_moved(&moved, &frames), expected);
    }

    #[test]
    fn a_batch_without_records_stands_for_what_nothing_else_holds() {
        let empty = |base, end, offset_in_block| Extent {
            bytes: to_u32(BATCH_HEADER_BYTES),
            max_timestamp_ms: 0,
            ..extent(base, end, 3, offset_in_block)
        };
        let frames = [frame_of(vec![
            (tp(0), extent(500, 510, 1, 200)),
            (tp(0), extent(700, 720, 1, 1200)),
        ])];
        let moved = [
            (tp(0), empty(0, 1000, 200)),
            // A later pass: what was beside it went, too.
            (tp(0), empty(1000, 1200, 264)),
            (tp(0), empty(900, 1500, 328)),
            (tp(1), empty(0, 5, 392)),
        ];
        let expected = [
            (tp(0), empty(0, 500, 200)),
            (tp(0), empty(510, 700, 200)),
            (tp(0), empty(720, 900, 200)),
            (tp(0), empty(900, 1500, 328)),
            (tp(1), empty(0, 5, 392)),
        ];
        assert_eq!(only_moved(&moved, &frames), expected);
        let held = [(tp(0), empty(502, 506, 200))];
        assert_eq!(only_moved(&held, &frames), []);
    }
}
