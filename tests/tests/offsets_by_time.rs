//! Offsets are found by time on every shard.

use catena_tests::broker::{Broker, Settings};
use catena_tests::hourly;

#[tokio::test]
async fn offsets_are_found_by_time_also_after_a_kill() {
    let mut broker = Broker::start_with(Settings::shards(2));
    let client = broker.client().await;
    hourly::produce(&client, 3).await;
    hourly::check_offsets(&client, 3).await;
    broker.kill();
    broker.start_again();
    hourly::check_offsets(&broker.client().await, 3).await;
    broker.stop();
}
