//! Acknowledged records survive power cuts: unflushed bytes and names are gone or torn, and the
//! history of all clients is as it should be. Without root or FUSE these tests say so and pass.

use catena_tests::cuts::{Point, Session, run};
use catena_tests::machine::{Build, Layout};

async fn survives(session: Session) {
    let layout = session.build.layout;
    if let Err(reason) = layout.check_supported() {
        eprintln!("left out: power cuts on {}: {reason}", layout.name());
        return;
    }
    let report = run(&session).await.expect("the host can do this");
    let found: Vec<_> = report.anomalies.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(report.survived, session.cuts);
    assert!(report.acknowledged > 0 && report.polled > 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_under_load_lose_nothing_acknowledged() {
    survives(Session::new(Build::new(1), 8, Point::Random)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_while_the_broker_starts_lose_nothing_acknowledged() {
    survives(Session::new(Build::new(2), 8, Point::Enumerated(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cuts_below_ext4_lose_nothing_acknowledged() {
    let build = Build {
        layout: Layout::Ext4,
        ..Build::new(3)
    };
    survives(Session::new(build, 2, Point::Random)).await;
}
