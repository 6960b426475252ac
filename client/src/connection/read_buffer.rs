//! Cuts what a socket delivers into frames, without copying payloads.
//!
//! Invariant: a frame is handed out once all of it is there and its header's checksum holds; it
//! shares the buffer's memory. Memory grows with bytes announced by a checked prefix only. Used
//! by the connection's task.

use bytes::{Bytes, BytesMut};
use catena_protocol::frame::{FrameError, FramePrefix, PREFIX_BYTES};

use crate::limits::READ_BYTES_MIN;

/// One frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) prefix: FramePrefix,
    pub(crate) header: Bytes,
    pub(crate) payload: Bytes,
}

/// Bytes read and not yet cut.
#[derive(Debug, Default)]
pub(crate) struct ReadBuffer {
    buffer: BytesMut,
    /// Bytes of the frame at the front, as far as known.
    frame_bytes: usize,
}

impl ReadBuffer {
    /// The buffer to read into, with room.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        let missing = self.frame_bytes.saturating_sub(self.buffer.len());
        let room = self.buffer.capacity() - self.buffer.len();
        if room < missing.max(READ_BYTES_MIN / 8) {
            // A large frame gets exactly its room, so that nothing of the next one has to move.
            self.buffer.reserve(missing.max(READ_BYTES_MIN));
        }
        &mut self.buffer
    }

    /// The next whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX_BYTES>() else {
            self.frame_bytes = PREFIX_BYTES;
            return Ok(None);
        };
        let prefix = FramePrefix::decode(prefix)?;
        self.frame_bytes = prefix.length as usize;
        if self.buffer.len() < self.frame_bytes {
            return Ok(None);
        }
        let frame = self.buffer.split_to(self.frame_bytes).freeze();
        self.frame_bytes = PREFIX_BYTES;
        let payload_start = PREFIX_BYTES + prefix.header_bytes as usize;
        let header = frame.slice(PREFIX_BYTES..payload_start);
        prefix.verify(&header)?;
        Ok(Some(Frame {
            prefix,
            header,
            payload: frame.slice(payload_start..),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;
    use catena_protocol::frame::{Api, FLAG_RESPONSE, PROTOCOL_VERSION, encode_frame};
    use catena_protocol::ids::CorrelationId;

    fn frame(correlation: u32, header: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let bytes = u32::try_from(payload.len()).expect("small");
        let correlation = CorrelationId(correlation);
        encode_frame(
            &mut out,
            Api::Fetch,
            PROTOCOL_VERSION,
            FLAG_RESPONSE,
            correlation,
            header,
            bytes,
        );
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn frames_are_cut_wherever_the_reads_end() {
        let large = vec![7; READ_BYTES_MIN * 2];
        let stream = [
            frame(1, b"one", b""),
            frame(2, b"", &large),
            frame(3, b"x", b"y"),
        ]
        .concat();
        for step in [1, 23, 4_096, stream.len()] {
            let mut read = ReadBuffer::default();
            let mut frames = Vec::new();
            for piece in stream.chunks(step) {
                let mut piece = piece;
                while !piece.is_empty() {
                    let room = read.room();
                    let bytes = piece.len().min(room.capacity() - room.len());
                    room.put_slice(piece.split_off(..bytes).expect("not more than there is"));
                    while let Some(frame) = read.next_frame().expect("whole frames") {
                        frames.push(frame);
                    }
                }
            }
            let sizes: Vec<_> = frames
                .iter()
                .map(|frame| {
                    (
                        frame.prefix.correlation.0,
                        frame.header.len(),
                        frame.payload.len(),
                    )
                })
                .collect();
            assert_eq!(sizes, [(1, 3, 0), (2, 0, large.len()), (3, 1, 1)]);
        }
    }

    #[test]
    fn a_damaged_header_is_refused() {
        let mut bytes = frame(1, b"header", b"");
        bytes[PREFIX_BYTES] ^= 1;
        let mut read = ReadBuffer::default();
        read.room().put_slice(&bytes);
        assert!(matches!(read.next_frame(), Err(FrameError::Crc { .. })));
    }
}
