//! Many connections at once: idle ones, and readers that ask for much and take nothing.

use std::collections::VecDeque;

use catena_protocol::ids::{SessionId, TopicId};
use catena_protocol::messages::FetchRequest;
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::peer::{Peer, interest};

/// What a stalled reader's own kernel takes before its sender notices.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// Connections that said hello and nothing more.
pub fn idle(addr: &str, count: usize) -> Vec<Peer> {
    (0..count).map(|_| Peer::connect(addr)).collect()
}

/// Readers that do not read. The broker closes one after 30 s, so [`StalledReaders::renew`]
/// replaces the oldest.
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
        for _ in 0..count {
            stalled.attach_one();
        }
        stalled
    }

    /// Replaces the `count` oldest readers with new ones.
    pub fn renew(&mut self, count: usize) {
        for _ in 0..count.min(self.readers.len()) {
            self.readers.pop_front();
            self.attach_one();
        }
    }

    fn attach_one(&mut self) {
        let mut peer = Peer::connect(&self.addr);
        set_socket_recv_buffer_size(peer.socket(), RECEIVE_BUFFER_BYTES).expect("a socket option");
        let request = FetchRequest {
            session: SessionId(1),
            min_bytes: 1,
            max_wait_ms: 1_000,
            max_bytes: 8 << 20,
            add: vec![interest(self.topic, 0)],
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
