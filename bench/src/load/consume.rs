//! `catena-bench consume`.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use catena_client::{ConsumeError, Consumer, RecordBatch, StartOffset};
use catena_protocol::messages::OffsetSpec;
use tokio::task::LocalSet;

use super::producing::WARMUP;
use super::receive::{Ends, build_consumer, kind_of, receive};
use super::session::{Session, TopicRule};
use super::target::connect;
use super::threads::{self, Meter, Plan};
use crate::args::{ConsumeArgs, StartAt};
use crate::clock::Clock;
use crate::compare::Compared;
use crate::report::LoadReport;
use crate::tally::Tally;
use crate::window::Window;

/// Runs the consumers and reports.
pub(crate) fn run(args: &ConsumeArgs, command: String) -> Result<ExitCode> {
    let session = Session::begin(&args.run, &args.target, TopicRule::MustExist)?;
    let warmup = match args.from {
        StartAt::Earliest => Duration::ZERO,
        StartAt::Latest => WARMUP,
    };
    let consuming = Consuming {
        args,
        clock: session.clock,
        meter: Arc::default(),
    };
    let consumers = args.consumers.min(session.topic.partitions);
    let count = consumers.min(u32::from(args.run.threads));
    let plan = Plan {
        clock: session.clock,
        threads: usize::try_from(count)?,
        cores: &args.run.cores,
        warmup: args.run.warmup.unwrap_or(warmup),
        duration: args.run.duration,
    };
    let (window, outcomes) = threads::run(
        plan,
        &consuming.meter,
        async |index| {
            let mut readers = Vec::new();
            for index in (u32::try_from(index)?..consumers).step_by(usize::try_from(count)?) {
                readers.extend(consuming.prepare(&session, index, consumers).await?);
            }
            Ok(readers)
        },
        async |readers, window| Ok(consuming.drive(readers, window).await),
    )?;
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
    let mut report = LoadReport::new("consume", command, &tally, window);
    describe(&mut report, args);
    let compared = Compared::Fetch {
        mb_per_second: report.throughput.mb_per_second,
    };
    session.finish(report, window, compared)
}

fn describe(report: &mut LoadReport, args: &ConsumeArgs) {
    report.call_unit = "batches";
    report.durability = "committed: readers see nothing else, whatever class it was produced in";
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
    clock: Clock,
    meter: Arc<Meter>,
}

/// One consumer and how far it reads.
struct Reader {
    consumer: Consumer,
    ends: Option<Ends>,
}

impl Consuming<'_> {
    async fn prepare(
        &self,
        session: &Session<'_>,
        index: u32,
        count: u32,
    ) -> Result<Option<Reader>> {
        let client = connect(&self.args.target.broker).await?;
        let start = match self.args.from {
            StartAt::Earliest => StartOffset::Earliest,
            StartAt::Latest => StartOffset::Latest,
        };
        let consumer = build_consumer(&client, &session.topic, index, count, start).await?;
        let Some(consumer) = consumer else {
            return Ok(None);
        };
        if self.args.from == StartAt::Latest {
            return Ok(Some(Reader {
                consumer,
                ends: None,
            }));
        }
        // What is there now is what this run reads; a log that grows meanwhile has no end.
        let name = &*session.topic.name;
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

    /// Runs the consumers of one thread; their counts, and when the last of them was done.
    async fn drive(&self, readers: Vec<Reader>, window: Window) -> (Tally, u64) {
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
        for reader in readers {
            tasks.spawn_local(read(reader, book.clone(), self.clock, window.end_ns));
        }
        tasks.await;
        let book = Rc::into_inner(book)
            .expect("the tasks that shared it have ended")
            .into_inner();
        (book.tally, book.finished_ns)
    }
}

async fn read(mut reader: Reader, book: Rc<RefCell<Book>>, clock: Clock, end_ns: u64) {
    let ends = &mut reader.ends;
    let _ = receive(&mut reader.consumer, clock, end_ns, |batch| {
        book.borrow_mut().take(batch, ends.as_mut())
    })
    .await;
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
                self.meter.add(records, bytes);
            }
            Err(kind) => self.tally.failed(&kind, u64::from(batch.record_count())),
        }
        let is_at_end = ends.is_some_and(|ends| {
            ends.reached(batch.partition(), batch.next_offset());
            ends.is_done()
        });
        let (records, bytes) = self.meter.totals();
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
