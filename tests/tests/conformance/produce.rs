//! Every durability class promises what it says, and every codec gives back what went in.

use std::time::Duration;

use catena_client::{Codec, Durability, Record, TopicChange, TopicConfig};
use catena_protocol::error::ErrorCode;
use catena_protocol::messages::{AckItem, AlterTopicRequest};
use catena_tests::home::Home;
use catena_tests::peer::{batch, produce_frame};
use catena_tests::reading;

pub(crate) async fn durable_is_acknowledged_with_its_offset_and_readable(home: &mut Home) {
    let mut peer = home.peer().await;
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    for offset in 0..3 {
        let ack = peer.produce(topic, Durability::Durable, &batch(&[b"a", b"b"]));
        assert_eq!((ack.error, ack.detail), (ErrorCode::None, 2 * offset));
    }
    assert_eq!(peer.values(topic, 6).len(), 6);
}

pub(crate) async fn received_is_acknowledged_without_an_offset_and_readable_once_committed(
    home: &mut Home,
) {
    let mut peer = home.peer().await;
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    let ack = peer.produce(topic, Durability::Received, &batch(&[b"soon"]));
    assert_eq!(
        (ack.error, ack.detail),
        (ErrorCode::None, AckItem::OFFSET_UNKNOWN)
    );
    assert_eq!(peer.values(topic, 1), [b"soon"]);
}

pub(crate) async fn none_gets_no_reply_and_is_written(home: &mut Home) {
    let mut peer = home.peer().await;
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
}

pub(crate) async fn a_topic_refuses_classes_below_its_minimum(home: &mut Home) {
    let mut peer = home.peer().await;
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
}

pub(crate) async fn one_producer_can_name_a_class_per_record(home: &mut Home) {
    let client = home.client_with("orders", 1).await;
    let admin = client.admin();
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
}

pub(crate) async fn every_codec_gives_back_what_went_in_also_after_a_restart(home: &mut Home) {
    const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];
    let client = home.client_with("orders", 3).await;
    let value = |number: usize| format!("{number} ").repeat(1 + number * 40);
    for (codec, partition) in CODECS.into_iter().zip(0..) {
        let producer = client.producer().compression(codec).build().await;
        let producer = producer.expect("a producer");
        let mut handles = Vec::new();
        for number in 0..100 {
            let record = Record::to("orders")
                .partition(partition)
                .value(value(number));
            handles.push(producer.send(record).await.expect("the record is accepted"));
        }
        for handle in handles {
            handle.await.expect("an ack");
        }
    }
    for _ in 0..2 {
        let contents = reading::contents(&home.client().await, "orders").await;
        for (partition, records) in contents {
            assert_eq!(records.len(), 100, "partition {partition}");
            for (number, record) in records.into_iter().enumerate() {
                assert_eq!(record.value, Some(value(number).into()), "{partition}");
            }
        }
        home.bounce().await;
    }
}
