//! Fills a store of the smallest size.

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, TopicId};

use crate::peer::{Peer, batch};

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
