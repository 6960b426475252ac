//! A deleted topic is gone at once for everyone, also for those who use it at that moment.

use std::time::Duration;

use catena_client::{ConsumeError, ErrorCode, ProduceError, Record, TopicConfig};
use catena_protocol::ids::{Durability, PartitionId, TopicId};
use catena_protocol::messages::{
    DeleteTopicRequest, FetchRequest, ListOffsetsItem, ListOffsetsRequest, OffsetSpec,
};
use catena_tests::broker::Broker;
use catena_tests::peer::{Peer, batch, interest};
use catena_tests::{reading, wait};

/// A topic `orders` with one record.
fn topic(peer: &mut Peer) -> TopicId {
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    let ack = peer.produce(topic, Durability::Durable, &batch(&[b"a"]));
    assert_eq!(ack.error, ErrorCode::None);
    topic
}

fn delete(peer: &mut Peer) {
    let name = "orders".to_owned();
    peer.ask(&DeleteTopicRequest { name })
        .expect("the topic is deleted");
}

#[test]
fn requests_after_the_deletion_of_a_topic_are_refused() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect(broker.addr());
    let topic = topic(&mut peer);
    delete(&mut peer);
    let item = ListOffsetsItem {
        topic,
        partition: PartitionId(0),
        spec: OffsetSpec::Latest,
    };
    let offsets = peer
        .ask(&ListOffsetsRequest { items: vec![item] })
        .expect("an answer");
    let (fetched, _) = peer.fetch(topic, 0, Duration::from_secs(5));
    let ack = peer.produce(topic, Durability::Durable, &batch(&[b"b"]));
    let found = [offsets.items[0].error, fetched.error, ack.error];
    assert_eq!(
        found,
        [ErrorCode::TopicNotFound; 3],
        "offsets, fetch, produce"
    );
    broker.stop();
}

#[test]
fn a_fetch_that_waits_at_the_end_of_a_topic_is_answered_when_it_is_deleted() {
    let mut broker = Broker::start();
    let mut admin = Peer::connect(broker.addr());
    let topic = topic(&mut admin);
    let mut reader = Peer::connect(broker.addr());
    let correlation = reader.correlation();
    let mut frame = Vec::new();
    let request = FetchRequest {
        max_wait_ms: 2_000,
        min_bytes: 1,
        max_bytes: 1 << 20,
        add: vec![interest(topic, 1)],
        ..FetchRequest::default()
    };
    request.encode(correlation, &mut frame);
    reader.send(&frame);
    delete(&mut admin);
    // Told by the request that waits, or by one of the next.
    for _ in 0..3 {
        let frame = reader.receive();
        let view = catena_protocol::messages::FetchView::decode(&frame.header, 0);
        let items: Vec<_> = view.expect("a fetch response").items().collect();
        if let Some(item) = items.first() {
            assert_eq!(item.error, ErrorCode::TopicNotFound);
            broker.stop();
            return;
        }
        let mut frame = Vec::new();
        let next = FetchRequest {
            add: Vec::new(),
            ..request.clone()
        };
        next.encode(reader.correlation(), &mut frame);
        reader.send(&frame);
    }
    panic!("a reader of a deleted topic waits for ever");
}

#[tokio::test]
async fn users_of_a_deleted_topic_are_told() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic("orders", 1, TopicConfig::default())
        .await
        .expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    producer
        .send_and_wait(Record::to("orders").value("a"))
        .await
        .expect("an ack");
    let consumer = client.consumer().topic("orders").build().await;
    let mut consumer = consumer.expect("a consumer");
    consumer.next_batch().await.expect("a batch");

    // The consumer waits for more while the topic goes.
    admin
        .delete_topic("orders")
        .await
        .expect("the topic is deleted");
    let told = wait::within_limit("the consumer is told", consumer.next_batch()).await;
    let code = match told {
        Err(ConsumeError::Refused { code, .. }) => Some(code),
        Err(ConsumeError::Lookup(error)) => error.code(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code, Some(ErrorCode::TopicNotFound));

    let sent = producer.send_and_wait(Record::to("orders").value("b"));
    let refused = wait::within_limit("the producer is told", sent).await;
    let code = match refused {
        Err(ProduceError::Refused { code, .. }) => Some(code),
        Err(ProduceError::Lookup(error)) => error.code(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code, Some(ErrorCode::TopicNotFound));
    broker.stop();
}

#[tokio::test]
async fn a_client_that_makes_a_topic_again_finds_it_empty() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    let mut ids = Vec::new();
    for round in 0..4 {
        let id = admin
            .create_topic("orders", 3, TopicConfig::default())
            .await;
        ids.push(id.expect("a topic"));
        let ends = reading::ends(&client, "orders").await;
        assert!(ends.values().all(|end| *end == (0, 0)), "empty: {ends:?}");
        let producer = client.producer().build().await.expect("a producer");
        for partition in 0..3 {
            let value = format!("round {round}");
            let record = Record::to("orders").partition(partition).value(value);
            let written = producer.send_and_wait(record).await.expect("an ack");
            assert_eq!(written.offset, Some(0), "round {round}");
        }
        if round < 3 {
            admin
                .delete_topic("orders")
                .await
                .expect("the topic is deleted");
        }
    }
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len(), "ids are never used twice");
    broker.kill();
    broker.start_again();
    let client = broker.client().await;
    let contents = reading::contents(&client, "orders").await;
    for records in contents.values() {
        let values: Vec<_> = records
            .iter()
            .filter_map(|record| record.value.clone())
            .collect();
        assert_eq!(values, ["round 3"]);
    }
    broker.stop();
}
