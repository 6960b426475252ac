//! What a producer promises while nothing fails.

use std::time::Duration;

use catena_client::{
    Cleanup, Codec, Durability, ErrorCode, Partitioner, ProduceError, Record, RecordMetadata,
    RequestError, TopicConfig, partition_of_key,
};

use crate::support::{Broker, CLUSTER, ProduceFault, in_time, record};

#[tokio::test]
async fn a_record_is_written_where_its_metadata_says() {
    let (broker, client) = Broker::with_topic(4).await;
    let producer = client.producer().build().await.expect("built");
    for offset in 0..3 {
        let sent = producer.send_and_wait(record(format!("v{offset}")).partition(2));
        let metadata = in_time(sent).await.expect("written");
        assert_eq!(
            metadata,
            RecordMetadata {
                partition: 2,
                offset: Some(offset)
            }
        );
    }
    assert_eq!(broker.values(2), ["v0", "v1", "v2"]);
}

#[tokio::test]
async fn many_sends_are_batched_and_keep_their_order() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    let mut handles = Vec::new();
    for number in 0..20_000 {
        handles.push(
            producer
                .send(record(number.to_string()))
                .await
                .expect("accepted"),
        );
    }
    for (offset, handle) in (0..).zip(handles) {
        let metadata = in_time(handle).await.expect("written");
        assert_eq!(metadata.offset, Some(offset));
    }
    let expected: Vec<_> = (0..20_000).map(|number| number.to_string()).collect();
    assert_eq!(broker.values(0), expected);
    assert!(
        broker.lock().batches < 2_000,
        "{} batches",
        broker.lock().batches
    );
}

#[tokio::test]
async fn batches_grow_behind_those_in_flight() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    broker.stall(true);
    let mut handles = Vec::new();
    for number in 0..1_000 {
        handles.push(
            producer
                .send(record(number.to_string()))
                .await
                .expect("accepted"),
        );
        // Every record could go alone.
        tokio::task::yield_now().await;
    }
    broker.stall(false);
    for handle in handles {
        in_time(handle).await.expect("written");
    }
    assert!(
        broker.lock().batches <= 20,
        "{} batches",
        broker.lock().batches
    );
}

#[tokio::test]
async fn single_record_batches_are_many_in_flight() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client
        .producer()
        .batch_records_max(1)
        .build()
        .await
        .expect("built");
    broker.stall(true);
    let mut handles = Vec::new();
    for number in 0..500 {
        handles.push(
            producer
                .send(record(number.to_string()))
                .await
                .expect("accepted"),
        );
    }
    // Only the first request is answered late; the rest must be under way all the same.
    broker.stall(false);
    for handle in handles {
        in_time(handle).await.expect("written");
    }
    assert_eq!(broker.lock().batches, 500);
}

#[tokio::test]
async fn one_request_carries_batches_of_many_partitions() {
    let (broker, client) = Broker::with_topic(64).await;
    let producer = client.producer().build().await.expect("built");
    let records = (0..64).map(|partition| record("x").partition(partition));
    let handle = producer
        .send_all(records.collect())
        .await
        .expect("accepted");
    assert_eq!(in_time(handle).await.expect("written").len(), 64);
    let state = broker.lock();
    assert_eq!(state.batches, 64);
    assert!(
        state.produce_requests <= 4,
        "{} requests",
        state.produce_requests
    );
}

#[tokio::test]
async fn one_call_makes_one_batch_per_partition() {
    let (broker, client) = Broker::with_topic(4).await;
    let producer = client.producer().build().await.expect("built");
    let value = vec![b'v'; 1_000];
    let records = (0..1_000).map(|_| Record::to("t").partition(1).value(value.clone()));
    let handle = producer
        .send_all(records.collect())
        .await
        .expect("accepted");
    assert_eq!(handle.batch_count(), 1);
    let batches = in_time(handle).await.expect("written");
    assert_eq!(batches.len(), 1);
    assert_eq!((batches[0].partition, batches[0].base_offset), (1, Some(0)));
    assert_eq!(batches[0].record_count, 1_000);
    // Without keys they stay together, too.
    let records = (0..100).map(|number| record(number.to_string()));
    let handle = producer
        .send_all(records.collect())
        .await
        .expect("accepted");
    assert_eq!(handle.batch_count(), 1);
    in_time(handle).await.expect("written");
    assert_eq!(broker.lock().batches, 2);
}

