//! The header page of a segment file.
//!
//! ```text
//!    0 magic [8]            8 version u16       10 flags u16
//!   12 journal u16         14 reserved u16
//!   16 store_uuid [16]     32 segment u32       36 segment_bytes u32
//!   40 salt u64            48 created_ms i64
//!   56 has_previous u32    60 previous_segment u32
//!   64 previous_end u32    68 previous_last_block_crc u32
//!   72 zeros               4092 crc u32 (of bytes 0..4092)
//! ```
//!
//! Blocks start at 4096. There is no footer: where a segment ends is recorded in its successor's
//! header, which is written only after everything before that end was flushed. A segment that has a
//! valid successor is therefore flushed up to that end, and whatever lies behind the end (torn
//! blocks that recovery cut, say) is never looked at again.

use crate::ids::{JournalId, JournalPos, SegmentSeq};
use crate::layout::{i64_at, put_i64, put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};
use crate::limits::{BLOCK_ALIGN_U32, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES};

/// First eight bytes of a segment file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"CatenaSg";

/// Version of the journal format: segment, blocks, entries and the batches in them.
pub const JOURNAL_VERSION: u16 = 1;

/// Length of the header page.
pub const SEGMENT_PAGE_BYTES: usize = SEGMENT_HEADER_BYTES as usize;

/// Where the crc lies in the page; it covers what is before.
const CRC_AT: usize = SEGMENT_PAGE_BYTES - 4;

/// Where the segment before this one ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreviousSegment {
    pub segment: SegmentSeq,
    /// Bytes from the start of that segment: its last block ends here, and all before is flushed.
    pub end: u32,
    /// Crc of the block that ends there; 0 if there is none or it is not known.
    pub last_block_crc: u32,
}

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub store_uuid: [u8; 16],
    pub journal: JournalId,
    pub segment: SegmentSeq,
    /// Drawn at random each time the file begins a new life; folded into every block's crc.
    pub salt: u64,
    /// Length of the file; a multiple of 4 KiB.
    pub segment_bytes: u32,
    /// None only for the first segment of a journal.
    pub previous: Option<PreviousSegment>,
    /// Milliseconds since 1970, for people.
    pub created_ms: i64,
}

/// Why a page is not the header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("no segment header: {found} bytes")]
    Short { found: usize },
    #[error("no segment header: its first bytes are {found:02x?}")]
    Magic { found: [u8; 8] },
    /// Never to be taken for damage: the bytes are good, this program is too old.
    #[error(
        "segment of journal format version {found}; this build reads version {JOURNAL_VERSION}, \
         start one that reads version {found}"
    )]
    Version { found: u16 },
    #[error("segment header crc is {found:#010x}, its bytes give {computed:#010x}")]
    Crc { found: u32, computed: u32 },
    #[error("segment of {found} bytes is outside what is possible")]
    Length { found: u32 },
}

impl SegmentHeader {
    /// Where the first block goes.
    pub const fn first_block(&self) -> JournalPos {
        JournalPos::new(self.segment, SEGMENT_HEADER_BYTES)
    }

