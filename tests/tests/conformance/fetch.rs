//! A fetch that finds nothing waits: until data comes, and no longer than it was told.

use std::time::{Duration, Instant};

use catena_client::{Durability, TopicConfig};
use catena_protocol::ids::{CorrelationId, SessionId, TopicId};
use catena_protocol::messages::{FetchRequest, FetchView};
use catena_tests::home::Home;
use catena_tests::peer::{Peer, batch, interest, values_of};

/// Far above what a busy machine needs, far below any wait that was asked for.
const PROMPT: Duration = Duration::from_secs(30);
const LONG_MS: u32 = 50_000;

async fn topic(home: &Home) -> (Peer, TopicId) {
    let mut peer = home.peer().await;
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    (peer, topic)
}

fn waiting(topic: TopicId, max_wait_ms: u32, min_bytes: u32) -> FetchRequest {
    FetchRequest {
        session: SessionId(1),
        max_wait_ms,
        min_bytes,
        max_bytes: 1 << 20,
        add: vec![interest(topic, 0)],
        ..FetchRequest::default()
    }
}

fn send(peer: &mut Peer, request: &FetchRequest) -> CorrelationId {
    let correlation = peer.correlation();
    let mut frame = Vec::new();
    request.encode(correlation, &mut frame);
    peer.send(&frame);
    correlation
}

/// The values of the answer to a fetch.
fn receive(peer: &mut Peer, correlation: CorrelationId, from: u64) -> Vec<Vec<u8>> {
    let frame = peer.receive();
    assert_eq!(frame.prefix.correlation, correlation);
    let view = FetchView::decode(&frame.header, frame.prefix.payload_bytes());
    assert!(view.is_ok(), "a fetch response");
    let mut values = Vec::new();
    values_of(&frame.payload, from, &mut values);
    values
}

pub(crate) async fn a_waiting_fetch_is_answered_when_data_comes(home: &mut Home) {
    let (mut producer, topic) = topic(home).await;
    let mut reader = home.peer().await;
    let began = Instant::now();
    let mut next = waiting(topic, LONG_MS, 1);
    for round in 0..10_u64 {
        let correlation = send(&mut reader, &next);
        next.add.clear();
        let value = format!("round {round}");
        producer.produce(topic, Durability::Durable, &batch(&[value.as_bytes()]));
        assert_eq!(receive(&mut reader, correlation, round), [value.as_bytes()]);
    }
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
}

pub(crate) async fn a_fetch_that_finds_nothing_is_answered_empty_at_its_time(home: &mut Home) {
    let (mut peer, topic) = topic(home).await;
    let began = Instant::now();
    let correlation = send(&mut peer, &waiting(topic, 500, 1));
    assert!(receive(&mut peer, correlation, 0).is_empty());
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_millis(490),
        "not before: {waited:?}"
    );
    assert!(waited < PROMPT, "not long after: {waited:?}");

    let began = Instant::now();
    let correlation = send(&mut peer, &waiting(topic, 0, 1));
    assert!(receive(&mut peer, correlation, 0).is_empty());
    assert!(began.elapsed() < PROMPT, "0 does not wait");
}

pub(crate) async fn a_fetch_waits_for_its_least_bytes_and_takes_less_at_its_time(home: &mut Home) {
    let (mut producer, topic) = topic(home).await;
    let mut reader = home.peer().await;
    producer.produce(topic, Durability::Durable, &batch(&[b"few bytes"]));
    let began = Instant::now();
    let correlation = send(&mut reader, &waiting(topic, 1_000, 100_000));
    assert_eq!(receive(&mut reader, correlation, 0), [b"few bytes"]);
    let waited = began.elapsed();
    assert!(
        waited >= Duration::from_millis(990),
        "it waits for more: {waited:?}"
    );

    let mut more = waiting(topic, LONG_MS, 100_000);
    more.add = vec![interest(topic, 1)];
    let began = Instant::now();
    let correlation = send(&mut reader, &more);
    let value = vec![b'x'; 60_000];
    producer.produce(topic, Durability::Durable, &batch(&[&value]));
    producer.produce(topic, Durability::Durable, &batch(&[&value]));
    assert_eq!(receive(&mut reader, correlation, 1), [&value[..], &value]);
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
}

pub(crate) async fn a_waiting_fetch_delays_no_other_request_of_its_connection(home: &mut Home) {
    let (mut peer, topic) = topic(home).await;
    send(&mut peer, &waiting(topic, LONG_MS, 1 << 20));
    let began = Instant::now();
    let ack = peer.produce(topic, Durability::Durable, &batch(&[b"a"]));
    assert!(ack.error.is_success());
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
}