#[tokio::test]
async fn what_does_not_fit_into_one_batch_goes_into_the_next() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    let value = vec![b'v'; 300_000];
    let records: Vec<_> = (0..7)
        .map(|_| Record::to("t").value(value.clone()))
        .collect();
    let batches = in_time(producer.send_all(records).await.expect("accepted")).await;
    let batches = batches.expect("written");
    let counts: Vec<_> = batches.iter().map(|batch| batch.record_count).collect();
    assert_eq!(counts, [3, 3, 1]);
    assert_eq!(broker.values(0).len(), 7);
}

#[tokio::test]
async fn a_record_too_large_for_any_batch_is_refused_and_frees_its_memory() {
    let (_broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    let free = producer.memory_bytes_free();
    let large = Record::to("t").value(vec![0; 1 << 20]);
    let error = producer.send(large.clone()).await.expect_err("too large");
    assert!(
        matches!(error, ProduceError::RecordTooLarge { .. }),
        "{error}"
    );
    assert!(!error.may_have_been_written());
    let error = producer
        .send_all(vec![record("a"), large])
        .await
        .expect_err("too large");
    assert!(
        matches!(error, ProduceError::RecordTooLarge { .. }),
        "{error}"
    );
    in_time(producer.flush()).await;
    assert_eq!(producer.memory_bytes_free(), free);
    // Larger than the batches that are aimed at, but not too large.
    let record = Record::to("t").value(vec![0; 900_000]);
    in_time(producer.send_and_wait(record))
        .await
        .expect("written");
}

#[tokio::test]
async fn keys_choose_the_partition_and_batches_without_keys_stick() {
    let (broker, client) = Broker::with_topic(8).await;
    let producer = client.producer().build().await.expect("built");
    for key in ["a", "b", "customer-17"] {
        let sent = producer.send_and_wait(record("keyed").key(key));
        let metadata = in_time(sent).await.expect("written");
        assert_eq!(metadata.partition, partition_of_key(key.as_bytes(), 8));
    }
    let sticky = client
        .producer()
        .partitioner(Partitioner::Sticky)
        .batch_records_max(10)
        .linger(Duration::from_secs(5));
    let sticky = sticky.build().await.expect("built");
    let mut handles = Vec::new();
    for number in 0..80 {
        let record = record(number.to_string()).key("same");
        handles.push(sticky.send(record).await.expect("accepted"));
    }
    let mut counts = [0; 8];
    for handle in handles {
        let metadata = in_time(handle).await.expect("written");
        counts[usize::try_from(metadata.partition).expect("small")] += 1;
    }
    assert_eq!(counts, [10; 8]);
    drop(broker);
}

#[tokio::test]
async fn weaker_classes_have_no_offsets_and_a_producer_id_of_their_own() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    let send = |class| producer.send_and_wait(record("x").durability(class));
    assert_eq!(
        in_time(send(Durability::Durable))
            .await
            .expect("written")
            .offset,
        Some(0)
    );
    assert_eq!(
        in_time(send(Durability::Received))
            .await
            .expect("received")
            .offset,
        None
    );
    assert_eq!(
        in_time(send(Durability::None))
            .await
            .expect("handed over")
            .offset,
        None
    );
    broker
        .until(|state| state.log.values("t", 0).len() == 3)
        .await;
    let state = broker.lock();
    let partition = &state.log.partitions[&state.log.place("t", 0)];
    let producers: Vec<_> = partition
        .batches
        .iter()
        .map(|(h, _)| h.producer_id.0)
        .collect();
    assert!(producers[0] != 0 && producers[1] != 0 && producers[0] != producers[1]);
    assert_eq!(producers[2], 0);
}

#[tokio::test]
async fn what_a_topic_refuses_of_the_class_none_is_not_sent() {
    let (broker, client) = Broker::with_topic(1).await;
    let alter = |change: fn(&mut TopicConfig)| {
        let mut state = broker.lock();
        let topic = state.log.topics.get_mut("t").expect("it exists");
        change(&mut topic.config);
    };
    let producer = client.producer().durability(Durability::None);
    let producer = producer.build().await.expect("built");
    let check = |error: ProduceError, expected: ErrorCode| {
        let is_expected = matches!(error, ProduceError::Refused { code, .. } if code == expected);
        assert!(is_expected, "{error}");
        assert!(!error.may_have_been_written());
        assert!(error.to_string().ends_with("; not written"), "{error}");
    };

    alter(|config| config.min_durability = Durability::Received);
    let sent = in_time(producer.send(record("x"))).await;
    check(sent.expect_err("too weak"), ErrorCode::DurabilityTooWeak);
    let sent = in_time(producer.send_all(vec![record("x")])).await;
    check(sent.expect_err("too weak"), ErrorCode::DurabilityTooWeak);
    alter(|config| {
        *config = TopicConfig {
            cleanup: Cleanup::CompactDelete,
            ..TopicConfig::default()
        };
    });
    let records = vec![record("x").key("k"), record("x")];
    let sent = in_time(producer.send_all(records)).await;
    check(sent.expect_err("one has no key"), ErrorCode::KeyRequired);
    let sent = in_time(producer.send(record("x"))).await;
    check(sent.expect_err("no key"), ErrorCode::KeyRequired);
    assert_eq!(broker.lock().batches, 0);

    in_time(producer.send_and_wait(record("a").key("k")))
        .await
        .expect("handed over");
    // Metadata is asked again before a record is refused.
    alter(|config| config.cleanup = Cleanup::Delete);
    in_time(producer.send_and_wait(record("b")))
        .await
        .expect("handed over");
    broker
        .until(|state| state.log.values("t", 0) == ["a", "b"])
        .await;
}

