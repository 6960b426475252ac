//! Brokers in memory and on disk start, report what ends by itself, stop, and leave nothing behind.

use std::fs;
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use catena_core::metadata::{Command, Outcome};

use super::*;
use crate::limits::{SHARD_MESSAGES_MAX, SHARDS_MAX};
use crate::runtime::{channel, testing};

fn in_directory(dir: &tempfile::TempDir) -> NodeOptions {
    NodeOptions::embedded(Storage::Directory(dir.path().to_owned()))
}

/// A directory on the disk that holds the build: unlike a memory file system it takes direct I/O.
fn directory() -> tempfile::TempDir {
    let program = std::env::current_exe().expect("it runs");
    let dir = tempfile::tempdir_in(program.parent().expect("it is in a directory"));
    dir.expect("a directory on a disk")
}

/// In memory, and in a directory.
fn options_of_both(dir: &tempfile::TempDir) -> [NodeOptions; 2] {
    [NodeOptions::embedded(Storage::Memory), in_directory(dir)]
}

#[test]
fn brokers_in_memory_run_side_by_side_and_stop() {
    let options = NodeOptions {
        cores: vec![None; 2],
        ..NodeOptions::embedded(Storage::Memory)
    };
    let one = Broker::start(&options).expect("a broker starts");
    let two = Broker::start(&options).expect("another starts");
    assert_ne!(one.addr(), two.addr());
    assert_eq!(one.shard_count(), 2);
    assert_eq!(one.status().phase(), Phase::Ready);
    let status = Arc::clone(one.status());
    one.stop().expect("a clean stop");
    two.stop().expect("a clean stop");
    assert!(status.problems().is_empty(), "it was stopped");
}

#[test]
fn a_broker_has_one_shard_at_least_and_not_too_many() {
    for (shards, expected) in [(0, "0"), (SHARDS_MAX + 1, "65")] {
        let options = NodeOptions {
            cores: vec![None; shards],
            ..NodeOptions::embedded(Storage::Memory)
        };
        let refused = Broker::start(&options).err().expect("out of range");
        let words = format!("a broker has 1 to 64 shards, and {expected} were asked for");
        assert_eq!(refused.to_string(), words);
    }
}

#[test]
fn a_broker_that_listens_nowhere_has_no_address() {
    let options = NodeOptions {
        listen: None,
        ..NodeOptions::embedded(Storage::Memory)
    };
    let broker = Broker::start(&options).expect("a broker starts");
    assert_eq!(broker.addr(), None);
    broker.stop().expect("a clean stop");
}

