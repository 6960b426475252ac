//! Many clients at once: each sees its own records once and in order, and all see the same.

use std::collections::BTreeMap;

use catena_client::{Client, Record, TopicConfig};
use catena_tests::home::Home;
use catena_tests::{reading, wait};
use tokio::task::JoinSet;

const PARTITIONS: u32 = 6;
const PRODUCERS: u32 = 8;
const RECORDS: u32 = 200;

async fn topic(client: &Client) {
    let admin = client.admin();
    let created = admin.create_topic("orders", PARTITIONS, TopicConfig::default());
    created.await.expect("a topic");
}

/// Sends records with the producer's number as their key.
async fn produce(client: Client, number: u32) {
    let producer = client.producer().build().await.expect("a producer");
    let mut handles = Vec::new();
    for sequence in 0..RECORDS {
        let record = Record::to("orders")
            .partition((number + sequence) % PARTITIONS)
            .key(number.to_string())
            .value(sequence.to_string());
        handles.push(producer.send(record).await.expect("the record is accepted"));
    }
    for handle in handles {
        handle.await.expect("an ack");
    }
}

/// Reads until there are as many records as all producers send.
async fn consume(client: Client) -> u32 {
    let consumer = client.consumer().topic("orders").build().await;
    let mut consumer = consumer.expect("a consumer");
    let mut seen = 0;
    while seen < PRODUCERS * RECORDS {
        let batch = consumer.next_batch().await.expect("a batch");
        let records = batch.records().expect("readable records");
        seen += u32::try_from(records.len()).expect("a small batch");
    }
    seen
}

pub(crate) async fn many_producers_keep_their_order_in_every_partition(home: &mut Home) {
    topic(&home.client().await).await;
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        producers.spawn(produce(home.client().await, number));
    }
    while let Some(ended) = producers.join_next().await {
        ended.expect("no producer fails");
    }
    let contents = reading::contents(&home.client().await, "orders").await;
    let mut total = 0;
    for (partition, records) in contents {
        let mut last: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        for record in records {
            total += 1;
            let key = record.key.expect("a key").to_vec();
            let value = record.value.expect("a value");
            let sequence = std::str::from_utf8(&value)
                .ok()
                .and_then(|v| v.parse().ok());
            let sequence: u32 = sequence.expect("a number");
            let before = last.insert(key, sequence);
            assert!(
                before < Some(sequence),
                "{partition}: {before:?}, {sequence}"
            );
        }
    }
    assert_eq!(total, PRODUCERS * RECORDS, "each record once");
}

pub(crate) async fn consumers_that_were_there_first_get_everything_as_it_comes(home: &mut Home) {
    let client = home.client().await;
    topic(&client).await;
    let mut consumers = JoinSet::new();
    for _ in 0..3 {
        consumers.spawn(consume(home.client().await));
    }
    for number in 0..PRODUCERS {
        produce(client.clone(), number).await;
    }
    while let Some(seen) = wait::within_limit("a consumer", consumers.join_next()).await {
        assert_eq!(seen.expect("no consumer fails"), PRODUCERS * RECORDS);
    }
}
