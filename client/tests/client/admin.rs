//! Topics, offsets, the cluster.

use std::time::Duration;

use catena_client::{BuildError, ErrorCode, OffsetSpec, RequestError, TopicChange, TopicConfig};
use catena_protocol::ids::ChainId;

use crate::support::{Broker, CLUSTER, in_time, record};

#[tokio::test]
async fn a_topic_is_made_changed_described_and_deleted() {
    let broker = Broker::start().await;
    let admin = broker.client().await.admin();
    let id = admin
        .create_topic("orders", 3, TopicConfig::default())
        .await
        .expect("made");
    let again = admin
        .create_topic("orders", 3, TopicConfig::default())
        .await;
    assert_eq!(
        again.expect_err("exists").code(),
        Some(ErrorCode::TopicExists)
    );
    let retention_ms = Some(Some(7));
    let change = TopicChange {
        partitions: Some(5),
        retention_ms,
        ..TopicChange::default()
    };
    admin.alter_topic("orders", change).await.expect("changed");
    let described = admin.describe_topic("orders").await.expect("described");
    assert_eq!((described.topic.id, described.topic.partitions), (id, 5));
    assert_eq!(described.topic.config.retention_ms, Some(7));
    let topics = admin.list_topics().await.expect("listed");
    assert_eq!(topics.len(), 1);
    assert_eq!((&*topics[0].name, topics[0].partitions), ("orders", 5));
    admin.delete_topic("orders").await.expect("deleted");
    let gone = admin.delete_topic("orders").await.expect_err("gone");
    assert!(matches!(gone, RequestError::TopicNotFound { .. }), "{gone}");
    assert!(admin.describe_topic("orders").await.is_err());
}

#[tokio::test]
async fn the_cluster_is_described() {
    let (broker, client) = Broker::with_topic(2).await;
    let cluster = client.admin().cluster().await.expect("described");
    assert_eq!(cluster.id, CLUSTER);
    assert_eq!(cluster.nodes[0].address, broker.address());
    assert_eq!(cluster.topics[0].name, "t");
}

#[tokio::test]
async fn offsets_are_asked_of_their_owners() {
    let (broker, client) = Broker::with_topic(4).await;
    let producer = client.producer().build().await.expect("built");
    for partition in 0..4 {
        let records = (0..=partition).map(|_| record("x").partition(partition).timestamp_ms(50));
        let handle = producer
            .send_all(records.collect())
            .await
            .expect("accepted");
        in_time(handle).await.expect("written");
    }
    // Metadata does not know yet.
    broker.lock().moved.push((ChainId(2), 1));
    let admin = client.admin();
    let list = async |spec| {
        let offsets = in_time(admin.list_offsets("t", spec))
            .await
            .expect("looked up");
        offsets
            .into_iter()
            .map(|found| found.offset)
            .collect::<Vec<_>>()
    };
    assert_eq!(list(OffsetSpec::Latest).await, [1, 2, 3, 4]);
    assert_eq!(list(OffsetSpec::Earliest).await, [0; 4]);
    assert_eq!(list(OffsetSpec::Time(50)).await, [0; 4]);
    assert_eq!(list(OffsetSpec::Time(51)).await, [1, 2, 3, 4]);
    let error = admin
        .list_offsets("nope", OffsetSpec::Latest)
        .await
        .expect_err("no such topic");
    assert!(
        matches!(error, RequestError::TopicNotFound { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_change_may_have_been_made_only_if_it_was_sent() {
    let broker = Broker::start().await;
    let builder = || Broker::builder().request_timeout(Duration::from_secs(1));
    let client = builder().connect(&broker.address()).await;
    let admin = client.expect("the broker is up").admin();
    broker.lock().drops_changes = true;
    let made = in_time(admin.create_topic("t", 1, TopicConfig::default())).await;
    let lost = made.expect_err("no answer");
    assert!(matches!(lost, RequestError::Unanswered(_)), "{lost}");
    assert!(lost.may_have_been_carried_out());
    let change = TopicChange {
        partitions: Some(2),
        ..TopicChange::default()
    };
    let changed = in_time(admin.alter_topic("t", change)).await;
    let lost = changed.expect_err("never an answer");
    assert!(matches!(lost, RequestError::TimedOut { .. }), "{lost}");
    assert!(lost.may_have_been_carried_out());

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let unreached = in_time(builder().connect(&nobody)).await;
    let Err(BuildError::Request(unreached)) = unreached else {
        panic!("{unreached:?}");
    };
    assert!(!unreached.may_have_been_carried_out(), "{unreached}");
}