#[test]
fn a_connection_that_comes_with_the_stop_is_closed_at_once() {
    let dir = directory();
    for options in options_of_both(&dir) {
        let broker = Broker::start(&options).expect("a broker starts");
        let in_process = broker.in_process();
        let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let patience = Some(Duration::from_secs(30));
        ours.set_read_timeout(patience).expect("a timeout");
        let _ = broker.shards[0].send_blocking(ShardMessage::Stop);
        let socket = OwnedFd::from(theirs).into();
        let _ = broker.shards[0].send_blocking(ShardMessage::Accept { socket });
        assert_eq!(ours.read(&mut [0]).expect("an end, and no data"), 0);
        broker.stop().expect("a clean stop");
        let refused = testing::run(move || async move { in_process.connect().await });
        let refused = refused.expect_err("nobody is there");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_shard_that_ends_by_itself_is_a_failure_that_can_be_asked_for() {
    let options = NodeOptions::embedded(Storage::Memory);
    let mut broker = Broker::start(&options).expect("a broker starts");
    assert!(broker.failure().is_none());
    let told = broker.shards[0].send_blocking(ShardMessage::Stop);
    assert!(told.is_ok(), "the shard runs");
    crate::runtime::testing::wait_until("it has ended", || broker.threads[0].1.is_finished());
    for _ in 0..2 {
        let failure = broker.failure().expect("a shard is missing");
        assert_eq!(failure.to_string(), "catena-0 ended by itself");
    }
    let problem = "shard 0: its thread has ended; it serves nobody until restart";
    testing::wait_until("that is the only problem", || {
        broker.status().problems() == [problem]
    });
    let stopped = broker.stop().expect_err("it was not whole");
    assert_eq!(stopped.to_string(), "catena-0 ended by itself");
}

/// Makes a shard panic and waits for the end of its thread.
fn panic_in(broker: &Broker, shard: usize) {
    let panics = ShardMessage::Test(Box::new(|| panic!("a test wants it")));
    let told = broker.shards[shard].send_blocking(panics);
    assert!(told.is_ok(), "the shard runs");
    let thread = &broker.threads[shard].1;
    testing::wait_until("it has ended", || thread.is_finished());
}

#[test]
fn nobody_waits_for_a_shard_that_panicked_and_its_port_is_free_again() {
    let dir = directory();
    for options in options_of_both(&dir) {
        let mut broker = Broker::start(&options).expect("a broker starts");
        let addr = broker.addr().expect("it listens");
        let mut client = TcpStream::connect(addr).expect("a connection");
        let patience = Some(Duration::from_secs(30));
        client.set_read_timeout(patience).expect("a timeout");
        panic_in(&broker, 0);
        // Reset if it was not accepted yet.
        let read = client.read(&mut [0]);
        let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        let has_ended = read.as_ref().map_or_else(is_reset, |bytes| *bytes == 0);
        assert!(has_ended, "{read:?}");
        let in_process = broker.in_process();
        let refused = testing::run(move || async move { in_process.connect().await });
        let refused = refused.expect_err("nobody is there");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        for _ in 0..=SHARD_MESSAGES_MAX {
            let told = broker.shards[0].send_blocking(ShardMessage::Serve);
            assert!(told.is_err(), "nothing waits for it");
        }
        let words = "catena-0 panicked: a test wants it";
        let failure = broker.failure().expect("a shard is missing");
        assert_eq!(failure.to_string(), words);
        let stopped = broker.stop().expect_err("it was not whole");
        assert_eq!(stopped.to_string(), words);
        let again = NodeOptions {
            listen: Some(addr),
            ..options
        };
        let broker = Broker::start(&again).expect("the port is free");
        assert_eq!(broker.addr(), Some(addr));
        TcpStream::connect(addr).expect("a connection");
        broker.stop().expect("a clean stop");
    }
}

#[test]
fn metadata_changes_although_a_shard_has_panicked() {
    let dir = directory();
    for options in options_of_both(&dir) {
        let options = NodeOptions {
            cores: vec![None; 2],
            ..options
        };
        let broker = Broker::start(&options).expect("a broker starts");
        panic_in(&broker, 1);
        let (reply, answer) = channel::bounded(1);
        let command = Command::AllocateProducers { count: 1 };
        let proposed = ControlRequest::Propose { command, reply };
        let sent = broker.control.send_blocking(proposed);
        assert!(sent.is_ok(), "the control plane runs");
        let answer = answer.recv_timeout(Duration::from_secs(30));
        let answer = answer.expect("an answer").expect("it is carried out");
        assert!(matches!(answer, Outcome::ProducersAllocated { .. }));
        broker.stop().expect_err("it was not whole");
    }
}

#[test]
fn a_shard_that_stands_still_is_a_problem_while_it_does() {
    let broker = Broker::start(&NodeOptions::embedded(Storage::Memory)).expect("a broker starts");
    let progress = broker.status().shards()[0].progress();
    testing::wait_until("it beats", || progress.beats() > 0);
    testing::wait_until("all is well", || broker.status().problems().is_empty());
    let (wedge, wedged) = std::sync::mpsc::sync_channel(0);
    let told = broker.shards[0].send_blocking(ShardMessage::Test(Box::new(move || {
        // Until the other end is dropped.
        let _ = wedged.recv();
    })));
    assert!(told.is_ok(), "the shard runs");
    let problems = || broker.status().problems();
    testing::wait_until("it is seen", || {
        problems()
            .iter()
            .any(|problem| problem.starts_with("shard 0: no progress for "))
    });
    drop::<std::sync::mpsc::SyncSender<()>>(wedge);
    testing::wait_until("it has passed", || problems().is_empty());
    broker.stop().expect("a clean stop");
}

#[test]
fn a_directory_is_free_again_once_its_broker_is_dropped() {
    let dir = directory();
    for _ in 0..2 {
        drop(Broker::start(&in_directory(&dir)).expect("the directory is free"));
    }
}

#[test]
fn a_relative_directory_counts_from_where_the_start_was() {
    let dir = directory();
    let here = std::env::current_dir().expect("it exists");
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let down = dir.path().strip_prefix("/").expect("an absolute path");
    let home = Home::open(&Storage::Directory(up.join(down))).expect("the directory is free");
    assert!(home.journals.is_absolute(), "{:?}", home.journals);
    assert!(dir.path().join("journals").is_dir());
}

#[test]
fn a_directory_is_free_once_it_is_closed_although_a_helper_thread_had_work() {
    let dir = directory();
    let storage = Storage::Directory(dir.path().to_owned());
    // Often: the job is to be done a moment after the directory is given up.
    for _ in 0..50 {
        let home = Home::open(&storage).expect("the directory is free");
        let job = home.lock().upgrade().expect("it is locked");
        let together = Arc::new(Barrier::new(2));
        let begins = Arc::clone(&together);
        let helper = thread::spawn(move || {
            begins.wait();
            drop(job);
        });
        together.wait();
        drop(home);
        drop(Home::open(&storage).expect("the job is done"));
        helper.join().expect("no panic");
    }
}

#[test]
fn a_start_that_failed_leaves_the_directory_to_the_next() {
    let dir = directory();
    drop(Broker::start(&in_directory(&dir)).expect("a new directory"));
    let journal = dir.path().join("journals/000");
    let aside = dir.path().join("aside");
    fs::rename(&journal, &aside).expect("renamed");
    fs::write(&journal, b"not a directory").expect("written");
    assert!(Broker::start(&in_directory(&dir)).is_err());
    fs::remove_file(&journal).expect("removed");
    fs::rename(&aside, &journal).expect("renamed");
    let broker = Broker::start(&in_directory(&dir)).expect("as it was");
    broker.stop().expect("a clean stop");
}
