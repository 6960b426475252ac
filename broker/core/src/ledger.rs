//! The flush ledger: a file of two pages that says how far a journal is known to be flushed. It is
//! what tells, after a crash, a bad last group that was acknowledged from one that was not.
//!
//! ```text
//!   0 magic [8]        8 version u16   10 reserved u16   12 journal u16   14 reserved u16
//!  16 sequence u64    24 flushed_segment u32            28 flushed_offset u32
//!  32 group_seq u64   40 zeros        4092 crc u32 (of bytes 0..4092)
//! ```
//!
//! Slot `sequence % 2` is written, so a torn write leaves the other slot. A slot is written only
//! after the flush it speaks of; it needs no flush before acks, since an older slot is only less
//! exact, never wrong.

use crate::ids::{JournalId, JournalPos, SegmentSeq};
use crate::layout::{put_u16, put_u32, put_u64, u16_at, u32_at, u64_at};

/// First eight bytes of each page.
pub const LEDGER_MAGIC: [u8; 8] = *b"CatenaLg";

/// Version of the ledger format.
pub const LEDGER_VERSION: u16 = 1;

/// Length of one slot.
pub const LEDGER_PAGE_BYTES: usize = 4096;

/// Length of the file.
pub const LEDGER_BYTES: usize = 2 * LEDGER_PAGE_BYTES;

/// Where the crc lies in the page; it covers what is before.
const CRC_AT: usize = LEDGER_PAGE_BYTES - 4;

/// One statement: everything before `flushed` is on stable storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerSlot {
    pub journal: JournalId,
    /// Rises by one with each slot written; chooses the page.
    pub sequence: u64,
    pub flushed: JournalPos,
    /// The last group before `flushed`.
    pub group_seq: u64,
}

impl LedgerSlot {
    /// Where this slot goes in the file.
    pub const fn file_offset(&self) -> u64 {
        if self.sequence.is_multiple_of(2) {
            0
        } else {
            LEDGER_PAGE_BYTES as u64
        }
    }

    /// The page to write at [`LedgerSlot::file_offset`].
    pub fn encode(&self) -> [u8; LEDGER_PAGE_BYTES] {
        let mut page = [0; LEDGER_PAGE_BYTES];
        page[..8].copy_from_slice(&LEDGER_MAGIC);
        put_u16(&mut page, 8, LEDGER_VERSION);
        put_u16(&mut page, 12, self.journal.0);
        put_u64(&mut page, 16, self.sequence);
        put_u32(&mut page, 24, self.flushed.segment.0);
        put_u32(&mut page, 28, self.flushed.offset);
        put_u64(&mut page, 32, self.group_seq);
        let crc = crc32fast::hash(&page[..CRC_AT]);
        put_u32(&mut page, CRC_AT, crc);
        page
    }

    /// Reads one page. Damage, absence and another version all mean "says nothing".
    pub fn decode(page: &[u8]) -> Option<Self> {
        let page = page.first_chunk::<LEDGER_PAGE_BYTES>()?;
        let good = page[..8] == LEDGER_MAGIC
            && u16_at(page, 8) == LEDGER_VERSION
            && u32_at(page, CRC_AT) == crc32fast::hash(&page[..CRC_AT]);
        good.then(|| Self {
            journal: JournalId(u16_at(page, 12)),
            sequence: u64_at(page, 16),
            flushed: JournalPos::new(SegmentSeq(u32_at(page, 24)), u32_at(page, 28)),
            group_seq: u64_at(page, 32),
        })
    }

    /// The newest valid slot of a ledger file that belongs to `journal`.
    pub fn newest(file: &[u8], journal: JournalId) -> Option<Self> {
        let slots = file
            .chunks(LEDGER_PAGE_BYTES)
            .take(2)
            .filter_map(Self::decode);
        slots
            .filter(|slot| slot.journal == journal)
            .max_by_key(|slot| slot.sequence)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layout::hex;

    const JOURNAL: JournalId = JournalId(3);

    fn slot(sequence: u64) -> LedgerSlot {
        let flushed = JournalPos::new(SegmentSeq(7), 0x2000);
        LedgerSlot {
            journal: JOURNAL,
            sequence,
            flushed,
            group_seq: 11,
        }
    }

    fn file_with(slots: &[LedgerSlot]) -> Vec<u8> {
        let mut file = vec![0; LEDGER_BYTES];
        for slot in slots {
            let at = usize::try_from(slot.file_offset()).expect("the ledger is small");
            file[at..at + LEDGER_PAGE_BYTES].copy_from_slice(&slot.encode());
        }
        file
    }

    #[test]
    fn a_ledger_slot_has_golden_bytes() {
        let page = slot(0x0102).encode();
        let expected = "436174656e614c67010000000300000002010000000000000700000000200000\
             0b00000000000000";
        assert_eq!(hex(&page[..40]), expected);
        assert!(page[40..CRC_AT].iter().all(|&byte| byte == 0));
        assert_eq!(u32_at(&page, CRC_AT), crc32fast::hash(&page[..CRC_AT]));
        assert_eq!(LedgerSlot::decode(&page), Some(slot(0x0102)));
    }

    #[test]
    fn the_newest_slot_counts_and_a_torn_one_falls_back() {
        assert_eq!(LedgerSlot::newest(&[], JOURNAL), None);
        assert_eq!(LedgerSlot::newest(&vec![0; LEDGER_BYTES], JOURNAL), None);
        let mut file = file_with(&[slot(4), slot(5)]);
        assert_eq!(LedgerSlot::newest(&file, JOURNAL), Some(slot(5)));
        assert_eq!(LedgerSlot::newest(&file, JournalId(4)), None);
        file[LEDGER_PAGE_BYTES + 20] ^= 1;
        assert_eq!(LedgerSlot::newest(&file, JOURNAL), Some(slot(4)));
        file.truncate(100);
        assert_eq!(LedgerSlot::newest(&file, JOURNAL), None);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_silences_a_slot(bit in 0..LEDGER_PAGE_BYTES * 8) {
            let mut page = slot(1).encode();
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(LedgerSlot::decode(&page), None);
        }
    }
}
