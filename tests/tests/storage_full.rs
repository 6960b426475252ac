//! A store without space refuses producers, serves readers, and loses nothing.

use catena_client::{ErrorCode, TopicConfig};
use catena_protocol::ids::{Durability, TopicId};
use catena_tests::broker::{Broker, Settings};
use catena_tests::peer::{Peer, batch};
use catena_tests::reading;

/// Less than a hundred of them fill the smallest store.
const FILLER_BYTES: usize = 900 << 10;

/// Produces until the store is full; gives how many batches were acknowledged.
fn fill(peer: &mut Peer, topic: TopicId) -> u64 {
    let value = vec![b'f'; FILLER_BYTES];
    let filler = batch(&[&value]);
    for acknowledged in 0..200 {
        let ack = peer.produce(topic, Durability::Durable, &filler);
        match ack.error {
            ErrorCode::None => assert_eq!(ack.detail, acknowledged),
            error => {
                assert_eq!(error, ErrorCode::StorageFull);
                assert!(error.is_retriable());
                return acknowledged;
            }
        }
    }
    panic!("180 MB went into a store of 64 MiB");
}

#[tokio::test]
async fn a_full_store_refuses_producers_serves_readers_and_survives_a_kill() {
    let mut broker = Broker::start_with(Settings {
        space: "64MiB".to_owned(),
        ..Settings::default()
    });
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("filler", 1, TopicConfig::default());
    let written = fill(&mut peer, topic);
    assert!(written > 20, "{written} batches fill the store");
    assert_eq!(broker.metric("catena_storage_full"), 1);
    assert!(
        broker.admin_get("/healthz").ends_with("ok\n"),
        "full is not unhealthy"
    );
    let count = usize::try_from(written).expect("some");
    let client = broker.client().await;
    let filler = reading::contents(&client, "filler").await;
    assert_eq!(filler[&0].len(), count, "reading goes on");

    broker.kill();
    broker.start_again();
    let client = broker.client().await;
    let filler = reading::contents(&client, "filler").await;
    assert_eq!(filler[&0].len(), count, "nothing acknowledged is missing");
    broker.stop();
}
