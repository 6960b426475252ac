//! The frame: a fixed prefix, a header (one message), and a raw payload (batches).
//!
//! ```text
//!  0 length        u32  the whole frame, prefix included
//!  4 api           u16  see Api
//!  6 version       u8
//!  7 flags         u8   bit 0: response
//!  8 correlation   u32
//! 12 header_bytes  u32
//! 16 crc           u32  CRC-32 of bytes 0..16, 20..24 and the header
//! 20 reserved      u32  written as 0, not interpreted
//! 24 header, then payload
//! ```
//!
//! The prefix has this form in every version, so that an unknown api or version can be answered
//! and its frame skipped. Invariant: no length out of a prefix is used before `decode` has
//! compared it with the limits. No I/O; any thread.

use crate::bytes_at::{u16_at, u32_at};
use crate::ids::CorrelationId;
use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES_MAX, REQUEST_BYTES_MAX};

/// Bytes of the prefix.
pub const PREFIX_BYTES: usize = 24;

/// The version of requests and responses that this crate speaks.
pub const PROTOCOL_VERSION: u8 = 1;

/// Set in the flags of a response.
pub const FLAG_RESPONSE: u8 = 1;

/// What a frame asks for or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Api {
    /// The error reply to any request.
    Error = 0,
    /// The first exchange on a connection.
    Hello = 1,
    /// Topics, ranges, chains, nodes.
    Metadata = 2,
    /// Make a topic.
    CreateTopic = 3,
    /// Delete a topic.
    DeleteTopic = 4,
    /// Change a topic's settings or add partitions.
    AlterTopic = 5,
    /// One topic in full.
    DescribeTopic = 6,
    /// Append batches; the acks come in frames of their own.
    Produce = 7,
    /// Read batches through a session.
    Fetch = 8,
    /// Offsets by time, and the ends of a partition.
    ListOffsets = 9,
    /// A new producer id.
    InitProducer = 10,
}

impl Api {
    /// The api with this number, if this version knows it.
    pub const fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            0 => Self::Error,
            1 => Self::Hello,
            2 => Self::Metadata,
            3 => Self::CreateTopic,
            4 => Self::DeleteTopic,
            5 => Self::AlterTopic,
            6 => Self::DescribeTopic,
            7 => Self::Produce,
            8 => Self::Fetch,
            9 => Self::ListOffsets,
            10 => Self::InitProducer,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> u16 {
        self as u16
    }
}

/// A prefix that can not be trusted. The stream is out of step: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than its kind may be.
    #[error("frame of {length} bytes, at most {max} allowed")]
    TooLarge {
        /// Bytes announced.
        length: u32,
        /// The limit for this kind of frame.
        max: usize,
    },
    /// The header is larger than the limit.
    #[error("frame header of {header_bytes} bytes, at most {HEADER_BYTES_MAX} allowed")]
    HeaderTooLarge {
        /// Bytes announced.
        header_bytes: u32,
    },
    /// The frame is shorter than its prefix and header.
    #[error("frame of {length} bytes can not hold its prefix and {header_bytes} bytes of header")]
    TooShort {
        /// Bytes announced for the frame.
        length: u32,
        /// Bytes announced for the header.
        header_bytes: u32,
    },
    /// The header given has not the announced length.
    #[error("frame header has {actual} bytes, the prefix says {expected}")]
    HeaderLength {
        /// Bytes given.
        actual: usize,
        /// Bytes announced.
        expected: u32,
    },
    /// Prefix or header are damaged.
    #[error("frame checksum is {actual:#010x}, the prefix says {expected:#010x}")]
    Crc {
        /// The checksum of what arrived.
        actual: u32,
        /// The checksum in the prefix.
        expected: u32,
    },
}

/// The prefix of a frame, decoded and inside the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePrefix {
    /// Bytes of the whole frame, prefix included.
    pub length: u32,
    /// The api's number; see [`Api::from_wire`].
    pub api: u16,
    /// The protocol version of the header.
    pub version: u8,
    /// [`FLAG_RESPONSE`]; other bits are not interpreted.
    pub flags: u8,
    /// Names the request.
    pub correlation: CorrelationId,
    /// Bytes of the header.
    pub header_bytes: u32,
    /// The checksum, to be compared by [`FramePrefix::verify`].
    pub crc: u32,
    /// The last four bytes; only the checksum needs them.
    pub reserved: u32,
}

