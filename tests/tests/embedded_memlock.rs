//! A broker on disk says when the host lets it lock too little memory; one in memory locks none.
//!
//! The one test of its file: the limit is that of the process.

use catena_client::embedded::{EmbeddedBroker, EmbeddedError, Storage};
use catena_tests::home::directory;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What an executor needs, as `docs/OPERATIONS.md` says.
const LOCKABLE_BYTES_MIN: u64 = 512 << 10;

fn limit(bytes: u64) {
    let limit = Rlimit {
        current: Some(bytes),
        ..getrlimit(Resource::Memlock)
    };
    setrlimit(Resource::Memlock, limit).expect("a limit can be lowered");
}

#[tokio::test]
async fn too_little_lockable_memory_is_the_hosts_refusal_and_names_the_fix() {
    let place = directory();
    let on_disk = || {
        let storage = Storage::Dir(place.path().to_owned());
        EmbeddedBroker::builder().storage(storage).start()
    };
    limit(LOCKABLE_BYTES_MIN - 1);
    let refused = on_disk().await.expect_err("it is a byte short");
    assert!(
        matches!(refused, EmbeddedError::HostRefused { .. }),
        "{refused}"
    );
    let words = refused.to_string();
    assert!(words.contains("fix: ulimit -l unlimited"), "{words}");
    let in_memory = EmbeddedBroker::builder().start().await;
    let in_memory = in_memory.expect("the broker starts");
    in_memory.shutdown().await.expect("a clean stop");
    limit(LOCKABLE_BYTES_MIN);
    let broker = on_disk().await.expect("it is enough");
    broker.shutdown().await.expect("a clean stop");
}
