//! `catena-bench consume`: what a topic of Catena holds, in whole batches as they are fetched.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use catena_client::{ConsumeError, Consumer, RecordBatch};
use catena_protocol::messages::OffsetSpec;
use tokio::task::{LocalSet, yield_now};
use tokio::time::timeout_at;

use super::meter::{Meter, Total};
use super::session::{Session, ceiling_of, publish};
use super::threads::{self, Plan, Work};
use crate::args::{ConsumeArgs, StartAt, WARMUP};
use crate::clock::Clock;
use crate::report::{LoadReport, PhaseReport};
use crate::shares::Compared;
use crate::systems::catena::{connect, find_topic, kind_of, receive_batches, start_offset};
use crate::systems::{Facts, Target};
use crate::tally::Tally;
use crate::window::Window;
use crate::workload::{Pace, Phase};

/// Runs the consumers and reports.
pub(crate) fn run(args: &ConsumeArgs, command: String) -> Result<ExitCode> {
    let target = Target {
        address: args.broker.clone(),
        topic: args.topic.as_str().into(),
    };
    let (session, partitions) = Session::begin(
        &args.run,
        ceiling_of(&args.run)?,
        find_topic(&target, args.partitions),
    )?;
    let consumers = args.consumers.min(partitions);
    let threads = consumers.min(u32::from(args.run.threads));
    let consuming = Consuming {
        args,
        target,
        partitions,
        consumers,
        threads: usize::try_from(threads)?,
        clock: session.clock,
        meter: Arc::default(),
    };
    let phases = [consuming.phase()];
    let plan = Plan {
        clock: session.clock,
        threads: consuming.threads,
        cores: &args.run.cores,
        phases: &phases,
    };
    let done = threads::run(plan, &consuming.meter, &consuming)?;
    let (window, outcomes) = done.phases.into_iter().next().expect("there is one phase");
    let mut tally = Tally::new(window);
    let mut finished_ns = window.start_ns;
    for (thread, ns) in &outcomes {
        tally.merge(thread);
        finished_ns = finished_ns.max(*ns);
    }
    // A log that was read to its end is measured up to the moment it was.
    let window = Window {
        end_ns: window.end_ns.min(finished_ns),
        ..window
    };
    ensure!(
        window.measure_ns < window.end_ns,
        "everything was read within the warm-up"
    );
    let mut report = LoadReport::new("consume", command, facts());
    describe(&mut report, args);
    report.series = done.series.rates(window.start_ns);
    let mut phase = PhaseReport::new("consume", &tally, window, window.start_ns);
    phase.call_unit = "batches";
    let compared = Compared::Fetch {
        mb_per_second: phase.throughput.mb_per_second,
    };
    session.complete(&mut report, vec![(phase, window, compared)])?;
    publish(&report, &args.run)
}

fn facts() -> Facts {
    let durability = "committed: readers see nothing else, whatever class it was produced in";
    Facts {
        system: "Catena".to_owned(),
        durability: durability.to_owned(),
        verified: Some("readers are given nothing else".to_owned()),
        batch: None,
    }
}

fn describe(report: &mut LoadReport, args: &ConsumeArgs) {
    let counted = if args.decode {
        "MB/s counts keys and values of decoded records"
    } else {
        "MB/s counts whole batches as fetched, verified and not decoded"
    };
    report.remarks.push(counted.to_owned());
}

/// The consuming side of a run.
struct Consuming<'a> {
    args: &'a ConsumeArgs,
    target: Target,
    partitions: u32,
    consumers: u32,
    threads: usize,
    clock: Clock,
    meter: Arc<Meter>,
}

/// One consumer and how far it reads.
struct Reader {
    consumer: Consumer,
    ends: Option<Ends>,
}

impl Consuming<'_> {
    fn phase(&self) -> Phase {
        let warmup = match self.args.from {
            StartAt::Earliest => Duration::ZERO,
            StartAt::Latest => WARMUP,
        };
        Phase {
            warmup: self.args.time.warmup.unwrap_or(warmup),
            ..Phase::new(Pace::Max, self.args.time.duration)
        }
    }

    /// Consumer `index`, unless there is nothing for it to read.
    async fn reader(&self, index: u32) -> Result<Option<Reader>> {
        let client = connect(&self.target.address).await?;
        let partitions = (index..self.partitions).step_by(usize::try_from(self.consumers)?);
        let consumer = client
            .consumer()
            .topic(&*self.target.topic)
            .partitions(partitions)
            .start(start_offset(self.args.from));
        let consumer = consumer.build().await?;
        if self.args.from == StartAt::Latest {
            return Ok(Some(Reader {
                consumer,
                ends: None,
            }));
        }
        // What is there now is what this run reads; a log that grows meanwhile has no end.
        let name = &*self.target.topic;
        let latest = client
            .admin()
            .list_offsets(name, OffsetSpec::Latest)
            .await?;
        let mut ends = Vec::new();
        for (_, partition) in consumer.assignment() {
            let position = consumer.position(name, partition)?;
            let end = latest.iter().find(|found| found.partition == partition);
            ends.extend(end.map(|end| (partition, position, end.offset)));
        }
        let ends = Ends::new(ends);
        Ok((!ends.is_done()).then_some(Reader {
            consumer,
            ends: Some(ends),
        }))
    }
}

