//! Channels keep order and show their end; abandoned waits lose neither values nor wake-ups.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::runtime::clock::{Elapsed, timeout};
use crate::runtime::executor::{ExecutorConfig, Queue, spawn, start, yield_now};
use crate::runtime::testing::run;

#[test]
fn values_cross_executors_in_order_and_the_end_is_seen() {
    let (sender, receiver) = bounded(8);
    let producer = start(ExecutorConfig::system("producer"), move || async move {
        for value in 0..10_000_u32 {
            sender
                .send(value)
                .await
                .expect("the receiver reads to the end");
        }
    });
    let seen = run(move || async move {
        let mut next = 0;
        while let Some(value) = receiver.recv().await {
            assert_eq!(value, next);
            next += 1;
        }
        next
    });
    assert_eq!(seen, 10_000);
    producer
        .expect("an executor starts")
        .join()
        .expect("no panic")
        .expect("no error");
}

#[test]
fn a_full_or_closed_channel_hands_the_value_back() {
    let (sender, receiver) = bounded(1);
    assert_eq!(sender.try_send(1), Ok(()));
    assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
    assert_eq!(
        (receiver.len(), receiver.try_recv(), receiver.try_recv()),
        (1, Some(1), None)
    );
    assert!(receiver.is_empty() && !sender.is_closed());
    drop(receiver);
    assert_eq!(sender.try_send(3), Err(TrySendError::Closed(3)));
    assert_eq!(sender.send_blocking(4), Err(4));
    assert!(sender.is_closed());
}

#[test]
fn a_closed_channel_keeps_nothing_and_makes_nobody_wait() {
    let (sender, receiver) = bounded(2);
    let value = Rc::new(());
    for _ in 0..2 {
        assert_eq!(sender.try_send(Rc::clone(&value)), Ok(()));
    }
    receiver.close();
    assert_eq!(Rc::strong_count(&value), 1, "what waited is dropped");
    assert!(sender.is_closed());
    assert_eq!(
        sender.send_blocking(Rc::clone(&value)),
        Err(Rc::clone(&value))
    );
    drop(receiver);
    let (sender, receiver) = bounded(2);
    assert_eq!(sender.try_send(Rc::clone(&value)), Ok(()));
    drop(receiver);
    assert_eq!(Rc::strong_count(&value), 1, "also when the receiver goes");
}

#[test]
fn who_waits_for_room_learns_that_the_channel_was_closed() {
    let (sender, receiver) = bounded(1);
    assert_eq!(sender.try_send(1), Ok(()));
    let (started, waits) = std::sync::mpsc::sync_channel(0);
    let waiting = std::thread::spawn(move || {
        started.send(()).expect("the test waits");
        let sent = sender.send_blocking(2);
        (sent, sender.is_closed())
    });
    waits.recv().expect("it is about to send");
    receiver.close();
    let (sent, is_closed) = waiting.join().expect("it comes back");
    assert!(is_closed && (sent.is_ok() || sent == Err(2)));
}

#[test]
fn an_abandoned_receive_loses_nothing() {
    run(|| async {
        let (sender, receiver) = bounded(4);
        assert_eq!(timeout(Duration::ZERO, receiver.recv()).await, Err(Elapsed));
        sender.try_send(9).expect("there is room");
        assert_eq!(receiver.recv().await, Some(9));
    });
}

#[test]
fn a_notification_before_the_wait_is_kept_once() {
    run(|| async {
        let notify = Notify::new();
        notify.notify();
        notify.notify();
        notify.notified().await;
        assert_eq!(
            timeout(Duration::ZERO, notify.notified()).await,
            Err(Elapsed)
        );
    });
}

#[test]
fn an_abandoned_waiter_does_not_swallow_a_notification() {
    run(|| async {
        let notify = Rc::new(Notify::new());
        let other = Rc::clone(&notify);
        let abandoned = spawn(Queue::Control, async move { other.notified().await });
        yield_now().await;
        let woken = Rc::new(Cell::new(false));
        let (other, flag) = (Rc::clone(&notify), Rc::clone(&woken));
        let waiter = spawn(Queue::Control, async move {
            other.notified().await;
            flag.set(true);
        });
        yield_now().await;
        assert!(!woken.get());
        notify.notify();
        drop(abandoned);
        waiter.await;
        assert!(woken.get());
    });
}

#[test]
fn a_oneshot_delivers_its_value_or_the_news_that_none_comes() {
    run(|| async {
        let (sender, receiver) = oneshot();
        let waiting = spawn(Queue::Network, receiver);
        yield_now().await;
        sender.send("acked").expect("the receiver waits");
        assert_eq!(waiting.await, Some("acked"));

        let (sender, receiver) = oneshot::<u8>();
        let waiting = spawn(Queue::Network, receiver);
        yield_now().await;
        drop(sender);
        assert_eq!(waiting.await, None);

        let (sender, receiver) = oneshot();
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(3), Err(3));
    });
}
