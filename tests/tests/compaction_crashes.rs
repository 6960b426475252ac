//! Compaction under fire: kills at any moment, and a damaged record.

use std::collections::BTreeMap;
use std::fs;

use catena_client::Cleanup;
use catena_protocol::compression::Codec;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, TopicId};
use catena_tests::broker::Broker;
use catena_tests::compacting::{self, batch, cleaned_by, contents, replayed};
use catena_tests::peer::Peer;
use catena_tests::seeded::Seeded;
use catena_tests::wait;

/// Changes that were acknowledged.
#[derive(Default)]
struct State {
    map: BTreeMap<String, String>,
    changes: u64,
}

impl State {
    /// Appends a batch of some changes, a few of them deletes.
    fn change(&mut self, peer: &mut Peer, topic: TopicId, random: &mut Seeded) {
        let changes: Vec<(String, Option<String>)> = (0..=random.below(20))
            .map(|_| {
                let key = format!("key-{}", random.below(50));
                let value = format!("{:0width$}", self.changes, width = 1 + random.below(300));
                self.changes += 1;
                (key, (random.below(10) > 0).then_some(value))
            })
            .collect();
        let as_text: Vec<_> = changes
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_deref()))
            .collect();
        let codec = [Codec::None, Codec::Lz4, Codec::Zstd][random.below(3)];
        let ack = peer.produce(topic, Durability::Durable, &batch(&as_text, codec));
        assert_eq!(ack.error, ErrorCode::None);
        for (key, value) in changes {
            match value {
                Some(value) => drop(self.map.insert(key, value)),
                None => drop(self.map.remove(&key)),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_of_compaction_loses_no_newest_record() {
    let mut settings = compacting::settings();
    settings.more.push("--tombstone-retention=1s".to_owned());
    let mut broker = Broker::start_with(settings);
    let mut random = Seeded::new(0xc0_3fac7);
    let topic = Peer::connect(broker.addr()).create_topic("state", 1, cleaned_by(Cleanup::Compact));
    let mut state = State::default();
    let (mut dropped, mut passes) = (0, 0);
    for _ in 0..10 {
        let mut peer = Peer::connect(broker.addr());
        // The kill comes after so many passes, or right behind the appends.
        let passes_wanted = u64::try_from(random.below(3)).expect("a few");
        for _ in 0..200 {
            state.change(&mut peer, topic, &mut random);
        }
        wait::until("passes", || {
            broker.metric("catena_compaction_passes_total") >= passes_wanted
        });
        dropped += broker.metric("catena_compaction_records_dropped_total");
        passes += broker.metric("catena_compaction_passes_total");
        broker.kill();
        broker.start_again();
        let found = contents(&broker.client().await, "state").await;
        assert_eq!(replayed(&found), state.map);
    }
    assert!(
        dropped > 1000 && passes > 5,
        "{dropped} records in {passes} passes"
    );
    broker.stop();
}

/// Flips a bit in every copy of some bytes in the segments; gives how many there are.
fn damage(broker: &Broker, wanted: &[u8]) -> usize {
    let mut found = 0;
    let entries = fs::read_dir(broker.data_dir().join("journals/000")).expect("a directory");
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let mut bytes = fs::read(&path).expect("a segment");
        let places: Vec<usize> = bytes
            .windows(wanted.len())
            .enumerate()
            .filter_map(|(at, window)| (window == wanted).then_some(at))
            .collect();
        for at in &places {
            bytes[*at] ^= 1;
        }
        found += places.len();
        if !places.is_empty() {
            fs::write(&path, bytes).expect("it can be written");
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_record_is_neither_replaced_nor_hidden() {
    let mut settings = compacting::settings();
    let lag = settings.more.clone();
    settings.more = vec!["--compaction-lag-max=7d".to_owned()];
    let mut broker = Broker::start_with(settings.clone());
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("state", 1, cleaned_by(Cleanup::Compact));
    let mut send = |key: &str, value: &str| {
        let one = batch(&[(key, Some(value))], Codec::None);
        let ack = peer.produce(topic, Durability::Durable, &one);
        assert_eq!(ack.error, ErrorCode::None);
    };
    send("a", "the oldest of a");
    send("b", "the oldest of b");
    send("b", "a value that rots away");
    send("a", "the newest of a");
    drop(peer);
    broker.kill();
    assert_eq!(damage(&broker, b"a value that rots away"), 1);
    settings.more = lag;
    broker.start_again_with(settings);
    wait::until("a pass", || {
        broker.metric("catena_compaction_records_dropped_total") > 0
            && broker.metric("catena_compaction_extents_left_total") > 0
    });
    let client = broker.client().await;
    let consumer = client.consumer().topic("state").build().await;
    let mut consumer = consumer.expect("a consumer");
    let (mut next, mut seen, mut errors) = (0, Vec::new(), 0);
    while next < 4 {
        let one = wait::within_limit("the next batch", consumer.next_batch()).await;
        match one {
            Ok(one) => {
                next = one.next_offset();
                let records = one.records().expect("readable");
                seen.extend(records.iter().map(|record| record.offset));
            }
            Err(error) => {
                errors += 1;
                assert_eq!((next, errors), (2, 1), "only offset 2 is damaged: {error}");
                next = 3;
            }
        }
    }
    assert_eq!(
        (seen, errors),
        (vec![1, 3], 1),
        "b has the value that can be read"
    );
    broker.stop();
}
