//! Finds the one flipped bit that a checksum proves.
//!
//! Media damage is most often a single bit, and a CRC says which one: over up to 8 KiB CRC-32 has
//! a Hamming distance of at least 4, so bytes that one flip makes right again differ from what was
//! written by that bit, or by three or more. Used where a few bytes decide about many: the header
//! of a segment, without which none of its blocks can be checked, and the heads of a block, which
//! say what it held. Bodies of batches are left alone: over a megabyte the proof is too weak, and
//! only that batch is concerned.
//!
//! Invariant: what is returned as corrected passes every check that intact bytes pass. Nothing
//! corrected is ever sent to a reader; it tells recovery what was there, and `catena journal
//! repair` writes it back when asked to. Pure; any thread.

use std::ops::Range;

use crate::block::{
    BLOCK_HEADER_BYTES, BlockError, BlockHeader, BlockView, check_block_crc, parse_block,
};
use crate::entry::{ENTRY_HEADER_BYTES, EntryHeader, EntryKind, EntryView, FrameKind, ROW_BYTES};
use crate::ids::{BlockLocation, JournalId, SegmentSeq};
use crate::layout::{to_u32, to_usize, u32_at};
use crate::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX};
use crate::segment::{SEGMENT_PAGE_BYTES, SegmentError, SegmentHeader};
use catena_protocol::batch::BATCH_HEADER_BYTES;

/// Where the crc of a block lies, and that of an entry.
const BLOCK_CRC_AT: usize = BLOCK_HEADER_BYTES - 4;
const ENTRY_CRC_AT: usize = ENTRY_HEADER_BYTES - 4;

/// Hashed bytes that one search may cost: about a second.
const SEARCH_BYTES_MAX: usize = 1 << 32;

/// A bit that was flipped, and flipped back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlippedBit {
    /// The byte, from the start of what was searched.
    pub at: usize,
    /// The bit in it, 0 the lowest.
    pub bit: u8,
}

/// The header in a page, with at most one bit corrected.
///
/// # Errors
/// That of [`SegmentHeader::decode`] on the page as it is, if no single bit explains it.
pub fn segment_header(page: &[u8]) -> Result<(SegmentHeader, Option<FlippedBit>), SegmentError> {
    let error = match SegmentHeader::decode(page) {
        Ok(header) => return Ok((header, None)),
        // The bytes are good; only this build is too old for them.
        Err(error @ (SegmentError::Version { .. } | SegmentError::Short { .. })) => {
            return Err(error);
        }
        Err(error) => error,
    };
    let Some(mut page) = page.first_chunk::<SEGMENT_PAGE_BYTES>().copied() else {
        return Err(error);
    };
    let header_of = |page: &[u8]| SegmentHeader::decode(page).ok();
    let (message, crc) = page.split_at(SEGMENT_PAGE_BYTES - 4);
    let syndrome = crc32fast::hash(message) ^ u32_at(crc, 0);
    let flip = find_in_message(message.len(), syndrome);
    let corrected = flip.and_then(|flip| {
        flip_bit(&mut page, flip);
        Some((header_of(&page)?, Some(flip)))
    });
    corrected.ok_or(error)
}

/// Which bit of a message of `bytes` bytes, followed by its CRC-32, was flipped, if the stored crc
/// differs from the computed one by `syndrome`.
///
/// Walks back from the end of the message: flipping its last bit changes the crc by the
/// polynomial, and each bit before it by that, shifted on by one more step.
fn find_in_message(bytes: usize, syndrome: u32) -> Option<FlippedBit> {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let place = |bit_index: usize| FlippedBit {
        at: bit_index / 8,
        bit: u8::try_from(bit_index % 8).expect("below 8"),
    };
    if syndrome.is_power_of_two() {
        return Some(place(bytes * 8 + to_usize(syndrome.trailing_zeros())));
    }
    let mut change = POLYNOMIAL;
    for bit_index in (0..bytes * 8).rev() {
        if change == syndrome {
            return Some(place(bit_index));
        }
        let carry = if change & 1 == 1 { POLYNOMIAL } else { 0 };
        change = (change >> 1) ^ carry;
    }
    None
}

/// Corrects the one flipped bit in the heads of the block at the start of `bytes`, which may go on
/// behind it. None, and nothing changed, if the heads are good or no single bit explains them.
pub fn correct_block(
    bytes: &mut [u8],
    salt: u64,
    segment: SegmentSeq,
    position: u32,
) -> Option<FlippedBit> {
    let parse = |bytes: &[u8]| parse_block(bytes, salt, segment, position).map(|_| ());
    let refusal = parse(bytes).err()?;
    let is_good = |bytes: &[u8]| parse(bytes).is_ok();
    if let BlockError::Entry {
        offset_in_block, ..
    } = refusal
    {
        // The block's crc holds, so the entry's header is good, and the flip is in its heads.
        let entry = to_usize(offset_in_block);
        let entry_is_good = |bytes: &[u8]| EntryView::parse(&bytes[entry..], entry).is_ok();
        let header = entry..entry + ENTRY_CRC_AT;
        let crc = u32_at(bytes, header.end);
        let heads = heads_of_entry(bytes, entry);
        let covered = [vec![header], heads.clone()].concat();
        return compute(bytes, &[], &covered, crc, &is_good).or_else(|| {
            search(bytes, heads, &|bytes| {
                entry_is_good(bytes) && is_good(bytes)
            })
        });
    }
    if bytes.len() < BLOCK_HEADER_BYTES {
        return None;
    }
    let crc_is_good = |bytes: &[u8]| check_block_crc(bytes, salt, segment, position).is_ok();
    let headers = entry_headers(bytes);
    let covered = |first| {
        std::iter::once(first)
            .chain(headers.iter().cloned())
            .collect()
    };
    let header: Vec<_> = covered(0..BLOCK_CRC_AT);
    let crc = BlockHeader::decode(bytes).crc;
    compute(bytes, &salt.to_le_bytes(), &header, crc, &is_good).or_else(|| {
        let header: Vec<_> = covered(0..BLOCK_HEADER_BYTES);
        search(bytes, header, &|bytes| crc_is_good(bytes) && is_good(bytes))
    })
}

