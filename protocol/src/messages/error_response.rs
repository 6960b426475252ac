//! The error reply, to any request; it carries the request's correlation id.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{message, read_text};
use crate::error::{DecodeError, ErrorCode};
use crate::generated::wire;
use crate::limits::{ERROR_MESSAGE_BYTES_MAX, HEADER_BYTES_MAX};

/// A request failed as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorResponse {
    /// Why.
    pub code: ErrorCode,
    /// Words for a person; not to be parsed. `encode` cuts it at 1,024 bytes.
    pub message: String,
    /// A number whose meaning the code defines, or 0.
    pub detail: u64,
}

message!(ErrorResponse, Error, response: true);

impl ErrorResponse {
    /// The error `code` in its standard words, without a detail.
    pub fn from_code(code: ErrorCode) -> Self {
        Self {
            code,
            message: code.hint().to_owned(),
            detail: 0,
        }
    }

    fn write<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<wire::ErrorResponse<'b>> {
        let message = builder.create_string(cut_text(&self.message, ERROR_MESSAGE_BYTES_MAX));
        let (code, detail) = (self.code.to_wire(), self.detail);
        let args = wire::ErrorResponseArgs {
            code,
            message: Some(message),
            detail,
        };
        wire::ErrorResponse::create(builder, &args)
    }

    fn read(table: wire::ErrorResponse<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            code: ErrorCode::from_wire(table.code()),
            message: read_text("error message", table.message(), HEADER_BYTES_MAX)?,
            detail: table.detail(),
        })
    }
}

/// The longest start of `text` of at most `max` bytes that is whole characters.
fn cut_text(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut_text("abc", 5), "abc");
        assert_eq!(cut_text("abc", 2), "ab");
        assert_eq!(cut_text("a\u{20ac}b", 3), "a");
        assert_eq!(cut_text("a\u{20ac}b", 4), "a\u{20ac}");
        assert_eq!(cut_text("", 0), "");
    }
}
