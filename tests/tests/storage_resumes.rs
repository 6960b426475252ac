//! A store without space goes on by itself once there is space, and comes up however often it is
//! restarted meanwhile.

use std::time::Duration;

use catena_client::{
    Client, DeliveryHandle, ErrorCode, Producer, Record, TopicChange, TopicConfig,
};
use catena_protocol::ids::{Durability, TopicId};
use catena_tests::broker::{Broker, Settings};
use catena_tests::peer::{Peer, batch};
use catena_tests::{reading, wait};

/// Less than a hundred of them fill the smallest store.
const FILLER_BYTES: usize = 900 << 10;
const KEPT: usize = 100;

fn smallest_space() -> Settings {
    Settings {
        space: "64MiB".to_owned(),
        ..Settings::default()
    }
}

/// Produces until the store is full; gives how many batches were acknowledged.
fn fill(peer: &mut Peer, topic: TopicId) -> u64 {
    let value = vec![b'f'; FILLER_BYTES];
    let filler = batch(&[&value]);
    for acknowledged in 0..200 {
        let ack = peer.produce(topic, Durability::Durable, &filler);
        if ack.error == ErrorCode::StorageFull {
            return acknowledged;
        }
        assert_eq!((ack.error, ack.detail), (ErrorCode::None, acknowledged));
    }
    panic!("180 MB went into a store of 64 MiB");
}

/// Data in the topic `kept`, and a store that is full otherwise. The producer has one more record
/// under way that finds no space.
struct FullStore {
    client: Client,
    _producer: Producer,
    written: u64,
    blocked: DeliveryHandle,
}

impl FullStore {
    async fn new(broker: &Broker) -> Self {
        let client = broker.client().await;
        let admin = client.admin();
        admin
            .create_topic("kept", 1, TopicConfig::default())
            .await
            .expect("a topic");
        let producer = client.producer().delivery_timeout(Duration::from_secs(120));
        let producer = producer.build().await.expect("a producer");
        for number in 0..KEPT {
            let record = Record::to("kept").value(format!("before {number}"));
            producer.send_and_wait(record).await.expect("an ack");
        }
        let mut peer = Peer::connect(broker.addr());
        let filler = peer.create_topic("filler", 1, TopicConfig::default());
        let written = fill(&mut peer, filler);
        let large = Record::to("kept").value(vec![b'b'; FILLER_BYTES]);
        let blocked = producer.send(large).await.expect("the record is accepted");
        Self {
            client,
            _producer: producer,
            written,
            blocked,
        }
    }

    async fn check_resumed(self, broker: &Broker) {
        wait::within_limit("the blocked producer resumes", self.blocked)
            .await
            .expect("an ack");
        check_kept(&broker.client().await, true).await;
    }
}

/// What was acknowledged is there; the blocked record is too once it has found space.
async fn check_kept(client: &Client, has_resumed: bool) {
    let kept = reading::contents(client, "kept").await;
    let records = kept[&0].iter();
    let mut values: Vec<_> = records.filter_map(|record| record.value.clone()).collect();
    let blocked = values.split_off(values.len().min(KEPT));
    let before: Vec<_> = (0..KEPT).map(|number| format!("before {number}")).collect();
    assert_eq!(values, before);
    assert!(blocked.len() == 1 || (blocked.is_empty() && !has_resumed));
    assert!(
        blocked
            .iter()
            .all(|value| *value == vec![b'b'; FILLER_BYTES])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_resumes_when_a_topic_is_deleted() {
    let mut broker = Broker::start_with(smallest_space());
    let full = FullStore::new(&broker).await;
    full.client
        .admin()
        .delete_topic("filler")
        .await
        .expect("a full store deletes");
    full.check_resumed(&broker).await;
    wait::until("the metric says so", || {
        broker.metric("catena_storage_full") == 0
    });
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_resumes_when_retention_is_lowered() {
    let mut broker = Broker::start_with(smallest_space());
    let full = FullStore::new(&broker).await;
    let change = TopicChange {
        retention_bytes: Some(Some(1 << 20)),
        ..TopicChange::default()
    };
    let lowered = full.client.admin().alter_topic("filler", change).await;
    lowered.expect("a full store can be changed");
    full.check_resumed(&broker).await;
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_comes_up_after_each_clean_stop() {
    let mut broker = Broker::start_with(smallest_space());
    let full = FullStore::new(&broker).await;
    for _ in 0..4 {
        broker.stop();
        broker.start_again();
        let client = broker.client().await;
        let ends = reading::ends(&client, "filler").await;
        assert_eq!(
            ends[&0],
            (0, full.written),
            "nothing acknowledged is missing"
        );
        check_kept(&client, false).await;
    }
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_comes_up_after_each_kill_and_resumes() {
    let mut broker = Broker::start_with(smallest_space());
    let full = FullStore::new(&broker).await;
    for _ in 0..4 {
        broker.kill();
        broker.start_again();
        let client = broker.client().await;
        let ends = reading::ends(&client, "filler").await;
        assert_eq!(
            ends[&0],
            (0, full.written),
            "nothing acknowledged is missing"
        );
        check_kept(&client, false).await;
    }
    let client = broker.client().await;
    client
        .admin()
        .delete_topic("filler")
        .await
        .expect("a full store deletes");
    full.check_resumed(&broker).await;
    broker.stop();
}