/// Computes which bit of the ranges was flipped from what their crc (of `before` and them) is and
/// what it should be. Finds nothing if a length among them is wrong: then they are not the ranges.
fn compute(
    bytes: &mut [u8],
    before: &[u8],
    ranges: &[Range<usize>],
    crc: u32,
    is_good: &dyn Fn(&[u8]) -> bool,
) -> Option<FlippedBit> {
    let mut message = before.to_vec();
    for range in ranges {
        message.extend_from_slice(bytes.get(range.clone())?);
    }
    let found = find_in_message(message.len(), crc32fast::hash(&message) ^ crc)?;
    let mut rest = found.at.checked_sub(before.len())?;
    for range in ranges {
        if rest < range.len() {
            let at = range.start + rest;
            let flip = FlippedBit { at, ..found };
            flip_bit(bytes, flip);
            if is_good(bytes) {
                return Some(flip);
            }
            flip_bit(bytes, flip);
            return None;
        }
        rest -= range.len();
    }
    None
}

/// What a damaged range held: calls `visit` with each block in it that one bit explains, corrected.
/// `bytes` are those of the range, which starts at `start` of the segment. Gives the parts of the
/// range that stay unknown.
pub fn visit_corrected(
    bytes: &mut [u8],
    salt: u64,
    (journal, segment, start): (JournalId, SegmentSeq, u32),
    visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>, FlippedBit),
) -> Vec<Range<u32>> {
    let mut unknown: Vec<Range<u32>> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let position = start + to_u32(at);
        let window_end = bytes.len().min(at + BLOCK_BYTES_MAX);
        let window = &mut bytes[at..window_end];
        let corrected = correct_block(window, salt, segment, position);
        let view = parse_block(window, salt, segment, position);
        if let (Some(flip), Ok(view)) = (corrected, view) {
            let length = view.header().length;
            let place = BlockLocation {
                journal,
                segment,
                offset: position,
                bytes: length,
            };
            visit(place, &view, flip);
            at += to_usize(length);
            continue;
        }
        let page = position..position + to_u32(BLOCK_ALIGN);
        match unknown.last_mut() {
            Some(last) if last.end == page.start => last.end = page.end,
            _ => unknown.push(page),
        }
        at += BLOCK_ALIGN;
    }
    unknown
}

/// Tries every bit of the ranges.
fn search(
    bytes: &mut [u8],
    ranges: Vec<Range<usize>>,
    is_good: &dyn Fn(&[u8]) -> bool,
) -> Option<FlippedBit> {
    let searched: usize = ranges.iter().map(ExactSizeIterator::len).sum();
    if searched.saturating_mul(searched).saturating_mul(8) > SEARCH_BYTES_MAX {
        return None;
    }
    for at in ranges.into_iter().flatten() {
        for bit in 0..8 {
            let flip = FlippedBit { at, bit };
            flip_bit(bytes, flip);
            if is_good(bytes) {
                return Some(flip);
            }
            flip_bit(bytes, flip);
        }
    }
    None
}

fn flip_bit(bytes: &mut [u8], flip: FlippedBit) {
    bytes[flip.at] ^= 1 << flip.bit;
}

/// Where the entry headers of a block seem to be. Ends early behind a wrong length, which is then
/// in one of the headers before.
fn entry_headers(bytes: &[u8]) -> Vec<Range<usize>> {
    let entry_count = BlockHeader::decode(bytes).entry_count;
    let mut ranges = Vec::new();
    let mut at = BLOCK_HEADER_BYTES;
    for _ in 0..entry_count {
        let range = at..at + ENTRY_HEADER_BYTES;
        let Some(header) = bytes.get(range.clone()) else {
            break;
        };
        at += to_usize(EntryHeader::decode(header).length).max(ENTRY_HEADER_BYTES);
        ranges.push(range);
    }
    ranges
}

/// What an entry's crc covers behind its header. As above, a wrong length ends it early.
fn heads_of_entry(bytes: &[u8], entry: usize) -> Vec<Range<usize>> {
    let header = EntryHeader::decode(&bytes[entry..]);
    let body = entry + ENTRY_HEADER_BYTES;
    let end = body + to_usize(header.body_bytes);
    if header.kind != EntryKind::Frame(FrameKind::Batches) {
        let whole = body..end;
        return vec![whole];
    }
    let batches = (body + usize::from(header.row_count) * ROW_BYTES).min(end);
    let directory = body..batches;
    let mut ranges = vec![directory];
    let mut at = batches;
    while at + BATCH_HEADER_BYTES <= end {
        ranges.push(at..at + BATCH_HEADER_BYTES);
        let length = to_usize(u32_at(&bytes[at..], 20));
        at = at.saturating_add(length.max(BATCH_HEADER_BYTES));
    }
    ranges
}

#[cfg(test)]
mod tests;
