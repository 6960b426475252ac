//! Connections lose no byte: under back pressure, at hand-over, in abandoned waits, at the end.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::runtime::channel;
use crate::runtime::clock::timeout;
use crate::runtime::executor::{ExecutorConfig, Queue, spawn, start, yield_now};
use crate::runtime::testing::run;

fn listen() -> (Listener, SocketAddr) {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Two ends of one connection.
async fn pair() -> (Conn, Conn) {
    let (listener, address) = listen();
    let connecting = spawn(Queue::Network, Conn::connect(address));
    let accepted = listener.accept().await.expect("the other end connects");
    (connecting.await.expect("the listener accepts"), accepted)
}

/// The byte at a position of the test stream: a wrong, lost or doubled byte shows.
fn byte_at(position: usize) -> u8 {
    u8::try_from((position ^ (position >> 8) ^ (position >> 16)) & 0xFF).expect("masked")
}

fn stream_bytes(start: usize, bytes: usize) -> Vec<u8> {
    (start..start + bytes).map(byte_at).collect()
}

fn check(received: &[u8], position: usize) {
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(index, byte)| *byte == byte_at(position + index)),
        "wrong bytes at {position}"
    );
}

/// Sends `total` bytes in frames of a small header and a large body, as a fetch response would.
async fn send_stream(conn: &Conn, total: usize) -> usize {
    let mut position = 0;
    let mut waits = 0;
    while position < total {
        let body = (1 << 20).min(total - position);
        let frame = stream_bytes(position, body);
        let (header, body) = frame.split_at(frame.len().min(24));
        let mut rest = [header, body];
        while !rest.concat().is_empty() {
            let first = if rest[0].is_empty() { rest[1] } else { rest[0] };
            let sent = match conn.try_send(&[IoSlice::new(rest[0]), IoSlice::new(rest[1])]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    waits += 1;
                    conn.writable(first).await.expect("the peer reads")
                }
                sent => sent.expect("the peer reads"),
            };
            let of_header = sent.min(rest[0].len());
            rest = [&rest[0][of_header..], &rest[1][sent - of_header..]];
        }
        position += frame.len();
    }
    waits
}

#[test]
fn a_slow_reader_gets_every_byte_and_the_sender_waits_for_it() {
    const TOTAL: usize = 100_000_000;
    run(|| async {
        let (left, right) = pair().await;
        let sending = spawn(Queue::Network, async move {
            let waits = send_stream(&left, TOTAL).await;
            left.shutdown_send();
            waits
        });
        let mut buffer = vec![0; 300_000];
        let mut position = 0;
        loop {
            // Slow: lets the sender fill the socket between receives.
            for _ in 0..3 {
                yield_now().await;
            }
            match right.recv(&mut buffer).await.expect("the peer sends") {
                0 => break,
                received => {
                    check(&buffer[..received], position);
                    position += received;
                }
            }
        }
        assert_eq!(position, TOTAL);
        assert!(
            sending.await > 0,
            "the socket was never full: the test tests nothing"
        );
    });
}

#[test]
fn one_task_receives_while_another_sends_on_the_same_connection() {
    const TOTAL: usize = 20_000_000;
    run(|| async {
        let (left, right) = pair().await;
        let mut tasks = Vec::new();
        for conn in [Rc::new(left), Rc::new(right)] {
            let sender = Rc::clone(&conn);
            tasks.push(spawn(Queue::Network, async move {
                send_stream(&sender, TOTAL).await;
            }));
            tasks.push(spawn(Queue::Network, async move {
                let mut buffer = vec![0; 1 << 16];
                let mut position = 0;
                while position < TOTAL {
                    let received = conn.recv(&mut buffer).await.expect("the peer sends");
                    check(&buffer[..received], position);
                    position += received;
                }
            }));
        }
        for task in tasks {
            task.await;
        }
    });
}

