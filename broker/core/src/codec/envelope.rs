//! The envelope: every part of the state that stands alone travels in one.
//!
//! ```text
//! 0 magic u32 | 4 version u16 | 6 reserved u16 = 0 | 8 body_bytes u32 | 12 count u32
//! 16 crc u32: CRC-32 of bytes 0..16 and the body | 20 body
//! ```

use super::{DecodeError, Reader, index_of, malformed};

/// The version that every envelope carries unless its part has a newer one.
pub(crate) const ENVELOPE_VERSION: u16 = 1;

/// Bytes of an envelope before its body.
pub(crate) const ENVELOPE_BYTES: usize = 20;

/// What [`open_envelope`] found.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    /// The version of the part, at most the newest that was asked for.
    pub(crate) version: u16,
    /// The count in the header; its meaning belongs to the part.
    pub(crate) count: u32,
    /// The body.
    pub(crate) body: Reader<'a>,
    /// What follows the envelope.
    pub(crate) rest: &'a [u8],
}

/// Makes room for an envelope's header at the end of `out`; the body is appended next. Returns
/// what [`seal_envelope`] wants as `start`.
pub(crate) fn begin_envelope(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + ENVELOPE_BYTES, 0);
    start
}

/// Fills in the header of the envelope that began at `start` and ends with `out`.
///
/// # Panics
/// If the body is 4 GiB or longer: every part has a far lower limit.
pub(crate) fn seal_envelope(out: &mut [u8], start: usize, magic: u32, count: u32) {
    seal_envelope_as(ENVELOPE_VERSION, out, start, magic, count);
}

/// As [`seal_envelope`], for a part of another version.
pub(crate) fn seal_envelope_as(version: u16, out: &mut [u8], start: usize, magic: u32, count: u32) {
    let body_bytes = u32::try_from(out.len() - start - ENVELOPE_BYTES)
        .expect("a part is limited to far less than 4 GiB");
    let envelope = &mut out[start..];
    envelope[0..4].copy_from_slice(&magic.to_le_bytes());
    envelope[4..6].copy_from_slice(&version.to_le_bytes());
    envelope[6..8].copy_from_slice(&0u16.to_le_bytes());
    envelope[8..12].copy_from_slice(&body_bytes.to_le_bytes());
    envelope[12..16].copy_from_slice(&count.to_le_bytes());
    let crc = envelope_crc(&envelope[..16], &envelope[ENVELOPE_BYTES..]);
    envelope[16..20].copy_from_slice(&crc.to_le_bytes());
}

/// Reads the envelope at the start of `bytes`, with its checksum.
///
/// # Errors
/// [`DecodeError::Truncated`], [`DecodeError::Magic`], [`DecodeError::Version`],
/// [`DecodeError::Checksum`], or [`DecodeError::Malformed`] when reserved bytes are set.
pub(crate) fn open_envelope(bytes: &[u8], magic: u32) -> Result<Envelope<'_>, DecodeError> {
    open_envelope_to(ENVELOPE_VERSION, bytes, magic)
}

/// As [`open_envelope`], for a part of which all versions up to `newest` are known.
///
/// # Errors
/// As [`open_envelope`].
pub(crate) fn open_envelope_to(
    newest: u16,
    bytes: &[u8],
    magic: u32,
) -> Result<Envelope<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let found = reader.u32("envelope")?;
    if found != magic {
        return Err(DecodeError::Magic {
            expected: magic,
            found,
        });
    }
    let version = reader.u16("envelope")?;
    if !(ENVELOPE_VERSION..=newest).contains(&version) {
        return Err(DecodeError::Version {
            newest,
            found: version,
        });
    }
    if reader.u16("envelope")? != 0 {
        return Err(malformed("reserved bytes of an envelope"));
    }
    let body_bytes = index_of(reader.u32("envelope")?);
    let count = reader.u32("envelope")?;
    let expected = reader.u32("envelope")?;
    let body = reader.take(body_bytes, "envelope body")?;
    let crc = envelope_crc(&bytes[..16], body);
    if crc != expected {
        return Err(DecodeError::Checksum {
            what: "envelope",
            expected: expected.into(),
            found: crc.into(),
        });
    }
    Ok(Envelope {
        version,
        count,
        body: Reader::new(body),
        rest: reader.bytes,
    })
}

fn envelope_crc(head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(body);
    hasher.finalize()
}
