//! Readers that stop reading for a while miss nothing.

use catena_client::TopicConfig;
use catena_protocol::ids::{Durability, SessionId};
use catena_protocol::messages::FetchRequest;
use catena_tests::broker::Broker;
use catena_tests::peer::{Peer, batch, interest, values_of};
use catena_tests::wait;

/// Together they ask for several times of what sends may hold.
const READERS: usize = 40;
const BATCH_BYTES: usize = 800 << 10;

#[test]
fn a_stalled_reader_that_goes_on_gets_every_byte() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    let mut expected = Vec::new();
    for number in 0..8_u8 {
        let value = vec![number; BATCH_BYTES];
        let ack = peer.produce(topic, Durability::Durable, &batch(&[&value]));
        assert!(ack.error.is_success());
        expected.push(value);
    }
    let request = FetchRequest {
        session: SessionId(1),
        min_bytes: 1,
        max_wait_ms: 1_000,
        max_bytes: 8 << 20,
        add: vec![interest(topic, 0)],
        ..FetchRequest::default()
    };
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut reader = Peer::connect(broker.addr());
        let mut frame = Vec::new();
        request.encode(reader.correlation(), &mut frame);
        reader.send(&frame);
        readers.push(reader);
    }
    wait::until("sends stall", || broker.metric("catena_pinned_bytes") > 0);
    for reader in &mut readers {
        let frame = reader.receive();
        assert!(frame.error().is_none(), "{:?}", frame.error());
        let mut values = Vec::new();
        values_of(&frame.payload, 0, &mut values);
        assert!(values == expected, "{} values, byte for byte", values.len());
    }
    broker.stop();
}
