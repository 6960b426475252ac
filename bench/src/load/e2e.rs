//! `catena-bench e2e`: every record is stamped with its intended send time and a number, so that
//! latency spans the whole way and every acknowledged record is accounted for.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use catena_client::{ConsumeError, Consumer, RecordBatch, StartOffset};
use tokio::task::LocalSet;

use super::drive::Driven;
use super::fit::check_one_batch;
use super::marks::Marks;
use super::producing::{Producing, WARMUP};
use super::receipts::Receipts;
use super::receive::{build_consumer, kind_of, receive};
use super::sender::ClientSender;
use super::session::{Session, TopicRule};
use super::stamp::STAMP_BYTES;
use super::target::connect;
use super::threads::{self, Plan};
use crate::args::E2eArgs;
use crate::clock::{Clock, duration_ns};
use crate::compare::Compared;
use crate::limits::DELIVERY_CHECK_NS;
use crate::report::{Delivery, LoadReport};
use crate::tally::{Completion, Tally};
use crate::window::Window;

/// Runs producers and consumers side by side and reports.
pub(crate) fn run(args: &E2eArgs, command: String) -> Result<ExitCode> {
    let record_bytes = usize::try_from(args.shape.record_bytes)?;
    ensure!(
        record_bytes >= STAMP_BYTES,
        "e2e records carry a stamp of {STAMP_BYTES} bytes"
    );
    check_one_batch(&args.shape)?;
    let session = Session::begin(&args.run, &args.target, TopicRule::CreateMissing)?;
    let producing = Producing {
        target: &args.target,
        shape: &args.shape,
        pace: args.pace,
        run: &args.run,
        topic: session.topic.clone(),
        clock: session.clock,
        meter: Arc::default(),
        run_mark: Some(run_mark()),
    };
    let both = Both::new(args, &producing);
    let plan = Plan {
        clock: session.clock,
        threads: usize::try_from(both.threads)?,
        cores: &args.run.cores,
        warmup: args.run.warmup.unwrap_or(WARMUP),
        duration: args.run.duration,
    };
    let (window, outcomes) = threads::run(
        plan,
        &producing.meter,
        async |index| both.prepare(u32::try_from(index)?).await,
        async |part, window| Ok(both.drive(part, window).await),
    )?;
    let (produced, received, delivery) = gather(outcomes, window);
    let mut report = LoadReport::new("e2e", command, &received, window);
    report.call_unit = "records";
    report.latency_from = "intended send to receipt, per record";
    report.ack_latency = Some(produced.latencies.summary());
    report.delivery = Some(delivery);
    for (kind, records) in &produced.errors {
        *report.errors.entry(kind.clone()).or_insert(0) += records;
    }
    producing.describe(&mut report, &produced);
    session.finish(report, window, Compared::Nothing)
}

/// Both sides of the run.
struct Both<'a> {
    producing: &'a Producing<'a>,
    threads: u32,
    consumers: u32,
    arrivals: Arc<Arrivals>,
}

/// What the threads tell each other: whether every acknowledged record has arrived.
struct Arrivals {
    still_producing: AtomicUsize,
    acknowledged: AtomicU64,
    received: AtomicU64,
}

impl Arrivals {
    fn are_complete(&self) -> bool {
        self.still_producing.load(Ordering::Acquire) == 0
            && self.received.load(Ordering::Acquire) >= self.acknowledged.load(Ordering::Acquire)
    }
}

/// One thread's share. Both sides run on one thread, since a producer that polls for its
/// schedule would keep a consumer's thread off a core they shared.
struct Part {
    thread: u32,
    senders: Vec<ClientSender>,
    consumers: Vec<Consumer>,
}

struct Outcome {
    driven: Driven,
    received: Received,
}

impl<'a> Both<'a> {
    fn new(args: &E2eArgs, producing: &'a Producing<'a>) -> Self {
        let consumers = args.consumers.min(producing.topic.partitions);
        let threads = u32::from(args.run.threads).min(args.shape.producers.max(consumers));
        let arrivals = Arrivals {
            still_producing: AtomicUsize::new(length(threads)),
            acknowledged: AtomicU64::new(0),
            received: AtomicU64::new(0),
        };
        Self {
            producing,
            threads,
            consumers,
            arrivals: Arc::new(arrivals),
        }
    }

    async fn prepare(&self, thread: u32) -> Result<Part> {
        let mut consumers = Vec::new();
        for index in (thread..self.consumers).step_by(length(self.threads)) {
            let client = connect(&self.producing.target.broker).await?;
            let (topic, start) = (&self.producing.topic, StartOffset::Latest);
            consumers.extend(build_consumer(&client, topic, index, self.consumers, start).await?);
        }
        let senders = self.producing.prepare(thread).await?;
        Ok(Part {
            thread,
            senders,
            consumers,
        })
    }

