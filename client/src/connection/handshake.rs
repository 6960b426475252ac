//! Makes a connection: a byte stream, then the hello and its reply.
//!
//! Invariant: a connection that leaves here speaks a version both sides know and leads to the
//! cluster (and node) that was asked for. Runs on the caller's task; dropping the future closes
//! the socket.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use catena_protocol::frame::{Api, PROTOCOL_VERSION};
use catena_protocol::ids::CorrelationId;
use catena_protocol::messages::{ErrorResponse, HelloRequest, HelloResponse, Purpose};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Endpoint;
use super::read_buffer::{Frame, ReadBuffer};
use super::stream::{Dialer, Stream};
use crate::error::ConnectionError;

/// How a client reaches its cluster, and what every hello says.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) dialer: Dialer,
    pub(crate) client_name: String,
    pub(crate) auth: Vec<u8>,
    /// The cluster asked for, or the first one met.
    pub(crate) cluster: OnceLock<[u8; 16]>,
    pub(crate) connect_timeout: Duration,
}

/// A connection ready for use.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) stream: Stream,
    pub(crate) address: Arc<str>,
    pub(crate) read: ReadBuffer,
    pub(crate) hello: HelloResponse,
}

/// Connects and greets.
pub(crate) async fn establish(
    endpoint: &Endpoint,
    identity: &Identity,
) -> Result<Established, ConnectionError> {
    let after = identity.connect_timeout;
    match tokio::time::timeout(after, greet(endpoint, identity)).await {
        Ok(result) => result,
        Err(_) => Err(ConnectionError::TimedOut {
            address: endpoint.address.clone(),
            after,
        }),
    }
}

async fn greet(endpoint: &Endpoint, identity: &Identity) -> Result<Established, ConnectionError> {
    let address = &endpoint.address;
    let failed = |error| ConnectionError::Io {
        address: address.clone(),
        source: Arc::new(error),
    };
    let mut stream = identity.dialer.dial(address).await.map_err(failed)?;
    let mut out = Vec::with_capacity(512);
    let request = HelloRequest {
        purpose: Purpose::Client,
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        cluster_id: identity.cluster.get().copied(),
        expected_node: endpoint.node,
        shard: endpoint.shard,
        client_name: identity.client_name.clone(),
        auth: identity.auth.clone(),
    };
    request.encode(CorrelationId(0), &mut out);
    stream.write_all(&out).await.map_err(failed)?;
    let mut read = ReadBuffer::default();
    let frame = loop {
        match read.next_frame() {
            Ok(Some(frame)) => break frame,
            Ok(None) => {}
            Err(error) => return Err(violated(address, &error.to_string())),
        }
        if stream.read_buf(read.room()).await.map_err(failed)? == 0 {
            return Err(ConnectionError::Closed {
                address: address.clone(),
            });
        }
    };
    let hello = reply(address, &frame)?;
    check_cluster(address, identity, &hello)?;
    Ok(Established {
        stream,
        address: address.clone(),
        read,
        hello,
    })
}

fn reply(address: &Arc<str>, frame: &Frame) -> Result<HelloResponse, ConnectionError> {
    let decoded = match Api::from_wire(frame.prefix.api) {
        Some(Api::Hello) => HelloResponse::decode(&frame.header),
        Some(Api::Error) => match ErrorResponse::decode(&frame.header) {
            Ok(error) => {
                let (code, message) = (error.code, error.message.into());
                return Err(ConnectionError::Refused {
                    address: address.clone(),
                    code,
                    message,
                });
            }
            Err(error) => Err(error),
        },
        _ => {
            return Err(violated(
                address,
                "something else than a hello answered the hello",
            ));
        }
    };
    decoded.map_err(|error| violated(address, &error.to_string()))
}

fn check_cluster(
    address: &Arc<str>,
    identity: &Identity,
    hello: &HelloResponse,
) -> Result<(), ConnectionError> {
    let expected = identity.cluster.get_or_init(|| hello.cluster_id);
    if *expected == hello.cluster_id {
        return Ok(());
    }
    Err(ConnectionError::WrongCluster {
        address: address.clone(),
        expected: hexadecimal(expected),
        actual: hexadecimal(&hello.cluster_id),
    })
}

fn hexadecimal(bytes: &[u8]) -> Arc<str> {
    let digits = b"0123456789abcdef";
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    nibbles
        .map(|nibble| char::from(digits[usize::from(nibble)]))
        .collect::<String>()
        .into()
}

fn violated(address: &Arc<str>, reason: &str) -> ConnectionError {
    ConnectionError::Protocol {
        address: address.clone(),
        reason: reason.into(),
    }
}
