//! A disk that fails costs nothing acknowledged, and the broker says what is wrong. All ways to
//! fail are tried by `catena-tests evidence`; here are those that matter most. Without root or FUSE
//! these tests say so and pass.

use catena_tests::disk_faults::{Failure, run};
use catena_tests::machine::{Build, Layout};

async fn survives(failure: Failure) {
    if let Err(reason) = Layout::Direct.check_supported() {
        eprintln!("left out: {}: {reason}", failure.name());
        return;
    }
    let report = run(failure, &Build::new(1)).await;
    let report = report.expect("the broker does what it must");
    let found: Vec<_> = report.anomalies.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_write_nothing_is_acknowledged_and_nothing_is_lost() {
    survives(Failure::WriteError).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_that_failed_is_not_tried_again() {
    survives(Failure::FlushErrorWithLoss).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_disk_delays_and_loses_nothing() {
    survives(Failure::Hung).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_on_behind_what_they_are_told_is_damaged() {
    survives(Failure::FlippedBit).await;
}
