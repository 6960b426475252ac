//! Every bound of the client that is not part of the protocol.
//!
//! Invariant: the assertions below hold the bounds in their relations at compile time. Units are
//! in the names.

use std::time::Duration;

use catena_protocol::limits::{BATCH_BYTES_MAX, FRAME_BYTES_MAX, REQUEST_BYTES_MAX};

/// Bytes read from a socket at least at once; a frame that is larger gets its own room.
pub(crate) const READ_BYTES_MIN: usize = 256 << 10;

/// Bytes a connection reads in one turn before it looks at its writes again.
pub(crate) const READ_TURN_BYTES_MAX: usize = 4 << 20;

/// Bytes waiting to be written above which a connection takes no further work, so that batches
/// grow in the accumulator instead of in the socket's queue.
pub(crate) const WRITE_QUEUE_BYTES_MAX: usize = 2 << 20;

/// Payloads below this size are copied into one buffer, larger ones are written in place: a slice
/// of its own costs the kernel more than copying this much.
pub(crate) const WRITE_COPY_BYTES_MAX: usize = 4 << 10;

/// Bytes of one gathered write buffer.
pub(crate) const WRITE_CHUNK_BYTES: usize = 64 << 10;

/// Slices of one vectored write.
pub(crate) const WRITE_SLICES_MAX: usize = 64;

/// Payload bytes of one produce request. Below the protocol's limit, so that an ack never waits
/// for more than this to arrive.
pub(crate) const PRODUCE_REQUEST_BYTES_MAX: usize = 4 << 20;

/// Batches that are not full and in flight per partition. Behind these the open batch grows.
pub(crate) const PARTIAL_BATCHES_IN_FLIGHT_MAX: usize = 8;

/// Fetch requests outstanding in the steady state of a session.
pub(crate) const FETCH_PIPELINE: usize = 2;

/// Bytes one fetch request asks for at least, whatever the prefetch budget.
pub(crate) const FETCH_BYTES_MIN: u32 = 64 << 10;

/// Connections to one node unless told otherwise: as many as a node has shards at the most.
pub(crate) const CONNECTIONS_PER_NODE_DEFAULT: usize = 64;

/// Control requests that may wait for their answers on one connection.
pub(crate) const CONTROL_REQUESTS_MAX: usize = 1_024;

/// Retriable refusals after which an admin request gives up, whatever the time left.
pub(crate) const CONTROL_ATTEMPTS_MAX: u32 = 64;

/// First pause of the jittered back-off.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(5);

/// Longest pause of the jittered back-off.
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Metadata is not fetched more often than this for errors of the same generation.
pub(crate) const METADATA_PAUSE_MIN: Duration = Duration::from_millis(20);

const _: () = {
    assert!(PRODUCE_REQUEST_BYTES_MAX >= BATCH_BYTES_MAX);
    assert!(PRODUCE_REQUEST_BYTES_MAX + (1 << 20) <= REQUEST_BYTES_MAX);
    assert!(WRITE_COPY_BYTES_MAX < WRITE_CHUNK_BYTES);
    assert!(READ_BYTES_MIN <= FRAME_BYTES_MAX);
    assert!(FETCH_PIPELINE < catena_protocol::limits::FETCH_REQUESTS_OUTSTANDING_MAX);
};
