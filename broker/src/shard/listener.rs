//! Accepts connections and answers `Hello`, handing a socket to the shard that the client names.
//!
//! Every shard listens on the same port. The first frame is read to its last byte and not one
//! further, so handing over moves a file descriptor and nothing else. Runs on the shard's executor.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use catena_protocol::error::ErrorCode;
use catena_protocol::frame::{Api, FramePrefix, PREFIX_BYTES, PROTOCOL_VERSION};
use catena_protocol::ids::CorrelationId;
use catena_protocol::limits::{BATCH_BYTES_MAX, REQUEST_BYTES_MAX};
use catena_protocol::messages::{ErrorResponse, HelloRequest, HelloResponse};
use futures_util::future::{Either, select};
use tracing::{debug, warn};

use super::Shard;
use super::access::Principal;
use super::connection::{self, Connection};
use super::inbox::Inbox;
use super::message::ShardMessage;
use crate::limits::{
    CONNECTIONS_PER_SHARD_MAX, CONTROL_CREDIT_REQUESTS, FETCH_CREDIT_BYTES, HELLO_BYTES_MAX,
    HELLO_TIMEOUT, PRODUCE_CREDIT_BYTES,
};
use crate::runtime::clock;
use crate::runtime::executor::{Queue, yield_if_needed};
use crate::runtime::net::{Conn, Listener};

