//! Reading a block back: bytes of any kind in, a checked view or the reason for refusal out.

use catena_protocol::batch::BatchError;
use catena_protocol::ids::{ChainId, Offset, TopicPartition};

use super::{BLOCK_HEADER_BYTES, BLOCK_MAGIC, BLOCK_VERSION, BlockHeader, block_crc};
use crate::entry::{ENTRY_HEADER_BYTES, EntryError, EntryView};
use crate::ids::{Lsn, SegmentSeq};
use crate::layout::{to_u32, to_usize};
use crate::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX};

/// Why bytes are not the block that should be there. The values name what disagrees.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    #[error("no block starts here")]
    NoBlock,
    #[error("block of format version {found}, this build reads {BLOCK_VERSION}")]
    Version { found: u16 },
    #[error("block belongs at {found_segment}:{found_position}")]
    Misplaced {
        found_segment: SegmentSeq,
        found_position: u32,
    },
    #[error("block claims {length} bytes of which {used} used, {available} are available")]
    Length {
        length: u32,
        used: u32,
        available: usize,
    },
    #[error("{entry_count} entries do not tile {used} bytes")]
    Entries { entry_count: u32, used: u32 },
    #[error("block crc is {found:#010x}, its bytes give {computed:#010x}")]
    Crc { found: u32, computed: u32 },
    #[error("entry at {offset_in_block}: {source}")]
    Entry {
        offset_in_block: u32,
        source: EntryError,
    },
    #[error("group {found} lies behind group {last}")]
    GroupOrder { found: u64, last: u64 },
    #[error("block crc is {found:#010x}, the next segment recorded {recorded:#010x}")]
    NotTheRecordedLast { found: u32, recorded: u32 },
}

/// A batch whose place is known but whose bytes are not what was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("batch of {tp} at offset {base_offset} (chain {chain}, lsn {lsn}): {source}")]
pub struct BodyError {
    pub chain: ChainId,
    pub lsn: Lsn,
    pub tp: TopicPartition,
    /// First offset lost.
    pub base_offset: Offset,
    /// One above the last offset lost.
    pub end_offset: Offset,
    /// Where the batch starts in its block.
    pub offset_in_block: u32,
    pub bytes: u32,
    pub source: BatchError,
}

/// A block whose header, entry headers and entry heads are checked. Batch bodies are not, until
/// [`BlockView::verify_bodies`].
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    header: BlockHeader,
    /// The entries, without header and padding.
    entries: &'a [u8],
}

/// The length of the block that seems to start at `bytes`, if its header claims the right place and
/// a possible length. Nothing is proven by it: the crc was not checked.
pub(crate) fn plausible_length(
    bytes: &[u8],
    segment: SegmentSeq,
    position: u32,
) -> Result<u32, BlockError> {
    if bytes.len() < BLOCK_HEADER_BYTES {
        return Err(BlockError::Length {
            length: 0,
            used: 0,
            available: bytes.len(),
        });
    }
    let header = BlockHeader::decode(bytes);
    let BlockHeader { length, used, .. } = header;
    if header.magic != BLOCK_MAGIC {
        return Err(BlockError::NoBlock);
    }
    if header.version != BLOCK_VERSION {
        return Err(BlockError::Version {
            found: header.version,
        });
    }
    if header.segment != segment || header.position != position {
        let (found_segment, found_position) = (header.segment, header.position);
        return Err(BlockError::Misplaced {
            found_segment,
            found_position,
        });
    }
    let (length_bytes, used_bytes) = (to_usize(length), to_usize(used));
    let possible = length_bytes <= BLOCK_BYTES_MAX
        && used_bytes >= BLOCK_HEADER_BYTES
        && used_bytes.next_multiple_of(BLOCK_ALIGN) == length_bytes
        && header.group_index < header.group_count;
    if !possible {
        return Err(BlockError::Length {
            length,
            used,
            available: bytes.len(),
        });
    }
    Ok(length)
}

