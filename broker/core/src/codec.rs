//! Little-endian reading and writing for what the broker keeps about its log: index pages,
//! directories, checkpoints, metadata.
//!
//! Invariant: a `Reader` never reads past its bytes and never panics; every list is read through
//! `Reader::count`, which bounds the allocation by the bytes that are really there. Plain
//! functions, any thread.

mod envelope;
mod put;

use catena_protocol::ids::{Offset, PartitionId, TopicId, TopicPartition};
use thiserror::Error;

use crate::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};

#[cfg(test)]
pub(crate) use envelope::ENVELOPE_BYTES;
pub(crate) use envelope::{
    begin_envelope, open_envelope, open_envelope_to, seal_envelope, seal_envelope_as,
};
pub(crate) use put::Put;

/// Why stored or received state could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("{what}: needs {wanted} bytes, {left} are left")]
    Truncated {
        /// The part that was being read.
        what: &'static str,
        /// Bytes it needs.
        wanted: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// The envelope holds something else.
    #[error("magic {found:#010x} where {expected:#010x} belongs")]
    Magic {
        /// The magic that belongs here.
        expected: u32,
        /// The magic that is here.
        found: u32,
    },
    /// Written by a newer release.
    #[error("format version {found}; this release reads up to {newest}")]
    Version {
        /// The newest version this release reads.
        newest: u16,
        /// The version found.
        found: u16,
    },
    /// The bytes are not those that were written.
    #[error("{what}: checksum {found:#x} where {expected:#x} was recorded")]
    Checksum {
        /// The part that was checked.
        what: &'static str,
        /// The recorded checksum.
        expected: u128,
        /// The checksum of the bytes found.
        found: u128,
    },
    /// A count or size beyond its limit.
    #[error("{what}: {found} is beyond the limit {limit}")]
    Limit {
        /// The quantity.
        what: &'static str,
        /// Its limit.
        limit: u64,
        /// The value found.
        found: u64,
    },
    /// The checksum holds, but the content contradicts itself.
    #[error("malformed {what}")]
    Malformed {
        /// The part that makes no sense.
        what: &'static str,
    },
}

/// Shorthand for a malformed part.
pub(crate) const fn malformed(what: &'static str) -> DecodeError {
    DecodeError::Malformed { what }
}

/// A `u32` as an index; every target has at least 32 bits.
pub(crate) fn index_of(value: u32) -> usize {
    usize::try_from(value).expect("usize has at least 32 bits")
}

/// A length as a `u32` on its way into a format whose limits keep it there.
pub(crate) fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("limits keep lists far below 2^32")
}

