//! Closing a connection lets go of everyone who waits for it.

use std::net::TcpListener;

use super::*;
use crate::runtime::executor::spawn;
use crate::runtime::testing::run;

async fn connection(listener: &TcpListener) -> Rc<Connection> {
    let address = listener.local_addr().expect("it listens");
    let socket = Conn::connect(address).await.expect("it accepts");
    Rc::new(Connection::new(
        1,
        Rc::new(socket),
        Principal::Anonymous,
        Budget::new(1 << 20),
    ))
}

#[test]
fn everyone_who_waits_for_room_leaves_when_the_connection_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    run(move || async move {
        let connection = connection(&listener).await;
        connection.send(vec![0; 1 << 20]);
        let waiting: Vec<_> = (0..8)
            .map(|bytes| {
                let connection = Rc::clone(&connection);
                spawn(Queue::Control, async move {
                    connection.drained_to(bytes).await;
                })
            })
            .collect();
        executor::yield_now().await;
        connection.close();
        for task in waiting {
            clock::timeout(Duration::from_secs(10), task)
                .await
                .expect("no one waits for a closed connection");
        }
    });
}

#[test]
fn responses_that_are_put_together_leave_no_room_for_others_until_they_are_done() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    run(move || async move {
        let connection = connection(&listener).await;
        let mut first = connection.gathering();
        let mut second = connection.gathering();
        first.set(FETCH_QUEUED_BYTES_MAX / 2);
        assert!(connection.has_fetch_room() && !connection.is_fetch_crowded());
        second.set(FETCH_QUEUED_BYTES_MAX / 2);
        assert!(!connection.has_fetch_room() && connection.is_fetch_crowded());
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let connection = Rc::clone(&connection);
                spawn(Queue::Control, async move { connection.fetch_room().await })
            })
            .collect();
        executor::yield_now().await;
        // What was gathered is queued now, and then it is sent.
        connection.send(vec![0; FETCH_QUEUED_BYTES_MAX / 2]);
        drop(first);
        assert!(!connection.has_fetch_room());
        connection.note_sent(FETCH_QUEUED_BYTES_MAX / 4);
        assert!(connection.has_fetch_room());
        for task in waiting {
            clock::timeout(Duration::from_secs(10), task)
                .await
                .expect("there is room for all");
        }
    });
}
