//! A client that speaks frames over a blocking socket and can do everything wrong.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use catena_protocol::batch::{BatchBuilder, BatchOptions, split};
use catena_protocol::error::ErrorCode;
use catena_protocol::frame::{Api, FramePrefix, PREFIX_BYTES};
use catena_protocol::ids::{
    CorrelationId, Durability, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, SessionId,
    TopicId,
};
use catena_protocol::messages::{
    AckItem, AckView, CreateTopicRequest, ErrorResponse, FetchInterest, FetchItem, FetchRequest,
    FetchView, HelloRequest, Message, ProduceItem, Request, TopicConfig, encode_produce_header,
};
use catena_protocol::record::Record;

use crate::wait::LIMIT;

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its prefix.
    pub prefix: FramePrefix,
    /// Its header; the checksum was right.
    pub header: Vec<u8>,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Which api it belongs to.
    pub fn api(&self) -> Option<Api> {
        Api::from_wire(self.prefix.api)
    }

    /// The error it carries, if it is one.
    pub fn error(&self) -> Option<ErrorResponse> {
        let is_error = self.api() == Some(Api::Error);
        is_error.then(|| ErrorResponse::decode(&self.header).expect("a readable error"))
    }
}

/// One connection.
#[derive(Debug)]
pub struct Peer {
    socket: TcpStream,
    last_correlation: u32,
}

impl Peer {
    /// Connects and says nothing.
    pub fn silent(addr: &str) -> Self {
        Self::silent_over(TcpStream::connect(addr).expect("the broker listens"))
    }

    fn silent_over(socket: TcpStream) -> Self {
        socket.set_read_timeout(Some(LIMIT)).expect("a timeout");
        socket.set_write_timeout(Some(LIMIT)).expect("a timeout");
        Self {
            socket,
            last_correlation: 0,
        }
    }

    /// Connects and opens with a hello.
    pub fn connect(addr: &str) -> Self {
        Self::silent(addr).greeted()
    }

    /// Opens with a hello on a connected stream socket of any kind: to `TcpStream` they are alike.
    pub fn over(socket: OwnedFd) -> Self {
        let socket = TcpStream::from(socket);
        socket.set_nonblocking(false).expect("an open socket");
        Self::silent_over(socket).greeted()
    }

    fn greeted(mut self) -> Self {
        let hello = HelloRequest {
            version_min: 1,
            version_max: 1,
            client_name: "test".to_owned(),
            ..HelloRequest::default()
        };
        self.ask(&hello).expect("a hello is answered");
        self
    }

