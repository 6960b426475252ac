//! What is too much is refused by name, and nothing is lost because of it.

use catena_client::{Codec, ErrorCode, ProduceError, Record, TopicConfig};
use catena_protocol::ids::Durability;
use catena_protocol::limits::BATCH_BYTES_MAX;
use catena_tests::home::Home;
use catena_tests::peer::batch;
use catena_tests::{filler, reading, wait};

pub(crate) async fn a_full_store_refuses_producers_serves_readers_and_survives_a_restart(
    home: &mut Home,
) {
    let mut peer = home.peer().await;
    let topic = peer.create_topic("filler", 1, TopicConfig::default());
    let written = filler::fill(&mut peer, topic);
    assert!(written > 20, "{written} batches fill the store");
    wait::until("full is not unhealthy", || home.problem().is_none());
    let count = usize::try_from(written).expect("some");
    let client = home.client().await;
    let filler = reading::contents(&client, "filler").await;
    assert_eq!(filler[&0].len(), count, "reading goes on");

    home.bounce().await;
    let client = home.client().await;
    let filler = reading::contents(&client, "filler").await;
    assert_eq!(filler[&0].len(), count, "nothing acknowledged is missing");
}

pub(crate) async fn the_largest_batch_is_taken_and_a_larger_one_refused(home: &mut Home) {
    let mut peer = home.peer().await;
    let topic = peer.create_topic("orders", 1, TopicConfig::default());
    let overhead = batch(&[b""]).len() + 16;
    let largest = batch(&[&vec![b'x'; BATCH_BYTES_MAX - overhead]]);
    assert!(BATCH_BYTES_MAX - largest.len() < 64, "{}", largest.len());
    let ack = peer.produce(topic, Durability::Durable, &largest);
    assert_eq!((ack.error, ack.detail), (ErrorCode::None, 0));
    let mut larger = largest.clone();
    larger.resize(BATCH_BYTES_MAX + 8, 0);
    let bytes = u32::try_from(larger.len()).expect("about 1 MiB");
    larger[20..24].copy_from_slice(&bytes.to_le_bytes());
    let ack = peer.produce(topic, Durability::Durable, &larger);
    assert_eq!(ack.error, ErrorCode::BatchTooLarge);
    assert_eq!(peer.values(topic, 1).len(), 1);
}

pub(crate) async fn a_record_above_the_limit_is_refused_by_the_client(home: &mut Home) {
    let client = home.client_with("orders", 1).await;
    let producer = client.producer().compression(Codec::Lz4).build().await;
    let producer = producer.expect("a producer");
    let record = Record::to("orders").value(vec![b'x'; BATCH_BYTES_MAX]);
    let refused = producer.send_and_wait(record).await;
    assert!(
        matches!(refused, Err(ProduceError::RecordTooLarge { .. })),
        "{refused:?}"
    );
    let written = producer.send_and_wait(Record::to("orders").value("small"));
    assert_eq!(written.await.expect("an ack").offset, Some(0));
}
