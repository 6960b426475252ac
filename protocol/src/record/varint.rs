//! LEB128 numbers, and zigzag for signed ones.
//!
//! Invariant: reading takes no byte off the slice unless it gives a number. Any thread.

/// Bytes of the longest varint.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Bytes that `number` takes.
pub(crate) const fn varint_bytes(number: u64) -> usize {
    let bits = 64 - (number | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `number`.
pub(crate) fn write_varint(out: &mut Vec<u8>, mut number: u64) {
    if number < 0x80 {
        out.push(number.to_le_bytes()[0]);
        return;
    }
    let mut bytes = [0; VARINT_BYTES_MAX];
    let mut count = 0;
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            bytes[count] = low;
            out.extend_from_slice(&bytes[..=count]);
            return;
        }
        bytes[count] = low | 0x80;
        count += 1;
    }
}

/// Takes a number off the start of `bytes`. `None`, and nothing taken, if it does not end within
/// them or does not fit into 64 bits.
pub(crate) fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    if let [first, rest @ ..] = *bytes
        && *first < 0x80
    {
        *bytes = rest;
        return Some(u64::from(*first));
    }
    let mut number = 0;
    for (index, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        let low = u64::from(byte & 0x7f);
        if index == VARINT_BYTES_MAX - 1 && *byte > 1 {
            return None;
        }
        number |= low << (7 * index);
        if *byte < 0x80 {
            *bytes = &bytes[index + 1..];
            return Some(number);
        }
    }
    None
}

/// Maps signed to unsigned so that small magnitudes stay small.
pub(crate) const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

/// Undoes [`zigzag`].
pub(crate) const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -((number & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_varint_of_more_than_64_bits_is_refused() {
        let mut longest = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1][..];
        assert_eq!(read_varint(&mut longest), Some(u64::MAX));
        let over = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        let mut bytes = &over[..];
        assert_eq!(read_varint(&mut bytes), None);
        assert_eq!(bytes, over);
        assert_eq!(read_varint(&mut &[0x80; 11][..]), None);
        assert_eq!(read_varint(&mut &[0x80][..]), None);
        assert_eq!(read_varint(&mut &[][..]), None);
    }

    proptest! {
        #[test]
        fn numbers_survive(number: u64, shift in 0_u32..64, after: u8) {
            let number = number >> shift;
            let mut out = Vec::new();
            write_varint(&mut out, number);
            prop_assert_eq!(out.len(), varint_bytes(number));
            out.push(after);
            let mut bytes = &out[..];
            prop_assert_eq!(read_varint(&mut bytes), Some(number));
            prop_assert_eq!(bytes, &[after]);
        }

        #[test]
        fn signs_survive(number: i64) {
            prop_assert_eq!(unzigzag(zigzag(number)), number);
        }
    }
}