impl FramePrefix {
    /// Reads a prefix and compares its lengths with the limits (of a request, or of a response if
    /// the flag says so). The checksum needs the header too: call [`FramePrefix::verify`] then.
    pub fn decode(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let prefix = Self {
            length: u32_at(bytes, 0),
            api: u16_at(bytes, 4),
            version: bytes[6],
            flags: bytes[7],
            correlation: CorrelationId(u32_at(bytes, 8)),
            header_bytes: u32_at(bytes, 12),
            crc: u32_at(bytes, 16),
            reserved: u32_at(bytes, 20),
        };
        prefix.check()?;
        Ok(prefix)
    }

    /// The bytes of this prefix, its checksum as it stands.
    pub fn encode(&self) -> [u8; PREFIX_BYTES] {
        let mut bytes = [0; PREFIX_BYTES];
        bytes[0..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.api.to_le_bytes());
        bytes[6] = self.version;
        bytes[7] = self.flags;
        bytes[8..12].copy_from_slice(&self.correlation.0.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.crc.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.reserved.to_le_bytes());
        bytes
    }

    /// Whether this frame answers a request.
    pub const fn is_response(&self) -> bool {
        self.flags & FLAG_RESPONSE != 0
    }

    /// Bytes of the payload, which follows the header.
    pub const fn payload_bytes(&self) -> u32 {
        // `check` holds: length >= PREFIX_BYTES + header_bytes.
        self.length
            .saturating_sub(self.header_bytes)
            .saturating_sub(24)
    }

    /// Compares the checksum with prefix and header. The payload is not covered: its batches
    /// carry their own checksums.
    pub fn verify(&self, header: &[u8]) -> Result<(), FrameError> {
        if header.len() != self.header_bytes as usize {
            let (actual, expected) = (header.len(), self.header_bytes);
            return Err(FrameError::HeaderLength { actual, expected });
        }
        let actual = self.checksum(header);
        if actual == self.crc {
            Ok(())
        } else {
            Err(FrameError::Crc {
                actual,
                expected: self.crc,
            })
        }
    }

    fn checksum(&self, header: &[u8]) -> u32 {
        let bytes = self.encode();
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[0..16]);
        hasher.update(&bytes[20..24]);
        hasher.update(header);
        hasher.finalize()
    }

    fn check(&self) -> Result<(), FrameError> {
        let (length, header_bytes) = (self.length, self.header_bytes);
        let max = if self.is_response() {
            FRAME_BYTES_MAX
        } else {
            REQUEST_BYTES_MAX
        };
        if length as usize > max {
            return Err(FrameError::TooLarge { length, max });
        }
        if header_bytes as usize > HEADER_BYTES_MAX {
            return Err(FrameError::HeaderTooLarge { header_bytes });
        }
        if (length as usize) < PREFIX_BYTES + header_bytes as usize {
            return Err(FrameError::TooShort {
                length,
                header_bytes,
            });
        }
        Ok(())
    }
}

/// Appends prefix and header of a frame to `out`; the caller sends `payload_bytes` of payload
/// after them.
///
/// # Panics
/// If header or frame exceed the limits: whoever builds a message keeps it inside them.
///
/// ```
/// use catena_protocol::frame::{Api, FramePrefix, PREFIX_BYTES, PROTOCOL_VERSION, encode_frame};
/// use catena_protocol::ids::CorrelationId;
///
/// let mut out = Vec::new();
/// encode_frame(&mut out, Api::Hello, PROTOCOL_VERSION, 0, CorrelationId(5), b"header", 0);
/// let prefix = FramePrefix::decode(out.first_chunk().expect("a prefix"))?;
/// prefix.verify(&out[PREFIX_BYTES..])?;
/// assert_eq!(prefix.correlation, CorrelationId(5));
/// # Ok::<(), catena_protocol::frame::FrameError>(())
/// ```
pub fn encode_frame(
    out: &mut Vec<u8>,
    api: Api,
    version: u8,
    flags: u8,
    correlation: CorrelationId,
    header: &[u8],
    payload_bytes: u32,
) {
    let frame = FrameStart::begin(out);
    out.extend_from_slice(header);
    frame.finish(out, api, version, flags, correlation, payload_bytes);
}

