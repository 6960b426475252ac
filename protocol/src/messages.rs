//! The messages, one file per api (the four of topic administration share one).
//!
//! Most headers are flatbuffers tables and come as owned structs: `encode` appends a whole frame,
//! `decode` reads a header whose frame was verified. Produce, its acks and fetch responses are
//! fixed structs, read through views that own nothing.
//!
//! Invariant: `decode` verifies a table with limits on depth, tables and apparent size before it
//! reads a field, and compares every count with its limit before it allocates. Any thread.

mod cleanup;
mod error_response;
mod fetch;
mod hello;
mod init_producer;
mod list_offsets;
mod metadata;
mod produce;
mod topics;

pub use cleanup::{Cleanup, UnknownCleanup};
pub use error_response::ErrorResponse;
pub use fetch::{
    FetchInterest, FetchItem, FetchRequest, FetchView, encode_fetch_header,
    fetch_header_frame_bytes,
};
pub use hello::{HelloRequest, HelloResponse, Purpose};
pub use init_producer::{InitProducerRequest, InitProducerResponse};
pub use list_offsets::{
    ListOffsetsItem, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsResult, OffsetSpec,
};
pub use metadata::{
    ChainInfo, MetadataRequest, MetadataResponse, NodeInfo, PartitionRange, TopicConfig, TopicInfo,
};
pub use produce::{
    AckItem, AckView, ProduceItem, ProduceView, encode_produce_ack, encode_produce_header,
};
pub use topics::{
    AlterTopicRequest, AlterTopicResponse, CreateTopicRequest, CreateTopicResponse,
    DeleteTopicRequest, DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse,
};

use flatbuffers::{FlatBufferBuilder, Follow, ForwardsUOffset, Verifiable, VerifierOptions};
use flatbuffers::{Vector, WIPOffset};

use crate::error::DecodeError;
use crate::frame::{Api, FLAG_RESPONSE, FrameStart, PROTOCOL_VERSION};
use crate::ids::CorrelationId;
use crate::limits::{VERIFIER_APPARENT_BYTES_MAX, VERIFIER_DEPTH_MAX, VERIFIER_TABLES_MAX};

/// A cluster's identity: 16 random bytes.
pub type ClusterId = [u8; 16];

/// A message whose header is a table.
pub trait Message: Sized {
    /// The api it belongs to.
    const API: Api;
    /// Whether it answers.
    const IS_RESPONSE: bool;

    /// Appends the whole frame, prefix and header, to `out`.
    fn encode(&self, correlation: CorrelationId, out: &mut Vec<u8>);

    /// Reads the header of a frame that was verified.
    fn decode(header: &[u8]) -> Result<Self, DecodeError>;
}

/// A request that is answered by one response (or by [`ErrorResponse`]).
pub trait Request: Message {
    /// The answer.
    type Response: Message;
}

/// Gives a message its `encode` and `decode`, out of its `write` and `read`.
macro_rules! message {
    ($type:ident, $api:ident, response: $is_response:literal) => {
        impl $type {
            /// Appends the whole frame, prefix and header, to `out`.
            ///
            /// # Panics
            /// If the message exceeds the limits of a frame.
            pub fn encode(&self, correlation: crate::ids::CorrelationId, out: &mut Vec<u8>) {
                let api = crate::frame::Api::$api;
                crate::messages::encode_table(out, api, $is_response, correlation, |builder| {
                    self.write(builder)
                });
            }

            /// Reads the header of a frame that was verified.
            pub fn decode(header: &[u8]) -> Result<Self, crate::error::DecodeError> {
                type Table<'a> = crate::generated::wire::$type<'a>;
                let table = crate::messages::read_table::<Table<'_>>(stringify!($type), header)?;
                Self::read(table)
            }
        }

        impl crate::messages::Message for $type {
            const API: crate::frame::Api = crate::frame::Api::$api;
            const IS_RESPONSE: bool = $is_response;

            fn encode(&self, correlation: crate::ids::CorrelationId, out: &mut Vec<u8>) {
                self.encode(correlation, out);
            }

            fn decode(header: &[u8]) -> Result<Self, crate::error::DecodeError> {
                Self::decode(header)
            }
        }
    };
    ($request:ident -> $response:ident, $api:ident) => {
        message!($request, $api, response: false);
        message!($response, $api, response: true);

        impl crate::messages::Request for $request {
            type Response = $response;
        }
    };
}
use message;

const VERIFIER: VerifierOptions = VerifierOptions {
    max_depth: VERIFIER_DEPTH_MAX,
    max_tables: VERIFIER_TABLES_MAX,
    max_apparent_size: VERIFIER_APPARENT_BYTES_MAX,
    ignore_missing_null_terminator: false,
};

fn encode_table<'b, T>(
    out: &mut Vec<u8>,
    api: Api,
    is_response: bool,
    correlation: CorrelationId,
    write: impl FnOnce(&mut FlatBufferBuilder<'b>) -> WIPOffset<T>,
) {
    let mut builder = FlatBufferBuilder::with_capacity(256);
    let root = write(&mut builder);
    builder.finish_minimal(root);
    let frame = FrameStart::begin(out);
    out.extend_from_slice(builder.finished_data());
    let flags = if is_response { FLAG_RESPONSE } else { 0 };
    frame.finish(out, api, PROTOCOL_VERSION, flags, correlation, 0);
}

fn read_table<'a, T>(what: &'static str, header: &'a [u8]) -> Result<T::Inner, DecodeError>
where
    T: Follow<'a> + Verifiable + 'a,
{
    flatbuffers::root_with_opts::<T>(&VERIFIER, header).map_err(|error| DecodeError::Table {
        what,
        reason: error.to_string(),
    })
}

/// The items of a vector, at most `max` of them; none if the vector is absent.
fn read_items<'a, T: Follow<'a> + 'a, U>(
    what: &'static str,
    items: Option<Vector<'a, T>>,
    max: usize,
    read: impl Fn(T::Inner) -> Result<U, DecodeError>,
) -> Result<Vec<U>, DecodeError> {
    let Some(items) = items else {
        return Ok(Vec::new());
    };
    check_count(what, items.len(), max)?;
    items.iter().map(read).collect()
}

fn read_text(what: &'static str, text: Option<&str>, max: usize) -> Result<String, DecodeError> {
    let text = text.unwrap_or_default();
    check_count(what, text.len(), max)?;
    Ok(text.to_owned())
}

fn check_count(what: &'static str, actual: usize, max: usize) -> Result<(), DecodeError> {
    if actual <= max {
        Ok(())
    } else {
        Err(DecodeError::TooMany { what, actual, max })
    }
}

/// A vector of tables.
fn write_tables<'b, T: 'b, U>(
    builder: &mut FlatBufferBuilder<'b>,
    items: &[U],
    write: impl Fn(&U, &mut FlatBufferBuilder<'b>) -> WIPOffset<T>,
) -> WIPOffset<Vector<'b, ForwardsUOffset<T>>> {
    let offsets: Vec<_> = items.iter().map(|item| write(item, builder)).collect();
    builder.create_vector(&offsets)
}

#[cfg(test)]
mod tests;
