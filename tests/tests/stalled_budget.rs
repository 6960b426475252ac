//! Readers that ask for much and take nothing pin little, and cost the others nothing.

use catena_client::TopicConfig;
use catena_protocol::ids::{Durability, SessionId, TopicId};
use catena_protocol::messages::FetchRequest;
use catena_tests::broker::{Broker, Settings};
use catena_tests::peer::{Peer, batch, interest};
use catena_tests::{reading, wait};

const STALLED: usize = 200;
const BATCHES: usize = 80;
const BATCH_BYTES: usize = 800 << 10;

/// A quarter of the cache: `FETCH_PIN_CACHE_DIVISOR` of the broker.
const CACHE: &str = "64MiB";
const PINNED_BYTES_MAX: u64 = (64 << 20) / 4;

/// Asks for far more than its socket takes, and does not read.
fn stall(broker: &Broker, topic: TopicId, from: u64) -> Peer {
    let mut peer = Peer::connect(broker.addr());
    let request = FetchRequest {
        session: SessionId(1),
        min_bytes: 1,
        max_wait_ms: 1_000,
        max_bytes: 8 << 20,
        add: vec![interest(topic, from)],
        ..FetchRequest::default()
    };
    for _ in 0..2 {
        let mut frame = Vec::new();
        request.encode(peer.correlation(), &mut frame);
        peer.send(&frame);
    }
    peer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_readers_pin_at_most_the_budget_and_a_healthy_one_gets_everything() {
    let mut broker = Broker::start_with(Settings {
        cache: CACHE.to_owned(),
        ..Settings::default()
    });
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    for number in 0..BATCHES {
        let value = [format!("{number} ").into_bytes(), vec![b'x'; BATCH_BYTES]].concat();
        let ack = peer.produce(topic, Durability::Durable, &batch(&[&value]));
        assert!(ack.error.is_success());
    }
    let from = |reader: usize| u64::try_from(reader % BATCHES).expect("small");
    let stalled: Vec<Peer> = (0..STALLED)
        .map(|reader| stall(&broker, topic, from(reader)))
        .collect();
    wait::until("sends stall", || broker.metric("catena_pinned_bytes") > 0);

    let client = broker.client().await;
    for _ in 0..3 {
        let contents = reading::contents(&client, "orders").await;
        assert_eq!(contents[&0].len(), BATCHES);
        for (number, record) in contents[&0].iter().enumerate() {
            let value = record.value.as_deref().unwrap_or_default();
            assert!(value.starts_with(format!("{number} ").as_bytes()));
        }
        let pinned = broker.metric("catena_pinned_bytes");
        assert!(pinned <= PINNED_BYTES_MAX, "{pinned} bytes pinned");
    }
    let ack = peer.produce(topic, Durability::Durable, &batch(&[b"still served"]));
    assert!(ack.error.is_success());
    drop(stalled);
    wait::until("nothing stays pinned", || {
        broker.metric("catena_pinned_bytes") == 0
    });
    broker.stop();
}
