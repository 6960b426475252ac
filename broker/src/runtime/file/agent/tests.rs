//! Slow file work: complete files or none, errors that name the path, quick work never behind slow.

use std::future::Future;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use super::*;
use crate::runtime::clock::timeout;
use crate::runtime::executor::{self, ExecutorConfig, Queue};
use crate::runtime::testing::{run, wait_until};

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Runs `main` with an agent and a directory.
fn with_agent<Fut>(main: impl FnOnce(FileAgent, PathBuf) -> Fut + Send + 'static)
where
    Fut: Future<Output = ()> + 'static,
{
    let directory = directory();
    let path = directory.path().to_owned();
    run(move || async move { main(FileAgent::start().expect("threads start"), path).await });
}

fn slow_thread(agent: &FileAgent) -> &Worker {
    match &agent.0 {
        Helper::Threads(threads) => &threads.slow,
        Helper::Memory(_) => unreachable!("the tests run on threads"),
        #[cfg(feature = "simulation")]
        Helper::Simulated(_) => unreachable!("the tests run on threads"),
    }
}

#[test]
fn a_zeroed_file_has_its_size_its_blocks_and_only_zeros() {
    with_agent(|agent, directory| async move {
        let path = directory.join("segment");
        let bytes = (5 << 20) + 4096;
        agent
            .create_zeroed(&path, bytes, Some(Duration::from_micros(1)))
            .await
            .expect("room");
        let contents = agent.read(&path).await.expect("the file exists");
        assert_eq!(contents.len() as u64, bytes);
        assert!(contents.iter().all(|byte| *byte == 0));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).expect("exists"));
        assert!(blocks * 512 >= bytes, "allocated, not sparse");
    });
}

#[test]
fn an_existing_file_is_never_zeroed() {
    with_agent(|agent, directory| async move {
        let path = directory.join("segment");
        fs::write(&path, "records").expect("room");
        let error = agent
            .create_zeroed(&path, 4096, None)
            .await
            .expect_err("it exists");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("exists"), b"records");
    });
}

#[test]
fn a_full_disk_is_reported_as_such_and_nothing_stays() {
    with_agent(|agent, directory| async move {
        let path = directory.join("segment");
        let error = agent
            .create_zeroed(&path, 1 << 50, None)
            .await
            .expect_err("a petabyte");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        let expected = format!(
            "create {}: No space left on device (os error 28)",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
        assert!(!path.exists());
    });
}

#[test]
fn an_atomic_write_replaces_the_whole_file_and_leaves_nothing_else() {
    with_agent(|agent, directory| async move {
        let path = directory.join("checkpoint");
        agent
            .write_atomic(&path, vec![1; 10_000])
            .await
            .expect("written");
        agent
            .write_atomic(&path, b"short".to_vec())
            .await
            .expect("written");
        assert_eq!(agent.read(&path).await.expect("exists"), b"short");
        assert_eq!(names(&agent, &directory).await, ["checkpoint"]);
    });
}

#[test]
fn a_failed_atomic_write_leaves_the_old_contents() {
    with_agent(|agent, directory| async move {
        let path = directory.join("checkpoint");
        agent
            .write_atomic(&path, b"old".to_vec())
            .await
            .expect("written");
        // A directory in the place of the temporary file.
        agent
            .create_dir(directory.join("checkpoint.tmp"))
            .await
            .expect("created");
        let error = agent
            .write_atomic(&path, b"new".to_vec())
            .await
            .expect_err("in the way");
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        assert_eq!(agent.read(&path).await.expect("exists"), b"old");
    });
}

#[test]
fn names_are_listed_renamed_and_removed() {
    with_agent(|agent, directory| async move {
        let journal = directory.join("journals/000");
        agent
            .create_dir(&journal)
            .await
            .expect("created with its parent");
        agent.create_dir(&journal).await.expect("is there already");
        agent
            .write_atomic(journal.join("b"), vec![0; 3])
            .await
            .expect("written");
        agent
            .write_atomic(journal.join("a"), vec![0; 5])
            .await
            .expect("written");
        agent
            .rename(journal.join("b"), journal.join("c"))
            .await
            .expect("renamed");
        let entry = |name: &str, bytes| FileEntry {
            name: name.into(),
            bytes,
            is_directory: false,
        };
        assert_eq!(
            agent.list(&journal).await.expect("listed"),
            [entry("a", 5), entry("c", 3)]
        );
        agent.remove(journal.join("a")).await.expect("removed");
        agent
            .rename(journal.join("c"), directory.join("d"))
            .await
            .expect("moved");
        assert_eq!(names(&agent, &directory).await, ["d", "journals"]);
    });
}

#[test]
fn errors_name_the_operation_and_the_path() {
    with_agent(|agent, _directory| async move {
        let failed = agent
            .read("/nowhere/ledger")
            .await
            .expect_err("no such file");
        assert_eq!(failed.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            failed.to_string(),
            "read /nowhere/ledger: No such file or directory (os error 2)"
        );
        let failed = agent
            .remove("/nowhere/ledger")
            .await
            .expect_err("no such file");
        assert!(
            failed.to_string().starts_with("remove /nowhere/ledger: "),
            "{failed}"
        );
    });
}

#[test]
fn a_job_that_panics_fails_its_caller_only() {
    with_agent(|agent, directory| async move {
        let failed = agent
            .blocking::<()>(|| panic!("a bug"))
            .await
            .expect_err("it panicked");
        assert_eq!(failed.kind(), io::ErrorKind::Other);
        assert!(agent.list(&directory).await.is_ok(), "the thread lives");
    });
}

#[test]
fn slow_work_does_not_hold_up_quick_work() {
    with_agent(|agent, directory| async move {
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let other = agent.clone();
        let slow = executor::spawn(Queue::Background, async move {
            super::run(slow_thread(&other), move || {
                finished.recv().map_err(io::Error::other)
            })
            .await
        });
        executor::yield_now().await;
        agent
            .write_atomic(directory.join("checkpoint"), vec![1])
            .await
            .expect("not held up");
        finish.send(()).expect("the slow job still waits");
        slow.await.expect("told to finish");
    });
}

async fn names(agent: &FileAgent, directory: &Path) -> Vec<String> {
    let entries = agent.list(directory).await.expect("listed");
    entries.into_iter().map(|entry| entry.name).collect()
}

#[test]
fn a_job_keeps_the_lock_of_the_files_until_it_is_done_whoever_waits() {
    let directory = directory();
    let path = directory.path().join("LOCK");
    let take = || {
        let file = File::create(&path).expect("a file");
        let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        taken.map(|()| file)
    };
    let lock = Arc::new(take().expect("nobody has it"));
    let config = ExecutorConfig {
        files_lock: Arc::downgrade(&lock),
        ..ExecutorConfig::system("test")
    };
    let (done, until_done) = std::sync::mpsc::sync_channel::<()>(0);
    let thread = executor::start(config, move || async move {
        let agent = FileAgent::start().expect("threads start");
        let job = agent.blocking(move || {
            // Until the other end is dropped.
            let _ = until_done.recv();
            Ok(())
        });
        assert!(timeout(Duration::from_millis(1), job).await.is_err());
    });
    let ended = thread.expect("an executor starts").join();
    ended.expect("no panic").expect("no error");
    drop(lock);
    assert!(take().is_err(), "the job is not done");
    drop(done);
    wait_until("the lock is free", || take().is_ok());
}
