//! Drives the producers of one load thread: open loop by a schedule or closed loop by a bound.
//!
//! Runs on the thread's single-threaded runtime. One task per producer sees to its
//! acknowledgements, so a send that waits for room never delays the time an ack is seen at.

mod flight;
mod pace;
#[cfg(test)]
mod tests;
mod timer;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout_at;

use self::flight::{Book, Flight, Line, reap};
use super::in_flight::Call;
use super::marks::Marks;
use super::meter::Meter;
use crate::clock::{Clock, duration_ns};
use crate::schedule::Schedule;
use crate::tally::Tally;
use crate::window::Window;

/// What takes records: a producer with its record contents.
pub(crate) trait Sender: 'static {
    /// Completes when the call is acknowledged; the error is its kind.
    type Ack: Future<Output = Result<(), String>> + Unpin + 'static;

    /// Hands one call to the client. May wait for the client to have room.
    async fn send(&mut self, intended_ns: u64) -> Sent<Self::Ack>;
}

/// What became of a call handed to the client.
#[derive(Debug)]
pub(crate) enum Sent<Ack> {
    /// On its way to `partition`, or to several partitions and acknowledged for all at once.
    Taken { partition: u32, call: Call<Ack> },
    /// Not taken.
    Refused { kind: String, records: u32 },
}

/// When calls start.
#[derive(Clone, Debug)]
pub(crate) enum Pacing {
    /// By the thread's share of the schedule, producers in turn; `None` if its share is nothing.
    Open(Option<Schedule>),
    /// As soon as a producer has fewer than this many calls in flight.
    Closed { calls_in_flight_max: usize },
}

/// What one thread is to do with its producers.
#[derive(Clone, Debug)]
pub(crate) struct Drive {
    pub(crate) clock: Clock,
    pub(crate) window: Window,
    /// How long to wait after the window for what is due.
    pub(crate) drain: Duration,
    pub(crate) pacing: Pacing,
    pub(crate) records_per_call: u32,
    /// How many lanes a producer's calls queue in.
    pub(crate) lanes: usize,
    pub(crate) meter: Arc<Meter>,
    /// Whether to keep the numbers of acknowledged records.
    pub(crate) keep_numbers: bool,
}

/// What one thread's producers did.
#[derive(Debug)]
pub(crate) struct Driven<S> {
    /// The producers, without those that were stuck when the drain ended.
    pub(crate) senders: Vec<S>,
    pub(crate) tally: Tally,
    /// The numbers of the records acknowledged, by producer.
    pub(crate) acknowledged: Vec<Marks>,
}

/// Runs the load to the end of its window and waits for the acknowledgements.
///
/// Every call the schedule holds before the window's end is sent, however late. Calls not sent
/// or not answered when the drain ends count as failed.
pub(crate) async fn drive<S: Sender>(senders: Vec<S>, drive: Drive) -> Driven<S> {
    let book = Rc::new(RefCell::new(Book::new(&drive, senders.len())));
    let flights: Vec<_> = (0..senders.len())
        .map(|producer| Rc::new(Flight::new(producer, drive.lanes)))
        .collect();
    let lines = senders
        .into_iter()
        .zip(&flights)
        .map(|(sender, flight)| Line {
            sender,
            flight: flight.clone(),
            book: book.clone(),
        })
        .collect();
    let deadline_ns = drive.window.end_ns.saturating_add(duration_ns(drive.drain));
    let deadline = drive.clock.instant(deadline_ns).into();
    let tasks = LocalSet::new();
    let senders = tasks
        .run_until(async {
            let reapers: Vec<_> = flights
                .iter()
                .map(|flight| spawn_local(reap(flight.clone(), book.clone(), drive.clock)))
                .collect();
            let senders = send_all(lines, drive, &book, deadline).await;
            for (flight, reaper) in flights.iter().zip(reapers) {
                flight.end();
                // What has no answer by the deadline is counted below.
                let _ = timeout_at(deadline, reaper).await;
            }
            senders
        })
        .await;
    drop(tasks);
    let mut book = Rc::into_inner(book)
        .expect("the tasks that shared it are dropped")
        .into_inner();
    for flight in flights {
        book.not_answered(flight.records());
    }
    book.close(senders)
}

/// Sends until the window or, if the client takes nothing more, the drain has ended; the producers
/// that are not stuck.
async fn send_all<S: Sender>(
    mut lines: Vec<Line<S>>,
    drive: Drive,
    book: &RefCell<Book>,
    deadline: tokio::time::Instant,
) -> Vec<S> {
    let (clock, end_ns) = (drive.clock, drive.window.end_ns);
    match drive.pacing {
        Pacing::Open(None) => {}
        Pacing::Open(Some(mut schedule)) => {
            let paced = pace::open(&mut lines, &mut schedule, clock, end_ns);
            let _ = timeout_at(deadline, paced).await;
            book.borrow_mut().not_sent(&mut schedule, end_ns);
        }
        Pacing::Closed {
            calls_in_flight_max,
        } => {
            let fillers: Vec<_> = lines
                .drain(..)
                .map(|line| spawn_local(pace::closed(line, calls_in_flight_max, clock, end_ns)))
                .collect();
            for filler in fillers {
                match timeout_at(deadline, filler).await {
                    Ok(line) => lines.push(line.expect("a filler does not panic")),
                    Err(_) => book.borrow_mut().not_taken(),
                }
            }
        }
    }
    lines.into_iter().map(|line| line.sender).collect()
}
