//! The driver against producers that acknowledge at once, never, or with errors.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use super::*;
use crate::limits::LATE_NS;
use crate::schedule::share_of_schedule;

/// Answers by the call's number.
struct Scripted<Ack> {
    calls: u64,
    answer: fn(u64) -> Ack,
}

impl<Ack: Future<Output = Result<(), String>> + Unpin + 'static> Sender for Scripted<Ack> {
    type Ack = Ack;

    async fn send(&mut self, intended_ns: u64) -> Sent<Ack> {
        let ack = (self.answer)(self.calls);
        let first_number = self.calls * 10;
        self.calls += 1;
        let call = Call {
            ack,
            intended_ns,
            records: 10,
            bytes: 1000,
            first_number,
        };
        Sent::Taken { partition: 0, call }
    }
}

/// Completes when polled the second time, as an answer that comes later does.
struct Later {
    polled: bool,
}

impl Future for Later {
    type Output = Result<(), String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if std::mem::replace(&mut self.polled, true) {
            return Poll::Ready(Ok(()));
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

fn setup(pacing: impl FnOnce(u64) -> Pacing, millis: u64) -> Drive {
    let clock = Clock::start();
    let start_ns = clock.now_ns();
    Drive {
        clock,
        window: Window::new(start_ns, Duration::ZERO, Duration::from_millis(millis)),
        // Everything that is answered ends the drain; only what never is waits for its end.
        drain: Duration::from_secs(60),
        pacing: pacing(start_ns),
        records_per_call: 10,
        lanes: 1,
        meter: Arc::default(),
        keep_numbers: true,
    }
}

fn scripted<Ack>(count: usize, answer: fn(u64) -> Ack) -> Vec<Scripted<Ack>> {
    (0..count).map(|_| Scripted { calls: 0, answer }).collect()
}

#[tokio::test]
async fn an_open_loop_sends_exactly_what_its_schedule_holds() {
    let drive_for_20_ms = setup(
        |start_ns| Pacing::Open(share_of_schedule(start_ns, 10, 100_000, 0, 1)),
        20,
    );
    let driven = drive(scripted(3, |_| Later { polled: false }), drive_for_20_ms).await;
    assert_eq!(driven.tally.records_sent, 2000);
    assert_eq!(driven.tally.records_done, 2000);
    assert_eq!(driven.tally.latencies.summary().count, 200);
    assert_eq!(driven.tally.failures(), 0);
}

#[tokio::test]
async fn a_generator_that_starts_late_sends_everything_and_says_so() {
    let mut late = setup(
        |_| Pacing::Open(share_of_schedule(0, 10, 100_000, 0, 1)),
        20,
    );
    // The window began before the program did: every call is late from the outset.
    late.window = Window::new(0, Duration::ZERO, Duration::from_nanos(5 * LATE_NS));
    while late.clock.now_ns() < 20 * LATE_NS {
        std::hint::spin_loop();
    }
    let driven = drive(scripted(1, |_| ready(Ok(()))), late).await;
    assert_eq!(driven.tally.records_sent, 50);
    assert_eq!(driven.tally.lateness.late, 5);
    assert!(
        driven.tally.latencies.summary().min_us >= 1_500.0,
        "measured from the intention"
    );
}

#[tokio::test]
async fn a_closed_loop_fills_its_bound_and_never_exceeds_it() {
    let bounded = setup(|_| Pacing::Open(None), 3_600_000);
    let mut senders = scripted(1, |call| {
        if call < 4 {
            Never::Waiting
        } else {
            Never::Unexpected(call)
        }
    });
    let flight = Rc::new(Flight::new(0, bounded.lanes));
    let line = Line {
        sender: senders.remove(0),
        flight: flight.clone(),
        book: Rc::new(RefCell::new(Book::new(&bounded, 1))),
    };
    let filling = pace::closed(line, 4, bounded.clock, bounded.window.end_ns);
    let turns = async {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = filling => panic!("the window lasts an hour"),
        () = turns => {}
    }
    assert_eq!(flight.records(), 40);
}

#[tokio::test]
async fn calls_without_an_answer_are_counted_when_the_drain_ends() {
    let mut unanswered = setup(
        |start_ns| Pacing::Open(share_of_schedule(start_ns, 10, 10_000, 0, 1)),
        4,
    );
    unanswered.drain = Duration::from_millis(20);
    let driven = drive(scripted(1, |_| Never::Waiting), unanswered).await;
    assert_eq!(driven.tally.records_sent, 40);
    assert_eq!(driven.tally.errors["no answer before the drain ended"], 40);
}

/// Never answers; unexpected calls fail the test.
enum Never {
    Waiting,
    Unexpected(u64),
}

impl Future for Never {
    type Output = Result<(), String>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match *self {
            Self::Waiting => Poll::Pending,
            Self::Unexpected(call) => panic!("call {call} exceeds the bound"),
        }
    }
}

#[tokio::test]
async fn failed_calls_are_counted_by_kind_and_not_as_acknowledged() {
    let failing = setup(
        |start_ns| Pacing::Open(share_of_schedule(start_ns, 10, 10_000, 0, 1)),
        10,
    );
    let answer: fn(u64) -> Ready<Result<(), String>> = |call| {
        ready(if call % 2 == 0 {
            Ok(())
        } else {
            Err("refused".to_owned())
        })
    };
    let driven = drive(scripted(1, answer), failing).await;
    assert_eq!(driven.tally.errors["refused"], 50);
    assert_eq!(driven.tally.records_done, 50);
    assert_eq!(driven.acknowledged[0].count(), 50);
}

#[tokio::test]
async fn a_client_that_takes_nothing_leaves_the_rest_counted_as_not_sent() {
    struct Stuck;
    impl Sender for Stuck {
        type Ack = Ready<Result<(), String>>;

        async fn send(&mut self, _: u64) -> Sent<Self::Ack> {
            std::future::pending().await
        }
    }
    let mut stuck = setup(
        |start_ns| Pacing::Open(share_of_schedule(start_ns, 10, 10_000, 0, 1)),
        10,
    );
    stuck.drain = Duration::from_millis(20);
    let driven = drive(vec![Stuck], stuck).await;
    assert_eq!(driven.tally.errors["not sent before the drain ended"], 100);

    // The window of a closed loop outlasts any stall of this thread; the drain's end is now.
    let stuck = setup(
        |_| Pacing::Closed {
            calls_in_flight_max: 1,
        },
        3_600_000,
    );
    let book = Rc::new(RefCell::new(Book::new(&stuck, 1)));
    let line = Line {
        sender: Stuck,
        flight: Rc::new(Flight::new(0, stuck.lanes)),
        book: book.clone(),
    };
    let drain_end = tokio::time::Instant::now();
    let senders = LocalSet::new()
        .run_until(send_all(vec![line], stuck, &book, drain_end))
        .await;
    assert!(senders.is_empty(), "the stuck one is not used again");
    let driven = Rc::into_inner(book)
        .expect("its tasks ended")
        .into_inner()
        .close(Vec::<Stuck>::new());
    assert_eq!(driven.tally.errors["not sent before the drain ended"], 10);
}