#[tokio::test]
async fn linger_waits_for_more_and_flush_does_not() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client
        .producer()
        .linger(Duration::from_secs(20))
        .build()
        .await
        .expect("built");
    let mut handles = Vec::new();
    for number in 0..100 {
        handles.push(
            producer
                .send(record(number.to_string()))
                .await
                .expect("accepted"),
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(broker.lock().batches, 0);
    in_time(producer.flush()).await;
    for handle in handles {
        in_time(handle).await.expect("written");
    }
    assert_eq!(broker.lock().batches, 1);
    let short = client
        .producer()
        .linger(Duration::from_millis(5))
        .build()
        .await
        .expect("built");
    in_time(short.send_and_wait(record("x")))
        .await
        .expect("written after the linger");
}

#[tokio::test]
async fn close_waits_for_what_was_handed_in_and_takes_no_more() {
    let (broker, client) = Broker::with_topic(2).await;
    let producer = client
        .producer()
        .linger(Duration::from_secs(20))
        .build()
        .await
        .expect("built");
    let first = producer
        .send(record("x").partition(0))
        .await
        .expect("accepted");
    in_time(producer.close()).await.expect("closed");
    assert_eq!(broker.values(0), ["x"]);
    in_time(first).await.expect("written");
    let error = producer.send(record("y")).await.expect_err("closed");
    assert!(matches!(error, ProduceError::Closed));
    assert!(matches!(producer.close().await, Err(ProduceError::Closed)));
}

#[tokio::test]
async fn dropping_the_producer_still_delivers() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client
        .producer()
        .linger(Duration::from_millis(20))
        .build()
        .await;
    let handle = producer
        .expect("built")
        .send(record("x"))
        .await
        .expect("accepted");
    drop(client);
    in_time(handle).await.expect("written");
    assert_eq!(broker.values(0), ["x"]);
}

#[tokio::test]
async fn the_memory_budget_makes_send_wait() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client
        .producer()
        .memory_bytes_max(2 << 20)
        .build()
        .await
        .expect("built");
    // From here on a send waits for nothing but memory.
    in_time(producer.send_and_wait(record("x")))
        .await
        .expect("written");
    broker.stall(true);
    let value = vec![b'v'; 100_000];
    let mut handles = Vec::new();
    let blocked = loop {
        let send = producer.send(Record::to("t").value(value.clone()));
        match tokio::time::timeout(Duration::from_millis(200), send).await {
            Ok(handle) => handles.push(handle.expect("accepted")),
            Err(_) => break handles.len(),
        }
    };
    assert_eq!(blocked, 20);
    broker.stall(false);
    let send = producer.send(Record::to("t").value(value.clone()));
    handles.push(in_time(send).await.expect("accepted"));
    for handle in handles {
        in_time(handle).await.expect("written");
    }
    assert_eq!(producer.memory_bytes_free(), 2 << 20);
}

#[tokio::test]
async fn unknown_topics_and_partitions_are_errors_and_new_partitions_are_found() {
    let (broker, client) = Broker::with_topic(2).await;
    let producer = client.producer().build().await.expect("built");
    let error = producer
        .send(Record::to("nope").value("x"))
        .await
        .expect_err("no such topic");
    assert!(matches!(
        error,
        ProduceError::Lookup(RequestError::TopicNotFound { .. })
    ));
    let error = producer
        .send(record("x").partition(2))
        .await
        .expect_err("no such partition");
    assert!(matches!(
        error,
        ProduceError::Lookup(RequestError::UnknownPartition { .. })
    ));
    broker
        .lock()
        .log
        .topics
        .get_mut("t")
        .expect("it exists")
        .partitions = 3;
    let sent = producer.send_and_wait(record("x").partition(2));
    assert_eq!(in_time(sent).await.expect("written").partition, 2);
}

