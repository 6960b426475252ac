//! Many connections at once: idle ones, ones that come, misbehave and go, and readers that ask for
//! much and take nothing.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpStream;

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{CorrelationId, Offset, PartitionId, SessionId, TopicId};
use catena_protocol::messages::{
    FetchRequest, HelloRequest, ListOffsetsItem, ListOffsetsRequest, OffsetSpec, Request,
};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::peer::{Peer, interest};
use crate::seeded::Seeded;

/// What a stalled reader's own kernel takes before its sender notices.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// Connections that said hello and nothing more.
pub fn idle(addr: &str, count: usize) -> Vec<Peer> {
    (0..count).map(|_| Peer::connect(addr)).collect()
}

/// Opens `count` connections, lets them do something right or wrong, and closes all of them. They
/// say hello and nothing more, or half of a request, or half of a hello, or bytes that are no
/// frame, or nothing. Gives how many the broker took.
pub fn wave(addr: &str, count: usize, random: &mut Seeded) -> usize {
    let open: Vec<_> = (0..count).map(|_| guest(addr, random)).collect();
    open.iter().filter(|guest| guest.is_ok()).count()
}

/// One of a wave. The broker may close it at any time, so what is sent may get lost.
fn guest(addr: &str, random: &mut Seeded) -> io::Result<TcpStream> {
    const GARBAGE_BYTES_MAX: usize = 4 << 10;
    let kind = random.below(5);
    if kind < 2 {
        let mut peer = Peer::try_connect(addr)?;
        if kind == 1 {
            peer.try_send(&half(&ListOffsetsRequest::default()))?;
        }
        return peer.socket().try_clone();
    }
    let mut socket = TcpStream::connect(addr)?;
    let said = match kind {
        2 => half(&HelloRequest::default()),
        3 => {
            let bytes = 1 + random.below(GARBAGE_BYTES_MAX);
            random.bytes(bytes)
        }
        _ => Vec::new(),
    };
    socket.write_all(&said)?;
    Ok(socket)
}

/// The first half of a request's frame.
fn half<R: Request>(request: &R) -> Vec<u8> {
    let mut frame = Vec::new();
    request.encode(CorrelationId(9), &mut frame);
    frame.truncate(frame.len() / 2);
    frame
}

/// Readers from the log start that do not read. The broker closes one after 30 s, so
/// [`StalledReaders::renew`] replaces the oldest.
#[derive(Debug)]
pub struct StalledReaders {
    addr: String,
    topic: TopicId,
    readers: VecDeque<Peer>,
}

impl StalledReaders {
    /// Attaches `count` readers to partition 0 of a topic.
    pub fn attach(addr: &str, topic: TopicId, count: usize) -> Self {
        let mut stalled = Self {
            addr: addr.to_owned(),
            topic,
            readers: VecDeque::new(),
        };
        stalled.attach_from_start(count);
        stalled
    }

    /// Replaces the `count` oldest readers with new ones.
    pub fn renew(&mut self, count: usize) {
        let count = count.min(self.readers.len());
        self.readers.drain(..count);
        self.attach_from_start(count);
    }

    fn attach_from_start(&mut self, count: usize) {
        let from = log_start(&self.addr, self.topic);
        for _ in 0..count {
            self.attach_one(from);
        }
    }

    fn attach_one(&mut self, from: Offset) {
        let mut peer = Peer::connect(&self.addr);
        set_socket_recv_buffer_size(peer.socket(), RECEIVE_BUFFER_BYTES).expect("a socket option");
        let request = FetchRequest {
            session: SessionId(1),
            min_bytes: 1,
            max_wait_ms: 1_000,
            max_bytes: 8 << 20,
            add: vec![interest(self.topic, from.get())],
            ..FetchRequest::default()
        };
        for _ in 0..2 {
            let mut frame = Vec::new();
            request.encode(peer.correlation(), &mut frame);
            // The broker may refuse one reader too many: it is replaced in its turn.
            let _ = peer.try_send(&frame);
        }
        self.readers.push_back(peer);
    }
}

fn log_start(addr: &str, topic: TopicId) -> Offset {
    let earliest = ListOffsetsItem {
        topic,
        partition: PartitionId(0),
        spec: OffsetSpec::Earliest,
    };
    let request = ListOffsetsRequest {
        items: vec![earliest],
    };
    let answer = Peer::connect(addr).ask(&request).expect("offsets are told");
    let result = answer.items.first().expect("an answer for each item");
    assert_eq!(result.error, ErrorCode::None, "offsets are told");
    result.offset
}
