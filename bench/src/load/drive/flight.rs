//! The calls in flight of one producer, shared by the task that sends and the one that reaps.
//!
//! Both run on one thread; no borrow is held across an await.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use super::{Drive, Driven, Sender, Sent};
use crate::clock::Clock;
use crate::load::in_flight::{Call, InFlight};
use crate::load::marks::Marks;
use crate::load::meter::Meter;
use crate::schedule::Schedule;
use crate::tally::{Completion, Tally};

/// One producer with its calls in flight.
pub(super) struct Line<S: Sender> {
    pub(super) sender: S,
    pub(super) flight: Rc<Flight<S::Ack>>,
    pub(super) book: Rc<RefCell<Book>>,
}

impl<S: Sender> Line<S> {
    /// Sends one call that was meant for `intended_ns` and starts at `actual_ns`; its payload
    /// bytes.
    pub(super) async fn send(&mut self, intended_ns: u64, actual_ns: u64) -> u64 {
        match self.sender.send(intended_ns).await {
            Sent::Taken { partition, call } => {
                let bytes = call.bytes;
                self.book
                    .borrow_mut()
                    .sent(intended_ns, actual_ns, call.records);
                self.flight.push(partition, call);
                bytes
            }
            Sent::Refused { kind, records } => {
                self.book
                    .borrow_mut()
                    .tally
                    .failed(&kind, u64::from(records));
                0
            }
        }
    }
}

/// Calls in flight and who waits for them to change.
pub(super) struct Flight<Ack> {
    /// Whose they are, counted within the thread.
    producer: usize,
    calls: RefCell<InFlight<Ack>>,
    /// Nothing more will be sent.
    ended: Cell<bool>,
    reaper: Cell<Option<Waker>>,
    filler: Cell<Option<Waker>>,
}

impl<Ack: Future<Output = Result<(), String>> + Unpin> Flight<Ack> {
    pub(super) fn new(producer: usize, lanes: usize) -> Self {
        Self {
            producer,
            calls: RefCell::new(InFlight::new(lanes)),
            ended: Cell::new(false),
            reaper: Cell::new(None),
            filler: Cell::new(None),
        }
    }

    fn push(&self, partition: u32, call: Call<Ack>) {
        let is_oldest = self.calls.borrow_mut().push(partition, call);
        // The oldest call of a lane must be polled once so that its completion wakes the reaper.
        if is_oldest {
            wake(&self.reaper);
        }
    }

    /// Waits until fewer than `calls_max` calls are in flight.
    pub(super) async fn room(&self, calls_max: usize) {
        poll_fn(|context| {
            if self.calls.borrow().calls() < calls_max {
                return Poll::Ready(());
            }
            self.filler.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Lets the reaper finish once nothing is in flight.
    pub(super) fn end(&self) {
        self.ended.set(true);
        wake(&self.reaper);
    }

    /// Records without an answer.
    pub(super) fn records(&self) -> u64 {
        self.calls.borrow().records()
    }
}

fn wake(waker: &Cell<Option<Waker>>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Books acknowledgements as they come, until the flight has ended and is empty.
///
/// All calls found complete in one turn get the time the turn began at: nothing else runs on
/// this thread meanwhile, so they were complete before.
pub(super) async fn reap<Ack>(flight: Rc<Flight<Ack>>, book: Rc<RefCell<Book>>, clock: Clock)
where
    Ack: Future<Output = Result<(), String>> + Unpin,
{
    poll_fn(|context| {
        let now_ns = clock.now_ns();
        let mut in_flight = flight.calls.borrow_mut();
        let completed = in_flight.poll(context, |call, result| {
            let mut book = book.borrow_mut();
            book.answered(flight.producer, &call, result, now_ns);
        });
        if completed.is_ready() {
            wake(&flight.filler);
        }
        if flight.ended.get() && in_flight.calls() == 0 {
            return Poll::Ready(());
        }
        flight.reaper.set(Some(context.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// The thread's counts.
pub(super) struct Book {
    tally: Tally,
    /// By producer; none unless the numbers are kept.
    acknowledged: Vec<Marks>,
    meter: Arc<Meter>,
    records_per_call: u32,
}

impl Book {
    pub(super) fn new(drive: &Drive, producers: usize) -> Self {
        let kept = if drive.keep_numbers { producers } else { 0 };
        Self {
            tally: Tally::new(drive.window),
            acknowledged: vec![Marks::default(); kept],
            meter: drive.meter.clone(),
            records_per_call: drive.records_per_call,
        }
    }

    fn sent(&mut self, intended_ns: u64, actual_ns: u64, records: u32) {
        self.tally.sent(intended_ns, actual_ns, u64::from(records));
    }

    fn answered(
        &mut self,
        producer: usize,
        call: &Call<()>,
        result: Result<(), String>,
        done_ns: u64,
    ) {
        let (records, bytes) = (u64::from(call.records), call.bytes);
        if let Err(kind) = result {
            self.tally.failed(&kind, records);
            return;
        }
        let intended_ns = call.intended_ns;
        self.tally.completed(Completion {
            intended_ns,
            done_ns,
            records,
            bytes,
        });
        self.meter.add_produced(records, bytes);
        if let Some(marks) = self.acknowledged.get_mut(producer) {
            for number in call.first_number..call.first_number + records {
                marks.add(number);
            }
        }
    }

    /// Counts what the schedule still holds before `end_ns`.
    pub(super) fn not_sent(&mut self, schedule: &mut Schedule, end_ns: u64) {
        let records = schedule.skip_to(end_ns) * u64::from(self.records_per_call);
        if records > 0 {
            self.tally
                .failed("not sent before the drain ended", records);
        }
    }

    /// Counts a call of a closed loop that the client never took.
    pub(super) fn not_taken(&mut self) {
        self.tally.failed(
            "not sent before the drain ended",
            u64::from(self.records_per_call),
        );
    }

    /// Counts records that got no answer.
    pub(super) fn not_answered(&mut self, records: u64) {
        if records > 0 {
            self.tally
                .failed("no answer before the drain ended", records);
        }
    }

    pub(super) fn close<S>(self, senders: Vec<S>) -> Driven<S> {
        Driven {
            senders,
            tally: self.tally,
            acknowledged: self.acknowledged,
        }
    }
}
