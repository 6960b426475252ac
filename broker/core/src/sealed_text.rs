//! A checksum for a text file that people read: the last line carries the CRC-32 of all before it.
//!
//! ```text
//! ...
//! checksum = "crc32:0123abcd"
//! ```
//!
//! Pure; any thread.

use crate::one_bit::FlippedBit;

const KEY: &str = "checksum = \"crc32:";

/// What the last line of a text says of the lines before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seal {
    /// They are as they were written.
    Good,
    /// They are not, or the seal itself is not.
    Broken,
    /// There is none.
    Absent,
}

/// The text with its seal.
///
/// ```
/// use catena_core::sealed_text::{Seal, check, seal};
///
/// let text = seal("node = 1\n");
/// assert_eq!(check(text.as_bytes()), Seal::Good);
/// assert_eq!(check(text.replace('1', "3").as_bytes()), Seal::Broken);
/// assert_eq!(check(b"node = 1\n"), Seal::Absent);
/// ```
pub fn seal(text: &str) -> String {
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text}{KEY}{crc:08x}\"\n")
}

/// Looks at the seal of a text, which need not be UTF-8 any more.
pub fn check(bytes: &[u8]) -> Seal {
    let without_end = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let line_at = without_end
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let (text, last_line) = bytes.split_at(line_at);
    let expected = format!("{KEY}{:08x}\"\n", crc32fast::hash(text));
    if last_line == expected.as_bytes() {
        return Seal::Good;
    }
    // One flipped bit leaves at least one of the two words.
    let has = |word: &[u8]| bytes.windows(word.len()).any(|found| found == word);
    if has(b"checksum") || has(b"crc32:") {
        Seal::Broken
    } else {
        Seal::Absent
    }
}

/// Corrects the one flipped bit of a text whose seal is broken. None, and nothing changed, if its
/// seal is good or no single bit explains it.
pub fn correct(bytes: &mut [u8]) -> Option<FlippedBit> {
    if check(bytes) == Seal::Good {
        return None;
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            if check(bytes) == Seal::Good {
                return Some(FlippedBit { at, bit });
            }
            bytes[at] ^= 1 << bit;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_noticed_and_corrected() {
        let good = seal("# A comment.\nformat = 1\nnode = 1\n");
        assert_eq!(correct(&mut good.clone().into_bytes()), None);
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut damaged = good.clone().into_bytes();
                damaged[at] ^= 1 << bit;
                assert_eq!(check(&damaged), Seal::Broken, "byte {at} bit {bit}");
                let flip = correct(&mut damaged);
                assert_eq!(flip, Some(FlippedBit { at, bit }));
                assert_eq!(damaged, good.as_bytes());
            }
        }
    }

    #[test]
    fn a_text_that_was_never_sealed_is_not_corrected() {
        let mut text = *b"node = 1\n";
        assert_eq!(correct(&mut text), None);
        assert_eq!(check(&text), Seal::Absent);
    }
}