/// Reads fields off the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The next `length` bytes.
    pub(crate) fn take(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.bytes.split_at_checked(length) else {
            return Err(DecodeError::Truncated {
                what,
                wanted: length,
                left: self.bytes.len(),
            });
        };
        self.bytes = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated {
                what,
                wanted: N,
                left: self.bytes.len(),
            });
        };
        self.bytes = rest;
        Ok(*head)
    }

    /// One byte.
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// A little-endian `u16`.
    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// A little-endian `u32`.
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A little-endian `u64`.
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A little-endian `i64`.
    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// A count of entries of at least `entry_bytes_min` bytes each, refused when the bytes that
    /// are left cannot hold so many: a list may be allocated by it.
    pub(crate) fn count(
        &mut self,
        entry_bytes_min: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let count = self.u32(what)?;
        self.check_count(count, entry_bytes_min, what)
    }

    /// Checks a count read elsewhere as [`Reader::count`] does.
    pub(crate) fn check_count(
        &self,
        count: u32,
        entry_bytes_min: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let limit = self.bytes.len() / entry_bytes_min;
        let count_index = index_of(count);
        if count_index > limit {
            let limit = u64::try_from(limit).unwrap_or(u64::MAX);
            return Err(DecodeError::Limit {
                what,
                limit,
                found: count.into(),
            });
        }
        Ok(count_index)
    }

    /// An LEB128 number.
    pub(crate) fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(malformed(what));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed(what))
    }

    /// An LEB128 number that must fit in 32 bits.
    pub(crate) fn varint_u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.varint(what)?).map_err(|_| malformed(what))
    }

    /// A signed number in zigzag LEB128.
    pub(crate) fn zigzag(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        let value = self.varint(what)?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// A string of `u16` length, at most `bytes_max` bytes.
    pub(crate) fn string(
        &mut self,
        bytes_max: usize,
        what: &'static str,
    ) -> Result<String, DecodeError> {
        let length = usize::from(self.u16(what)?);
        if length > bytes_max {
            let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
            let found = u64::try_from(length).unwrap_or(u64::MAX);
            return Err(DecodeError::Limit { what, limit, found });
        }
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| malformed(what))
    }

    /// A flag byte, 0 or 1.
    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(malformed(what)),
        }
    }

    /// A flag and, when it is set, a `u64`.
    pub(crate) fn optional_u64(&mut self, what: &'static str) -> Result<Option<u64>, DecodeError> {
        if self.flag(what)? {
            self.u64(what).map(Some)
        } else {
            Ok(None)
        }
    }

    /// A topic and a partition.
    pub(crate) fn topic_partition(
        &mut self,
        what: &'static str,
    ) -> Result<TopicPartition, DecodeError> {
        let topic = TopicId(self.u32(what)?);
        let partition = PartitionId(self.u32(what)?);
        Ok(TopicPartition { topic, partition })
    }

    /// An offset.
    pub(crate) fn offset(&mut self, what: &'static str) -> Result<Offset, DecodeError> {
        self.u64(what).map(Offset)
    }

    /// A position in a journal.
    pub(crate) fn journal_pos(&mut self, what: &'static str) -> Result<JournalPos, DecodeError> {
        let segment = SegmentSeq(self.u32(what)?);
        let offset = self.u32(what)?;
        Ok(JournalPos { segment, offset })
    }

    /// The place of a block.
    pub(crate) fn block_location(
        &mut self,
        what: &'static str,
    ) -> Result<BlockLocation, DecodeError> {
        let journal = JournalId(self.u16(what)?);
        let segment = SegmentSeq(self.u32(what)?);
        let offset = self.u32(what)?;
        let bytes = self.u32(what)?;
        Ok(BlockLocation {
            journal,
            segment,
            offset,
            bytes,
        })
    }

    /// Refuses bytes that nothing has read.
    pub(crate) fn finish(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(malformed(what))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back(value: u64, signed: i64) {
            let mut out = Vec::new();
            out.put_varint(value);
            out.put_zigzag(signed);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint("v").expect("valid"), value);
            prop_assert_eq!(reader.zigzag("v").expect("valid"), signed);
            prop_assert!(reader.finish("v").is_ok());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            let _ = reader.varint("v");
            let _ = reader.zigzag("v");
            let _ = reader.string(16, "v");
            let _ = reader.optional_u64("v");
            let _ = open_envelope(&bytes, 1);
        }

        #[test]
        fn an_envelope_with_any_flipped_bit_is_refused(body: Vec<u8>, at: usize, bit in 0u8..8) {
            let mut out = Vec::new();
            let start = begin_envelope(&mut out);
            out.put(&body);
            seal_envelope(&mut out, start, 7, 3);
            let opened = open_envelope(&out, 7).expect("just sealed");
            prop_assert_eq!(opened.count, 3);
            prop_assert_eq!(opened.body.bytes, &body[..]);
            let at = at % out.len();
            out[at] ^= 1 << bit;
            prop_assert!(open_envelope(&out, 7).is_err());
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_is_refused_before_allocating() {
        let bytes = u32::MAX.to_le_bytes();
        let refused = Reader::new(&bytes)
            .count(8, "rows")
            .expect_err("no rows follow");
        let limit = DecodeError::Limit {
            what: "rows",
            limit: 0,
            found: u32::MAX.into(),
        };
        assert_eq!(refused, limit);
    }

    #[test]
    fn a_varint_of_more_than_64_bits_is_refused() {
        let mut bytes = [0xff; 10];
        bytes[9] = 0x02;
        assert!(Reader::new(&bytes).varint("v").is_err());
        bytes[9] = 0x01;
        assert_eq!(Reader::new(&bytes).varint("v"), Ok(u64::MAX));
    }
}