    /// The page to write at offset 0.
    pub fn encode(&self) -> [u8; SEGMENT_PAGE_BYTES] {
        let mut page = [0; SEGMENT_PAGE_BYTES];
        page[..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u16(&mut page, 8, JOURNAL_VERSION);
        put_u16(&mut page, 12, self.journal.0);
        page[16..32].copy_from_slice(&self.store_uuid);
        put_u32(&mut page, 32, self.segment.0);
        put_u32(&mut page, 36, self.segment_bytes);
        put_u64(&mut page, 40, self.salt);
        put_i64(&mut page, 48, self.created_ms);
        if let Some(previous) = self.previous {
            put_u32(&mut page, 56, 1);
            put_u32(&mut page, 60, previous.segment.0);
            put_u32(&mut page, 64, previous.end);
            put_u32(&mut page, 68, previous.last_block_crc);
        }
        let crc = crc32fast::hash(&page[..CRC_AT]);
        put_u32(&mut page, CRC_AT, crc);
        page
    }

    /// Reads a header page. The caller compares store, journal and sequence with where it found
    /// the file.
    pub fn decode(page: &[u8]) -> Result<Self, SegmentError> {
        let Some(page) = page.first_chunk::<SEGMENT_PAGE_BYTES>() else {
            return Err(SegmentError::Short { found: page.len() });
        };
        let magic = *page
            .first_chunk()
            .expect("the page is longer than its magic");
        if magic != SEGMENT_MAGIC {
            return Err(SegmentError::Magic { found: magic });
        }
        let (found, computed) = (u32_at(page, CRC_AT), crc32fast::hash(&page[..CRC_AT]));
        if found != computed {
            return Err(SegmentError::Crc { found, computed });
        }
        let version = u16_at(page, 8);
        if version != JOURNAL_VERSION {
            return Err(SegmentError::Version { found: version });
        }
        let segment_bytes = u32_at(page, 36);
        let possible = segment_bytes > SEGMENT_HEADER_BYTES
            && segment_bytes <= SEGMENT_BYTES_MAX
            && segment_bytes.is_multiple_of(BLOCK_ALIGN_U32);
        if !possible {
            return Err(SegmentError::Length {
                found: segment_bytes,
            });
        }
        let previous = (u32_at(page, 56) != 0).then(|| PreviousSegment {
            segment: SegmentSeq(u32_at(page, 60)),
            end: u32_at(page, 64),
            last_block_crc: u32_at(page, 68),
        });
        Ok(Self {
            store_uuid: *page[16..]
                .first_chunk()
                .expect("the page is longer than that"),
            journal: JournalId(u16_at(page, 12)),
            segment: SegmentSeq(u32_at(page, 32)),
            salt: u64_at(page, 40),
            segment_bytes,
            previous,
            created_ms: i64_at(page, 48),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::hex;

    fn header() -> SegmentHeader {
        SegmentHeader {
            store_uuid: *b"0123456789abcdef",
            journal: JournalId(2),
            segment: SegmentSeq(5),
            salt: 0x1122_3344_5566_7788,
            segment_bytes: 16 << 20,
            previous: Some(PreviousSegment {
                segment: SegmentSeq(4),
                end: 0x0001_0000,
                last_block_crc: 0xA1B2_C3D4,
            }),
            created_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn a_segment_header_has_golden_bytes() {
        let page = header().encode();
        let expected = "436174656e61536701000000020000003031323334353637383961626364656605000000\
             0000000188776655443322110068e5cf8b010000\
             010000000400000000000100d4c3b2a1";
        assert_eq!(hex(&page[..72]), expected);
        assert!(page[72..CRC_AT].iter().all(|&byte| byte == 0));
        assert_eq!(u32_at(&page, CRC_AT), crc32fast::hash(&page[..CRC_AT]));
    }

    #[test]
    fn another_version_is_refused_by_name_and_not_as_damage() {
        let mut page = header().encode();
        put_u16(&mut page, 8, 9);
        let crc = crc32fast::hash(&page[..CRC_AT]);
        put_u32(&mut page, CRC_AT, crc);
        let error = SegmentHeader::decode(&page).expect_err("the version is not ours");
        assert_eq!(error, SegmentError::Version { found: 9 });
        assert!(error.to_string().contains("version 9"));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_refused(bit in 0..SEGMENT_PAGE_BYTES * 8) {
            let mut page = header().encode();
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(SegmentHeader::decode(&page).is_err());
        }

        #[test]
        fn what_is_written_is_read_back(
            salt: u64,
            segment: u32,
            previous in proptest::option::of((any::<u32>(), any::<u32>(), any::<u32>())),
        ) {
            let previous = previous.map(|(segment, end, last_block_crc)| PreviousSegment {
                segment: SegmentSeq(segment),
                end,
                last_block_crc,
            });
            let header = SegmentHeader { salt, segment: SegmentSeq(segment), previous, ..header() };
            prop_assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            prop_assert!(SegmentHeader::decode(&bytes).is_err());
        }
    }
}
