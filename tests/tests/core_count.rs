//! A node that gets more or fewer cores keeps all data and goes on where it was.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use catena_client::TopicConfig;
use catena_core::checkpoint::ShardCheckpoint;
use catena_core::ids::JournalId;
use catena_tests::broker::{Broker, Settings};
use catena_tests::flips::places::JournalBytes;
use catena_tests::load::Load;
use catena_tests::{reading, wait};

const PARTITIONS: u32 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_core_count_loses_nothing_after_a_clean_stop() {
    change_core_count(Broker::stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_core_count_loses_nothing_after_a_kill() {
    change_core_count(Broker::kill).await;
}

async fn change_core_count(mut end: impl FnMut(&mut Broker)) {
    let mut broker = Broker::start_with(Settings::shards(2));
    let client = broker.client().await;
    let admin = client.admin();
    let made = admin.create_topic("orders", PARTITIONS, TopicConfig::default());
    made.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let load = Load::start(producer, "orders", PARTITIONS);
    for shards in [1, 2, 1] {
        load.until_acknowledged(3_000).await;
        end(&mut broker);
        broker.start_again_with(Settings::shards(shards));
    }
    load.until_acknowledged(3_000).await;
    let account = load.finish().await;
    assert!(
        account.failed.is_empty(),
        "{:?}",
        account.failed.iter().next()
    );

    let before = reading::ends(&client, "orders").await;
    end(&mut broker);
    broker.start_again_with(Settings::shards(2));
    let client = broker.client().await;
    assert_eq!(
        reading::ends(&client, "orders").await,
        before,
        "offsets stay"
    );
    account.check(&reading::contents(&client, "orders").await);

    let producer = client.producer().build().await.expect("a producer");
    for (partition, (_, end)) in before {
        let record = catena_client::Record::to("orders")
            .partition(partition)
            .value("next");
        let written = producer.send_and_wait(record).await.expect("an ack");
        assert_eq!(written.offset, Some(end), "partition {partition} goes on");
    }
    broker.stop();
}

fn small(shards: usize) -> Settings {
    Settings {
        shards,
        space: "128MiB".to_owned(),
        cache: "16MiB".to_owned(),
        ..Settings::default()
    }
}

/// The numbers of the segments in the directory of the second shard's journal.
fn segments(broker: &Broker) -> Vec<u32> {
    let dir = broker.data_dir().join("journals/001");
    let entries = fs::read_dir(dir).expect("the journal's directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let number =
        |name: OsString| -> Option<u32> { name.to_str()?.strip_suffix(".seg")?.parse().ok() };
    names.filter_map(number).collect()
}

/// The checkpoints of that journal, the newest last, each with the segment that it is read from.
fn checkpoints(broker: &Broker) -> Vec<(PathBuf, u32)> {
    let store = broker.data_dir();
    let journal = JournalBytes::read(&store, JournalId(1));
    let found = journal.numbered("checkpoint-", "").into_iter();
    let read_from = found.map(|(_, path, bytes)| {
        let checkpoint = ShardCheckpoint::decode(bytes).expect("an intact checkpoint");
        (store.join(path), checkpoint.scan_from.segment.0)
    });
    read_from.collect()
}

/// Writes so many MiB to each partition.
async fn write(broker: &Broker, mib: usize) {
    let client = broker.client().await;
    let producer = client.producer().build().await.expect("a producer");
    for number in 0..mib * 4 * PARTITIONS as usize {
        let record = catena_client::Record::to("orders")
            .partition(u32::try_from(number).expect("a few") % PARTITIONS)
            .value(vec![b'x'; 256 << 10]);
        producer.send_and_wait(record).await.expect("an ack");
    }
}

/// A stopped broker of two shards with a topic that keeps 1 MiB per partition. The two checkpoints
/// of the second shard's journal have it read from different segments.
async fn about_to_give_up_a_journal() -> Broker {
    let mut broker = Broker::start_with(small(2));
    let limited = TopicConfig {
        retention_bytes: Some(1 << 20),
        ..TopicConfig::default()
    };
    let client = broker.client().await;
    let admin = client.admin();
    let made = admin.create_topic("orders", PARTITIONS, limited);
    made.await.expect("a topic");
    write(&broker, 4).await;
    broker.stop();
    // A start begins a segment, and writes an index run of what came before.
    wait::until("the checkpoints name different segments", || {
        broker.start_again();
        broker.stop();
        let checkpoints = checkpoints(&broker);
        matches!(&checkpoints[..], [(_, older), (_, newer)] if older < newer)
    });
    broker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_was_given_up_and_emptied_is_taken_up_again() {
    let mut broker = about_to_give_up_a_journal().await;
    broker.start_again_with(small(1));
    let before = segments(&broker).len();
    wait::until_async(
        "segments of the journal that was given up are removed",
        async || {
            write(&broker, 1).await;
            segments(&broker).len() < before
        },
    )
    .await;
    broker.stop();

    broker.start_again_with(small(2));
    write(&broker, 1).await;
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_was_given_up_misses_nothing_if_its_newest_checkpoint_is_damaged() {
    let mut broker = about_to_give_up_a_journal().await;
    let checkpoints = checkpoints(&broker);
    let [(_, older_from), (newest, _)] = &checkpoints[..] else {
        panic!("two are kept: {checkpoints:?}");
    };
    broker.start_again_with(small(1));
    let client = broker.client().await;
    let before = reading::ends(&client, "orders").await;
    wait::until_async("what the journal held is trimmed", async || {
        write(&broker, 1).await;
        let now = reading::ends(&client, "orders").await;
        let mut starts = now.iter().map(|(partition, (start, _))| (partition, start));
        starts.all(|(partition, start)| *start >= before[partition].1)
    })
    .await;
    wait::until_async("its segments are removed", async || {
        write(&broker, 1).await;
        segments(&broker).iter().all(|number| number >= older_from)
    })
    .await;
    assert!(segments(&broker).contains(older_from), "what it would read");
    let before = reading::ends(&client, "orders").await;
    drop(client);
    broker.stop();

    fs::write(newest, "damaged").expect("the checkpoint can be written");
    let report = catena_tools::journal::verify_store(&broker.data_dir()).expect("a store");
    assert_eq!(report.problems, 1, "only the checkpoint: {report}");
    broker.start_again_with(small(2));
    let client = broker.client().await;
    for (partition, (_, end)) in reading::ends(&client, "orders").await {
        assert_eq!(end, before[&partition].1, "partition {partition} goes on");
    }
    broker.stop();
}
