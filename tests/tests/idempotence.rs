//! A batch that is sent again is written once, whatever happened in between.

use catena_client::Durability;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{ProducerEpoch, TopicId};
use catena_protocol::messages::{AckItem, InitProducerRequest, InitProducerResponse, TopicConfig};
use catena_tests::broker::Broker;
use catena_tests::peer::{Peer, numbered_batch, produce_frame};

struct Producer {
    topic: TopicId,
    given: InitProducerResponse,
}

impl Producer {
    fn start(broker: &Broker) -> Self {
        let mut peer = Peer::connect(broker.addr());
        let topic = peer.create_topic("orders", 1, TopicConfig::default());
        let given = peer.ask(&InitProducerRequest {}).expect("a producer id");
        Self { topic, given }
    }

    /// Sends on a connection of its own.
    fn send(&self, broker: &Broker, epoch: u16, sequence: u32, values: &[&[u8]]) -> AckItem {
        let mut peer = Peer::connect(broker.addr());
        let epoch = ProducerEpoch(self.given.epoch.0 + epoch);
        let batch = numbered_batch(values, self.given.producer, epoch, sequence);
        peer.produce(self.topic, Durability::Durable, &batch)
    }
}

fn values(broker: &Broker, topic: TopicId) -> Vec<Vec<u8>> {
    Peer::connect(broker.addr()).values(topic, 1)
}

#[test]
fn a_request_sent_again_gets_the_same_offset_and_no_second_copy() {
    let mut broker = Broker::start();
    let producer = Producer::start(&broker);
    let first = producer.send(&broker, 0, 0, &[b"a", b"b", b"c"]);
    assert_eq!((first.error, first.detail), (ErrorCode::None, 0));
    let second = producer.send(&broker, 0, 3, &[b"d"]);
    assert_eq!((second.error, second.detail), (ErrorCode::None, 3));

    let again = producer.send(&broker, 0, 0, &[b"a", b"b", b"c"]);
    assert_eq!((again.error, again.detail), (ErrorCode::None, 0));
    broker.kill();
    broker.start_again();
    let again = producer.send(&broker, 0, 3, &[b"d"]);
    assert_eq!(
        (again.error, again.detail),
        (ErrorCode::None, 3),
        "after a kill too"
    );
    assert_eq!(values(&broker, producer.topic), [b"a", b"b", b"c", b"d"]);
    broker.stop();
}

#[test]
fn a_request_sent_twice_at_once_is_written_once() {
    let mut broker = Broker::start();
    let producer = Producer::start(&broker);
    let (id, epoch) = (producer.given.producer, producer.given.epoch);
    let batch = numbered_batch(&[b"once"], id, epoch, 0);
    let mut peers: Vec<Peer> = (0..8).map(|_| Peer::connect(broker.addr())).collect();
    for peer in &mut peers {
        let correlation = peer.correlation();
        peer.send(&produce_frame(
            correlation,
            producer.topic,
            Durability::Durable,
            &batch,
        ));
    }
    for peer in &mut peers {
        let ack = peer.receive_ack();
        assert!(ack.error.is_success(), "{ack:?}");
        assert!(ack.error != ErrorCode::None || ack.detail == 0, "{ack:?}");
    }
    assert_eq!(values(&broker, producer.topic), [b"once"]);
    broker.stop();
}

#[test]
fn a_very_old_request_sent_again_is_not_written_again() {
    let mut broker = Broker::start();
    let producer = Producer::start(&broker);
    for sequence in 0..200 {
        let ack = producer.send(&broker, 0, sequence, &[b"x"]);
        assert_eq!((ack.error, ack.detail), (ErrorCode::None, sequence.into()));
    }
    let again = producer.send(&broker, 0, 0, &[b"x"]);
    match again.error {
        ErrorCode::None => assert_eq!(again.detail, 0, "the offset it has"),
        other => assert_eq!(other, ErrorCode::DuplicateOffsetUnknown),
    }
    assert_eq!(values(&broker, producer.topic).len(), 200);
    broker.stop();
}

#[test]
fn a_gap_is_refused_with_the_expected_sequence() {
    let mut broker = Broker::start();
    let producer = Producer::start(&broker);
    assert_eq!(
        producer.send(&broker, 0, 0, &[b"a", b"b"]).error,
        ErrorCode::None
    );
    let gap = producer.send(&broker, 0, 7, &[b"late"]);
    assert_eq!((gap.error, gap.detail), (ErrorCode::OutOfOrderSequence, 2));
    let next = producer.send(&broker, 0, 2, &[b"c"]);
    assert_eq!((next.error, next.detail), (ErrorCode::None, 2));
    assert_eq!(values(&broker, producer.topic), [b"a", b"b", b"c"]);
    broker.stop();
}

#[test]
fn an_older_epoch_is_fenced_also_after_a_kill() {
    let mut broker = Broker::start();
    let producer = Producer::start(&broker);
    assert_eq!(
        producer.send(&broker, 0, 0, &[b"old"]).error,
        ErrorCode::None
    );
    let newer = producer.send(&broker, 1, 0, &[b"new"]);
    assert_eq!((newer.error, newer.detail), (ErrorCode::None, 1));
    let current = u64::from(producer.given.epoch.0) + 1;
    let fenced = producer.send(&broker, 0, 1, &[b"zombie"]);
    assert_eq!(
        (fenced.error, fenced.detail),
        (ErrorCode::FencedProducer, current)
    );
    broker.kill();
    broker.start_again();
    let fenced = producer.send(&broker, 0, 1, &[b"zombie"]);
    assert_eq!(
        (fenced.error, fenced.detail),
        (ErrorCode::FencedProducer, current)
    );
    assert_eq!(values(&broker, producer.topic), [&b"old"[..], b"new"]);
    broker.stop();
}

#[test]
fn a_producer_that_is_not_known_has_to_begin_at_0() {
    let mut broker = Broker::start();
    let producer = Producer::start(&broker);
    let unknown = producer.send(&broker, 0, 5, &[b"x"]);
    assert_eq!(unknown.error, ErrorCode::UnknownProducer);
    assert_eq!(producer.send(&broker, 0, 0, &[b"x"]).error, ErrorCode::None);
    broker.stop();
}

#[test]
fn a_producer_id_is_given_once_also_across_kills() {
    let mut broker = Broker::start();
    let mut given = Vec::new();
    for _ in 0..4 {
        let mut peer = Peer::connect(broker.addr());
        for _ in 0..50 {
            given.push(peer.ask(&InitProducerRequest {}).expect("an id").producer.0);
        }
        broker.kill();
        broker.start_again();
    }
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count);
    assert!(given[0] > 0, "0 means: not idempotent");
    broker.stop();
}
