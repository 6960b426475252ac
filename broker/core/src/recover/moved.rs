//! Batches that the cleaner wrote anew, for a start that has no checkpoint to say where they are.
//!
//! Normally the index runs say it, and relocation records mean nothing by themselves. Without any
//! checkpoint the journal is read whole, but the frames that batches came in may have been freed
//! once the batches were moved. The newest copy of each is then as good as its frame, except that
//! it does not say what became of it later: a trim whose frame was freed is undone. Pure; any
//! thread.

use catena_protocol::ids::TopicPartition;

use super::FrameSummary;
use crate::entry::{ENTRY_HEADER_BYTES, EntryView};
use crate::ids::BlockLocation;
use crate::index::Extent;
use crate::index::gaps::Gaps;
use crate::layout::{to_u32, to_usize};

/// A moved batch: its partition, and where it lies.
pub type MovedBatch = (TopicPartition, Extent);

/// The batches of a relocation record in the block at `block`; none for any other entry.
pub fn moved_batches(entry: &EntryView<'_>, block: BlockLocation) -> Vec<MovedBatch> {
    match entry {
        EntryView::Relocation(..) => batches_in(entry, block).collect(),
        _ => Vec::new(),
    }
}

/// All batches of an entry of the block at `block`, each alone.
pub fn batches_in(
    entry: &EntryView<'_>,
    block: BlockLocation,
) -> impl Iterator<Item = (TopicPartition, Extent)> {
    let rows = match entry {
        EntryView::Batches(frame, rows) => Some((frame.offset_in_block, rows)),
        EntryView::Relocation(record, rows) => Some((record.offset_in_block, rows)),
        EntryView::Frame(..) | EntryView::Record(..) | EntryView::Unknown(..) => None,
    };
    rows.into_iter().flat_map(move |(offset_in_block, rows)| {
        let body = to_usize(offset_in_block) + ENTRY_HEADER_BYTES;
        let batches = rows.iter().flat_map(|row| row.batches());
        batches.map(move |batch| {
            let extent = Extent {
                base_offset: batch.header.base_offset,
                end_offset: batch.header.next_offset(),
                block,
                offset_in_block: to_u32(body + to_usize(batch.offset_in_body)),
                bytes: batch.header.length,
                max_timestamp_ms: batch.header.max_timestamp_ms(),
            };
            (batch.tp, extent)
        })
    })
}

/// Of batches that were moved, in journal order, the newest copies of those that no frame holds: in
/// order of partition and offset, neighbours in one block joined.
pub fn only_moved(moved: &[MovedBatch], frames: &[FrameSummary]) -> Vec<MovedBatch> {
    let mut gaps = Gaps::default();
    for (tp, extent) in moved {
        gaps.open(*tp, extent.offsets());
    }
    for (tp, extent) in frames.iter().flat_map(|frame| &frame.rows) {
        gaps.close(*tp, &extent.offsets());
    }
    gaps.fill(moved).wanted
}

#[cfg(test)]
mod tests {
    use catena_protocol::batch::BATCH_HEADER_BYTES;
    use catena_protocol::ids::{ChainEpoch, ChainId, Offset, PartitionId, TopicId};

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
