//! A broker inside a program, on a disk that fails: producers are told, the program can ask what is
//! wrong and read what was committed, nothing is left of the broker once it has ended, and a new
//! one finds everything acknowledged. Without root or FUSE this test says so and passes.
//!
//! The one test of its file: the threads of other brokers would be counted, too.

use std::ops::Range;
use std::path::Path;

use catena_client::embedded::{EmbeddedBroker, EmbeddedError, Storage};
use catena_client::{Client, Record, TopicConfig, TopicId};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::Durability;
use catena_tests::peer::{Peer, batch};
use catena_tests::powerfs::{Effect, Fault, Operation, PowerFs};
use catena_tests::process::{open_below, threads_named};
use catena_tests::{reading, wait};
use rustix::io::Errno;

const TOPIC: &str = "orders";
const RECORDS: u64 = 50;

/// The journal of the only shard.
const JOURNAL: &str = "journals/000/";

const SMALL_BYTES: usize = 10;

/// Less than a hundred of them are more than there is space for.
const LARGE_BYTES: usize = 900 << 10;

/// A way to fail.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Flush,
    Write,
    ReadOnly,
    NoSpace,
}

impl Trouble {
    const ALL: [Self; 4] = [Self::Flush, Self::Write, Self::ReadOnly, Self::NoSpace];

    fn begin(self, disk: &PowerFs) {
        let always = |on| Fault::always(on, Effect::Fail(Errno::IO)).in_path(JOURNAL);
        match self {
            Self::Flush => disk.inject(always(Operation::Flush)),
            Self::Write => disk.inject(always(Operation::Write)),
            Self::ReadOnly => disk.set_read_only(),
            Self::NoSpace => disk.set_space(disk.used_bytes()),
        }
    }

    /// How large records must be to run into it.
    const fn record_bytes(self) -> usize {
        match self {
            Self::Flush | Self::Write | Self::ReadOnly => SMALL_BYTES,
            Self::NoSpace => LARGE_BYTES,
        }
    }

    /// What producers are told.
    const fn code(self) -> ErrorCode {
        match self {
            Self::Flush | Self::Write | Self::ReadOnly => ErrorCode::StoreFailed,
            Self::NoSpace => ErrorCode::StorageFull,
        }
    }
}

async fn start(dir: &Path) -> Result<EmbeddedBroker, EmbeddedError> {
    let settings = EmbeddedBroker::builder()
        .storage(Storage::Dir(dir.to_owned()))
        .space_bytes(64 << 20);
    wait::within_limit("a start", settings.start()).await
}

/// Appends a record for each of these offsets, where they must come to lie.
async fn append(client: &Client, offsets: Range<u64>) {
    let producer = client.producer().build().await.expect("a producer");
    for offset in offsets {
        let record = Record::to(TOPIC).partition(0).value("value");
        let written = producer.send_and_wait(record).await.expect("an ack");
        assert_eq!(written.offset, Some(offset));
    }
}

async fn count(client: &Client) -> u64 {
    let contents = reading::contents(client, TOPIC).await;
    u64::try_from(contents[&0].len()).expect("a count fits")
}

/// A broker that holds some records.
async fn filled(dir: &Path) -> (EmbeddedBroker, Client, TopicId) {
    let broker = start(dir).await.expect("the broker starts");
    let client = broker.client().await.expect("a client connects");
    let admin = client.admin();
    let made = admin.create_topic(TOPIC, 1, TopicConfig::default());
    let topic = made.await.expect("a topic");
    append(&client, 0..RECORDS).await;
    (broker, client, topic)
}