impl Work for Consuming<'_> {
    type Part = Vec<Reader>;
    /// The counts, and when the last consumer was done.
    type Outcome = (Tally, u64);

    async fn prepare(&self, thread: usize) -> Result<Vec<Reader>> {
        let mut readers = Vec::new();
        for index in (u32::try_from(thread)?..self.consumers).step_by(self.threads) {
            readers.extend(self.reader(index).await?);
        }
        Ok(readers)
    }

    async fn arm(&self, _: &mut Vec<Reader>, _: usize) -> Result<()> {
        Ok(())
    }

    async fn drive(
        &self,
        readers: &mut Vec<Reader>,
        _: usize,
        window: Window,
    ) -> Result<(Tally, u64)> {
        let book = Rc::new(RefCell::new(Book {
            tally: Tally::new(window),
            finished_ns: window.start_ns,
            clock: self.clock,
            meter: self.meter.clone(),
            records_max: self.args.records.unwrap_or(u64::MAX),
            bytes_max: self.args.bytes.unwrap_or(u64::MAX),
            decode: self.args.decode,
        }));
        let tasks = LocalSet::new();
        for reader in readers.drain(..) {
            tasks.spawn_local(read(reader, book.clone(), self.clock, window.end_ns));
        }
        tasks.await;
        let book = Rc::into_inner(book)
            .expect("the tasks that shared it have ended")
            .into_inner();
        Ok((book.tally, book.finished_ns))
    }
}

async fn read(mut reader: Reader, book: Rc<RefCell<Book>>, clock: Clock, end_ns: u64) {
    let ends = &mut reader.ends;
    let end = clock.instant(end_ns).into();
    while clock.now_ns() < end_ns {
        let turn = receive_batches(&mut reader.consumer, |batch| {
            book.borrow_mut().take(batch, ends.as_mut())
        });
        if timeout_at(end, turn)
            .await
            .is_ok_and(|flow| flow.is_break())
        {
            break;
        }
        yield_now().await;
    }
    let mut book = book.borrow_mut();
    book.finished_ns = book.finished_ns.max(clock.now_ns());
}

/// The thread's counts and bounds.
struct Book {
    tally: Tally,
    finished_ns: u64,
    clock: Clock,
    meter: Arc<Meter>,
    records_max: u64,
    bytes_max: u64,
    decode: bool,
}

impl Book {
    fn take(
        &mut self,
        batch: Result<RecordBatch, ConsumeError>,
        ends: Option<&mut Ends>,
    ) -> ControlFlow<()> {
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                self.tally.failed(&kind_of(&error), 1);
                return ControlFlow::Continue(());
            }
        };
        match self.count(&batch) {
            Ok((records, bytes)) => {
                self.tally.received(self.clock.now_ns(), records, bytes);
                self.meter.add_received(records, bytes);
            }
            Err(kind) => self.tally.failed(&kind, u64::from(batch.record_count())),
        }
        let is_at_end = ends.is_some_and(|ends| {
            ends.reached(batch.partition(), batch.next_offset());
            ends.is_done()
        });
        let Total { records, bytes } = self.meter.totals().received;
        if is_at_end || records >= self.records_max || bytes >= self.bytes_max {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Records and bytes of a batch: as it came, or of its records one by one.
    fn count(&self, batch: &RecordBatch) -> Result<(u64, u64), String> {
        if !self.decode {
            let bytes = u64::try_from(batch.bytes().len()).unwrap_or(u64::MAX);
            return Ok((u64::from(batch.record_count()), bytes));
        }
        let records = batch
            .records()
            .map_err(|error| format!("not decodable: {error}"))?;
        let length = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
        let bytes: usize = records
            .iter()
            .map(|r| length(&r.key) + length(&r.value))
            .sum();
        Ok((
            u64::try_from(records.len()).unwrap_or(u64::MAX),
            u64::try_from(bytes).unwrap_or(u64::MAX),
        ))
    }
}

/// How far each partition is to be read. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    ahead: BTreeMap<u32, u64>,
}

impl Ends {
    /// Reads each partition up to its end offset; those that hold nothing are done already.
    pub(crate) fn new(ends: impl IntoIterator<Item = (u32, u64, u64)>) -> Self {
        let ahead = ends
            .into_iter()
            .filter(|(_, position, end)| position < end)
            .map(|(partition, _, end)| (partition, end))
            .collect();
        Self { ahead }
    }

    /// Notes that `partition` was read up to `next_offset`.
    pub(crate) fn reached(&mut self, partition: u32, next_offset: u64) {
        if self
            .ahead
            .get(&partition)
            .is_some_and(|end| next_offset >= *end)
        {
            self.ahead.remove(&partition);
        }
    }

    /// Whether every partition has been read to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.ahead.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_done_when_every_partition_has_reached_its_end() {
        let mut ends = Ends::new([(0, 0, 10), (1, 5, 5), (2, 0, 3)]);
        assert!(!ends.is_done());
        ends.reached(0, 9);
        ends.reached(2, 3);
        assert!(!ends.is_done());
        ends.reached(0, 12);
        assert!(ends.is_done());
    }

    #[test]
    fn an_empty_topic_is_read_at_once() {
        assert!(Ends::new([(0, 0, 0)]).is_done());
    }
}