    /// As [`connect`](Self::connect), to a broker that may be gone.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_connect(addr: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(addr)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        let mut peer = Self {
            socket,
            last_correlation: 0,
        };
        let hello = HelloRequest {
            version_min: 1,
            version_max: 1,
            client_name: "test".to_owned(),
            ..HelloRequest::default()
        };
        match peer.try_ask(&hello)? {
            Ok(_) => Ok(peer),
            Err(refusal) => Err(io::Error::other(format!("{:?}", refusal.code))),
        }
    }

    /// As [`ask`](Self::ask), of a broker that may be gone.
    ///
    /// # Errors
    /// The socket's, and within it the broker's refusal.
    pub fn try_ask<R: Request>(
        &mut self,
        request: &R,
    ) -> io::Result<Result<R::Response, ErrorResponse>> {
        let mut frame = Vec::new();
        request.encode(self.correlation(), &mut frame);
        self.try_send(&frame)?;
        let frame = self.try_receive()?;
        if let Some(error) = frame.error() {
            return Ok(Err(error));
        }
        let answer = R::Response::decode(&frame.header);
        Ok(Ok(answer.map_err(io::Error::other)?))
    }

    /// As [`produce`](Self::produce), to a broker that may be gone.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_produce(&mut self, topic: TopicId, batch: &[u8]) -> io::Result<AckItem> {
        let frame = produce_frame(self.correlation(), topic, Durability::Durable, batch);
        self.try_send(&frame)?;
        let frame = self.try_receive()?;
        let acks = AckView::decode(&frame.header).map_err(io::Error::other)?;
        let ack = acks.items().next();
        ack.ok_or_else(|| io::Error::other("an empty ack"))
    }

    /// As [`fetch_with`](Self::fetch_with), from a broker that may be gone.
    ///
    /// # Errors
    /// The socket's; anything but a fetch response.
    pub fn try_fetch(&mut self, request: &FetchRequest) -> io::Result<(Vec<FetchItem>, Vec<u8>)> {
        let mut frame = Vec::new();
        request.encode(self.correlation(), &mut frame);
        self.try_send(&frame)?;
        let frame = self.try_receive()?;
        if let Some(error) = frame.error() {
            return Err(io::Error::other(format!("{:?}", error.code)));
        }
        let view = FetchView::decode(&frame.header, frame.prefix.payload_bytes());
        let view = view.map_err(io::Error::other)?;
        Ok((view.items().collect(), frame.payload))
    }

    /// Sends a request and waits for its answer; nothing else may be outstanding.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn ask<R: Request>(&mut self, request: &R) -> Result<R::Response, ErrorResponse> {
        let correlation = self.correlation();
        let mut frame = Vec::new();
        request.encode(correlation, &mut frame);
        self.send(&frame);
        let frame = self.receive();
        assert_eq!(frame.prefix.correlation, correlation);
        if let Some(error) = frame.error() {
            return Err(error);
        }
        assert_eq!(frame.api(), Some(R::API));
        Ok(R::Response::decode(&frame.header).expect("a readable answer"))
    }

    /// Makes a topic.
    pub fn create_topic(&mut self, name: &str, partitions: u32, config: TopicConfig) -> TopicId {
        let request = CreateTopicRequest {
            name: name.to_owned(),
            partitions,
            config,
        };
        self.ask(&request).expect("the topic can be made").topic
    }

    /// Sends one batch to partition 0 and waits for its ack.
    pub fn produce(&mut self, topic: TopicId, durability: Durability, batch: &[u8]) -> AckItem {
        let frame = produce_frame(self.correlation(), topic, durability, batch);
        self.send(&frame);
        self.receive_ack()
    }

    /// Waits for the ack of a produce request with one item.
    pub fn receive_ack(&mut self) -> AckItem {
        let frame = self.receive();
        assert_eq!(frame.api(), Some(Api::Produce), "{:?}", frame.error());
        let acks: Vec<_> = AckView::decode(&frame.header)
            .expect("acks")
            .items()
            .collect();
        assert_eq!(acks.len(), 1, "one ack for the one item");
        acks[0]
    }

    /// Asks for partition 0 from `from` on, in a session of its own, and waits for the answer.
    pub fn fetch(&mut self, topic: TopicId, from: u64, max_wait: Duration) -> (FetchItem, Vec<u8>) {
        let (items, payload) = self.fetch_with(&FetchRequest {
            max_wait_ms: u32::try_from(max_wait.as_millis()).expect("a short wait"),
            min_bytes: 1,
            max_bytes: 4 << 20,
            add: vec![interest(topic, from)],
            ..FetchRequest::default()
        });
        (items.first().copied().unwrap_or_default(), payload)
    }

    /// Sends a fetch request and waits for the answer.
    pub fn fetch_with(&mut self, request: &FetchRequest) -> (Vec<FetchItem>, Vec<u8>) {
        let mut frame = Vec::new();
        request.encode(self.correlation(), &mut frame);
        self.send(&frame);
        let frame = self.receive();
        assert_eq!(frame.api(), Some(Api::Fetch), "{:?}", frame.error());
        let payload_bytes = frame.prefix.payload_bytes();
        let view = FetchView::decode(&frame.header, payload_bytes).expect("a fetch response");
        (view.items().collect(), frame.payload)
    }

    /// All values of partition 0 up to its high watermark, once there are `count_min`.
    pub fn values(&mut self, topic: TopicId, count_min: usize) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        let mut at = 0;
        loop {
            let (item, payload) = self.fetch(topic, at, LIMIT / 2);
            assert_eq!(item.error, ErrorCode::None);
            at = values_of(&payload, at, &mut values);
            if at >= item.high_watermark.0 && values.len() >= count_min {
                return values;
            }
        }
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("the broker takes it");
    }

    /// Sends bytes as they are; the broker may have closed the connection.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// Waits for a frame.
    pub fn receive(&mut self) -> Frame {
        self.try_receive().expect("the broker answers")
    }

    /// Waits for a frame or the end of the connection.
    ///
    /// # Errors
    /// The socket's.
    pub fn try_receive(&mut self) -> io::Result<Frame> {
        let mut bytes = [0; PREFIX_BYTES];
        self.socket.read_exact(&mut bytes)?;
        let prefix = FramePrefix::decode(&bytes).expect("the broker sends frames");
        let mut header = vec![0; usize::try_from(prefix.header_bytes).expect("a small header")];
        self.socket.read_exact(&mut header)?;
        prefix.verify(&header).expect("the header is intact");
        let mut payload = vec![0; usize::try_from(prefix.payload_bytes()).expect("it fits")];
        self.socket.read_exact(&mut payload)?;
        Ok(Frame {
            prefix,
            header,
            payload,
        })
    }

    /// Waits until the broker has closed the connection; what it says before is given back.
    pub fn until_closed(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            match self.try_receive() {
                Ok(frame) => frames.push(frame),
                Err(error) => {
                    let kind = error.kind();
                    let open = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
                    assert!(
                        !open.contains(&kind),
                        "the broker keeps the connection open"
                    );
                    return frames;
                }
            }
        }
    }

    /// Ends this side's sending; the other direction stays open.
    pub fn end_sending(&self) {
        let ended = self.socket.shutdown(Shutdown::Write);
        ended.expect("the connection is open");
    }

    /// The socket, for options.
    pub const fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// A correlation id that was not used on this connection.
    pub const fn correlation(&mut self) -> CorrelationId {
        self.last_correlation += 1;
        CorrelationId(self.last_correlation)
    }
}

