//! `catena-bench e2e`: every record is stamped with its intended send time and a number, so that
//! latency spans the whole way and every acknowledged record is accounted for.

use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use catena_client::{ConsumeError, Consumer, RecordBatch, StartOffset};

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
use crate::clock::duration_ns;
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
        threads: usize::try_from(both.producer_threads + both.consumers)?,
        cores: &args.run.cores,
        warmup: args.run.warmup.unwrap_or(WARMUP),
        duration: args.run.duration,
    };
    let (window, outcomes) = threads::run(
        plan,
        &producing.meter,
        async |index| both.prepare(u32::try_from(index)?).await,
        async |role, window| Ok(both.drive(role, window).await),
    )?;
    let (produced, received, delivery) = gather(outcomes, window);
    let mut report = LoadReport::new("e2e", command, &received, window);
    report.latency_from = "intended send to receipt, per record";
    report.ack_latency = Some(produced.latencies.summary());
    report.delivery = Some(delivery);
    for (kind, records) in &produced.errors {
        *report.errors.entry(kind.clone()).or_insert(0) += records;
    }
    producing.describe(&mut report, &produced);
    session.finish(report, window, Compared::Nothing)
}

/// Both sides and what they tell each other: when every acknowledged record has arrived.
struct Both<'a> {
    producing: &'a Producing<'a>,
    producer_threads: u32,
    consumers: u32,
    still_producing: AtomicUsize,
    acknowledged: AtomicU64,
    received: AtomicU64,
}

enum Role {
    Producer {
        thread: u32,
        senders: Vec<ClientSender>,
    },
    Consumer(Box<Consumer>),
}

enum Outcome {
    Produced(Box<Driven>),
    Received(Box<(Tally, Receipts)>),
}

impl<'a> Both<'a> {
    fn new(args: &E2eArgs, producing: &'a Producing<'a>) -> Self {
        let producer_threads = producing.threads();
        Self {
            producing,
            producer_threads,
            consumers: args.consumers.min(producing.topic.partitions),
            still_producing: AtomicUsize::new(length(producer_threads)),
            acknowledged: AtomicU64::new(0),
            received: AtomicU64::new(0),
        }
    }

    /// The first threads produce, the others consume.
    async fn prepare(&self, index: u32) -> Result<Role> {
        if index < self.producer_threads {
            let senders = self.producing.prepare(index).await?;
            return Ok(Role::Producer {
                thread: index,
                senders,
            });
        }
        let client = connect(&self.producing.target.broker).await?;
        let (topic, start) = (&self.producing.topic, StartOffset::Latest);
        let index = index - self.producer_threads;
        let consumer = build_consumer(&client, topic, index, self.consumers, start).await?;
        let consumer = consumer.expect("there are no more consumers than partitions");
        Ok(Role::Consumer(Box::new(consumer)))
    }

    async fn drive(&self, role: Role, window: Window) -> Outcome {
        match role {
            Role::Producer { thread, senders } => {
                let driven = self.producing.drive(thread, senders, window).await;
                self.acknowledged
                    .fetch_add(driven.acknowledged.count(), Ordering::AcqRel);
                self.still_producing.fetch_sub(1, Ordering::AcqRel);
                Outcome::Produced(Box::new(driven))
            }
            Role::Consumer(consumer) => {
                Outcome::Received(Box::new(self.consume(*consumer, window).await))
            }
        }
    }

    /// Receives until everything acknowledged has arrived, or nothing more is to be expected.
    async fn consume(&self, mut consumer: Consumer, window: Window) -> (Tally, Receipts) {
        let clock = self.producing.clock;
        let drain_ns = duration_ns(self.producing.run.drain);
        // The producers may take one drain, and what they sent last another.
        let deadline_ns = window
            .end_ns
            .saturating_add(drain_ns)
            .saturating_add(drain_ns);
        let mark = self
            .producing
            .run_mark
            .expect("an end-to-end run is marked");
        let mut receipts = Receipts::new(mark, length(self.producer_threads));
        let mut tally = Tally::new(window);
        let mut until_ns = window.end_ns;
        while !self.is_complete() && clock.now_ns() < deadline_ns {
            let _ = receive(&mut consumer, clock, until_ns, |batch| {
                let before = receipts.unique();
                self.take(batch, &mut tally, &mut receipts);
                self.received
                    .fetch_add(receipts.unique() - before, Ordering::AcqRel);
                ControlFlow::Continue(())
            })
            .await;
            until_ns = clock.now_ns() + DELIVERY_CHECK_NS;
        }
        (tally, receipts)
    }

    fn take(
        &self,
        batch: Result<RecordBatch, ConsumeError>,
        tally: &mut Tally,
        receipts: &mut Receipts,
    ) {
        let done_ns = self.producing.clock.now_ns();
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return tally.failed(&kind_of(&error), 1),
        };
        let visited = batch.for_each(|record| {
            let value = record.value.unwrap_or_default();
            let Some(intended_ns) = receipts.note(value) else {
                return;
            };
            let bytes = value.len() + record.key.map_or(0, <[u8]>::len);
            let bytes = u64::try_from(bytes).expect("a length in memory fits 64 bits");
            tally.completed(Completion {
                intended_ns,
                done_ns,
                records: 1,
                bytes,
            });
        });
        if let Err(error) = visited {
            tally.failed(
                &format!("not decodable: {error}"),
                u64::from(batch.record_count()),
            );
        }
    }

    fn is_complete(&self) -> bool {
        self.still_producing.load(Ordering::Acquire) == 0
            && self.received.load(Ordering::Acquire) >= self.acknowledged.load(Ordering::Acquire)
    }
}

/// Both sides' counts, and what became of every record.
fn gather(outcomes: Vec<Outcome>, window: Window) -> (Tally, Tally, Delivery) {
    let (mut produced, mut received) = (Tally::new(window), Tally::new(window));
    let mut acknowledged: Vec<Marks> = Vec::new();
    let mut receipts: Option<Receipts> = None;
    for outcome in outcomes {
        match outcome {
            Outcome::Produced(driven) => {
                produced.merge(&driven.tally);
                acknowledged.push(driven.acknowledged);
            }
            Outcome::Received(consumed) => {
                let (tally, theirs) = *consumed;
                received.merge(&tally);
                match &mut receipts {
                    Some(all) => all.merge(&theirs),
                    None => receipts = Some(theirs),
                }
            }
        }
    }
    let receipts = receipts.expect("a topic has a partition and so the run a consumer");
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
