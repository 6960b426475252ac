//! Compacted topics: the newest record of every key stays, offsets stay, and readers go on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::Command;

use catena_client::{
    Cleanup, ErrorCode, OffsetSpec, ProduceError, Record, TopicChange, TopicConfig,
};
use catena_protocol::compression::Codec;
use catena_protocol::ids::{Durability, TopicId};
use catena_tests::broker::{Broker, Settings};
use catena_tests::compacting::{self, batch, cleaned_by, contents, replayed, shrunk};
use catena_tests::peer::{self, Peer};
use catena_tests::{command, programs, reading, wait};

const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

/// Appends rounds of changes of `keys` keys, one batch a round; the values name the round.
fn rounds(peer: &mut Peer, topic: TopicId, keys: u32, rounds: std::ops::Range<u32>, codec: Codec) {
    for round in rounds {
        let names: Vec<(String, String)> = (0..keys)
            .map(|key| (format!("key-{key}"), format!("round {round:08}")))
            .collect();
        let changes: Vec<_> = names
            .iter()
            .map(|(key, value)| (key.as_str(), Some(value.as_str())))
            .collect();
        let ack = peer.produce(topic, Durability::Durable, &batch(&changes, codec));
        assert_eq!(ack.error, ErrorCode::None);
    }
}