/// Partition 0 of a topic, from an offset on.
pub fn interest(topic: TopicId, from: u64) -> FetchInterest {
    FetchInterest {
        topic,
        offset: Offset(from),
        ..FetchInterest::default()
    }
}

/// A produce request with one batch for partition 0.
pub fn produce_frame(
    correlation: CorrelationId,
    topic: TopicId,
    durability: Durability,
    batch: &[u8],
) -> Vec<u8> {
    let item = ProduceItem {
        topic,
        partition: PartitionId(0),
        batch_bytes: u32::try_from(batch.len()).expect("a request is small"),
        ..ProduceItem::default()
    };
    let mut frame = Vec::new();
    encode_produce_header(&mut frame, correlation, durability, 0, &[item]);
    frame.extend_from_slice(batch);
    frame
}

/// A batch of a producer without idempotence.
pub fn batch(values: &[&[u8]]) -> Vec<u8> {
    numbered_batch(values, ProducerId(0), ProducerEpoch(0), 0)
}

/// A batch of an idempotent producer.
pub fn numbered_batch(
    values: &[&[u8]],
    producer: ProducerId,
    epoch: ProducerEpoch,
    sequence: u32,
) -> Vec<u8> {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.set_producer(producer, epoch, Sequence(sequence));
    for value in values {
        builder
            .push(&Record::from_value(value))
            .expect("a small batch");
    }
    builder.finish().expect("a batch").to_vec()
}

/// Appends the values of whole batches from offset `at` on; gives the offset behind them.
///
/// # Panics
/// If a batch is damaged or does not begin where the one before ended.
pub fn values_of(payload: &[u8], at: u64, values: &mut Vec<Vec<u8>>) -> u64 {
    use catena_protocol::batch::{BatchReader, Decompressor, verify_body};
    let mut next = at;
    for found in split(payload) {
        let (header, bytes) = found.expect("whole batches");
        verify_body(bytes).expect("an intact batch");
        assert!(header.base_offset.0 <= next, "no gap");
        let mut decompressor = Decompressor::default();
        let reader = BatchReader::open(bytes, &mut decompressor).expect("a readable batch");
        for record in reader {
            let record = record.expect("a readable record");
            if record.offset.0 >= at {
                values.push(record.value.unwrap_or_default().to_vec());
            }
        }
        next = header.next_offset().0;
    }
    next
}

/// The session that [`Peer::fetch`] uses.
pub const SESSION: SessionId = SessionId(0);
