//! The threads and rings of an embedded broker are its own: not pinned, and gone when it is, also
//! when it did not even start.
//!
//! Its tests take turns: the brokers of another would be counted, too.

use std::fs;
use std::path::Path;

use catena_client::embedded::{EmbeddedBroker, EmbeddedBrokerBuilder, Listen, Storage};
use catena_tests::home::directory;
use catena_tests::process::threads_named;
use catena_tests::wait;
use tokio::sync::Mutex;

/// Held by the test that runs.
static TURN: Mutex<()> = Mutex::const_new(());

fn of_brokers() -> Vec<String> {
    threads_named("catena-")
}

#[tokio::test]
async fn no_thread_outlives_its_broker_and_none_is_pinned() {
    let _turn = TURN.lock().await;
    let place = directory();
    for storage in [Storage::Memory, Storage::Dir(place.path().to_owned())] {
        let started = EmbeddedBroker::builder().storage(storage).start();
        let broker = started.await.expect("the broker starts");
        assert!(of_brokers().len() >= 2, "{:?}", of_brokers());
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
        wait::until("the threads end", || of_brokers().is_empty());
    }
}

/// Rings of executors that this process holds.
fn rings() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").expect("a Linux host");
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let rings = targets.filter(|target| target.ends_with("anon_inode:[io_uring]"));
    rings.count()
}

fn on(dir: &Path, shards: usize) -> EmbeddedBrokerBuilder {
    let storage = Storage::Dir(dir.to_owned());
    EmbeddedBroker::builder().storage(storage).shards(shards)
}

/// Starts a broker that cannot start, and tells why.
async fn failed(broker: EmbeddedBrokerBuilder) -> String {
    let started = wait::within_limit("a start", broker.start()).await;
    let words = started.expect_err("something is in its way").to_string();
    wait::until(&format!("the threads end after {words}"), || {
        of_brokers().is_empty()
    });
    assert_eq!(rings(), 0, "after {words}");
    words
}

#[tokio::test]
async fn a_start_that_failed_leaves_no_thread_and_no_ring() {
    let _turn = TURN.lock().await;
    let place = directory();
    let dir = place.path().join("data");
    let started = on(&dir, 1).start().await.expect("the broker starts");
    started.shutdown().await.expect("a clean stop");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("it listens");
    let words = failed(on(&dir, 1).listen(Listen::Tcp(addr))).await;
    assert!(words.contains("cannot listen on"), "{words}");
    let journals = dir.join("journals");
    // Each is in the way of one step of the start: the control plane's, or that of shard 1, which
    // shard 0 then gives up: reading back, opening the journal, the first checkpoint.
    let obstacles = [
        ("999", "reading the metadata journal"),
        ("999/ledger", "opening the metadata journal"),
        ("001", "reading the journal"),
        ("001/ledger", "opening the journal"),
        ("001/checkpoint-0000000001.tmp", "the first checkpoint"),
    ];
    for (path, step) in obstacles {
        let path = journals.join(path);
        let aside = place.path().join("aside");
        let is_moved = fs::rename(&path, &aside).is_ok();
        let parent = path.parent().expect("below the journals");
        fs::create_dir_all(parent).expect("the directory of a journal");
        // Neither can be taken for what the other is.
        if path.extension().is_none() && parent == journals {
            fs::write(&path, b"not a directory").expect("written");
        } else {
            fs::create_dir(&path).expect("made");
        }
        let words = failed(on(&dir, 2)).await;
        println!("{step}: {words}");
        fs::remove_file(&path)
            .or_else(|_| fs::remove_dir(&path))
            .expect("removed");
        if is_moved {
            fs::rename(&aside, &path).expect("as it was");
        }
    }
    let broker = on(&dir, 2).start().await.expect("nothing is in its way");
    broker.shutdown().await.expect("a clean stop");
}