#[test]
fn a_handed_over_connection_loses_no_byte() {
    const HELLO: usize = 24;
    const TOTAL: usize = 8_000_000;
    let (hand_over, adopted) = channel::bounded::<Socket>(1);
    let (ready, address) = channel::bounded(1);
    let acceptor = start(ExecutorConfig::system("acceptor"), move || async move {
        let (listener, address) = listen();
        ready.send(address).await.expect("the test waits");
        for _ in 0..20 {
            let conn = listener.accept().await.expect("the client connects");
            let mut hello = [0; HELLO];
            assert!(conn.recv_exact(&mut hello).await.expect("the client sends"));
            check(&hello, 0);
            hand_over
                .send(conn.into_socket())
                .await
                .expect("the owner runs");
        }
    });
    let owner = start(ExecutorConfig::system("owner"), move || async move {
        while let Some(fd) = adopted.recv().await {
            let conn = Conn::from_socket(fd).expect("it can be waited for");
            let mut rest = vec![0; TOTAL - HELLO];
            assert!(conn.recv_exact(&mut rest).await.expect("the client sends"));
            check(&rest, HELLO);
            conn.send_all(b"done").await.expect("the client reads");
        }
    });
    run(move || async move {
        let address = address.recv().await.expect("the acceptor listens");
        for _ in 0..20 {
            let conn = Conn::connect(address).await.expect("the acceptor listens");
            // Everything at once: most of it is in the socket when the hand-over happens.
            send_stream(&conn, TOTAL).await;
            let mut reply = [0; 4];
            assert!(
                conn.recv_exact(&mut reply)
                    .await
                    .expect("the owner replies")
            );
            assert_eq!(&reply, b"done");
        }
    });
    for thread in [acceptor, owner] {
        thread
            .expect("an executor starts")
            .join()
            .expect("no panic")
            .expect("no error");
    }
}

#[test]
fn an_idle_wait_ends_with_the_first_byte_and_an_abandoned_one_loses_none() {
    run(|| async {
        let (left, right) = pair().await;
        let mut prefix = [0; 24];
        let idle = timeout(Duration::from_millis(1), right.recv(&mut prefix)).await;
        assert!(idle.is_err());
        assert_eq!(
            right
                .try_recv(&mut prefix)
                .expect_err("nothing was sent")
                .kind(),
            io::ErrorKind::WouldBlock
        );
        let waiting = spawn(Queue::Network, async move {
            let received = right.recv(&mut prefix).await.expect("the peer sends");
            prefix[..received].to_vec()
        });
        yield_now().await;
        left.send_all(b"frame").await.expect("the peer reads");
        assert_eq!(waiting.await, b"frame");
    });
}

#[test]
fn dropping_a_connection_ends_it_for_the_peer() {
    run(|| async {
        let (left, right) = pair().await;
        left.send_all(b"last words").await.expect("the peer reads");
        drop(left);
        let mut words = [0; 10];
        assert!(
            right
                .recv_exact(&mut words)
                .await
                .expect("sent before the end")
        );
        assert!(!right.recv_exact(&mut words).await.expect("a clean end"));
    });
}

#[test]
fn shutdown_wakes_a_waiting_receiver() {
    run(|| async {
        let (left, _right) = pair().await;
        let left = Rc::new(left);
        let other = Rc::clone(&left);
        let waiting = spawn(
            Queue::Network,
            async move { other.recv(&mut [0; 24]).await },
        );
        yield_now().await;
        left.shutdown();
        assert_eq!(waiting.await.expect("a clean end"), 0);
        left.shutdown();
        assert!(left.send_all(b"x").await.is_err());
    });
}

#[test]
fn an_end_in_the_middle_is_told_from_a_clean_one() {
    run(|| async {
        let (left, right) = pair().await;
        left.send_all(b"half").await.expect("the peer reads");
        left.shutdown_send();
        let error = right
            .recv_exact(&mut [0; 8])
            .await
            .expect_err("four bytes are missing");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn addresses_are_those_of_the_two_ends() {
    run(|| async {
        let (left, right) = pair().await;
        let seen = (right.peer_addr(), right.local_addr());
        assert_eq!(
            seen.0.expect("connected"),
            left.local_addr().expect("connected")
        );
        assert_eq!(
            seen.1.expect("connected"),
            left.peer_addr().expect("connected")
        );
    });
}

#[test]
fn nobody_listening_is_an_error() {
    run(|| async {
        let (listener, address) = listen();
        drop(listener);
        let error = Conn::connect(address).await.expect_err("nobody listens");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn more_slices_than_the_kernel_takes_are_sent_in_turns() {
    run(|| async {
        let (left, right) = pair().await;
        let slices = vec![IoSlice::new(b"a"); SEND_SLICES_MAX + 10];
        assert_eq!(
            left.try_send(&slices).expect("the socket is empty"),
            SEND_SLICES_MAX
        );
        let mut received = vec![0; SEND_SLICES_MAX];
        assert!(right.recv_exact(&mut received).await.expect("sent"));
    });
}

#[test]
#[should_panic(expected = "one task receives at a time")]
fn two_receivers_are_a_bug() {
    run(|| async {
        let (left, _right) = pair().await;
        let left = Rc::new(left);
        let other = Rc::clone(&left);
        let _first = spawn(
            Queue::Network,
            async move { other.recv(&mut [0; 24]).await },
        );
        yield_now().await;
        yield_now().await;
        let _ = left.recv(&mut [0; 24]).await;
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
        conn.into_socket()
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
