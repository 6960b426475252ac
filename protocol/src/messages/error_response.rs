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
        let cut = self.message.floor_char_boundary(ERROR_MESSAGE_BYTES_MAX);
        let message = builder.create_string(&self.message[..cut]);
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
