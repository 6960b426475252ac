//! The portable executor keeps the promises of the facade: results, panics, cancellation, time,
//! files and sockets.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;
use crate::runtime::buffer::allocate;
use crate::runtime::channel;
use crate::runtime::clock;
use crate::runtime::executor::{
    Backend, Queue, Task, TaskTracker, spawn, start, yield_if_needed, yield_now,
};
use crate::runtime::file::{FileAgent, LogFile, prepare_device};
use crate::runtime::net::{Conn, Listener, Socket};

fn config() -> ExecutorConfig {
    ExecutorConfig {
        backend: Backend::Portable(Arc::default()),
        ..ExecutorConfig::system("portable")
    }
}

/// Runs `main` on an executor of its own; gives its result, or how it failed.
fn try_run<T, Fut>(main: impl FnOnce() -> Fut + Send + 'static) -> Result<T, RuntimeError>
where
    T: Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    let thread = start(config(), main).expect("an executor starts");
    thread.join().expect("panics are reported as errors")
}

fn run<T, Fut>(main: impl FnOnce() -> Fut + Send + 'static) -> T
where
    T: Send + 'static,
    Fut: Future<Output = T> + 'static,
{
    try_run(main).expect("nothing panics")
}

#[test]
fn a_panic_anywhere_ends_the_executor_and_is_reported() {
    let in_main = try_run(|| async { panic!("the journal latched") });
    let in_main: RuntimeError = in_main.map(|(): ()| ()).expect_err("a panic is an error");
    assert_eq!(
        in_main.to_string(),
        "portable panicked: the journal latched"
    );
    let detached = try_run(|| async {
        spawn(Queue::Background, async {
            panic!("block {} is missing", 3)
        })
        .detach();
        pending::<()>().await;
    });
    let detached = detached.expect_err("a panic is an error");
    assert_eq!(
        detached.to_string(),
        "portable panicked: block 3 is missing"
    );
}

/// Says when it is dropped.
struct Flag(Rc<Cell<bool>>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn flagged() -> (Task<()>, Rc<Cell<bool>>) {
    let dropped = Rc::new(Cell::new(false));
    let flag = Flag(Rc::clone(&dropped));
    let task = spawn(Queue::Control, async move {
        let _flag = flag;
        pending::<()>().await;
    });
    (task, dropped)
}

#[test]
fn tasks_are_cancelled_by_dropping_them_and_waited_for_by_cancelling() {
    run(|| async {
        assert_eq!(spawn(Queue::Cold, async { 7 }).await, 7);
        let (task, dropped) = flagged();
        yield_now().await;
        assert_eq!(task.cancel().await, None);
        assert!(dropped.get(), "its future is gone when the call returns");
        let (task, dropped) = flagged();
        drop(task);
        while !dropped.get() {
            yield_now().await;
        }
        let done = spawn(Queue::Control, async { 3 });
        yield_now().await;
        assert_eq!(done.cancel().await, Some(3));
    });
}

#[test]
fn tasks_that_are_left_are_dropped_with_the_executor() {
    let (told, dropped) = channel::bounded::<()>(1);
    run(|| async move {
        spawn(Queue::Background, async move {
            let _told = told;
            pending::<()>().await;
        })
        .detach();
    });
    assert_eq!(
        dropped.recv_blocking(),
        None,
        "its end of the channel is gone"
    );
}

#[test]
fn a_loop_that_yields_leaves_room_for_others() {
    run(|| async {
        let tracker = TaskTracker::new();
        let seen = Rc::new(Cell::new(false));
        let other = Rc::clone(&seen);
        tracker.spawn(Queue::Network, async move { other.set(true) });
        while !seen.get() {
            yield_if_needed().await;
        }
        tracker.wait().await;
    });
}

#[test]
fn time_passes_and_deadlines_fire() {
    run(|| async {
        let start_us = clock::now_us();
        clock::sleep(Duration::from_millis(20)).await;
        assert!(clock::now_us() - start_us >= 20_000);
        let late = clock::timeout(Duration::from_millis(5), pending::<()>()).await;
        assert!(late.is_err());
        assert_eq!(
            clock::timeout(Duration::from_secs(60), async { 1 }).await,
            Ok(1)
        );
    });
}

#[test]
fn an_idle_executor_beats() {
    let config = config();
    let progress = Arc::clone(&config.progress);
    let (stop, stopped) = channel::bounded::<()>(1);
    let thread = start(config, move || async move { stopped.recv().await });
    let thread = thread.expect("an executor starts");
    crate::runtime::testing::wait_until("it beats", || progress.beats() >= 2);
    drop(stop);
    thread.join().expect("no panic").expect("no error");
}

#[test]
fn executors_with_one_disk_share_its_files() {
    let config = config();
    let other = ExecutorConfig {
        name: "other".to_owned(),
        ..config.clone()
    };
    let write = || async {
        let agent = FileAgent::start()?;
        agent.create_dir("/journals").await?;
        prepare_device("/journals").await?;
        agent.create_zeroed("/journals/a", 1 << 20, None).await?;
        let file = LogFile::open("/journals/a", true).await?;
        let mut page = allocate(4096);
        page.fill(5);
        let page = Rc::new(page);
        file.write(Rc::clone(&page), 4096, 8192).await?;
        file.flush().await?;
        file.write_dsync(page, 4096, 0).await?;
        file.close().await
    };
    let read = || async {
        let agent = FileAgent::start()?;
        agent.rename("/journals/a", "/journals/b").await?;
        let absent = LogFile::open("/journals/a", false).await;
        let absent = absent.expect_err("it has another name").to_string();
        assert!(absent.starts_with("open /journals/a: "), "{absent}");
        let file = LogFile::open("/journals/b", false).await?;
        let pages = file.read(0, 3 * 4096).await?;
        let at_end = file.read((1 << 20) - 4096, 8192).await?;
        Ok::<_, io::Error>((pages[0], pages[4096], pages[8192], at_end.len()))
    };
    let thread = start(config, write).expect("an executor starts");
    let wrote = thread.join().expect("no panic").expect("no error");
    wrote.expect("files in memory can be written");
    let thread = start(other, read).expect("an executor starts");
    let read = thread.join().expect("no panic").expect("no error");
    assert_eq!(read.expect("they can be read"), (5, 0, 5, 4096));
}

#[test]
fn connections_carry_more_than_a_socket_holds_and_end() {
    run(|| async {
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"));
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let sender = spawn(Queue::Network, async move {
            let conn = Conn::connect(address).await?;
            assert_eq!(conn.peer_addr()?, address);
            conn.send_all(&vec![7; 8 << 20]).await?;
            conn.shutdown_send();
            let mut answer = [0; 2];
            conn.recv_exact(&mut answer).await?;
            Ok::<_, io::Error>(answer)
        });
        let conn = listener.accept().await.expect("a connection");
        let mut received = vec![0; 8 << 20];
        assert!(conn.recv_exact(&mut received).await.expect("all of it"));
        assert!(received.iter().all(|byte| *byte == 7));
        assert_eq!(conn.recv(&mut [0]).await.expect("the end"), 0);
        conn.send_all(b"ok")
            .await
            .expect("the other direction is open");
        assert_eq!(sender.await.expect("an answer"), *b"ok");
    });
}

#[test]
fn a_connection_is_adopted_with_the_bytes_that_wait_in_it() {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    io::Write::write_all(&mut &ours, b"early").expect("it takes bytes");
    let moved = run(|| async move {
        let conn = Conn::from_socket(Socket::from(OwnedFd::from(theirs)));
        let conn = conn.expect("a pair can be waited for");
        let mut first = [0; 2];
        assert!(conn.recv_exact(&mut first).await.expect("there"));
        conn.into_socket().expect("a descriptor")
    });
    run(|| async move {
        let conn = Conn::from_socket(moved).expect("it can be waited for");
        let mut rest = [0; 3];
        assert!(conn.recv_exact(&mut rest).await.expect("there"));
        assert_eq!(&rest, b"rly");
        conn.send_all(b"!").await.expect("the other end is open");
    });
    let mut answer = [0];
    io::Read::read_exact(&mut &ours, &mut answer).expect("an answer");
    assert_eq!(&answer, b"!");
}
