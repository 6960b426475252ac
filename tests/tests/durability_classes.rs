//! What readers saw of the weaker durability classes outlives the broker.

use catena_client::{Durability, Record, TopicConfig};
use catena_tests::broker::Broker;
use catena_tests::{reading, wait};

/// A reader of a record that a crash takes back would have seen what never was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_readers_saw_of_the_class_received_survives_a_kill() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic("orders", 1, TopicConfig::default())
        .await
        .expect("a topic");
    let weak = client.producer().durability(Durability::Received);
    let weak = weak.build().await.expect("a producer");
    let mut consumer = client
        .consumer()
        .topic("orders")
        .build()
        .await
        .expect("a consumer");
    let sending = tokio::spawn(async move {
        for number in 0..u64::MAX {
            let record = Record::to("orders").value(number.to_string());
            // Ends when the test drops it, or the broker is gone for long.
            if weak.send(record).await.is_err() {
                break;
            }
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 20_000 {
        let batch = wait::within_limit("a batch", consumer.next_batch()).await;
        let batch = batch.expect("a batch");
        seen.extend(batch.records().expect("readable records"));
    }
    broker.kill();
    sending.abort();
    drop(consumer);
    drop(client);
    broker.start_again();
    let client = broker.client().await;
    let contents = reading::contents(&client, "orders").await;
    assert!(
        contents[&0].len() >= seen.len(),
        "{} of {}",
        contents[&0].len(),
        seen.len()
    );
    assert!(
        contents[&0][..seen.len()] == seen[..],
        "the same records at the same offsets"
    );
    broker.stop();
}
