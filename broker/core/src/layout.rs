//! Little-endian numbers at fixed places of a byte slice, for the formats of this crate. The caller
//! has checked that the slice is long enough: a panic here is a bug of the parser, not bad input.

macro_rules! number {
    ($get:ident, $put:ident, $number:ty) => {
        #[inline]
        pub(crate) fn $get(bytes: &[u8], at: usize) -> $number {
            const BYTES: usize = size_of::<$number>();
            let field = bytes[at..at + BYTES]
                .try_into()
                .expect("the slice has the field's length");
            <$number>::from_le_bytes(field)
        }

        #[inline]
        pub(crate) fn $put(bytes: &mut [u8], at: usize, value: $number) {
            bytes[at..at + size_of::<$number>()].copy_from_slice(&value.to_le_bytes());
        }
    };
}

number!(u16_at, put_u16, u16);
number!(u32_at, put_u32, u32);
number!(u64_at, put_u64, u64);
number!(i64_at, put_i64, i64);

/// Bytes as golden tests write them.
#[cfg(test)]
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("a string takes everything");
        out
    })
}

/// A length or offset inside a block or segment as the formats store it.
///
/// # Panics
/// If it does not fit: blocks and segments are far below 4 GiB, so that is a bug.
#[inline]
pub(crate) fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("lengths inside a segment are below 4 GiB")
}

/// A stored length as an index. Lossless on every platform this crate supports.
#[inline]
pub(crate) const fn to_usize(value: u32) -> usize {
    const { assert!(size_of::<usize>() >= size_of::<u32>()) };
    value as usize
}
