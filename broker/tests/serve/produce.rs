//! Produce requests: what is refused says why, and the class `none` is never answered.

use catena_protocol::batch::set_producer;
use catena_protocol::error::ErrorCode;
use catena_protocol::frame::Api;
use catena_protocol::ids::{Durability, ProducerEpoch, ProducerId, Sequence};
use catena_protocol::limits::BATCH_BYTES_MAX;

use crate::support::{Peer, TestBroker, batch_of};

#[test]
fn a_batch_above_the_limit_is_refused_as_too_large() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let mut batch = batch_of(1, b"value");
    batch.resize(BATCH_BYTES_MAX + 8, 0);
    let length = u32::try_from(batch.len()).expect("1 MiB");
    batch[20..24].copy_from_slice(&length.to_le_bytes());
    let acks = peer.produce(&[(topic, 0, &batch)]);
    assert_eq!(acks[0].error, ErrorCode::BatchTooLarge);
    let acks = peer.produce(&[(topic, 0, &batch_of(1, b"value"))]);
    assert_eq!((acks[0].error, acks[0].detail), (ErrorCode::None, 0));
    broker.stop();
}

#[test]
fn a_duplicate_of_the_class_none_is_not_answered() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let mut batch = batch_of(1, b"value");
    set_producer(&mut batch, ProducerId(7), ProducerEpoch(0), Sequence(0));
    let acks = peer.produce(&[(topic, 0, &batch)]);
    assert_eq!(acks[0].error, ErrorCode::None);
    for _ in 0..3 {
        peer.send_produce(Durability::None, &[(topic, 0, &batch)]);
    }
    let acks = peer.produce(&[(topic, 0, &batch_of(1, b"another"))]);
    assert_eq!(acks.len(), 1);
    assert_eq!((acks[0].error, acks[0].detail), (ErrorCode::None, 1));
    broker.stop();
}

#[test]
fn a_refusal_is_answered_although_another_request_came_with_it() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let mut damaged = batch_of(1, b"value");
    *damaged.last_mut().expect("a byte") ^= 1;
    for _ in 0..3 {
        let mut frames = peer.produce_frame(Durability::Durable, &[(topic, 0, &damaged)]);
        frames.extend(peer.describe_frame());
        peer.send(&frames);
        let mut answered = [peer.receive(), peer.receive()]
            .map(|(prefix, _, _)| Api::from_wire(prefix.api).expect("a known api").to_wire());
        answered.sort_unstable();
        let mut expected = [Api::Produce.to_wire(), Api::DescribeTopic.to_wire()];
        expected.sort_unstable();
        assert_eq!(answered, expected);
    }
    broker.stop();
}
