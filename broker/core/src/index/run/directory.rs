//! The directory of an index run: one entry per page, kept in memory and in the checkpoint.
//!
//! Invariant: entries are in the order of their pages, so that a search is a binary search. Pure;
//! any thread.
//!
//! Encoded as an envelope with `count` pages:
//!
//! ```text
//! extents u64 | bytes u64 | per page, 66 bytes:
//! 0 first topic u32 | 4 partition u32 | 8 base offset u64 | 16 last topic u32 | 20 partition u32
//! 24 end offset u64 | 32 max timestamp i64 | 40 block (journal u16, segment u32, offset u32,
//! bytes u32) | 54 offset in block u32 | 58 bytes u32 | 62 reserved u32 = 0
//! ```

use std::collections::BTreeSet;
use std::ops::Range;

use catena_protocol::ids::{Offset, TopicPartition};

use super::{RunKey, offsets_between};
use crate::codec::{self, DecodeError, Put, Reader, malformed};
use crate::ids::{BlockLocation, JournalId, SegmentSeq};

/// Magic of a directory: `CtId`.
pub const DIRECTORY_MAGIC: u32 = u32::from_le_bytes(*b"CtId");

const PAGE_ENTRY_BYTES: usize = 66;

/// Where the body of a page's journal record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagePlace {
    /// The block that holds it.
    pub block: BlockLocation,
    /// Where the page starts, in bytes from the start of the block.
    pub offset_in_block: u32,
    /// Bytes of the page.
    pub bytes: u32,
}

/// What the directory knows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageEntry {
    /// Partition and base offset of its first extent.
    pub first: RunKey,
    /// Partition and end offset of its last extent.
    pub last: RunKey,
    /// The latest timestamp in any of its extents, in milliseconds since 1970.
    pub max_timestamp_ms: i64,
    /// Where it lies.
    pub place: PagePlace,
}

impl PageEntry {
    /// The offsets of a partition that the page may name.
    pub fn offsets_of(&self, tp: TopicPartition) -> Range<Offset> {
        offsets_between(self.first, self.last, tp)
    }
}

/// All pages of a run, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunDirectory {
    /// The pages.
    pub pages: Vec<PageEntry>,
    /// Extents in all pages together.
    pub extents: u64,
    /// Bytes of all pages together.
    pub bytes: u64,
}

impl RunDirectory {
    /// Appends the next page.
    pub fn push(&mut self, entry: PageEntry, extents: u32) {
        self.extents += u64::from(extents);
        self.bytes += u64::from(entry.place.bytes);
        self.pages.push(entry);
    }

    /// Indexes of the pages that can hold an extent of `tp` that reaches above `offset`.
    pub fn candidates(&self, tp: TopicPartition, offset: Offset) -> Range<usize> {
        let start = self.pages.partition_point(|page| page.last <= (tp, offset));
        let end = self.pages.partition_point(|page| page.first.0 <= tp);
        start..end.max(start)
    }

    /// Indexes of the pages that can hold an extent of `tp` with a timestamp of at least
    /// `timestamp_ms`, in order. A page's timestamp covers all its partitions, so some may not.
    pub fn candidates_by_time(
        &self,
        tp: TopicPartition,
        timestamp_ms: i64,
    ) -> impl Iterator<Item = usize> {
        self.candidates(tp, Offset(0))
            .filter(move |index| self.pages[*index].max_timestamp_ms >= timestamp_ms)
    }

    /// The segments that hold a page. They cannot be reused while this run is in the manifest.
    pub fn segments(&self) -> BTreeSet<(JournalId, SegmentSeq)> {
        let block_segment = |page: &PageEntry| (page.place.block.journal, page.place.block.segment);
        self.pages.iter().map(block_segment).collect()
    }

    /// Appends the encoded directory to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = codec::begin_envelope(out);
        out.put_u64(self.extents);
        out.put_u64(self.bytes);
        for page in &self.pages {
            out.put_topic_partition(page.first.0);
            out.put_u64(page.first.1.get());
            out.put_topic_partition(page.last.0);
            out.put_u64(page.last.1.get());
            out.put_i64(page.max_timestamp_ms);
            out.put_block_location(page.place.block);
            out.put_u32(page.place.offset_in_block);
            out.put_u32(page.place.bytes);
            out.put_u32(0);
        }
        let count = codec::length_u32(self.pages.len());
        codec::seal_envelope(out, start, DIRECTORY_MAGIC, count);
    }

    /// Decodes a directory that fills `bytes`.
    ///
    /// # Errors
    /// Any [`DecodeError`]; pages out of order are malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (directory, rest) = Self::decode_front(bytes)?;
        if rest.is_empty() {
            Ok(directory)
        } else {
            Err(malformed("bytes after a directory"))
        }
    }

    /// Decodes the directory at the start of `bytes`; returns what follows it.
    pub(crate) fn decode_front(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let envelope = codec::open_envelope(bytes, DIRECTORY_MAGIC)?;
        let mut body = envelope.body;
        let extents = body.u64("extents of a run")?;
        let total_bytes = body.u64("bytes of a run")?;
        let count = body.check_count(envelope.count, PAGE_ENTRY_BYTES, "pages of a run")?;
        let mut pages: Vec<PageEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let page = decode_entry(&mut body)?;
            let ordered = pages.last().is_none_or(|before| before.last <= page.first);
            if !ordered || page.first >= page.last {
                return Err(malformed("order of pages"));
            }
            pages.push(page);
        }
        body.finish("bytes after the pages of a run")?;
        Ok((
            Self {
                pages,
                extents,
                bytes: total_bytes,
            },
            envelope.rest,
        ))
    }
}

fn decode_entry(body: &mut Reader<'_>) -> Result<PageEntry, DecodeError> {
    let first = (
        body.topic_partition("first extent")?,
        body.offset("first extent")?,
    );
    let last = (
        body.topic_partition("last extent")?,
        body.offset("last extent")?,
    );
    let max_timestamp_ms = body.i64("page timestamp")?;
    let block = body.block_location("page block")?;
    let offset_in_block = body.u32("page offset")?;
    let bytes = body.u32("page bytes")?;
    if body.u32("reserved bytes of a page entry")? != 0 {
        return Err(malformed("reserved bytes of a page entry"));
    }
    let place = PagePlace {
        block,
        offset_in_block,
        bytes,
    };
    Ok(PageEntry {
        first,
        last,
        max_timestamp_ms,
        place,
    })
}
