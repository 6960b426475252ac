//! Where a reader begins: at the earliest or latest offset, at a number, or at a time.

use catena_client::{OffsetSpec, Record, StartOffset};
use catena_tests::home::Home;
use catena_tests::hourly::{self, FIRST_MS, HOUR_MS};
use catena_tests::{reading, wait};

pub(crate) async fn offsets_are_found_by_time_also_after_a_restart(home: &mut Home) {
    let client = home.client().await;
    hourly::produce(&client, 3).await;
    hourly::check_offsets(&client, 3).await;
    home.bounce().await;
    hourly::check_offsets(&home.client().await, 3).await;
}

pub(crate) async fn an_empty_topic_has_offset_0_for_everything(home: &mut Home) {
    let client = home.client_with("empty", 2).await;
    let admin = client.admin();
    for spec in [
        OffsetSpec::Earliest,
        OffsetSpec::Latest,
        OffsetSpec::Time(FIRST_MS),
    ] {
        let found = admin.list_offsets("empty", spec).await.expect("offsets");
        assert!(
            found.iter().all(|found| found.offset == 0),
            "{spec:?}: {found:?}"
        );
    }
    assert!(
        reading::contents(&client, "empty")
            .await
            .values()
            .all(Vec::is_empty)
    );
}

pub(crate) async fn a_consumer_begins_where_it_was_told_to(home: &mut Home) {
    let client = home.client().await;
    hourly::produce(&client, 1).await;
    for (start, expected) in [
        (StartOffset::Earliest, 0),
        (StartOffset::Offset(7), 7),
        (StartOffset::Timestamp(FIRST_MS + 3 * HOUR_MS), 3),
        (StartOffset::Timestamp(FIRST_MS + 3 * HOUR_MS + 1), 4),
        (StartOffset::Latest, 10),
        (StartOffset::Timestamp(i64::MAX), 11),
    ] {
        let consumer = client.consumer().topic("hourly").start(start).build().await;
        let mut consumer = consumer.expect("a consumer");
        if expected >= 10 {
            let producer = client.producer().build().await.expect("a producer");
            let record = Record::to("hourly").value("new");
            let written = producer.send_and_wait(record).await.expect("an ack");
            assert_eq!(written.offset, Some(expected));
        }
        let batch = wait::within_limit("a batch", consumer.next_batch()).await;
        assert_eq!(
            batch.expect("a batch").start_offset(),
            expected,
            "{start:?}"
        );
    }
}
