//! A batch that is sent again is written once, whatever happened in between.

use catena_client::Durability;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{PartitionId, ProducerEpoch, TopicId};
use catena_protocol::messages::{
    AckItem, AckView, InitProducerRequest, InitProducerResponse, ProduceItem, TopicConfig,
    encode_produce_header,
};
use catena_tests::home::Home;
use catena_tests::peer::{Peer, numbered_batch, produce_frame};

struct Producer {
    topic: TopicId,
    given: InitProducerResponse,
}

impl Producer {
    async fn start(home: &Home) -> Self {
        let mut peer = home.peer().await;
        let topic = peer.create_topic("orders", 1, TopicConfig::default());
        let given = peer.ask(&InitProducerRequest {}).expect("a producer id");
        Self { topic, given }
    }

    /// Sends on a connection of its own.
    async fn send(&self, home: &Home, epoch: u16, sequence: u32, values: &[&[u8]]) -> AckItem {
        let mut peer = home.peer().await;
        let epoch = ProducerEpoch(self.given.epoch.0 + epoch);
        let batch = numbered_batch(values, self.given.producer, epoch, sequence);
        peer.produce(self.topic, Durability::Durable, &batch)
    }
}

async fn values(home: &Home, topic: TopicId) -> Vec<Vec<u8>> {
    home.peer().await.values(topic, 1)
}

pub(crate) async fn a_request_sent_again_gets_the_same_offset_and_no_second_copy(home: &mut Home) {
    let producer = Producer::start(home).await;
    let first = producer.send(home, 0, 0, &[b"a", b"b", b"c"]).await;
    assert_eq!((first.error, first.detail), (ErrorCode::None, 0));
    let second = producer.send(home, 0, 3, &[b"d"]).await;
    assert_eq!((second.error, second.detail), (ErrorCode::None, 3));

    let again = producer.send(home, 0, 0, &[b"a", b"b", b"c"]).await;
    assert_eq!((again.error, again.detail), (ErrorCode::None, 0));
    home.bounce().await;
    let again = producer.send(home, 0, 3, &[b"d"]).await;
    assert_eq!(
        (again.error, again.detail),
        (ErrorCode::None, 3),
        "after a restart too"
    );
    assert_eq!(values(home, producer.topic).await, [b"a", b"b", b"c", b"d"]);
}

pub(crate) async fn a_request_sent_twice_at_once_is_written_once(home: &mut Home) {
    let producer = Producer::start(home).await;
    let (id, epoch) = (producer.given.producer, producer.given.epoch);
    let batch = numbered_batch(&[b"once"], id, epoch, 0);
    let mut peers: Vec<Peer> = Vec::new();
    for _ in 0..8 {
        peers.push(home.peer().await);
    }
    for peer in &mut peers {
        let correlation = peer.correlation();
        peer.send(&produce_frame(
            correlation,
            producer.topic,
            Durability::Durable,
            &batch,
        ));
    }
    for peer in &mut peers {
        let ack = peer.receive_ack();
        assert!(ack.error.is_success(), "{ack:?}");
        assert!(ack.error != ErrorCode::None || ack.detail == 0, "{ack:?}");
    }
    assert_eq!(values(home, producer.topic).await, [b"once"]);
}

pub(crate) async fn a_very_old_request_sent_again_is_not_written_again(home: &mut Home) {
    let producer = Producer::start(home).await;
    for sequence in 0..200 {
        let ack = producer.send(home, 0, sequence, &[b"x"]).await;
        assert_eq!((ack.error, ack.detail), (ErrorCode::None, sequence.into()));
    }
    let again = producer.send(home, 0, 0, &[b"x"]).await;
    match again.error {
        ErrorCode::None => assert_eq!(again.detail, 0, "the offset it has"),
        other => assert_eq!(other, ErrorCode::DuplicateOffsetUnknown),
    }
    assert_eq!(values(home, producer.topic).await.len(), 200);
}

