//! A whole broker in this process, spoken to frame by frame.

mod fetch;
mod frames;
mod produce;
mod support;

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::Offset;

use support::{Peer, TestBroker, batch_of};

#[test]
fn what_is_produced_is_fetched_byte_for_byte() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let first = batch_of(3, b"hello");
    let second = batch_of(2, b"world");
    let acks = peer.produce(&[(topic, 0, &first)]);
    assert_eq!((acks[0].error, acks[0].detail), (ErrorCode::None, 0));
    let acks = peer.produce(&[(topic, 0, &second)]);
    assert_eq!((acks[0].error, acks[0].detail), (ErrorCode::None, 3));

    let (items, payload) = peer.fetch(topic, 0, Offset::new(0));
    assert_eq!(items[0].high_watermark, Offset::new(5));
    // The broker stamps what lies before byte 32 of the header; the rest is the producer's.
    assert_eq!(payload[32..first.len()], first[32..]);
    assert_eq!(payload[first.len() + 32..], second[32..]);
    broker.stop();
}

#[test]
fn a_restart_serves_what_was_acknowledged() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 4);
    for partition in 0..4 {
        let batch = batch_of(10, &[partition; 100]);
        let acks = peer.produce(&[(topic, u32::from(partition), &batch)]);
        assert_eq!(acks[0].error, ErrorCode::None);
    }
    let broker = broker.restart(1);
    let mut peer = Peer::connect(&broker);
    for partition in 0..4_u8 {
        let (items, payload) = peer.fetch(topic, u32::from(partition), Offset::new(0));
        assert_eq!(items[0].high_watermark, Offset::new(10));
        assert_eq!(payload[32..], batch_of(10, &[partition; 100])[32..]);
    }
    broker.stop();
}

#[test]
fn a_changed_core_count_loses_nothing() {
    let mut broker = TestBroker::start(2);
    let topic = Peer::connect(&broker).create_topic("orders", 8);
    let mut expected = 0;
    for shards in [1, 2, 3, 1] {
        for partition in 0..8 {
            let mut peer = Peer::connect_to_owner(&broker, topic, partition);
            let acks = peer.produce(&[(topic, partition, &batch_of(5, b"kept"))]);
            assert_eq!((acks[0].error, acks[0].detail), (ErrorCode::None, expected));
        }
        expected += 5;
        broker = broker.restart(shards);
        for partition in 0..8 {
            let mut peer = Peer::connect_to_owner(&broker, topic, partition);
            let records = peer.count_records(topic, partition);
            assert_eq!(
                records, expected,
                "partition {partition} with {shards} shards"
            );
        }
    }
    broker.stop();
}

#[test]
fn a_large_request_is_taken_in_place_and_served_whole() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    let batch = batch_of(900, &[7; 1024]);
    for round in 0..20 {
        let acks = peer.produce(&[(topic, 0, &batch)]);
        assert_eq!(
            (acks[0].error, acks[0].detail),
            (ErrorCode::None, round * 900)
        );
    }
    assert_eq!(peer.count_records(topic, 0), 20 * 900);
    let metrics = broker.shard_metrics(0);
    assert_eq!(
        metrics.fetch_bytes_copied.get(),
        0,
        "no slice of 4 KiB or more is copied"
    );
    broker.stop();
}
