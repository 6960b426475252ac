//! Connections to the broker.
//!
//! `stream` opens the bytes below one, `handshake` makes it, `driver` moves its bytes on a task of
//! its own, and a handler gives it meaning: `control` for questions with one answer each,
//! `producer::lane` for batches and acks, `consumer::lane` for fetch sessions. `read_buffer` and
//! `write_queue` keep payloads from being copied.
//!
//! Invariant: nothing is sent on a connection before the reply to its hello, and a connection
//! that failed is never used again: whoever needs one makes a new one.

pub(crate) mod control;
pub(crate) mod driver;
pub(crate) mod handshake;
pub(crate) mod places;
pub(crate) mod read_buffer;
pub(crate) mod stream;
pub(crate) mod write_queue;

use std::sync::Arc;

use catena_protocol::ids::{NodeId, ShardId};

/// Whom to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `host:port`.
    pub(crate) address: Arc<str>,
    /// Checked by the broker if known.
    pub(crate) node: Option<NodeId>,
    /// The shard that shall serve the connection; any if absent.
    pub(crate) shard: Option<ShardId>,
}