/// Appends records until one is refused; gives how many were acknowledged, and why that one was
/// not. Without a producer, which would go on trying.
async fn append_until_refused(
    broker: &EmbeddedBroker,
    topic: TopicId,
    bytes: usize,
) -> (u64, ErrorCode) {
    let stream = broker.raw_connection().await.expect("a connection");
    let stream = stream.into_std().expect("it leaves the runtime");
    let mut peer = Peer::over(stream.into());
    let one = batch(&[&vec![b'x'; bytes]]);
    for acknowledged in 0..100 {
        let ack = peer.produce(topic, Durability::Durable, &one);
        if ack.error != ErrorCode::None {
            return (acknowledged, ack.error);
        }
    }
    panic!("nothing is refused");
}

/// Ends a broker one way or the other, in time, and sees that nothing of it is left.
async fn end(broker: EmbeddedBroker, is_dropped: bool, dir: &Path) -> Result<(), EmbeddedError> {
    let ended = if is_dropped {
        let dropped = tokio::task::spawn_blocking(move || drop(broker));
        let dropped = wait::within_limit("the end of a drop", dropped).await;
        dropped.expect("a drop does not panic");
        Ok(())
    } else {
        wait::within_limit("a stop", broker.shutdown()).await
    };
    wait::until("the threads end", || threads_named("catena-").is_empty());
    wait::until("the files are closed", || open_below(dir).is_empty());
    ended
}

async fn check(trouble: Trouble, is_dropped: bool) {
    let disk = PowerFs::mount(1).expect("a file system");
    let dir = disk.path().join("data");
    let (broker, client, topic) = filled(&dir).await;

    trouble.begin(&disk);
    let (more, told) = append_until_refused(&broker, topic, trouble.record_bytes()).await;
    assert_eq!(told, trouble.code(), "{trouble:?}");
    // A store without space goes on by itself, one that has failed does not.
    let failure = broker.failure().map(|error| error.to_string());
    let has_failed = failure.is_some_and(|words| words.contains("a write or flush failed"));
    assert_eq!(has_failed, told == ErrorCode::StoreFailed, "{trouble:?}");
    let acknowledged = RECORDS + more;
    let readable = count(&client).await;
    assert_eq!(readable, acknowledged, "{trouble:?}: all that is committed");
    drop(client);
    // The last checkpoint may fail, and that may be told.
    let _ = end(broker, is_dropped, &dir).await;

    disk.clear_faults();
    let broker = start(&dir).await.expect("it starts on a disk that works");
    let client = broker.client().await.expect("a client connects");
    let found = count(&client).await;
    // The refused record may be there: what failed was telling so.
    assert!(
        (acknowledged..=acknowledged + 1).contains(&found),
        "{trouble:?}: {found} of {acknowledged}"
    );
    append(&client, found..found + 1).await;
    drop(client);
    end(broker, false, &dir).await.expect("a clean stop");
}

/// A start that has to write is refused, with the directory's name and the reason.
async fn check_refused(dir: &Path) {
    let refused = start(dir).await.expect_err("nothing can be written there");
    assert!(
        matches!(refused, EmbeddedError::DirectoryRefused { .. }),
        "{refused:?}"
    );
    let words = refused.to_string();
    let names_it = words.contains(&dir.display().to_string());
    assert!(
        names_it && words.contains("Read-only file system"),
        "{words}"
    );
    wait::until("the files are closed", || open_below(dir).is_empty());
    wait::until("the threads end", || threads_named("catena-").is_empty());
}

/// A disk that takes no changes, without a data directory and with one.
async fn check_read_only() {
    let disk = PowerFs::mount(1).expect("a file system");
    let dir = disk.path().join("data");
    disk.set_read_only();
    check_refused(&dir).await;
    disk.clear_faults();
    let (broker, client, _) = filled(&dir).await;
    drop(client);
    end(broker, false, &dir).await.expect("a clean stop");
    disk.set_read_only();
    check_refused(&dir).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_is_an_error_to_the_program_and_not_its_end() {
    if let Err(reason) = PowerFs::check_supported() {
        eprintln!("left out: {reason}");
        return;
    }
    check_read_only().await;
    for trouble in Trouble::ALL {
        for is_dropped in [false, true] {
            check(trouble, is_dropped).await;
        }
    }
}
