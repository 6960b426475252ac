//! Topics: made, listed, changed and deleted, for everyone at once.

use std::time::Duration;

use catena_client::{
    ConsumeError, Durability, ErrorCode, ProduceError, Record, RequestError, TopicChange,
    TopicConfig, TopicId,
};
use catena_protocol::ids::PartitionId;
use catena_protocol::messages::{
    DeleteTopicRequest, FetchRequest, ListOffsetsItem, ListOffsetsRequest, OffsetSpec,
};
use catena_tests::home::Home;
use catena_tests::peer::{Peer, batch, interest};
use catena_tests::{reading, wait};

pub(crate) async fn what_was_changed_of_a_topic_stays_changed(home: &mut Home) {
    let client = home.client().await;
    let admin = client.admin();
    let made = admin.create_topic("orders", 2, TopicConfig::default());
    let id = made.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let send = async |partition| {
        let record = Record::to("orders").partition(partition).value("value");
        let written = producer.send_and_wait(record).await;
        written.expect("an ack").offset
    };
    assert_eq!(send(1).await, Some(0));
    let change = TopicChange {
        partitions: Some(5),
        retention_ms: Some(Some(3_600_000)),
        min_durability: Some(Durability::Durable),
        ..TopicChange::default()
    };
    let changed = admin.alter_topic("orders", change);
    changed.await.expect("the topic is changed");
    assert_eq!(send(1).await, Some(1), "it goes on where it was");
    assert_eq!(send(4).await, Some(0), "added partitions are empty");
    home.bounce().await;
    let client = home.client().await;
    let listed = client.admin().list_topics().await.expect("a list");
    assert_eq!(
        (listed.len(), listed[0].id, listed[0].partitions),
        (1, id, 5)
    );
    let described = client.admin().describe_topic("orders").await;
    let config = described.expect("a description").topic.config;
    assert_eq!(config.retention_ms, Some(3_600_000));
    assert_eq!(config.min_durability, Durability::Durable);
    let contents = reading::contents(&client, "orders").await;
    let counts: Vec<usize> = contents.values().map(Vec::len).collect();
    assert_eq!(counts, [0, 2, 0, 0, 1]);
}

pub(crate) async fn a_topic_made_again_under_the_same_name_is_empty(home: &mut Home) {
    let client = home.client().await;
    let admin = client.admin();
    let mut ids = Vec::new();
    for round in 0..3 {
        let made = admin.create_topic("orders", 1, TopicConfig::default());
        ids.push(made.await.expect("a topic"));
        let producer = client.producer().build().await.expect("a producer");
        let record = Record::to("orders").value(format!("round {round}"));
        let written = producer.send_and_wait(record).await.expect("an ack");
        assert_eq!(written.offset, Some(0));
        let contents = reading::contents(&client, "orders").await;
        assert_eq!(contents[&0].len(), 1);
        let deleted = admin.delete_topic("orders").await;
        deleted.expect("the topic is deleted");
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "ids are never used twice");
}

pub(crate) async fn what_a_topic_may_not_be_is_refused_by_name(home: &mut Home) {
    let client = home.client_with("orders", 1).await;
    let admin = client.admin();
    let other_class = TopicConfig {
        class: "gold".to_owned(),
        ..TopicConfig::default()
    };
    for (name, partitions, config, expected) in [
        ("orders", 1, TopicConfig::default(), ErrorCode::TopicExists),
        ("", 1, TopicConfig::default(), ErrorCode::InvalidTopicName),
        (
            "a b",
            1,
            TopicConfig::default(),
            ErrorCode::InvalidTopicName,
        ),
        ("..", 1, TopicConfig::default(), ErrorCode::InvalidTopicName),
        (
            "none",
            0,
            TopicConfig::default(),
            ErrorCode::InvalidPartitionCount,
        ),
        (
            "many",
            u32::MAX,
            TopicConfig::default(),
            ErrorCode::InvalidPartitionCount,
        ),
        ("gold", 1, other_class, ErrorCode::InvalidConfig),
    ] {
        let refused = admin.create_topic(name, partitions, config).await;
        let code = refused.expect_err(name).code();
        assert_eq!(
            code,
            Some(expected),
            "{name:?} with {partitions} partitions"
        );
    }
    let fewer = TopicChange {
        partitions: Some(0),
        ..TopicChange::default()
    };
    let refused = admin
        .alter_topic("orders", fewer)
        .await
        .expect_err("fewer partitions");
    assert_eq!(refused.code(), Some(ErrorCode::InvalidPartitionCount));
    let absent = admin.delete_topic("absent").await;
    assert!(
        matches!(absent, Err(RequestError::TopicNotFound { .. })),
        "{absent:?}"
    );
    assert_eq!(admin.list_topics().await.expect("a list").len(), 1);
}

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

pub(crate) async fn requests_after_the_deletion_of_a_topic_are_refused(home: &mut Home) {
    let mut peer = home.peer().await;
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
}

pub(crate) async fn a_fetch_that_waits_at_the_end_of_a_topic_is_answered_when_it_is_deleted(
    home: &mut Home,
) {
    let mut admin = home.peer().await;
    let topic = topic(&mut admin);
    let mut reader = home.peer().await;
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

pub(crate) async fn users_of_a_deleted_topic_are_told(home: &mut Home) {
    let client = home.client_with("orders", 1).await;
    let admin = client.admin();
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
}
