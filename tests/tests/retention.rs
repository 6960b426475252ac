//! Retention costs as many groups as it has to, and no more.

use catena_client::{OffsetSpec, Record, TopicChange, TopicConfig};
use catena_tests::broker::Broker;
use catena_tests::wait;

/// Were each log start moved in a group of its own, thousands of partitions would keep index runs
/// and checkpoints waiting, and memory would grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_starts_of_many_partitions_move_together() {
    const PARTITIONS: u32 = 512;
    let mut broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    let created = admin.create_topic("many", PARTITIONS, TopicConfig::default());
    created.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    for _ in 0..2 {
        let mut handles = Vec::new();
        for partition in 0..PARTITIONS {
            let record = Record::to("many")
                .partition(partition)
                .value("x".repeat(500));
            handles.push(producer.send(record).await.expect("the record is accepted"));
        }
        for handle in handles {
            handle.await.expect("an ack");
        }
    }
    let groups_before = broker.metric("catena_journal_groups_total");
    let change = TopicChange {
        retention_bytes: Some(Some(1)),
        ..TopicChange::default()
    };
    let changed = admin.alter_topic("many", change);
    changed.await.expect("the topic is changed");
    wait::until_async("all log starts move", async || {
        let found = admin.list_offsets("many", OffsetSpec::Earliest).await;
        let starts = found.expect("the log starts are known");
        starts.iter().all(|partition| partition.offset > 0)
    })
    .await;
    let groups = broker.metric("catena_journal_groups_total") - groups_before;
    assert!(
        groups < u64::from(PARTITIONS) / 8,
        "{groups} groups for {PARTITIONS} trims"
    );
    broker.stop();
}