#[tokio::test]
async fn a_topic_that_is_deleted_fails_its_records() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    in_time(producer.send_and_wait(record("x")))
        .await
        .expect("written");
    broker.lock().log.delete("t").expect("it exists");
    let error = in_time(producer.send_and_wait(record("y")))
        .await
        .expect_err("it is gone");
    let code = ErrorCode::TopicNotFound;
    assert!(
        matches!(error, ProduceError::Refused { code: c, .. } if c == code),
        "{error}"
    );
    assert!(!error.may_have_been_written());
    let error = in_time(producer.send(record("z")))
        .await
        .expect_err("and known to be gone");
    assert!(
        matches!(
            error,
            ProduceError::Lookup(RequestError::TopicNotFound { .. })
        ),
        "{error}"
    );
}

#[tokio::test]
async fn compressed_batches_come_back_whole() {
    let (broker, client) = Broker::with_topic(1).await;
    let text = "compressible ".repeat(50);
    for codec in [Codec::Lz4, Codec::Zstd] {
        let producer = client
            .producer()
            .compression(codec)
            .build()
            .await
            .expect("built");
        let records = (0..100).map(|number| record(format!("{text}{number}")));
        let handle = producer
            .send_all(records.collect())
            .await
            .expect("accepted");
        in_time(handle).await.expect("written");
    }
    let values = broker.values(0);
    assert_eq!(values.len(), 200);
    assert_eq!(values[199], format!("{text}99"));
    let state = broker.lock();
    let partition = &state.log.partitions[&state.log.place("t", 0)];
    assert!(
        partition
            .batches
            .iter()
            .all(|(header, batch)| { header.codec != Codec::None && batch.len() < 10_000 })
    );
}

#[tokio::test]
async fn a_rejected_batch_fails_alone() {
    let (broker, client) = Broker::with_topic(1).await;
    broker.on_produce(|number| {
        let refusal = ProduceFault::Refuse(ErrorCode::DurabilityTooWeak, 0);
        (number == 2).then_some(refusal)
    });
    let producer = client
        .producer()
        .batch_records_max(1)
        .build()
        .await
        .expect("built");
    let mut handles = Vec::new();
    for number in 0..6 {
        handles.push(
            producer
                .send(record(number.to_string()))
                .await
                .expect("accepted"),
        );
    }
    let mut failed = Vec::new();
    for (number, handle) in handles.into_iter().enumerate() {
        if let Err(error) = in_time(handle).await {
            assert!(!error.may_have_been_written());
            failed.push(number);
        }
    }
    assert_eq!(failed, [2]);
    assert_eq!(broker.values(0), ["0", "1", "3", "4", "5"]);
}

#[tokio::test]
async fn another_cluster_is_refused() {
    let broker = Broker::start().await;
    let other = Broker::builder()
        .cluster_id([9; 16])
        .connect(&broker.address())
        .await;
    assert!(other.is_err());
    let same = Broker::builder()
        .cluster_id(CLUSTER)
        .connect(&broker.address())
        .await;
    assert_eq!(same.expect("the right one").cluster_id(), CLUSTER);
}

#[tokio::test]
async fn a_bootstrap_address_that_is_dead_is_passed_over() {
    let broker = Broker::start().await;
    let addresses = format!("127.0.0.1:1,{}", broker.address());
    in_time(Broker::builder().connect(&addresses))
        .await
        .expect("the second one answers");
}

#[tokio::test]
async fn connections_stay_under_the_bound_and_the_broker_is_asked_for_the_rest() {
    let (broker, _) = Broker::with_topic(4).await;
    let client = broker.client().await;
    let producer = client.producer().build().await.expect("built");
    for partition in 0..4 {
        let sent = producer.send_and_wait(record("x").partition(partition));
        in_time(sent).await.expect("written");
    }
    let shards: Vec<_> = broker.lock().hellos.iter().flatten().copied().collect();
    let mut sorted = shards.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1], "one connection per shard: {shards:?}");
}

#[tokio::test]
async fn an_idle_connection_closes_and_a_new_one_is_made() {
    let (broker, _) = Broker::with_topic(1).await;
    let builder = Broker::builder().idle_timeout(Duration::from_millis(40));
    let client = builder
        .connect(&broker.address())
        .await
        .expect("the broker is up");
    let producer = client.producer().build().await.expect("built");
    for round in 1..4 {
        in_time(producer.send_and_wait(record("x")))
            .await
            .expect("written");
        let with_shard = broker.lock().hellos.iter().flatten().count();
        assert_eq!(with_shard, round);
        broker.until(|state| state.open_with_shard == 0).await;
    }
}
