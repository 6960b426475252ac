//! The codecs of a batch's records: lz4 (block format) and zstd.
//!
//! With the feature `compression` (default) both are compiled in; without it the functions are
//! there and answer [`CompressionError::NotCompiledIn`], so that the core needs neither. The broker
//! has them for compacted topics; into the batches of others it never looks.
//!
//! Invariant: decompression writes at most the number of bytes the caller names. Contexts and
//! buffers are reused; a compressor or decompressor belongs to one thread at a time.

#[cfg(feature = "compression")]
mod codecs;
#[cfg(not(feature = "compression"))]
mod codecs {
    //! The stand-in without codecs.

    use super::{Codec, CompressionError};

    #[derive(Debug, Default)]
    pub(crate) struct Compressor(());

    #[expect(clippy::unused_self, reason = "the form of the real one")]
    impl Compressor {
        pub(crate) fn compress(
            &mut self,
            codec: Codec,
            _level: i32,
            _input: &[u8],
            _out: &mut Vec<u8>,
        ) -> Result<(), CompressionError> {
            Err(CompressionError::NotCompiledIn { codec })
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct Expander(());

    #[expect(clippy::unused_self, reason = "the form of the real one")]
    impl Expander {
        pub(crate) fn expand(
            &mut self,
            codec: Codec,
            _input: &[u8],
            _bytes: usize,
            _out: &mut Vec<u8>,
        ) -> Result<(), CompressionError> {
            Err(CompressionError::NotCompiledIn { codec })
        }
    }
}

pub(crate) use codecs::{Compressor, Expander};

use std::fmt;
use std::str::FromStr;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// lz4, block format.
    Lz4 = 1,
    /// zstd, one frame.
    Zstd = 2,
}

impl Codec {
    /// The codec with this number, if this version knows it.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The name used in flags and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Whether this build can compress and decompress with it.
    pub const fn is_compiled_in(self) -> bool {
        matches!(self, Self::None) || cfg!(feature = "compression")
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = UnknownCodecName;

    fn from_str(name: &str) -> Result<Self, UnknownCodecName> {
        [Self::None, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|codec| codec.name() == name)
            .ok_or_else(|| UnknownCodecName {
                name: name.to_owned(),
            })
    }
}

/// A name that is none of `none`, `lz4`, `zstd`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("codec {name:?} is unknown; there are none, lz4 and zstd")]
pub struct UnknownCodecName {
    /// What was given.
    pub name: String,
}

/// Why compressing or decompressing failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// This build has no codecs.
    #[error("{codec} needs the feature `compression` of catena-protocol")]
    NotCompiledIn {
        /// The codec asked for.
        codec: Codec,
    },
    /// The compressed bytes are damaged.
    #[error("{codec} data is damaged: {reason}")]
    Damaged {
        /// The codec.
        codec: Codec,
        /// The codec's words.
        reason: String,
    },
    /// The decompressed bytes are not as many as announced.
    #[error("{codec} gave {actual} bytes, announced were {expected}")]
    Size {
        /// The codec.
        codec: Codec,
        /// Bytes that came out.
        actual: usize,
        /// Bytes announced.
        expected: usize,
    },
    /// The codec could not compress.
    #[error("{codec} can not compress: {reason}")]
    Failed {
        /// The codec.
        codec: Codec,
        /// The codec's words.
        reason: String,
    },
}
