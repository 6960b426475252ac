//! What shards and the control plane say to each other. Everything here may cross threads.

use catena_core::metadata::{Command, Outcome, Refusal};
use catena_protocol::ids::{CorrelationId, ShardId};
use catena_protocol::messages::HelloRequest;

use super::index::SegmentKey;
use crate::runtime::channel::Sender;
use crate::runtime::net::Socket;

/// To a shard.
pub enum ShardMessage {
    /// A connection that was made inside the process; its `Hello` is still to come.
    Accept {
        /// The broker's end of it.
        socket: Socket,
    },
    /// A client asked for this shard; its `Hello` is still to be answered.
    Adopt {
        /// The socket. Nothing behind the `Hello` has been read from it.
        socket: Socket,
        /// The request.
        hello: HelloRequest,
        /// Its correlation id.
        correlation: CorrelationId,
    },
    /// A command was committed; apply it and say so.
    Apply {
        /// The command.
        command: Command,
        /// Told when it is applied.
        applied: Sender<()>,
    },
    /// `from` wants nothing of these segments any more.
    Released {
        /// Who says so.
        from: ShardId,
        /// The segments, all of journals that this shard looks after.
        segments: Vec<SegmentKey>,
    },
    /// Every shard has made its start durable: accept connections.
    Serve,
    /// Drain and end.
    Stop,
    /// Do this, on the shard's executor.
    #[cfg(test)]
    Test(Box<dyn FnOnce() + Send>),
}

/// To the control plane.
pub enum ControlRequest {
    /// Commit a command.
    Propose {
        /// The command.
        command: Command,
        /// Told when every shard has applied it.
        reply: Sender<Result<Outcome, ControlError>>,
    },
    /// Write what is left and end.
    Stop,
}

/// Why a command was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// It breaks a rule; nothing changed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The metadata journal cannot be written.
    #[error("metadata cannot be written: {0}")]
    Failed(String),
}
