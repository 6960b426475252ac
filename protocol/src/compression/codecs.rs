//! lz4 and zstd, with contexts that are kept from batch to batch.

use super::{Codec, CompressionError};

/// Compresses; appends to the caller's buffer.
#[derive(Default)]
pub(crate) struct Compressor {
    zstd: Option<(i32, zstd::bulk::Compressor<'static>)>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

impl Compressor {
    pub(crate) fn compress(
        &mut self,
        codec: Codec,
        level: i32,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let start = out.len();
        let failed = |reason: String| CompressionError::Failed { codec, reason };
        let written = match codec {
            Codec::None => {
                out.extend_from_slice(input);
                return Ok(());
            }
            Codec::Lz4 => {
                out.resize(
                    start + lz4_flex::block::get_maximum_output_size(input.len()),
                    0,
                );
                lz4_flex::block::compress_into(input, &mut out[start..])
                    .map_err(|error| failed(error.to_string()))?
            }
            Codec::Zstd => {
                out.resize(start + zstd::zstd_safe::compress_bound(input.len()), 0);
                self.zstd(level)
                    .and_then(|zstd| zstd.compress_to_buffer(input, &mut out[start..]))
                    .map_err(|error| failed(error.to_string()))?
            }
        };
        out.truncate(start + written);
        Ok(())
    }

    fn zstd(&mut self, level: i32) -> std::io::Result<&mut zstd::bulk::Compressor<'static>> {
        let kept = self
            .zstd
            .take()
            .filter(|(kept_level, _)| *kept_level == level);
        let made = match kept {
            Some(kept) => kept,
            None => (level, zstd::bulk::Compressor::new(level)?),
        };
        Ok(&mut self.zstd.insert(made).1)
    }
}

/// Decompresses; appends exactly the announced number of bytes to the caller's buffer.
#[derive(Default)]
pub(crate) struct Expander {
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Expander {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Expander").finish_non_exhaustive()
    }
}

impl Expander {
    pub(crate) fn expand(
        &mut self,
        codec: Codec,
        input: &[u8],
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CompressionError> {
        let start = out.len();
        out.resize(start + bytes, 0);
        let target = &mut out[start..];
        let damaged = |reason: String| CompressionError::Damaged { codec, reason };
        let written = match codec {
            Codec::None => {
                let size = CompressionError::Size {
                    codec,
                    actual: input.len(),
                    expected: bytes,
                };
                target
                    .get_mut(..input.len())
                    .ok_or(size)?
                    .copy_from_slice(input);
                input.len()
            }
            Codec::Lz4 => lz4_flex::block::decompress_into(input, target)
                .map_err(|error| damaged(error.to_string()))?,
            Codec::Zstd => self
                .zstd()
                .and_then(|zstd| zstd.decompress_to_buffer(input, target))
                .map_err(|error| damaged(error.to_string()))?,
        };
        if written == bytes {
            Ok(())
        } else {
            Err(CompressionError::Size {
                codec,
                actual: written,
                expected: bytes,
            })
        }
    }

    fn zstd(&mut self) -> std::io::Result<&mut zstd::bulk::Decompressor<'static>> {
        let made = match self.zstd.take() {
            Some(kept) => kept,
            None => zstd::bulk::Decompressor::new()?,
        };
        Ok(self.zstd.insert(made))
    }
}
