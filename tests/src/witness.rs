//! A well-behaved client that must not notice what others do to the broker.

use std::time::{Duration, Instant};

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, TopicId};
use catena_protocol::messages::TopicConfig;

use crate::broker::Broker;
use crate::peer::{Peer, batch, values_of};

/// A round trip to disk and back takes milliseconds; a disturbed broker takes until some timeout.
/// The shortest is that of the hello, 10 s.
const ANSWER_MAX: Duration = Duration::from_secs(9);

/// Its connections stay open from the beginning to the end; its topic is its own.
#[derive(Debug)]
pub struct Witness {
    producing: Peer,
    reading: Peer,
    topic: TopicId,
    written: u64,
}

impl Witness {
    /// Connects and makes the topic `witness` with one partition.
    pub fn start(broker: &Broker) -> Self {
        let mut producing = Peer::connect(broker.addr());
        let topic = producing.create_topic("witness", 1, TopicConfig::default());
        let mut witness = Self {
            producing,
            reading: Peer::connect(broker.addr()),
            topic,
            written: 0,
        };
        witness.check("before anything happened");
        witness
    }

    /// Its topic, for attempts to disturb it.
    pub const fn topic(&self) -> TopicId {
        self.topic
    }

    /// Produces and reads a record on the open connections.
    ///
    /// # Panics
    /// If that fails, is slow, or the partition holds anything that the witness did not write.
    pub fn check(&mut self, when: &str) {
        let began = Instant::now();
        let value = format!("record {}", self.written);
        let batch = batch(&[value.as_bytes()]);
        let ack = self
            .producing
            .produce(self.topic, Durability::Durable, &batch);
        assert_eq!(
            (ack.error, ack.detail),
            (ErrorCode::None, self.written),
            "{when}"
        );
        let (item, payload) = self.reading.fetch(self.topic, self.written, ANSWER_MAX);
        let mut values = Vec::new();
        let next = values_of(&payload, self.written, &mut values);
        self.written += 1;
        assert_eq!(
            (item.error, next),
            (ErrorCode::None, self.written),
            "{when}"
        );
        assert_eq!(values, [value.as_bytes()], "{when}");
        assert!(
            began.elapsed() < ANSWER_MAX,
            "{when}: {:?}",
            began.elapsed()
        );
    }
}
