//! A client's connection in the simulation: real frames over a simulated socket.

use std::io;
use std::time::Duration;

use catena_broker::runtime::clock;
use catena_broker::runtime::net::Conn;
use catena_protocol::error::ErrorCode;
use catena_protocol::frame::{Api, FramePrefix, PREFIX_BYTES, PROTOCOL_VERSION};
use catena_protocol::ids::{CorrelationId, PartitionId, ShardId};
use catena_protocol::messages::{
    DescribeTopicRequest, DescribeTopicResponse, ErrorResponse, HelloRequest, Message, Purpose,
    Request,
};

use crate::node::ADDRESS;

/// A request is given up, with its connection, after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(40);

/// A frame from the broker.
pub(crate) struct Frame {
    pub(crate) prefix: FramePrefix,
    pub(crate) header: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

/// Why a request was not answered as asked.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The connection is of no use any more.
    Broken,
    /// The broker said no.
    Refused(ErrorCode),
}

impl From<io::Error> for CallError {
    fn from(_: io::Error) -> CallError {
        CallError::Broken
    }
}

/// One connection.
pub(crate) struct Wire {
    conn: Conn,
    next: u32,
}

impl Wire {
    /// Connects, to a shard if one is named, and says hello.
    pub(crate) async fn connect(shard: Option<ShardId>) -> Result<Wire, CallError> {
        let conn = Conn::connect(ADDRESS).await?;
        let mut wire = Wire { conn, next: 0 };
        let hello = HelloRequest {
            purpose: Purpose::Client,
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            shard,
            client_name: "simulated".to_owned(),
            ..HelloRequest::default()
        };
        wire.call(&hello).await?;
        Ok(wire)
    }

    /// Connects to the shard that owns a partition.
    pub(crate) async fn connect_to_owner(
        topic: &str,
        partition: PartitionId,
    ) -> Result<Wire, CallError> {
        let mut any = Wire::connect(None).await?;
        let described = any.describe(topic).await?;
        let chain = described
            .ranges
            .iter()
            .find_map(|range| range.chain_of(partition));
        let info = described.chains.iter().find(|c| Some(c.chain) == chain);
        let info = info.expect("a partition that exists is in a chain that exists");
        Wire::connect(Some(info.shard)).await
    }

    pub(crate) async fn describe(
        &mut self,
        topic: &str,
    ) -> Result<DescribeTopicResponse, CallError> {
        let name = topic.to_owned();
        self.call(&DescribeTopicRequest { name }).await
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, CallError> {
        let correlation = self.correlation();
        let mut frame = Vec::new();
        request.encode(correlation, &mut frame);
        self.send(&frame).await?;
        loop {
            let answer = self.receive().await?;
            if answer.prefix.correlation != correlation {
                continue;
            }
            if Api::from_wire(answer.prefix.api) == Some(R::API) {
                let decoded = R::Response::decode(&answer.header);
                return Ok(decoded.expect("the broker's answers are well formed"));
            }
            let error = ErrorResponse::decode(&answer.header);
            let error = error.expect("an answer of another api is an error");
            return Err(CallError::Refused(error.code));
        }
    }

    pub(crate) fn correlation(&mut self) -> CorrelationId {
        self.next += 1;
        CorrelationId(self.next)
    }

    pub(crate) async fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = clock::timeout(REQUEST_TIMEOUT, self.conn.send_all(frame)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    pub(crate) async fn receive(&self) -> io::Result<Frame> {
        let received = clock::timeout(REQUEST_TIMEOUT, self.receive_whole()).await;
        received.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn receive_whole(&self) -> io::Result<Frame> {
        let mut bytes = [0; PREFIX_BYTES];
        self.exactly(&mut bytes).await?;
        let prefix = FramePrefix::decode(&bytes).expect("the broker sends whole frames");
        let to_usize = |bytes| usize::try_from(bytes).expect("u32 fits usize");
        let mut header = vec![0; to_usize(prefix.header_bytes)];
        self.exactly(&mut header).await?;
        prefix
            .verify(&header)
            .expect("the broker sends sound frames");
        let mut payload = vec![0; to_usize(prefix.payload_bytes())];
        self.exactly(&mut payload).await?;
        Ok(Frame {
            prefix,
            header,
            payload,
        })
    }

    async fn exactly(&self, buffer: &mut [u8]) -> io::Result<()> {
        if buffer.is_empty() || self.conn.recv_exact(buffer).await? {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
