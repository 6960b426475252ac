//! The weaker durability classes promise less, and exactly what they say.

use std::time::Duration;

use catena_client::{Durability, Record, TopicChange, TopicConfig};
use catena_protocol::error::ErrorCode;
use catena_protocol::messages::{AckItem, AlterTopicRequest};
use catena_tests::broker::Broker;
use catena_tests::peer::{Peer, batch, produce_frame};
use catena_tests::{reading, wait};

#[test]
fn received_is_acknowledged_without_an_offset_and_readable_once_committed() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    let ack = peer.produce(topic, Durability::Received, &batch(&[b"soon"]));
    assert_eq!(
        (ack.error, ack.detail),
        (ErrorCode::None, AckItem::OFFSET_UNKNOWN)
    );
    assert_eq!(peer.values(topic, 1), [b"soon"]);
    broker.stop();
}

#[test]
fn none_gets_no_reply_and_is_written() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    let correlation = peer.correlation();
    peer.send(&produce_frame(
        correlation,
        topic,
        Durability::None,
        &batch(&[b"a"]),
    ));
    // The answer to the second request is the first thing that comes.
    let ack = peer.produce(topic, Durability::Durable, &batch(&[b"b"]));
    assert_ne!(ack.correlation, correlation);
    assert_eq!((ack.error, ack.detail), (ErrorCode::None, 1));
    assert_eq!(peer.values(topic, 2), [b"a", b"b"]);
    broker.stop();
}

#[test]
fn a_topic_refuses_classes_below_its_minimum() {
    let mut broker = Broker::start();
    let mut peer = Peer::connect(broker.addr());
    let config = TopicConfig {
        min_durability: Durability::Durable,
        ..TopicConfig::default()
    };
    let topic = peer.create_topic("orders", 1, config);
    let correlation = peer.correlation();
    peer.send(&produce_frame(
        correlation,
        topic,
        Durability::None,
        &batch(&[b"none"]),
    ));
    let weak = peer.produce(topic, Durability::Received, &batch(&[b"received"]));
    assert_eq!((weak.error, weak.detail), (ErrorCode::DurabilityTooWeak, 0));
    let strong = peer.produce(topic, Durability::Durable, &batch(&[b"durable"]));
    assert_eq!((strong.error, strong.detail), (ErrorCode::None, 0));

    let looser = AlterTopicRequest {
        name: "orders".to_owned(),
        partitions: None,
        retention_bytes: None,
        retention_ms: None,
        min_durability: Some(Durability::Received),
        cleanup: None,
    };
    peer.ask(&looser).expect("the minimum can be changed");
    let weak = peer.produce(topic, Durability::Received, &batch(&[b"received"]));
    assert_eq!(weak.error, ErrorCode::None);
    assert_eq!(peer.values(topic, 2), [&b"durable"[..], b"received"]);
    broker.stop();
}

/// A reader of a record that a crash takes back would have seen what never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_readers_saw_of_the_class_received_survives_a_kill() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic("orders", 1, TopicConfig::default())
        .await
        .expect("a topic");
    let weak = client.producer().durability(Durability::Received);
    let weak = weak.build().await.expect("a producer");
    let mut consumer = client
        .consumer()
        .topic("orders")
        .build()
        .await
        .expect("a consumer");
    let sending = tokio::spawn(async move {
        for number in 0..u64::MAX {
            let record = Record::to("orders").value(number.to_string());
            // Ends when the test drops it, or the broker is gone for long.
            if weak.send(record).await.is_err() {
                break;
            }
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 20_000 {
        let batch = wait::within_limit("a batch", consumer.next_batch()).await;
        let batch = batch.expect("a batch");
        seen.extend(batch.records().expect("readable records"));
    }
    broker.kill();
    sending.abort();
    drop(consumer);
    drop(client);
    broker.start_again();
    let client = broker.client().await;
    let contents = reading::contents(&client, "orders").await;
    assert!(
        contents[&0].len() >= seen.len(),
        "{} of {}",
        contents[&0].len(),
        seen.len()
    );
    assert!(
        contents[&0][..seen.len()] == seen[..],
        "the same records at the same offsets"
    );
    broker.stop();
}

#[tokio::test]
async fn one_producer_can_name_a_class_per_record() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic("orders", 1, TopicConfig::default())
        .await
        .expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let durable = producer
        .send_and_wait(Record::to("orders").value("a"))
        .await;
    assert_eq!(durable.expect("an ack").offset, Some(0));
    let received = Record::to("orders")
        .value("b")
        .durability(Durability::Received);
    let received = producer.send_and_wait(received).await.expect("an ack");
    assert_eq!(received.offset, None);
    let change = TopicChange {
        min_durability: Some(Durability::Durable),
        ..TopicChange::default()
    };
    admin
        .alter_topic("orders", change)
        .await
        .expect("the minimum is raised");
    let received = Record::to("orders")
        .value("c")
        .durability(Durability::Received);
    let sent = tokio::time::timeout(Duration::from_secs(10), producer.send_and_wait(received));
    let refused = sent.await.expect("an answer in time");
    assert!(
        refused
            .as_ref()
            .is_err_and(|error| !error.may_have_been_written()),
        "{refused:?}"
    );
    broker.stop();
}
