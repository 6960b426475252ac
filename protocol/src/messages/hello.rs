//! The first exchange on a connection. Nothing follows the request until its reply, so that the
//! broker can hand the socket over to the right shard, and the reply comes from there.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{ClusterId, check_count, message, read_text};
use crate::error::DecodeError;
use crate::frame::PROTOCOL_VERSION;
use crate::generated::wire;
use crate::ids::{NodeId, ShardId};
use crate::limits::{AUTH_BYTES_MAX, PEER_NAME_BYTES_MAX};

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// Produce and fetch.
    #[default]
    Client = 0,
    /// Administration of topics.
    Admin = 1,
    /// Replication between nodes.
    Replica = 2,
    /// Control between nodes.
    Control = 3,
}

impl Purpose {
    /// The purpose with this number, if there is one.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Client),
            1 => Some(Self::Admin),
            2 => Some(Self::Replica),
            3 => Some(Self::Control),
            _ => None,
        }
    }
}

/// Opens a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloRequest {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The lowest protocol version the client speaks.
    pub version_min: u8,
    /// The highest.
    pub version_max: u8,
    /// The cluster the client believes to reach, if it knows one.
    pub cluster_id: Option<ClusterId>,
    /// The node the client believes to reach, if it knows one.
    pub expected_node: Option<NodeId>,
    /// The shard that shall serve the connection; any if absent.
    pub shard: Option<ShardId>,
    /// Who asks, for logs; at most 255 bytes.
    pub client_name: String,
    /// Proof of identity; at most 64 KiB.
    pub auth: Vec<u8>,
}

impl Default for HelloRequest {
    fn default() -> Self {
        Self {
            purpose: Purpose::Client,
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            cluster_id: None,
            expected_node: None,
            shard: None,
            client_name: String::new(),
            auth: Vec::new(),
        }
    }
}

/// The connection is open, and this is who serves it within which limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HelloResponse {
    /// The protocol version of all that follows.
    pub version: u8,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The shard that serves the connection.
    pub shard: ShardId,
    /// Shards of the node.
    pub shard_count: u16,
    /// Bytes of produce frames that may be unanswered.
    pub produce_credit_bytes: u64,
    /// Bytes that fetch requests may ask for and not have received.
    pub fetch_credit_bytes: u64,
    /// Other requests that may be unanswered.
    pub control_credit_requests: u32,
    /// Bytes of the largest request frame.
    pub request_bytes_max: u32,
    /// Bytes of the largest batch.
    pub batch_bytes_max: u32,
    /// The server's name and version, for logs.
    pub server: String,
}

message!(HelloRequest -> HelloResponse, Hello);

impl HelloRequest {
    fn write<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<wire::HelloRequest<'b>> {
        let client_name = builder.create_string(&self.client_name);
        let auth = builder.create_vector(&self.auth);
        let cluster_id = self.cluster_id.as_ref().map(wire::ClusterId::new);
        let args = wire::HelloRequestArgs {
            purpose: self.purpose as u8,
            version_min: self.version_min,
            version_max: self.version_max,
            cluster_id: cluster_id.as_ref(),
            expected_node: self.expected_node.map(NodeId::get),
            shard: self.shard.map(ShardId::get),
            client_name: Some(client_name),
            auth: Some(auth),
        };
        wire::HelloRequest::create(builder, &args)
    }

    fn read(table: wire::HelloRequest<'_>) -> Result<Self, DecodeError> {
        let (what, value) = ("hello purpose", table.purpose());
        let purpose = Purpose::from_wire(value).ok_or(DecodeError::UnknownValue {
            what,
            value: value.into(),
        })?;
        let auth = table.auth().map(|auth| auth.bytes()).unwrap_or_default();
        check_count("hello authentication bytes", auth.len(), AUTH_BYTES_MAX)?;
        Ok(Self {
            purpose,
            version_min: table.version_min(),
            version_max: table.version_max(),
            cluster_id: table.cluster_id().map(|id| id.bytes().into()),
            expected_node: table.expected_node().map(NodeId),
            shard: table.shard().map(ShardId),
            client_name: read_text("client name", table.client_name(), PEER_NAME_BYTES_MAX)?,
            auth: auth.to_vec(),
        })
    }
}

impl HelloResponse {
    fn write<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<wire::HelloResponse<'b>> {
        let server = builder.create_string(&self.server);
        let args = wire::HelloResponseArgs {
            version: self.version,
            cluster_id: Some(&wire::ClusterId::new(&self.cluster_id)),
            node: self.node.0,
            shard: self.shard.0,
            shard_count: self.shard_count,
            produce_credit_bytes: self.produce_credit_bytes,
            fetch_credit_bytes: self.fetch_credit_bytes,
            control_credit_requests: self.control_credit_requests,
            request_bytes_max: self.request_bytes_max,
            batch_bytes_max: self.batch_bytes_max,
            server: Some(server),
        };
        wire::HelloResponse::create(builder, &args)
    }

    fn read(table: wire::HelloResponse<'_>) -> Result<Self, DecodeError> {
        let cluster_id = table
            .cluster_id()
            .ok_or(DecodeError::Missing { what: "cluster id" })?;
        Ok(Self {
            version: table.version(),
            cluster_id: cluster_id.bytes().into(),
            node: NodeId(table.node()),
            shard: ShardId(table.shard()),
            shard_count: table.shard_count(),
            produce_credit_bytes: table.produce_credit_bytes(),
            fetch_credit_bytes: table.fetch_credit_bytes(),
            control_credit_requests: table.control_credit_requests(),
            request_bytes_max: table.request_bytes_max(),
            batch_bytes_max: table.batch_bytes_max(),
            server: read_text("server name", table.server(), PEER_NAME_BYTES_MAX)?,
        })
    }
}
