//! A broker in memory is small when it is new, and takes no more than it was given when it is full.
//!
//! The one test of its file: the memory of another would be counted, too.

use catena_client::TopicConfig;
use catena_client::embedded::EmbeddedBroker;
use catena_tests::peer::Peer;
use catena_tests::{filler, process};

const MIB: u64 = 1 << 20;

fn resident_bytes() -> u64 {
    process::sample(std::process::id()).resident_bytes
}

#[tokio::test]
async fn a_broker_in_memory_takes_its_space_and_little_more() {
    const SPACE_BYTES: u64 = 64 * MIB;
    const CACHE_BYTES: u64 = 8 * MIB;
    /// Free buffers, what the test itself sends, allocators' slack.
    const MORE_BYTES: u64 = 32 * MIB;
    let before = resident_bytes();
    let settings = EmbeddedBroker::builder()
        .space_bytes(SPACE_BYTES)
        .cache_bytes(CACHE_BYTES);
    let broker = settings.start().await.expect("the broker starts");
    let new = resident_bytes().saturating_sub(before);
    assert!(new < 16 * MIB, "{new} bytes for a new broker");

    let stream = broker.raw_connection().await.expect("a connection");
    let stream = stream.into_std().expect("it leaves the runtime");
    let mut peer = Peer::over(stream.into());
    let topic = peer.create_topic("filler", 1, TopicConfig::default());
    let filled = filler::fill(&mut peer, topic);
    assert!(filled > 20, "{filled} batches");
    let full = resident_bytes().saturating_sub(before);
    println!("new {new} bytes, full {full} bytes");
    assert!(
        full < SPACE_BYTES + CACHE_BYTES + MORE_BYTES,
        "{full} bytes for a full broker"
    );
    broker.shutdown().await.expect("a clean stop");
}
