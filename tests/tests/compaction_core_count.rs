//! What compaction took away stays away, however often the number of shards changes.

use std::collections::{BTreeMap, BTreeSet};

use catena_client::{Cleanup, Client, Record};
use catena_tests::broker::{Broker, Settings};
use catena_tests::compacting::{self, cleaned_by, contents_of, replayed};
use catena_tests::wait;

/// More than shards, so that each shard has some.
const PARTITIONS: u32 = 8;
const KEYS: u32 = 20;

fn shards(shards: usize) -> Settings {
    let mut settings = compacting::settings();
    settings.shards = shards;
    let retention = ["--tombstone-retention", "100ms"];
    settings.more.extend(retention.map(str::to_owned));
    settings
}

/// Appends a change of every key to every partition; no value deletes it.
async fn change(client: &Client, value: Option<&str>) {
    let producer = client.producer().build().await.expect("a producer");
    let mut handles = Vec::new();
    for partition in 0..PARTITIONS {
        for key in 0..KEYS {
            let record = Record::to("state").partition(partition);
            let record = record.key(format!("key-{key}"));
            let record = match value {
                Some(value) => record.value(value.to_owned()),
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
        let found = contents_of(client, "state", partition).await;
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
    let admin = client.admin();
    let made = admin.create_topic("state", PARTITIONS, cleaned_by(Cleanup::Compact));
    made.await.expect("a topic");
    change(&client, Some("first")).await;
    change(&client, Some("second")).await;
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
    change(&client, None).await;
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
            let found = contents_of(&client, "state", partition).await;
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
