//! Little-endian numbers at fixed positions of a byte slice.
//!
//! Invariant: the caller has checked the length; a position outside is a bug and panics. The
//! fixed-size callers let the compiler drop the bounds check.

macro_rules! read_at {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            let mut number = [0; size_of::<$type>()];
            number.copy_from_slice(&bytes[at..at + size_of::<$type>()]);
            <$type>::from_le_bytes(number)
        }
    };
}

read_at!(u16_at, u16);
read_at!(u32_at, u32);
read_at!(u64_at, u64);
read_at!(i64_at, i64);

/// Writes `number` (little-endian bytes) at a position of `bytes`.
pub(crate) fn put_at<const N: usize>(bytes: &mut [u8], at: usize, number: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&number);
}
