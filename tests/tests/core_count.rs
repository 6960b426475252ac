//! A node that gets more or fewer cores keeps all data and goes on where it was.

use catena_client::TopicConfig;
use catena_tests::broker::{Broker, Settings};
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

/// The segments in a journal's directory.
fn segments(broker: &Broker, journal: &str) -> usize {
    let dir = broker.data_dir().join("journals").join(journal);
    let entries = std::fs::read_dir(dir).expect("the journal's directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let is_segment = |name: std::ffi::OsString| {
        let name = name.into_string().unwrap_or_default();
        let number = name.strip_suffix(".seg");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    names.filter(|name| is_segment(name.clone())).count()
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_was_given_up_and_emptied_is_taken_up_again() {
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

    broker.start_again_with(small(1));
    let before = segments(&broker, "001");
    wait::until_async(
        "segments of the journal that was given up are removed",
        async || {
            write(&broker, 1).await;
            segments(&broker, "001") < before
        },
    )
    .await;
    broker.stop();

    broker.start_again_with(small(2));
    write(&broker, 1).await;
    broker.stop();
}
