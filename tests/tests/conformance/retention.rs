//! Retention: old data goes, and readers learn where to go on.

use std::time::Duration;

use catena_client::{ConsumeError, ResetPolicy, StartOffset, TopicChange, TopicConfig};
use catena_tests::home::Home;
use catena_tests::{filler, reading, wait};

const MIB: u64 = 1 << 20;

pub(crate) async fn retention_by_age_moves_the_log_start(home: &mut Home) {
    let client = home.client().await;
    let config = TopicConfig {
        retention_ms: Some(300),
        ..TopicConfig::default()
    };
    let admin = client.admin();
    admin
        .create_topic("short", 1, config)
        .await
        .expect("a topic");
    admin
        .create_topic("long", 1, TopicConfig::default())
        .await
        .expect("a topic");
    filler::produce(&client, "short", 20).await;
    filler::produce(&client, "long", 20).await;
    wait::until_async("all is too old", async || {
        reading::log_start(&client, "short").await == 20
    })
    .await;
    assert_eq!(
        reading::log_start(&client, "long").await,
        0,
        "another topic keeps its own"
    );
    let lift = TopicChange {
        retention_ms: Some(None),
        ..TopicChange::default()
    };
    admin
        .alter_topic("short", lift)
        .await
        .expect("the limit can be lifted");
    filler::produce(&client, "short", 1).await;
    assert_eq!(
        reading::ends(&client, "short").await[&0],
        (20, 21),
        "offsets go on"
    );
}

pub(crate) async fn readers_below_the_log_start_follow_their_reset_policy(home: &mut Home) {
    let client = home.client_with("kept", 1).await;
    let admin = client.admin();
    filler::produce(&client, "kept", 100).await;
    let change = TopicChange {
        retention_bytes: Some(Some(MIB)),
        ..TopicChange::default()
    };
    admin
        .alter_topic("kept", change)
        .await
        .expect("the topic is changed");
    wait::until_async("the log start moves", async || {
        reading::log_start(&client, "kept").await > 0
    })
    .await;
    let (start, end) = reading::ends(&client, "kept").await[&0];
    assert!(start < end && end == 100);

    let consumer = async |reset: ResetPolicy| {
        let builder = client
            .consumer()
            .topic("kept")
            .start(StartOffset::Offset(0))
            .reset(reset);
        builder.build().await.expect("a consumer")
    };
    let mut reporting = consumer(ResetPolicy::Error).await;
    let told = wait::within_limit("the report", reporting.next_batch()).await;
    match told {
        Err(ConsumeError::OffsetOutOfRange {
            offset: 0,
            log_start,
            high_watermark,
            ..
        }) => {
            assert_eq!((log_start, high_watermark), (start, end));
        }
        other => panic!("{other:?}"),
    }
    reporting.seek("kept", 0, start).expect("it is assigned");
    let batch = wait::within_limit("a batch", reporting.next_batch()).await;
    assert_eq!(batch.expect("a batch").start_offset(), start);

    let mut earliest = consumer(ResetPolicy::Earliest).await;
    let batch = wait::within_limit("a batch", earliest.next_batch()).await;
    assert_eq!(batch.expect("a batch").start_offset(), start);

    let mut latest = consumer(ResetPolicy::Latest).await;
    let pause = Duration::from_millis(300);
    let nothing = tokio::time::timeout(pause, latest.next_batch()).await;
    assert!(nothing.is_err(), "it waits at the end: {nothing:?}");
    // It goes on at what the end is when the broker tells it, and nobody sees when that was.
    let mut written = end;
    let batch = wait::until_some_async("it goes on at an end", async || {
        filler::produce(&client, "kept", 1).await;
        written += 1;
        let next = tokio::time::timeout(pause, latest.next_batch()).await;
        next.ok()
    });
    let start = batch.await.expect("a batch").start_offset();
    assert!(
        (end..written).contains(&start),
        "{start} in {end}..{written}"
    );
}