fn expected(keys: u32, round: u32) -> BTreeMap<String, String> {
    (0..keys)
        .map(|key| (format!("key-{key}"), format!("round {round:08}")))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_each_key_the_newest_record_stays_whatever_the_codec() {
    let mut broker = Broker::start_with(compacting::settings());
    let client = broker.client().await;
    for codec in CODECS {
        let name = format!("state-{codec}");
        let mut peer = Peer::connect(broker.addr());
        let topic = peer.create_topic(&name, 1, cleaned_by(Cleanup::Compact));
        rounds(&mut peer, topic, 20, 0..50, codec);
    }
    for start_again in [false, true] {
        if start_again {
            broker.kill();
            broker.start_again();
        }
        let client = broker.client().await;
        for codec in CODECS {
            let name = format!("state-{codec}");
            let found = shrunk(&client, &name, 20).await;
            assert_eq!(replayed(&found), expected(20, 49), "{codec}");
            let offsets: Vec<u64> = found.iter().map(|record| record.offset).collect();
            assert_eq!(offsets, (980..1000).collect::<Vec<u64>>(), "offsets stay");
            assert_eq!(reading::ends(&client, &name).await[&0], (0, 1000));
        }
    }
    drop(client);
    assert!(broker.metric("catena_compaction_passes_total") > 0);
    broker.stop();
    let verified = Command::new(programs::catena())
        .args(["journal", "verify"])
        .arg(broker.data_dir())
        .output()
        .expect("catena can be run");
    assert!(verified.status.success(), "{verified:?}");
}

#[test]
fn the_command_line_sets_and_shows_how_a_topic_is_cleaned() {
    let mut broker = Broker::start_with(compacting::settings());
    let run = |words: &str| {
        let words: Vec<_> = words.split(' ').map(OsStr::new).collect();
        String::from_utf8(command::run(&broker, &words)).expect("text")
    };
    run("topic create state --cleanup compact,delete --retention-bytes 1GiB");
    let limits = "1.0 GiB per partition, unlimited\n";
    let described = run("topic describe state");
    assert!(described.contains("cleanup compact,delete\n"));
    assert!(described.contains(&format!("retention {limits}")));
    run("topic alter state --cleanup compact");
    let described = run("topic describe state");
    assert!(described.contains("cleanup compact\n"));
    let newest = format!("retention the newest message of each key; limits do not count: {limits}");
    assert!(described.contains(&newest), "{described}");
    assert!(run("topic describe state --json").contains("\"cleanup\":\"compact\""));
    run("topic create plain");
    assert!(run("topic describe plain").contains("cleanup delete\n"));
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_reads_on_while_what_it_reads_is_compacted() {
    let mut broker = Broker::start_with(compacting::settings());
    let client = broker.client().await;
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("state", 1, cleaned_by(Cleanup::Compact));
    rounds(&mut peer, topic, 10, 0..100, Codec::Lz4);
    let consumer = client.consumer().topic("state").build().await;
    let mut consumer = consumer.expect("a consumer");
    let (mut next, mut found) = (0, Vec::new());
    for round in 100..1000 {
        // A batch is read, another is written, and between them compaction goes on.
        let one = wait::within_limit("a batch", consumer.next_batch()).await;
        let one = one.expect("a batch");
        assert_eq!(one.start_offset(), next);
        next = one.next_offset();
        found.extend(one.records().expect("readable"));
        rounds(&mut peer, topic, 10, round..round + 1, Codec::Lz4);
        if round == 500 {
            shrunk(&client, "state", 2000).await;
        }
    }
    while next < 10_000 {
        let one = wait::within_limit("a batch", consumer.next_batch()).await;
        let one = one.expect("a batch");
        assert_eq!(one.start_offset(), next);
        next = one.next_offset();
        found.extend(one.records().expect("readable"));
    }
    assert_eq!(replayed(&found), expected(10, 999));
    let found = shrunk(&client, "state", 10).await;
    assert_eq!(replayed(&found), expected(10, 999));
    assert!(broker.metric("catena_compaction_records_dropped_total") > 0);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tombstone_goes_in_the_end_and_what_is_empty_is_read_over() {
    let mut settings = compacting::settings();
    settings.more.push("--tombstone-retention=1s".to_owned());
    let mut broker = Broker::start_with(settings);
    let client = broker.client().await;
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("state", 1, cleaned_by(Cleanup::Compact));
    rounds(&mut peer, topic, 5, 0..10, Codec::Zstd);
    let deletes: Vec<String> = (0..5).map(|key| format!("key-{key}")).collect();
    let deletes: Vec<_> = deletes.iter().map(|key| (key.as_str(), None)).collect();
    peer.produce(topic, Durability::Durable, &batch(&deletes, Codec::None));
    shrunk(&client, "state", 0).await;
    assert_eq!(reading::ends(&client, "state").await[&0], (0, 55));
    // From the start, from the middle of what is gone, and from the end.
    for from in [0, 13, 54, 55] {
        let consumer = client.consumer().topic("state").build().await;
        let mut consumer = consumer.expect("a consumer");
        consumer.seek("state", 0, from).expect("assigned");
        let number = reading::ends(&client, "state").await[&0].1;
        rounds(&mut peer, topic, 1, 7..8, Codec::None);
        loop {
            let one = wait::within_limit("a batch", consumer.next_batch()).await;
            let records = one.expect("a batch").records().expect("readable");
            if let Some(record) = records.last().filter(|record| record.offset == number) {
                assert_eq!(record.key.as_deref(), Some(&b"key-0"[..]));
                break;
            }
        }
    }
    broker.kill();
    broker.start_again();
    let found = contents(&broker.client().await, "state").await;
    assert_eq!(
        replayed(&found),
        expected(1, 7),
        "nothing that was deleted is back"
    );
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_without_a_key_is_refused_where_keys_count() {
    let mut broker = Broker::start_with(compacting::settings());
    let client = broker.client().await;
    let admin = client.admin();
    let created = admin.create_topic("state", 1, TopicConfig::default()).await;
    let topic = created.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let keyless = || Record::to("state").partition(0).value("no key");
    producer
        .send_and_wait(keyless())
        .await
        .expect("an ordinary topic takes it");
    let change = TopicChange {
        cleanup: Some(Cleanup::CompactDelete),
        ..TopicChange::default()
    };
    admin.alter_topic("state", change).await.expect("a change");
    let described = admin.describe_topic("state").await.expect("a topic");
    assert_eq!(described.topic.config.cleanup, Cleanup::CompactDelete);
    let refused = producer.send_and_wait(keyless()).await.expect_err("no key");
    let is_final = matches!(
        refused,
        ProduceError::Refused {
            code: ErrorCode::KeyRequired,
            ..
        }
    );
    assert!(is_final, "{refused}");
    let keyed = Record::to("state").partition(0).key("k").value("v");
    producer.send_and_wait(keyed).await.expect("with a key");
    let mut peer = Peer::connect(broker.addr());
    for codec in CODECS {
        let good = batch(&[("a", Some("1")), ("b", None)], codec);
        let ack = peer.produce(topic, Durability::Durable, &good);
        assert_eq!(ack.error, ErrorCode::None, "{codec}");
    }
    let ack = peer.produce(topic, Durability::Durable, &peer::batch(&[b"value"]));
    assert_eq!(ack.error, ErrorCode::KeyRequired);
    // What was there before stays: nothing supersedes a record without a key.
    wait::until("a pass", || {
        broker.metric("catena_compaction_records_dropped_total") >= 4
    });
    let found = contents(&client, "state").await;
    let keys: Vec<_> = found.iter().map(|record| record.key.as_deref()).collect();
    assert_eq!(keys, [None, Some(&b"k"[..]), Some(b"a"), Some(b"b")]);
    broker.stop();
}

#[test]
fn a_batch_is_refused_when_its_records_are_more_than_the_broker_looks_at() {
    let mut broker = Broker::start_with(compacting::settings());
    let mut peer = Peer::connect(broker.addr());
    let topic = peer.create_topic("state", 1, cleaned_by(Cleanup::Compact));
    let value = "v".repeat(catena_protocol::limits::BATCH_BYTES_MAX - 200);
    let largest = batch(&[("k", Some(&value))], Codec::Zstd);
    let ack = peer.produce(topic, Durability::Durable, &largest);
    assert_eq!(ack.error, ErrorCode::None);
    // The same, and it says that it unpacks to more.
    let mut announced = largest;
    let more = u32::try_from(catena_protocol::limits::KEYED_RECORDS_BYTES_MAX + 1).expect("small");
    announced[64..68].copy_from_slice(&more.to_le_bytes());
    let crc = crc32fast::hash(&announced[32..]);
    announced[24..28].copy_from_slice(&crc.to_le_bytes());
    let ack = peer.produce(topic, Durability::Durable, &announced);
    assert_eq!(ack.error, ErrorCode::BatchTooLarge);
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_count_for_compact_delete_and_not_for_compact() {
    let mut broker = Broker::start_with(compacting::settings());
    let client = broker.client().await;
    let mut peer = Peer::connect(broker.addr());
    let limited = |cleanup| TopicConfig {
        retention_bytes: Some(100_000),
        ..cleaned_by(cleanup)
    };
    let both = peer.create_topic("both", 1, limited(Cleanup::CompactDelete));
    let compact = peer.create_topic("compact", 1, limited(Cleanup::Compact));
    // Many keys: little can be compacted, and the limit is passed.
    let value = "v".repeat(500);
    for number in 0..600 {
        let key = format!("key-{number}");
        let one = batch(&[(key.as_str(), Some(&value))], Codec::None);
        for topic in [both, compact] {
            let ack = peer.produce(topic, Durability::Durable, &one);
            assert_eq!(ack.error, ErrorCode::None);
        }
    }
    wait::until_async("the limit is kept", async || {
        let (start, end) = reading::ends(&client, "both").await[&0];
        start > 300 && end == 600
    })
    .await;
    let kept = shrunk(&client, "both", 299).await.len();
    assert!(kept >= 170, "{kept} records of 500 bytes are 100 kB");
    assert_eq!(reading::ends(&client, "compact").await[&0], (0, 600));
    assert_eq!(contents(&client, "compact").await.len(), 600);
    // Few keys: what is stored is far below the limit, whatever went through.
    rounds(&mut peer, both, 10, 0..2000, Codec::None);
    let found = shrunk(&client, "both", 400).await;
    let newest: BTreeMap<_, _> = expected(10, 1999);
    let replayed = replayed(&found);
    assert!(
        newest
            .iter()
            .all(|(key, value)| replayed.get(key) == Some(value))
    );
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_by_time_are_those_of_records_that_are_there() {
    let mut broker = Broker::start_with(compacting::settings());
    let client = broker.client().await;
    let admin = client.admin();
    let created = admin
        .create_topic("state", 1, cleaned_by(Cleanup::Compact))
        .await;
    created.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let send = async |key: &str, timestamp_ms: i64| {
        let record = Record::to("state")
            .partition(0)
            .key(key.to_owned())
            .value("v");
        let record = record.timestamp_ms(timestamp_ms);
        producer.send_and_wait(record).await.expect("an ack");
    };
    // Offset 0 stays; 1 to 9 are superseded by 10, which is older than they are.
    send("first", 1000).await;
    for number in 0..9 {
        send("often", 5000 + number).await;
    }
    send("often", 2000).await;
    send("last", 9000).await;
    shrunk(&client, "state", 3).await;
    for (at_ms, offset) in [
        (0, 0),
        (1000, 0),
        (1001, 10),
        (2000, 10),
        (5000, 11),
        (9001, 12),
    ] {
        let found = admin.list_offsets("state", OffsetSpec::Time(at_ms)).await;
        assert_eq!(found.expect("offsets")[0].offset, offset, "at {at_ms}");
    }
    broker.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_no_longer_compacted_keeps_what_comes() {
    let mut broker = Broker::start_with(Settings {
        shards: 2,
        ..compacting::settings()
    });
    let client = broker.client().await;
    let mut peer = Peer::connect(broker.addr());
    let admin = client.admin();
    let created = admin
        .create_topic("state", 1, cleaned_by(Cleanup::Compact))
        .await;
    created.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let send = async |number: u32| {
        let record = Record::to("state")
            .partition(0)
            .key("k")
            .value(format!("{number}"));
        producer.send_and_wait(record).await.expect("an ack");
    };
    for number in 0..100 {
        send(number).await;
    }
    shrunk(&client, "state", 1).await;
    let change = TopicChange {
        cleanup: Some(Cleanup::Delete),
        ..TopicChange::default()
    };
    admin.alter_topic("state", change).await.expect("a change");
    for number in 100..200 {
        send(number).await;
    }
    // Another topic shows that compaction goes on.
    peer.create_topic("other", 1, cleaned_by(Cleanup::Compact));
    let record = |n: u32| {
        Record::to("other")
            .partition(0)
            .key("k")
            .value(format!("{n}"))
    };
    for number in 0..100 {
        producer
            .send_and_wait(record(number))
            .await
            .expect("an ack");
    }
    shrunk(&client, "other", 1).await;
    assert_eq!(contents(&client, "state").await.len(), 101);
    broker.stop();
}
