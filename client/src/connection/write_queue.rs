//! Bytes on their way into a socket: small pieces gathered, large ones in place.
//!
//! Invariant: bytes leave in the order they were put in; a payload of `WRITE_COPY_BYTES_MAX` or
//! more is never copied. Used by the connection's task.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

use crate::limits::{WRITE_CHUNK_BYTES, WRITE_COPY_BYTES_MAX, WRITE_SLICES_MAX};

/// What waits to be written.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    chunks: VecDeque<Bytes>,
    chunk_bytes: usize,
    /// The last chunk, still growing.
    tail: Vec<u8>,
    /// Bytes of the tail already written.
    tail_written: usize,
}

impl WriteQueue {
    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.chunk_bytes + self.tail.len() - self.tail_written
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Where to append the prefix and header of a frame.
    pub(crate) fn header(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// Appends payload.
    pub(crate) fn push(&mut self, payload: &Bytes) {
        if payload.len() < WRITE_COPY_BYTES_MAX {
            self.tail.extend_from_slice(payload);
            return;
        }
        self.seal_tail();
        self.chunk_bytes += payload.len();
        self.chunks.push_back(payload.clone());
    }

    /// The front of the queue, for a vectored write; gives the count of slices used.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; WRITE_SLICES_MAX]) -> usize {
        let mut count = 0;
        for chunk in self.chunks.iter().take(WRITE_SLICES_MAX) {
            slices[count] = IoSlice::new(chunk);
            count += 1;
        }
        if count < WRITE_SLICES_MAX && self.tail_written < self.tail.len() {
            slices[count] = IoSlice::new(&self.tail[self.tail_written..]);
            count += 1;
        }
        count
    }

    /// The first `bytes` were written.
    pub(crate) fn advance(&mut self, mut bytes: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.len() > bytes {
                chunk.advance(bytes);
                self.chunk_bytes -= bytes;
                return;
            }
            bytes -= chunk.len();
            self.chunk_bytes -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail_written += bytes;
        if self.tail_written == self.tail.len() {
            self.tail.clear();
            self.tail_written = 0;
        }
    }

    fn seal_tail(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        let capacity = if self.tail.len() < WRITE_CHUNK_BYTES {
            256
        } else {
            WRITE_CHUNK_BYTES
        };
        let tail = std::mem::replace(&mut self.tail, Vec::with_capacity(capacity));
        let mut tail = Bytes::from(tail);
        tail.advance(self.tail_written);
        self.tail_written = 0;
        self.chunk_bytes += tail.len();
        self.chunks.push_back(tail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(queue: &mut WriteQueue, step: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let count = queue.slices(&mut slices);
            assert!(count > 0);
            let all: Vec<u8> = slices[..count]
                .iter()
                .flat_map(|slice| slice.to_vec())
                .collect();
            let bytes = step.min(all.len());
            out.extend_from_slice(&all[..bytes]);
            queue.advance(bytes);
        }
        out
    }

    #[test]
    fn bytes_leave_in_order_whatever_the_writes_take() {
        for step in [61, 5_000, usize::MAX] {
            let mut queue = WriteQueue::default();
            let mut expected = Vec::new();
            for (index, size) in [10, 5_000, 3, 4_096, 4_095, 9_000].into_iter().enumerate() {
                let payload = Bytes::from(vec![u8::try_from(index).expect("small"); size]);
                queue.header().extend_from_slice(b"head");
                queue.push(&payload);
                expected.extend_from_slice(b"head");
                expected.extend_from_slice(&payload);
                if index == 2 {
                    queue.advance(9);
                    expected.drain(..9);
                }
            }
            assert_eq!(queue.bytes(), expected.len());
            assert!(drain(&mut queue, step) == expected);
        }
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let payload = Bytes::from(vec![1; WRITE_COPY_BYTES_MAX]);
        let mut queue = WriteQueue::default();
        queue.push(&payload);
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        assert_eq!(queue.slices(&mut slices), 1);
        assert_eq!(slices[0].as_ptr(), payload.as_ptr());
    }
}