/// A frame whose header is written in place, behind the room kept for the prefix.
#[derive(Debug)]
#[must_use = "a frame without `finish` has no prefix"]
pub(crate) struct FrameStart {
    at: usize,
}

impl FrameStart {
    pub(crate) fn begin(out: &mut Vec<u8>) -> Self {
        let at = out.len();
        out.extend_from_slice(&[0; PREFIX_BYTES]);
        Self { at }
    }

    /// Writes the prefix, now that everything behind it in `out` is the header.
    pub(crate) fn finish(
        self,
        out: &mut [u8],
        api: Api,
        version: u8,
        flags: u8,
        correlation: CorrelationId,
        payload_bytes: u32,
    ) {
        let (prefix_bytes, header) = out[self.at..].split_at_mut(PREFIX_BYTES);
        let header_bytes = u32::try_from(header.len()).expect("a header is at most 4 MiB");
        let length = payload_bytes
            .checked_add(header_bytes)
            .and_then(|bytes| bytes.checked_add(24))
            .expect("a frame is at most 64 MiB");
        let mut prefix = FramePrefix {
            length,
            api: api.to_wire(),
            version,
            flags,
            correlation,
            header_bytes,
            crc: 0,
            reserved: 0,
        };
        if let Err(error) = prefix.check() {
            panic!("a frame is built inside the limits: {error}");
        }
        prefix.crc = prefix.checksum(header);
        prefix_bytes.copy_from_slice(&prefix.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(flags: u8, header: &[u8], payload_bytes: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let correlation = CorrelationId(77);
        encode_frame(
            &mut out,
            Api::Fetch,
            1,
            flags,
            correlation,
            header,
            payload_bytes,
        );
        out
    }

    fn prefix_of(frame: &[u8]) -> Result<FramePrefix, FrameError> {
        FramePrefix::decode(frame.first_chunk().expect("a frame has a prefix"))
    }

    #[test]
    fn every_flipped_bit_is_caught() {
        let whole = frame(1, b"header", 100);
        for at in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let verified =
                prefix_of(&damaged).and_then(|prefix| prefix.verify(&damaged[PREFIX_BYTES..]));
            assert!(verified.is_err(), "bit {at}");
        }
    }

    #[test]
    fn lengths_are_compared_with_the_limits() {
        let mut prefix = prefix_of(&frame(0, b"header", 10)).expect("it is inside the limits");
        assert_eq!(prefix.payload_bytes(), 10);
        let decode = |prefix: &FramePrefix| FramePrefix::decode(&prefix.encode());

        prefix.length = (16 << 20) + 1;
        let too_large = FrameError::TooLarge {
            length: (16 << 20) + 1,
            max: 16 << 20,
        };
        assert_eq!(decode(&prefix), Err(too_large));
        prefix.flags = FLAG_RESPONSE;
        assert!(decode(&prefix).is_ok());
        prefix.length = (64 << 20) + 1;
        assert!(matches!(decode(&prefix), Err(FrameError::TooLarge { .. })));
        prefix.length = 29;
        assert_eq!(
            decode(&prefix),
            Err(FrameError::TooShort {
                length: 29,
                header_bytes: 6
            })
        );
        prefix.header_bytes = (4 << 20) + 1;
        assert!(matches!(
            decode(&prefix),
            Err(FrameError::HeaderTooLarge { .. })
        ));
    }

    #[test]
    fn unknown_apis_and_versions_keep_the_stream_in_step() {
        let mut prefix = prefix_of(&frame(0, b"header", 10)).expect("it is inside the limits");
        (prefix.api, prefix.version, prefix.flags, prefix.reserved) = (999, 9, 0x80, 5);
        prefix.crc = prefix.checksum(b"header");
        let prefix = FramePrefix::decode(&prefix.encode()).expect("the form is known");
        assert_eq!(prefix.verify(b"header"), Ok(()));
        assert_eq!(Api::from_wire(prefix.api), None);
        assert_eq!(prefix.payload_bytes(), 10);
    }

    #[test]
    fn api_numbers_survive() {
        for number in 0..=10 {
            let api = Api::from_wire(number).expect("0 to 10 are apis");
            assert_eq!(api.to_wire(), number);
        }
        assert_eq!(Api::from_wire(11), None);
    }
}