/// Checks what the block crc covers: the header and the entry headers. Enough to believe what the
/// header says, not to read the entries.
pub(crate) fn check_block_crc(
    bytes: &[u8],
    salt: u64,
    segment: SegmentSeq,
    position: u32,
) -> Result<BlockHeader, BlockError> {
    let length = plausible_length(bytes, segment, position)?;
    let header = BlockHeader::decode(bytes);
    let BlockHeader {
        used,
        entry_count,
        crc,
        ..
    } = header;
    if to_usize(length) > bytes.len() {
        return Err(BlockError::Length {
            length,
            used,
            available: bytes.len(),
        });
    }
    let computed = block_crc(&bytes[..to_usize(used)], salt, entry_count)
        .ok_or(BlockError::Entries { entry_count, used })?;
    if computed != crc {
        return Err(BlockError::Crc {
            found: crc,
            computed,
        });
    }
    Ok(header)
}

/// Checks the block at the start of `bytes`, which may go on behind it. It must be the one written
/// at `position` of `segment` in the life of the file that `salt` stands for.
pub fn parse_block(
    bytes: &[u8],
    salt: u64,
    segment: SegmentSeq,
    position: u32,
) -> Result<BlockView<'_>, BlockError> {
    let header = check_block_crc(bytes, salt, segment, position)?;
    let entries = &bytes[BLOCK_HEADER_BYTES..to_usize(header.used)];
    let mut rest = entries;
    let mut at = BLOCK_HEADER_BYTES;
    while !rest.is_empty() {
        let entry = EntryView::parse(rest, at).map_err(|source| BlockError::Entry {
            offset_in_block: to_u32(at),
            source,
        })?;
        at += to_usize(entry.bytes());
        rest = &rest[to_usize(entry.bytes())..];
    }
    Ok(BlockView { header, entries })
}

impl<'a> BlockView<'a> {
    /// The block's header.
    pub const fn header(&self) -> &BlockHeader {
        &self.header
    }

    /// The entries in order.
    pub const fn entries(&self) -> Entries<'a> {
        Entries {
            rest: self.entries,
            at: BLOCK_HEADER_BYTES,
        }
    }

    /// Every batch that is not what its producer sent, in order; none if the block is intact.
    pub fn damaged_batches(&self) -> impl Iterator<Item = BodyError> + use<'a> {
        self.entries().flat_map(|entry| {
            let found = match entry {
                EntryView::Batches(frame, rows) => {
                    Some(((frame.chain, frame.lsn, frame.offset_in_block), rows))
                }
                EntryView::Relocation(record, rows) => {
                    Some(((record.chain, Lsn::ZERO, record.offset_in_block), rows))
                }
                _ => None,
            };
            let batches = found
                .into_iter()
                .flat_map(|(of, rows)| rows.batches().map(move |batch| (of, batch)));
            batches.filter_map(|((chain, lsn, offset_in_block), batch)| {
                let source = batch.verify().err()?;
                let body_at = offset_in_block + to_u32(ENTRY_HEADER_BYTES);
                Some(BodyError {
                    chain,
                    lsn,
                    tp: batch.tp,
                    base_offset: batch.header.base_offset,
                    end_offset: batch.header.next_offset(),
                    offset_in_block: body_at + batch.offset_in_body,
                    bytes: batch.header.length,
                    source,
                })
            })
        })
    }

    /// Checks the body of every batch. The error names the first that is damaged.
    pub fn verify_bodies(&self) -> Result<(), BodyError> {
        self.damaged_batches().next().map_or(Ok(()), Err)
    }
}

/// Iterator over the entries of a checked block.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = EntryView<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let entry = EntryView::trusted(self.rest, self.at);
        let bytes = to_usize(entry.bytes());
        self.rest = &self.rest[bytes..];
        self.at += bytes;
        Some(entry)
    }
}
