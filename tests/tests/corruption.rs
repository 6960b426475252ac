//! A flipped bit anywhere in a store is noticed or harmless; nothing wrong is served, and nothing
//! intact is lost because of it. A share of what `catena_tests::flips::run` tries in full.

use catena_tests::flips::offline::Offline;
use catena_tests::flips::online::Online;
use catena_tests::flips::{FlipReport, places, store};

/// Places tried offline on each of the two stores.
const OFFLINE: usize = 400;

/// Places tried with a broker; at least one of each kind.
const ONLINE: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_are_noticed_and_intact_batches_are_read() {
    let built = store::build().await;
    let mut report = FlipReport::default();
    for dir in [&built.killed, &built.stopped] {
        let places = places::of_store(dir);
        let mut offline = Offline::new(dir);
        for place in places.choose(1, OFFLINE) {
            report.note(&place, offline.try_place(&place));
        }
    }
    println!("{report}");
    assert!(report.wrong.is_empty(), "{report}");
    assert!(report.detected > report.tried / 2, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_serves_what_a_flipped_bit_left_and_a_repair_brings_back_the_rest() {
    let built = store::build().await;
    let mut report = FlipReport::default();
    let mut online = Online::new(&built.killed, &built).await;
    for place in places::of_store(&built.killed).choose(2, ONLINE) {
        report.note_online(&place, online.try_place(&place).await);
    }
    println!("{report}");
    assert!(report.wrong.is_empty(), "{report}");
}
