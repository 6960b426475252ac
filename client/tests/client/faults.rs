//! What a producer promises while connections and brokers fail.

use std::collections::BTreeSet;
use std::time::Duration;

use catena_client::{Client, DeliveryHandle, Durability, ErrorCode, ProduceError};
use catena_protocol::ids::ChainId;

use crate::support::{Broker, ProduceFault, in_time, record};

/// A small generator, so that a seed names a run.
struct Random(u64);

impl Random {
    fn next(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn faults(broker: &Broker, seed: u64, one_in: u64) {
    let mut random = Random(seed);
    broker.on_produce(move |_| {
        if random.next(one_in) != 0 {
            return None;
        }
        Some(match random.next(6) {
            0 => ProduceFault::DropBefore,
            1 => ProduceFault::DropAfter,
            2 => ProduceFault::Refuse(ErrorCode::NotOwner, u64::MAX),
            3 => ProduceFault::Refuse(ErrorCode::ChainStalled, 0),
            4 => ProduceFault::Refuse(ErrorCode::ShuttingDown, 0),
            _ => ProduceFault::Refuse(ErrorCode::Overloaded, 0),
        })
    });
}

async fn send(client: &Client, count: u32, batch_records_max: u16) -> Vec<DeliveryHandle> {
    let producer = client
        .producer()
        .batch_records_max(batch_records_max)
        .build()
        .await;
    let producer = producer.expect("built");
    let mut handles = Vec::new();
    for number in 0..count {
        let record = record(number.to_string()).partition(number % 4);
        handles.push(in_time(producer.send(record)).await.expect("accepted"));
    }
    handles
}

#[tokio::test]
async fn every_record_is_written_once_and_in_order_whatever_fails() {
    for seed in 0..6 {
        let (broker, client) = Broker::with_topic(4).await;
        faults(&broker, seed, 20);
        let handles = send(&client, 4_000, 7).await;
        for handle in handles {
            let metadata = in_time(handle).await.expect("written in the end");
            if let Some(offset) = metadata.offset {
                assert!(offset < 1_000);
            }
        }
        for partition in 0..4 {
            let expected: Vec<_> = (0..1_000)
                .map(|n: u32| (n * 4 + partition).to_string())
                .collect();
            assert!(
                broker.values(partition) == expected,
                "seed {seed} partition {partition}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_holds_on_many_threads() {
    for seed in 100..103 {
        let (broker, client) = Broker::with_topic(4).await;
        faults(&broker, seed, 150);
        for handle in send(&client, 4_000, 1).await {
            in_time(handle).await.expect("written in the end");
        }
        for partition in 0..4 {
            let expected: Vec<_> = (0..1_000)
                .map(|n: u32| (n * 4 + partition).to_string())
                .collect();
            assert!(
                broker.values(partition) == expected,
                "seed {seed} partition {partition}"
            );
        }
    }
}

#[tokio::test]
async fn an_owner_that_moved_is_followed_at_once() {
    let (broker, client) = Broker::with_topic(4).await;
    let producer = client.producer().build().await.expect("built");
    in_time(producer.send_and_wait(record("a").partition(0)))
        .await
        .expect("written");
    broker.lock().moved.push((ChainId(1), 0));
    let before = broker.lock().metadata_requests;
    in_time(producer.send_and_wait(record("b").partition(0)))
        .await
        .expect("written");
    let state = broker.lock();
    assert_eq!(state.metadata_requests, before, "the hint was enough");
    assert_eq!(state.batches, 3, "one refusal");
    assert_eq!(state.log.values("t", 0), ["a", "b"]);
}

#[tokio::test]
async fn a_refusal_until_the_timeout_says_not_written() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    in_time(producer.send_and_wait(record("before")))
        .await
        .expect("written");
    let code = ErrorCode::ChainStalled;
    broker.on_produce(move |_| Some(ProduceFault::Refuse(code, 0)));
    let mut timeout = Duration::from_millis(300);
    let error = loop {
        let producer = client.producer().delivery_timeout(timeout).build().await;
        let producer = producer.expect("built");
        let sent = in_time(producer.send_and_wait(record("x"))).await;
        let error = sent.expect_err("never taken");
        let ProduceError::TimedOut { refusal, .. } = &error else {
            panic!("{error}");
        };
        assert!(refusal.is_none_or(|refusal| refusal == code), "{error}");
        if refusal.is_some() && !error.may_have_been_written() {
            break error;
        }
        // The time was over before the first answer, or while one was under way.
        timeout *= 2;
        assert!(timeout <= Duration::from_secs(60), "{error}");
    };
    assert!(error.to_string().contains(&code.to_string()), "{error}");
    assert_eq!(broker.values(0), ["before"]);
}

#[tokio::test]
async fn silence_until_the_timeout_says_maybe_and_the_rest_goes_on() {
    let (broker, _) = Broker::with_topic(1).await;
    let builder = Broker::builder().request_timeout(Duration::from_secs(1));
    let client = builder
        .connect(&broker.address())
        .await
        .expect("the broker is up");
    broker.on_produce(|_| Some(ProduceFault::Swallow));
    let producer = client.producer().delivery_timeout(Duration::from_secs(3));
    let producer = producer.build().await.expect("built");
    let error = in_time(producer.send_and_wait(record("x")))
        .await
        .expect_err("no answer");
    assert!(matches!(error, ProduceError::TimedOut { .. }), "{error}");
    assert!(error.may_have_been_written());
    // The broker never saw it: what follows finds a gap and has to start a new epoch.
    broker.lock().on_produce = None;
    let metadata = in_time(producer.send_and_wait(record("y")))
        .await
        .expect("written");
    assert!(metadata.offset.is_none_or(|offset| offset == 0));
    assert_eq!(broker.values(0), ["y"]);
}

#[tokio::test]
async fn a_broker_that_forgets_the_producer_does_not_stop_it() {
    let (broker, client) = Broker::with_topic(1).await;
    let producer = client.producer().build().await.expect("built");
    for number in 0..3 {
        let sent = producer.send_and_wait(record(number.to_string()));
        in_time(sent).await.expect("written");
        let mut state = broker.lock();
        let place = state.log.place("t", 0);
        state.log.partition(place).producers.clear();
    }
    assert_eq!(broker.values(0), ["0", "1", "2"]);
}

#[tokio::test]
async fn records_lost_in_a_weak_class_are_counted() {
    let (broker, client) = Broker::with_topic(1).await;
    broker.on_produce(|number| {
        let reset = ProduceFault::Refuse(ErrorCode::SequenceReset, 1);
        (number == 5).then_some(reset)
    });
    let producer = client
        .producer()
        .durability(Durability::Received)
        .build()
        .await;
    let producer = producer.expect("built");
    for number in 0..6 {
        let sent = producer.send_and_wait(record(number.to_string()));
        in_time(sent).await.expect("received");
    }
    // Sequences 0 to 4 were acknowledged, 0 and 1 are left.
    assert_eq!(producer.records_lost(), 3);
}

#[tokio::test]
async fn a_broker_that_is_away_for_a_while_costs_nothing() {
    let (broker, client) = Broker::with_topic(4).await;
    let producer = client.producer().build().await.expect("built");
    let mut handles = Vec::new();
    for number in 0..2_000_u32 {
        if number % 500 == 250 {
            broker.disconnect_all();
        }
        let record = record(number.to_string()).partition(number % 4);
        handles.push(in_time(producer.send(record)).await.expect("accepted"));
        if number % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for handle in handles {
        in_time(handle).await.expect("written");
    }
    let all: Vec<_> = (0..4)
        .flat_map(|partition| broker.values(partition))
        .collect();
    assert_eq!(all.len(), 2_000);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 2_000);
}

#[tokio::test]
async fn a_request_without_answer_gives_the_connection_up() {
    let (broker, _) = Broker::with_topic(1).await;
    let builder = Broker::builder().request_timeout(Duration::from_secs(1));
    let client = builder
        .connect(&broker.address())
        .await
        .expect("the broker is up");
    broker.on_produce(|number| (number == 0).then_some(ProduceFault::Swallow));
    let producer = client.producer().build().await.expect("built");
    let metadata = in_time(producer.send_and_wait(record("x")))
        .await
        .expect("sent again");
    assert!(metadata.offset.is_none_or(|offset| offset == 0));
    assert_eq!(broker.values(0), ["x"]);
}