pub(crate) async fn a_gap_is_refused_with_the_expected_sequence(home: &mut Home) {
    let producer = Producer::start(home).await;
    assert_eq!(
        producer.send(home, 0, 0, &[b"a", b"b"]).await.error,
        ErrorCode::None
    );
    let gap = producer.send(home, 0, 7, &[b"late"]).await;
    assert_eq!((gap.error, gap.detail), (ErrorCode::OutOfOrderSequence, 2));
    let next = producer.send(home, 0, 2, &[b"c"]).await;
    assert_eq!((next.error, next.detail), (ErrorCode::None, 2));
    assert_eq!(values(home, producer.topic).await, [b"a", b"b", b"c"]);
}

pub(crate) async fn every_batch_of_a_large_request_is_answered_also_if_all_are_refused(
    home: &mut Home,
) {
    const BATCHES: u32 = 2_000;
    let mut peer = home.peer().await;
    let topic = peer.create_topic("wide", BATCHES, TopicConfig::default());
    let given: InitProducerResponse = peer.ask(&InitProducerRequest {}).expect("a producer id");
    // No partition knows the producer, and this is not its first batch there.
    let batch = numbered_batch(&[b"late"], given.producer, given.epoch, 7);
    let items: Vec<ProduceItem> = (0..BATCHES)
        .map(|partition| ProduceItem {
            topic,
            partition: PartitionId(partition),
            batch_bytes: u32::try_from(batch.len()).expect("a small batch"),
            ..ProduceItem::default()
        })
        .collect();
    let mut frame = Vec::new();
    let correlation = peer.correlation();
    encode_produce_header(&mut frame, correlation, Durability::Durable, 0, &items);
    frame.extend(batch.repeat(items.len()));
    peer.send(&frame);
    let mut refused = 0;
    while refused < items.len() {
        let answer = peer.receive();
        for ack in AckView::decode(&answer.header).expect("acks").items() {
            // Partitions of other shards are not even looked at.
            let lawful = [ErrorCode::UnknownProducer, ErrorCode::NotOwner];
            assert!(lawful.contains(&ack.error), "{ack:?}");
            refused += 1;
        }
    }
}

pub(crate) async fn an_older_epoch_is_fenced_also_after_a_restart(home: &mut Home) {
    let producer = Producer::start(home).await;
    assert_eq!(
        producer.send(home, 0, 0, &[b"old"]).await.error,
        ErrorCode::None
    );
    let newer = producer.send(home, 1, 0, &[b"new"]).await;
    assert_eq!((newer.error, newer.detail), (ErrorCode::None, 1));
    let current = u64::from(producer.given.epoch.0) + 1;
    let fenced = producer.send(home, 0, 1, &[b"zombie"]).await;
    assert_eq!(
        (fenced.error, fenced.detail),
        (ErrorCode::FencedProducer, current)
    );
    home.bounce().await;
    let fenced = producer.send(home, 0, 1, &[b"zombie"]).await;
    assert_eq!(
        (fenced.error, fenced.detail),
        (ErrorCode::FencedProducer, current)
    );
    assert_eq!(values(home, producer.topic).await, [&b"old"[..], b"new"]);
}

pub(crate) async fn a_producer_that_is_not_known_has_to_begin_at_0(home: &mut Home) {
    let producer = Producer::start(home).await;
    let unknown = producer.send(home, 0, 5, &[b"x"]).await;
    assert_eq!(unknown.error, ErrorCode::UnknownProducer);
    assert_eq!(
        producer.send(home, 0, 0, &[b"x"]).await.error,
        ErrorCode::None
    );
}

pub(crate) async fn a_producer_id_is_given_once_also_across_restarts(home: &mut Home) {
    let mut given = Vec::new();
    for _ in 0..4 {
        let mut peer = home.peer().await;
        for _ in 0..50 {
            given.push(peer.ask(&InitProducerRequest {}).expect("an id").producer.0);
        }
        home.bounce().await;
    }
    let count = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), count);
    assert!(given[0] > 0, "0 means: not idempotent");
}