/// How long to wait after the system refused to accept (out of descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts until the shard stops.
pub async fn accept_loop(shard: Rc<Shard>, listener: Listener) {
    loop {
        let next = {
            let accept = std::pin::pin!(listener.accept());
            let stopped = std::pin::pin!(shard.stopped());
            match select(accept, stopped).await {
                Either::Left((next, _)) => next,
                Either::Right(((), _)) => return,
            }
        };
        match next {
            Ok(conn) => {
                accepted(&shard, conn);
                yield_if_needed().await;
            }
            Err(error) => {
                warn!(%error, "cannot accept connections");
                clock::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Greets a new connection, if the shard may have one more.
pub fn accepted(shard: &Rc<Shard>, conn: Conn) {
    if shard.connection_count() >= CONNECTIONS_PER_SHARD_MAX {
        shard.metrics.connections_refused.add(1);
        return;
    }
    shard.metrics.connections_accepted.add(1);
    shard
        .tasks
        .spawn(Queue::Network, greet(Rc::clone(shard), conn));
}

/// Reads the `Hello` and serves the connection, here or on the shard it names.
async fn greet(shard: Rc<Shard>, conn: Conn) {
    shard.greeting.set(shard.greeting.get() + 1);
    let greeted = {
        let hello = std::pin::pin!(clock::timeout(HELLO_TIMEOUT, read_hello(&conn)));
        let stopped = std::pin::pin!(shard.stopped());
        match select(hello, stopped).await {
            Either::Left((greeted, _)) => Some(greeted),
            Either::Right(((), _)) => None,
        }
    };
    shard.greeting.set(shard.greeting.get() - 1);
    let Some(greeted) = greeted else { return };
    match greeted {
        Ok(Ok(Some((hello, correlation)))) => route(&shard, conn, hello, correlation).await,
        Ok(Ok(None)) => shard.metrics.frames_malformed.add(1),
        Ok(Err(error)) => debug!(%error, "a connection ended before its Hello"),
        Err(_) => debug!("a connection sent no Hello in time"),
    }
}

/// The `Hello`, read to its last byte; none if what came is something else (it was answered).
async fn read_hello(conn: &Conn) -> io::Result<Option<(HelloRequest, CorrelationId)>> {
    let mut prefix_bytes = [0; PREFIX_BYTES];
    if !conn.recv_exact(&mut prefix_bytes).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let Ok(prefix) = FramePrefix::decode(&prefix_bytes) else {
        return Ok(None);
    };
    let header_bytes = usize::try_from(prefix.header_bytes).expect("u32 fits usize");
    if Api::from_wire(prefix.api) != Some(Api::Hello) {
        refuse(
            conn,
            &prefix,
            ErrorCode::HelloRequired,
            "the first request is Hello",
        )
        .await?;
        return Ok(None);
    }
    if header_bytes > HELLO_BYTES_MAX || prefix.payload_bytes() != 0 {
        refuse(
            conn,
            &prefix,
            ErrorCode::RequestTooLarge,
            "this Hello is too large",
        )
        .await?;
        return Ok(None);
    }
    let mut header = vec![0; header_bytes];
    if header_bytes > 0 && !conn.recv_exact(&mut header).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if prefix.verify(&header).is_err() {
        return Ok(None);
    }
    match HelloRequest::decode(&header) {
        Ok(hello) => Ok(Some((hello, prefix.correlation))),
        Err(error) => {
            refuse(
                conn,
                &prefix,
                ErrorCode::MalformedRequest,
                &error.to_string(),
            )
            .await?;
            Ok(None)
        }
    }
}

async fn refuse(conn: &Conn, to: &FramePrefix, code: ErrorCode, message: &str) -> io::Result<()> {
    reply_error(conn, to.correlation, code, message).await
}

async fn reply_error(
    conn: &Conn,
    correlation: CorrelationId,
    code: ErrorCode,
    message: &str,
) -> io::Result<()> {
    let mut frame = Vec::new();
    ErrorResponse {
        code,
        message: message.to_owned(),
        detail: 0,
    }
    .encode(correlation, &mut frame);
    conn.send_all(&frame).await
}

async fn route(shard: &Rc<Shard>, conn: Conn, hello: HelloRequest, correlation: CorrelationId) {
    let wanted = hello.shard.unwrap_or(shard.id);
    if wanted == shard.id || wanted.get() >= shard.node.shards {
        return welcome(shard, conn, hello, correlation).await;
    }
    let to = &shard.mesh[usize::from(wanted.get())];
    let adopt = ShardMessage::Adopt {
        socket: conn.into_socket(),
        hello,
        correlation,
    };
    if to.send(adopt).await.is_err() {
        debug!(
            shard = wanted.get(),
            "the shard that a client asked for is gone"
        );
    }
}

/// Answers the `Hello` and serves the connection.
pub async fn welcome(
    shard: &Rc<Shard>,
    conn: Conn,
    hello: HelloRequest,
    correlation: CorrelationId,
) {
    if let Err((code, message)) = check(shard, &hello) {
        if let Err(error) = reply_error(&conn, correlation, code, &message).await {
            debug!(%error, "a refused client did not wait for the reason");
        }
        return;
    }
    let reply = HelloResponse {
        version: PROTOCOL_VERSION,
        cluster_id: shard.node.cluster_id,
        node: shard.node.node,
        shard: shard.id,
        shard_count: shard.node.shards,
        produce_credit_bytes: u64::try_from(PRODUCE_CREDIT_BYTES).expect("usize fits u64"),
        fetch_credit_bytes: FETCH_CREDIT_BYTES,
        control_credit_requests: CONTROL_CREDIT_REQUESTS,
        request_bytes_max: u32::try_from(REQUEST_BYTES_MAX).expect("16 MiB fits u32"),
        batch_bytes_max: u32::try_from(BATCH_BYTES_MAX).expect("1 MiB fits u32"),
        server: concat!("catena-broker ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let mut frame = Vec::new();
    reply.encode(correlation, &mut frame);
    let socket = Rc::new(conn);
    let id = shard.next_connection.get();
    shard.next_connection.set(id + 1);
    let connection = Rc::new(Connection::new(
        id,
        Rc::clone(&socket),
        Principal::Anonymous,
        Rc::clone(&shard.sends_memory),
    ));
    shard
        .connections
        .borrow_mut()
        .insert(id, Rc::clone(&connection));
    shard.metrics.connections.add(1);
    connection.send(frame);
    let inbox = Inbox::new(socket, Rc::clone(&shard.receiving));
    connection::serve(Rc::clone(shard), connection, inbox).await;
}

fn check(shard: &Shard, hello: &HelloRequest) -> Result<(), (ErrorCode, String)> {
    if !(hello.version_min..=hello.version_max).contains(&PROTOCOL_VERSION) {
        let message = format!(
            "this broker speaks version {PROTOCOL_VERSION}, the client {} to {}",
            hello.version_min, hello.version_max
        );
        return Err((ErrorCode::UnsupportedVersion, message));
    }
    if hello
        .cluster_id
        .is_some_and(|cluster| cluster != shard.node.cluster_id)
    {
        return Err((
            ErrorCode::WrongCluster,
            "this broker is of another cluster".to_owned(),
        ));
    }
    if hello
        .expected_node
        .is_some_and(|node| node != shard.node.node)
    {
        let message = format!("this is node {}", shard.node.node.get());
        return Err((ErrorCode::WrongNode, message));
    }
    if hello
        .shard
        .is_some_and(|wanted| wanted.get() >= shard.node.shards)
    {
        let message = format!("this node has {} shards", shard.node.shards);
        return Err((ErrorCode::WrongNode, message));
    }
    Ok(())
}
