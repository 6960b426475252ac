//! Memory aligned for `O_DIRECT`, without unsafe code: a larger vector and a slice of it.

use crate::limits::DIRECT_ALIGN;
use crate::payload::fill_random;

const STAMP_BYTES: usize = 8;

/// A block of incompressible bytes at an address that is a multiple of [`DIRECT_ALIGN`].
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBuffer {
    /// `length` random bytes, the same for the same seed.
    pub(crate) fn random(length: usize, seed: u64) -> Self {
        let mut memory = vec![0; length + DIRECT_ALIGN];
        // A vector's heap block does not move while its length stays, so the offset found here
        // holds for the buffer's life.
        let start = memory.as_ptr().align_offset(DIRECT_ALIGN);
        assert!(
            start < DIRECT_ALIGN,
            "bytes can be aligned to any power of two"
        );
        fill_random(&mut memory[start..start + length], seed);
        Self {
            memory,
            start,
            length,
        }
    }

    /// Makes the contents differ from all other stamps, so that no layer below can deduplicate.
    pub(crate) fn stamp(&mut self, number: u64) {
        self.bytes_mut()[..STAMP_BYTES].copy_from_slice(&number.to_le_bytes());
    }

    /// The number last stamped or read.
    #[cfg(test)]
    pub(crate) fn stamped(&self) -> u64 {
        let stamp = self.bytes().first_chunk().expect("a block holds a stamp");
        u64::from_le_bytes(*stamp)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_stay_so_when_moved() {
        let buffers: Vec<_> = (0..10)
            .map(|seed| AlignedBuffer::random(4096, seed))
            .collect();
        for buffer in &buffers {
            assert_eq!(buffer.bytes().as_ptr().align_offset(DIRECT_ALIGN), 0);
            assert_eq!(buffer.bytes().len(), 4096);
        }
    }

    #[test]
    fn a_stamp_changes_the_contents() {
        let mut buffer = AlignedBuffer::random(4096, 1);
        buffer.stamp(77);
        assert_eq!(buffer.stamped(), 77);
    }
}
