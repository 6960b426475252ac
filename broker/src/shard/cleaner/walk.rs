//! Reads a sealed segment from front to back, past the cache, and collects the batches in it.
//!
//! What is collected may be wanted or not: only the index knows. A block that does not verify is
//! stepped over; what the index names in it then stays where it is. Runs on the shard's executor.

use std::io;
use std::rc::Rc;

use catena_core::block::{BLOCK_HEADER_BYTES, BLOCK_MAGIC, BlockHeader, BlockView, parse_block};
use catena_core::entry::{BatchRows, ENTRY_HEADER_BYTES, EntryView};
use catena_core::ids::BlockLocation;
use catena_core::limits::{
    BLOCK_ALIGN, BLOCK_BYTES_MAX, BLOCK_BYTES_MAX_U32, SEGMENT_HEADER_BYTES,
};
use catena_protocol::ids::{Offset, TopicPartition};

use super::Purpose;
use crate::journal::segments::SealedSegment;
use crate::limits::{CLEANER_PIECE_BYTES, CLEANER_PIECE_READ_BYTES};
use crate::runtime::executor;
use crate::shard::Shard;
use crate::shard::files::OpenSegment;

/// How far a segment has been read.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) segment: SealedSegment,
    pub(super) purpose: Purpose,
    at: u32,
}

/// The batches of one partition in a block, as its directory lists them.
#[derive(Debug)]
pub(super) struct FoundRow {
    pub(super) tp: TopicPartition,
    /// Offset of the first record.
    pub(super) base_offset: Offset,
    /// Offset after the last record.
    pub(super) end_offset: Offset,
    pub(super) block: BlockLocation,
    /// Where the first batch starts in the block.
    pub(super) offset_in_block: u32,
    pub(super) bytes: Vec<u8>,
}

impl Walk {
    pub(super) const fn new(segment: SealedSegment, purpose: Purpose) -> Walk {
        Walk {
            segment,
            purpose,
            at: SEGMENT_HEADER_BYTES,
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.at >= self.segment.end
    }
}

impl Shard {
    /// Reads on until there is enough to move at once, or the segment ends.
    pub(super) async fn read_piece(self: &Rc<Self>, walk: &mut Walk) -> io::Result<Vec<FoundRow>> {
        let whole = BlockLocation {
            journal: self.journal.id(),
            segment: walk.segment.segment,
            offset: 0,
            bytes: walk.segment.end,
        };
        let open = self.reader.segment(whole).await.map_err(io::Error::other)?;
        let (mut found, mut found_bytes, mut read_bytes) = (Vec::new(), 0, 0);
        while !walk.is_over()
            && found_bytes < CLEANER_PIECE_BYTES
            && read_bytes < CLEANER_PIECE_READ_BYTES
        {
            let wanted = (walk.segment.end - walk.at).min(BLOCK_BYTES_MAX_U32);
            let wanted = usize::try_from(wanted).expect("u32 fits usize");
            let buffer = open.file.read(u64::from(walk.at), wanted).await?;
            let whole = buffer.len() / BLOCK_ALIGN * BLOCK_ALIGN;
            if whole == 0 {
                walk.at = walk.segment.end;
                break;
            }
            read_bytes += whole;
            let from = found.len();
            let passed = self.collect(&open, walk.at, &buffer[..whole], &mut found);
            found_bytes += found[from..]
                .iter()
                .map(|row| row.bytes.len())
                .sum::<usize>();
            walk.at += u32::try_from(passed).expect("a block is at most 1 MiB");
            executor::yield_if_needed().await;
        }
        Ok(found)
    }

    /// Takes the blocks that lie whole in `bytes`; gives how far they reach.
    fn collect(
        &self,
        open: &OpenSegment,
        start: u32,
        bytes: &[u8],
        found: &mut Vec<FoundRow>,
    ) -> usize {
        let header = &open.header;
        let mut at = 0;
        while at < bytes.len() {
            let position = start + u32::try_from(at).expect("a read is at most 1 MiB");
            match parse_block(&bytes[at..], header.salt, header.segment, position) {
                Ok(view) => {
                    let block = BlockLocation {
                        journal: open.journal,
                        segment: header.segment,
                        offset: position,
                        bytes: view.header().length,
                    };
                    self.collect_block(block, &view, found);
                    at += usize::try_from(block.bytes).expect("u32 fits usize");
                }
                // The rest of it is in the next read.
                Err(_) if at > 0 && is_cut_off(&bytes[at..]) => break,
                Err(_) => at += BLOCK_ALIGN,
            }
        }
        at.min(bytes.len())
    }

    fn collect_block(&self, block: BlockLocation, view: &BlockView<'_>, found: &mut Vec<FoundRow>) {
        for entry in view.entries() {
            match entry {
                EntryView::Batches(frame, rows) => {
                    self.collect_rows(block, frame.offset_in_block, &rows, found);
                }
                EntryView::Relocation(record, rows) => {
                    self.collect_rows(block, record.offset_in_block, &rows, found);
                }
                EntryView::Frame(..) | EntryView::Record(..) | EntryView::Unknown(..) => {}
            }
        }
    }

    fn collect_rows(
        &self,
        block: BlockLocation,
        entry_offset: u32,
        rows: &BatchRows<'_>,
        found: &mut Vec<FoundRow>,
    ) {
        let log = self.log.borrow();
        let body = entry_offset + u32::try_from(ENTRY_HEADER_BYTES).expect("a small number");
        for row in rows.iter() {
            let mut headers = row.batches().map(|batch| batch.header);
            let Some(first) = headers.next() else {
                continue;
            };
            let end_offset = headers.last().unwrap_or(first).next_offset();
            let may_be_wanted = log
                .partition(row.tp)
                .is_some_and(|partition| end_offset > partition.log_start);
            if may_be_wanted {
                found.push(FoundRow {
                    tp: row.tp,
                    base_offset: first.base_offset,
                    end_offset,
                    block,
                    offset_in_block: body + row.offset_in_body,
                    bytes: row.bytes.to_vec(),
                });
            }
        }
    }
}

/// Whether a block that starts here may go on behind these bytes.
fn is_cut_off(bytes: &[u8]) -> bool {
    if bytes.len() < BLOCK_HEADER_BYTES {
        return true;
    }
    let header = BlockHeader::decode(bytes);
    let length = usize::try_from(header.length).expect("u32 fits usize");
    header.magic == BLOCK_MAGIC && length > bytes.len() && length <= BLOCK_BYTES_MAX
}
