//! A name may stand for another topic by the time a client asks for it again.

use catena_client::{
    Client, ConsumeError, ErrorCode, OffsetSpec, ProduceError, RequestError, StartOffset,
    TopicChange, TopicConfig,
};

use crate::support::{Broker, in_time, record};

const CODES: [ErrorCode; 2] = [ErrorCode::TopicNotFound, ErrorCode::UnknownPartition];

/// Deletes the topic `t` and makes it again, unseen by the clients.
fn make_again(broker: &Broker, partitions: u32) {
    let mut state = broker.lock();
    state.log.delete("t").expect("a topic");
    state.log.create("t", partitions).expect("a new topic");
}

async fn ends(client: &Client) -> Result<Vec<u64>, RequestError> {
    let admin = client.admin();
    let offsets = in_time(admin.list_offsets("t", OffsetSpec::Latest)).await?;
    Ok(offsets.iter().map(|found| found.offset).collect())
}

#[tokio::test]
async fn a_client_sees_its_own_changes_of_topics_at_once() {
    let (broker, client) = Broker::with_topic(2).await;
    let admin = client.admin();
    let producer = client.producer().build().await.expect("built");
    for partitions in 3..6 {
        in_time(producer.send_and_wait(record("x").partition(1)))
            .await
            .expect("written");
        assert_eq!(ends(&client).await.expect("looked up")[1], 1);
        let change = TopicChange {
            partitions: Some(9),
            ..TopicChange::default()
        };
        admin.alter_topic("t", change).await.expect("changed");
        assert_eq!(ends(&client).await.expect("looked up").len(), 9);
        admin.delete_topic("t").await.expect("deleted");
        let batches = broker.lock().batches;
        let gone = ends(&client).await.expect_err("gone");
        assert!(matches!(gone, RequestError::TopicNotFound { .. }), "{gone}");
        let gone = in_time(producer.send_and_wait(record("x"))).await;
        assert!(matches!(gone, Err(ProduceError::Lookup(_))), "{gone:?}");
        assert_eq!(broker.lock().batches, batches, "nothing is sent in vain");
        let config = TopicConfig::default();
        let made = admin.create_topic("t", partitions, config).await;
        made.expect("made");
        let expected = vec![0; usize::try_from(partitions).expect("small")];
        assert_eq!(ends(&client).await.expect("looked up"), expected);
    }
}

#[tokio::test]
async fn offsets_are_those_of_the_topic_that_has_the_name_now() {
    for code in CODES {
        let (broker, client) = Broker::with_topic(2).await;
        broker.lock().code_of_unknown_ids = code;
        assert_eq!(ends(&client).await.expect("looked up"), [0, 0]);
        make_again(&broker, 3);
        assert_eq!(ends(&client).await.expect("looked up"), [0, 0, 0]);
        broker.lock().log.delete("t").expect("a topic");
        let gone = ends(&client).await.expect_err("gone");
        assert!(matches!(gone, RequestError::TopicNotFound { .. }), "{gone}");
    }
}

#[tokio::test]
async fn a_consumer_reads_the_topic_that_has_the_name_when_it_is_built() {
    for start in [StartOffset::Earliest, StartOffset::Offset(0)] {
        let (broker, client) = Broker::with_topic(1).await;
        assert_eq!(ends(&client).await.expect("looked up"), [0]);
        make_again(&broker, 1);
        let writer = broker.client().await.producer().build().await;
        let writer = writer.expect("built");
        in_time(writer.send_and_wait(record("new")))
            .await
            .expect("written");
        let consumer = client.consumer().topic("t").start(start).build().await;
        let mut consumer = consumer.expect("built");
        let batch = in_time(consumer.next_batch()).await.expect("a batch");
        let values: Vec<_> = batch.records().expect("whole").into_iter().collect();
        assert_eq!(values[0].value.as_deref(), Some(&b"new"[..]), "{start:?}");
    }
}

#[tokio::test]
async fn a_consumer_of_a_topic_made_again_is_told() {
    for code in CODES {
        let (broker, client) = Broker::with_topic(1).await;
        broker.lock().code_of_unknown_ids = code;
        let consumer = client.consumer().topic("t").build().await;
        let mut consumer = consumer.expect("built");
        let producer = client.producer().build().await.expect("built");
        in_time(producer.send_and_wait(record("old")))
            .await
            .expect("written");
        in_time(consumer.next_batch()).await.expect("a batch");
        make_again(&broker, 1);
        let told = in_time(consumer.next_batch()).await;
        let Err(ConsumeError::Refused { code, .. }) = told else {
            panic!("{told:?}");
        };
        assert_eq!(code, ErrorCode::TopicNotFound);
    }
}
