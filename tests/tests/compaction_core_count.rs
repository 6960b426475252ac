//! What compaction took away stays away and the newest record of each key stays, however often the
//! number of shards changes.

use std::collections::{BTreeMap, BTreeSet};

use catena_client::{Cleanup, Client, Record};
use catena_tests::broker::{Broker, Settings};
use catena_tests::compacting::{self, cleaned_by, contents_of, replayed};
use catena_tests::{reading, wait};

const TOPIC: &str = "state";

/// More than shards, so that each shard has some.
const PARTITIONS: u32 = 8;
const KEYS: u32 = 20;

/// Changes of a key between two changes of the number of shards.
const ROUNDS: u32 = 10;

fn shards(shards: usize) -> Settings {
    let mut settings = compacting::settings();
    settings.shards = shards;
    let retention = ["--tombstone-retention", "100ms"];
    settings.more.extend(retention.map(str::to_owned));
    settings
}

async fn create_topic(client: &Client) {
    let admin = client.admin();
    let made = admin.create_topic(TOPIC, PARTITIONS, cleaned_by(Cleanup::Compact));
    made.await.expect("a topic");
}

fn name(key: u32) -> String {
    format!("key-{key}")
}

/// Appends changes to every partition, of the keys 0, `step`, 2 `step` and so on; `value` is given
/// the partition and the key. No value deletes the key.
async fn change(client: &Client, step: usize, value: impl Fn(u32, u32) -> Option<String>) {
    let producer = client.producer().build().await.expect("a producer");
    let mut handles = Vec::new();
    for partition in 0..PARTITIONS {
        for key in (0..KEYS).step_by(step) {
            let record = Record::to(TOPIC).partition(partition).key(name(key));
            let record = match value(partition, key) {
                Some(value) => record.value(value),
                None => record,
            };
            handles.push(producer.send(record).await.expect("it is accepted"));
        }
    }
    for handle in handles {
        handle.await.expect("an ack");
    }
}

/// The partitions that hold no more than so many records.
async fn with_at_most(client: &Client, records_max: u32) -> BTreeSet<u32> {
    let mut small = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let found = contents_of(client, TOPIC, partition).await;
        if found.len() <= usize::try_from(records_max).expect("few records") {
            small.insert(partition);
        }
    }
    small
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_does_not_come_back_when_shards_come_and_go() {
    let mut broker = Broker::start_with(shards(1));
    let client = broker.client().await;
    create_topic(&client).await;
    change(&client, 1, |_, _| Some("first".to_owned())).await;
    change(&client, 1, |_, _| Some("second".to_owned())).await;
    // Compaction writes what it leaves, and the index of it.
    wait::until_async("the first values go", async || {
        with_at_most(&client, KEYS).await.len() == PARTITIONS as usize
    })
    .await;
    drop(client);

    // Both shards begin with the index of the one before, and one of them wrote what is in it.
    broker.stop();
    broker.start_again_with(shards(2));
    let client = broker.client().await;
    change(&client, 1, |_, _| None).await;
    let before = wait::until_some_async("a shard compacts what it wrote itself", async || {
        let emptied = with_at_most(&client, 0).await;
        (!emptied.is_empty()).then_some(emptied)
    })
    .await;
    drop(client);

    for count in [1, 2, 1, 2] {
        broker.stop();
        broker.start_again_with(shards(count));
        let client = broker.client().await;
        for partition in 0..PARTITIONS {
            let found = contents_of(&client, TOPIC, partition).await;
            assert_eq!(
                replayed(&found),
                BTreeMap::new(),
                "partition {partition} with {count} shards"
            );
            assert!(!before.contains(&partition) || found.is_empty());
        }
        assert!(with_at_most(&client, 0).await.is_superset(&before));
    }
    broker.stop();
}

/// What each partition must come to.
#[derive(Default)]
struct State {
    rounds: u32,
    maps: BTreeMap<u32, BTreeMap<String, String>>,
}

impl State {
    /// Changes every key, later every second one: of the others the newest record gets old.
    async fn change(&mut self, client: &Client) {
        for round in self.rounds..self.rounds + ROUNDS {
            let step = if round < ROUNDS { 1 } else { 2 };
            let value = |partition: u32, key: u32| {
                let deletes = (round + partition + key).is_multiple_of(3);
                (!deletes).then(|| format!("round {round}"))
            };
            change(client, step, value).await;
            for partition in 0..PARTITIONS {
                let map = self.maps.entry(partition).or_default();
                for key in (0..KEYS).step_by(step) {
                    match value(partition, key) {
                        Some(value) => drop(map.insert(name(key), value)),
                        None => drop(map.remove(&name(key))),
                    }
                }
            }
        }
        self.rounds += ROUNDS;
    }

    /// Changes keys, and waits until of what came at most one record of each is left.
    async fn change_and_compact(&mut self, client: &Client) {
        let before = reading::ends(client, TOPIC).await;
        self.change(client).await;
        for (partition, (_, end)) in before {
            wait::until_async("what came is compacted", async || {
                let found = contents_of(client, TOPIC, partition).await;
                let new = found.iter().filter(|record| record.offset >= end);
                new.count() <= KEYS as usize
            })
            .await;
        }
    }

    async fn check(&self, client: &Client) {
        for (partition, map) in &self.maps {
            let found = contents_of(client, TOPIC, *partition).await;
            let after = self.rounds;
            assert_eq!(replayed(&found), *map, "{partition} after {after} rounds");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_of_each_key_stays_when_shards_come_and_go_by_stops_and_kills() {
    let mut broker = Broker::start_with(shards(2));
    create_topic(&broker.client().await).await;
    let mut state = State::default();
    for (count, is_killed) in [(1, true), (2, false), (1, false), (2, true)] {
        let client = broker.client().await;
        state.change_and_compact(&client).await;
        state.check(&client).await;
        let ends = reading::ends(&client, TOPIC).await;
        assert!(ends.values().all(|(start, _)| *start == 0), "{ends:?}");
        drop(client);
        if is_killed {
            broker.kill();
        } else {
            broker.stop();
        }
        broker.start_again_with(shards(count));
        let client = broker.client().await;
        state.check(&client).await;
        assert_eq!(reading::ends(&client, TOPIC).await, ends, "offsets stay");
    }
    let client = broker.client().await;
    state.change_and_compact(&client).await;
    state.check(&client).await;
    broker.stop();
}
