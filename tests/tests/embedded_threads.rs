//! The threads of an embedded broker are its own: not pinned, and gone when it is.
//!
//! The one test of its file: the brokers of another would be counted, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use catena_client::embedded::{EmbeddedBroker, Storage};
use catena_tests::home::directory;
use catena_tests::wait;

/// Counts the threads of this process by name.
fn threads() -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").expect("a Linux host") {
        let comm = entry.expect("an entry").path().join("comm");
        // Gone since the directory was read.
        let Ok(name) = fs::read_to_string(comm) else {
            continue;
        };
        *counts.entry(name.trim().to_owned()).or_default() += 1;
    }
    counts
}

fn of_brokers() -> usize {
    let threads = threads();
    let ours = threads
        .iter()
        .filter(|(name, _)| name.starts_with("catena-"));
    ours.map(|(_, count)| count).sum()
}

#[tokio::test]
async fn no_thread_outlives_its_broker_and_none_is_pinned() {
    let place = directory();
    for storage in [Storage::Memory, Storage::Dir(place.path().to_owned())] {
        let started = EmbeddedBroker::builder().storage(storage).start();
        let broker = started.await.expect("the broker starts");
        assert!(of_brokers() >= 2, "{:?}", threads());
        let allowed = |status: String| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
            line.map(str::to_owned)
        };
        let of = |path: &Path| {
            fs::read_to_string(path.join("status"))
                .ok()
                .and_then(allowed)
        };
        let process = of(Path::new("/proc/self"));
        for entry in fs::read_dir("/proc/self/task").expect("a Linux host") {
            let thread = entry.expect("an entry").path();
            let cpus = of(&thread);
            assert!(cpus.is_none() || cpus == process, "{thread:?}");
        }
        drop(broker);
        // Helper threads end when the executors that they helped have.
        wait::until("the threads end", || of_brokers() == 0);
    }
}
