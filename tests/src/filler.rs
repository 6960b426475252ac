//! Fills stores and partitions.

use bytes::Bytes;
use catena_client::{Client, Record};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, TopicId};
use catena_protocol::messages::AckItem;

use crate::peer::{Peer, batch};
use crate::wait;

/// A value of which a few hundred fill a segment.
pub const VALUE_BYTES: usize = 64 << 10;

/// Produces so many records of [`VALUE_BYTES`] to a topic's first partition.
///
/// # Panics
/// If any is not acknowledged.
pub async fn produce(client: &Client, topic: &str, records: usize) {
    let producer = client.producer().build().await.expect("a producer");
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let mut handles = Vec::new();
    for _ in 0..records {
        let record = Record::to(topic).partition(0).value(value.clone());
        handles.push(producer.send(record).await.expect("the record is accepted"));
    }
    for handle in handles {
        handle.await.expect("an ack");
    }
}

/// Appends a batch once there is space: producers can be faster than the cleaner.
///
/// # Panics
/// If there is none for long.
pub fn append(peer: &mut Peer, topic: TopicId, batch: &[u8]) -> AckItem {
    wait::until_some("there is space", || {
        let ack = peer.produce(topic, Durability::Durable, batch);
        (ack.error != ErrorCode::StorageFull).then_some(ack)
    })
}

/// Less than a hundred of them fill the smallest store.
pub const FILLER_BYTES: usize = 900 << 10;

/// Produces until the smallest store is full; gives how many batches were acknowledged.
///
/// # Panics
/// If it takes more than it can hold, or refuses with anything but `StorageFull`.
pub fn fill(peer: &mut Peer, topic: TopicId) -> u64 {
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
