//! The consumers of a load thread: those that tail, those that catch up, those that replay.
//!
//! All of them run beside the producers of their thread, since a producer that waits for its
//! schedule would keep a consumer's thread off a core they shared.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use tokio::time::timeout_at;

use super::arrivals::Arrivals;
use super::meter::Meter;
use super::receipts::Receipts;
use super::stamp::Stamp;
use crate::args::StartAt;
use crate::clock::Clock;
use crate::limits::{CAUGHT_UP_NS, DELIVERY_CHECK_NS, QUIET_NS};
use crate::systems::{Consumer, Received, System};
use crate::tally::{Completion, Tally};
use crate::window::Window;

/// What one thread's consumers share in one phase.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) clock: Clock,
    pub(crate) window: Window,
    pub(crate) phase: usize,
    /// Nothing more is awaited after this.
    pub(crate) deadline_ns: u64,
    pub(crate) tally: Rc<RefCell<Tally>>,
    pub(crate) receipts: Rc<RefCell<Receipts>>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) meter: Arc<Meter>,
}

impl Ledger {
    /// Counts a record of this run; whether it came for the first time in this pass.
    fn take(&self, received: Result<Received<'_>, String>, done_ns: u64) -> bool {
        let received = match received {
            Ok(received) => received,
            Err(kind) => {
                self.tally.borrow_mut().failed(&kind, 1);
                return false;
            }
        };
        let mut receipts = self.receipts.borrow_mut();
        let before = receipts.unique();
        let Some(intended_ns) = receipts.note(received.partition, received.value) else {
            return false;
        };
        let bytes = payload_bytes(received);
        self.tally.borrow_mut().completed(Completion {
            intended_ns,
            done_ns,
            records: 1,
            bytes,
        });
        self.meter.add_received(1, bytes);
        receipts.unique() > before
    }

    /// Hands what `consumer` receives until `until_ns` to `note`, in turns; how many records were
    /// new.
    async fn turn<C: Consumer>(&self, consumer: &mut C, until_ns: u64) -> u64 {
        let mut new = 0;
        let mut done_ns = None;
        let mut take = |received: Result<Received<'_>, String>| {
            // All that is handed over in one turn has arrived before the first of it is looked at.
            let done_ns = *done_ns.get_or_insert_with(|| self.clock.now_ns());
            new += u64::from(self.take(received, done_ns));
        };
        let until = self.clock.instant(until_ns).into();
        let _ = timeout_at(until, consumer.receive(&mut take)).await;
        new
    }

    /// When to look again whether everything is there: at the end of the window, then often.
    fn next_look_ns(&self) -> u64 {
        (self.clock.now_ns() + DELIVERY_CHECK_NS).max(self.window.end_ns)
    }
}

fn payload_bytes(received: Received<'_>) -> u64 {
    u64::try_from(received.key_bytes + received.value.len()).expect("a length fits 64 bits")
}

/// When a pass over records is over. What a count tells is not enough: records that were written
/// and not acknowledged count, too, and what was written twice comes last.
struct Quiet {
    new_ns: u64,
}

impl Quiet {
    /// Something new came at `now_ns`, if `new` is not zero.
    fn note(&mut self, new: u64, now_ns: u64) {
        if new > 0 {
            self.new_ns = now_ns;
        }
    }

    /// Whether nothing new has come for `ns`.
    fn lasts(&self, ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.new_ns) >= ns
    }
}

/// Receives what is produced meanwhile, until all of it has arrived or nothing more is to be
/// expected; gives the consumer back.
pub(crate) async fn tail<C: Consumer>(mut consumer: C, ledger: Ledger) -> C {
    let (arrivals, clock) = (&ledger.arrivals, ledger.clock);
    let mut quiet = Quiet {
        new_ns: clock.now_ns(),
    };
    loop {
        let new = ledger.turn(&mut consumer, ledger.next_look_ns()).await;
        arrivals.received(new);
        let now_ns = clock.now_ns();
        quiet.note(new, now_ns);
        if arrivals.are_complete(ledger.phase) && quiet.lasts(QUIET_NS, now_ns) {
            return consumer;
        }
        if now_ns >= ledger.deadline_ns {
            arrivals.give_up();
            return consumer;
        }
    }
}

/// Reads all that the run has produced once more; when the last of it came. Gives up when nothing
/// new has come for `patience_ns`.
pub(crate) async fn replay<C: Consumer>(mut consumer: C, ledger: Ledger, patience_ns: u64) -> u64 {
    let (arrivals, phase, clock) = (&ledger.arrivals, ledger.phase, ledger.clock);
    let mut quiet = Quiet {
        new_ns: clock.now_ns(),
    };
    loop {
        let until_ns = clock.now_ns() + DELIVERY_CHECK_NS;
        let new = ledger.turn(&mut consumer, until_ns).await;
        arrivals.replayed(phase, new);
        let now_ns = clock.now_ns();
        quiet.note(new, now_ns);
        let is_over = arrivals.are_replayed(phase) && quiet.lasts(QUIET_NS, now_ns);
        if is_over || quiet.lasts(patience_ns, now_ns) || now_ns >= ledger.deadline_ns {
            return quiet.new_ns;
        }
    }
}

/// A consumer that reads from the earliest record on, and begins anew when it has caught up.
pub(crate) struct CatchUp<S: System> {
    system: S,
    run: u64,
    partitions: Vec<u32>,
    consumer: S::Consumer,
}

impl<S: System> CatchUp<S> {
    pub(crate) async fn new(system: S, run: u64, partitions: Vec<u32>) -> Result<Self> {
        let consumer = system
            .consumer(partitions.clone(), StartAt::Earliest)
            .await?;
        Ok(Self {
            system,
            run,
            partitions,
            consumer,
        })
    }

    /// Reads until the end of `window`; gives itself back.
    pub(crate) async fn read(
        mut self,
        clock: Clock,
        window: Window,
        tally: Rc<RefCell<Tally>>,
    ) -> Self {
        let run = self.run;
        while clock.now_ns() < window.end_ns {
            let mut caught_up = false;
            let mut take = |received: Result<Received<'_>, String>| {
                let now_ns = clock.now_ns();
                let mut tally = tally.borrow_mut();
                match received {
                    Ok(received) => {
                        tally.received(now_ns, 1, payload_bytes(received));
                        let stamp = Stamp::read(received.value, run);
                        caught_up |= stamp.is_some_and(|s| s.intended_ns + CAUGHT_UP_NS > now_ns);
                    }
                    Err(kind) => tally.failed(&kind, 1),
                }
            };
            let end = clock.instant(window.end_ns).into();
            let _ = timeout_at(end, self.consumer.receive(&mut take)).await;
            if caught_up {
                let partitions = self.partitions.clone();
                match self.system.consumer(partitions, StartAt::Earliest).await {
                    Ok(consumer) => self.consumer = consumer,
                    Err(error) => tally.borrow_mut().failed(&error.to_string(), 1),
                }
            }
        }
        self
    }
}