    async fn drive(&self, part: Part, window: Window) -> Outcome {
        let produce = async {
            let driven = self
                .producing
                .drive(part.thread, part.senders, window)
                .await;
            self.arrivals
                .acknowledged
                .fetch_add(driven.acknowledged.count(), Ordering::AcqRel);
            self.arrivals.still_producing.fetch_sub(1, Ordering::AcqRel);
            driven
        };
        let drain_ns = duration_ns(self.producing.run.drain);
        let receiver = Receiver {
            clock: self.producing.clock,
            window,
            // The producers may take one drain, and what they sent last another.
            deadline_ns: window
                .end_ns
                .saturating_add(drain_ns)
                .saturating_add(drain_ns),
            arrivals: self.arrivals.clone(),
        };
        let mark = self
            .producing
            .run_mark
            .expect("an end-to-end run is marked");
        let received = Rc::new(RefCell::new(Received {
            tally: Tally::new(window),
            receipts: Receipts::new(mark, length(self.threads)),
        }));
        let consume = LocalSet::new();
        for consumer in part.consumers {
            consume.spawn_local(receiver.clone().run(consumer, received.clone()));
        }
        let (driven, ()) = tokio::join!(produce, consume);
        let received = Rc::into_inner(received)
            .expect("the tasks that shared it have ended")
            .into_inner();
        Outcome { driven, received }
    }
}

/// What the consumers of one thread received.
struct Received {
    tally: Tally,
    receipts: Receipts,
}

impl Received {
    fn take(&mut self, batch: Result<RecordBatch, ConsumeError>, done_ns: u64) {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return self.tally.failed(&kind_of(&error), 1),
        };
        let visited = batch.for_each(|record| {
            let value = record.value.unwrap_or_default();
            let Some(intended_ns) = self.receipts.note(value) else {
                return;
            };
            let bytes = value.len() + record.key.map_or(0, <[u8]>::len);
            let bytes = u64::try_from(bytes).expect("a length in memory fits 64 bits");
            self.tally.completed(Completion {
                intended_ns,
                done_ns,
                records: 1,
                bytes,
            });
        });
        if let Err(error) = visited {
            let records = u64::from(batch.record_count());
            self.tally
                .failed(&format!("not decodable: {error}"), records);
        }
    }
}

/// How one consumer receives.
#[derive(Clone)]
struct Receiver {
    clock: Clock,
    window: Window,
    deadline_ns: u64,
    arrivals: Arc<Arrivals>,
}

impl Receiver {
    /// Receives until everything acknowledged has arrived, or nothing more is to be expected.
    async fn run(self, mut consumer: Consumer, received: Rc<RefCell<Received>>) {
        let clock = self.clock;
        let mut until_ns = self.window.end_ns;
        while !self.arrivals.are_complete() && clock.now_ns() < self.deadline_ns {
            let _ = receive(&mut consumer, clock, until_ns, |batch| {
                let done_ns = clock.now_ns();
                let mut received = received.borrow_mut();
                let before = received.receipts.unique();
                received.take(batch, done_ns);
                let new = received.receipts.unique() - before;
                self.arrivals.received.fetch_add(new, Ordering::AcqRel);
                ControlFlow::Continue(())
            })
            .await;
            until_ns = clock.now_ns() + DELIVERY_CHECK_NS;
        }
    }
}

/// Both sides' counts, and what became of every record. Outcomes are in the order of threads.
fn gather(outcomes: Vec<Outcome>, window: Window) -> (Tally, Tally, Delivery) {
    let (mut produced, mut received) = (Tally::new(window), Tally::new(window));
    let mut acknowledged: Vec<Marks> = Vec::new();
    let mut receipts: Option<Receipts> = None;
    for Outcome {
        driven,
        received: theirs,
    } in outcomes
    {
        produced.merge(&driven.tally);
        received.merge(&theirs.tally);
        acknowledged.push(driven.acknowledged);
        match &mut receipts {
            Some(all) => all.merge(&theirs.receipts),
            None => receipts = Some(theirs.receipts),
        }
    }
    let receipts = receipts.expect("a run has a thread");
    let delivery = receipts.against(&acknowledged);
    (produced, received, delivery)
}

/// Tells the records of this run from all others.
fn run_mark() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    duration_ns(now) ^ u64::from(std::process::id()).rotate_left(44)
}

fn length(count: u32) -> usize {
    usize::try_from(count).expect("u32 fits usize")
}
