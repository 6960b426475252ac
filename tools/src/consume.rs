//! `catena consume`: messages to standard output.
//!
//! Without `--follow` it ends where the partitions ended when it started, so that a topic that is
//! being written to can be read to an end. Batches are written as they come, through one buffer.

mod output;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use anyhow::Context as _;
use catena_client::{ConsumeError, Consumer, RecordBatch, StartOffset};
use futures_util::FutureExt as _;

use crate::cli::{Connection, Consume};
use crate::connect::connect;
use crate::exit::{Exit, Failure};
use crate::offsets::{self, PartitionOffsets};
use crate::quantity::From;

const BUFFER_BYTES: usize = 1 << 18;

/// The longest a broker waits before it says that there is nothing new.
const FETCH_WAIT_MAX: Duration = Duration::from_millis(500);

/// Damaged arrivals in a row after which the damage is not on the way but at the source.
const DAMAGED_ARRIVALS_MAX: u32 = 3;

pub(crate) async fn run(connection: &Connection, args: Consume) -> anyhow::Result<()> {
    let client = connect(connection).await?;
    let offsets = offsets::read(&client.admin(), &args.topic).await?;
    let mut builder = client
        .consumer()
        .topic(args.topic.as_str())
        .start(args.from.into())
        .fetch_wait_max(FETCH_WAIT_MAX.min(connection.timeout / 2));
    if let Some(partition) = args.partition {
        builder = builder.partitions([partition]);
    }
    let consumer = builder.build().await.map_err(Failure::from)?;
    let mut reading = Reading::new(consumer, &args, &offsets)?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock());
    while !reading.is_done() {
        let waiting = reading.consumer.next_batch().now_or_never();
        let batch = if let Some(batch) = waiting {
            batch
        } else {
            // Whoever reads our output must not wait with us.
            out.flush().context(WRITE)?;
            reading.wait_for_batch(connection.timeout).await?
        };
        match batch {
            Ok(batch) => reading.write(&batch, &mut out)?,
            Err(error) => reading.note(error)?,
        }
    }
    out.flush().context(WRITE)?;
    reading.result()
}

const WRITE: &str = "write to standard output";

/// What is left to read.
struct Reading<'a> {
    args: &'a Consume,
    consumer: Consumer,
    /// Where to stop, by partition; those that are done are gone. Without `--follow` only.
    ends: Option<BTreeMap<u32, u64>>,
    /// Partitions in which no message of the time asked for was seen yet.
    before_time: BTreeSet<u32>,
    messages_left: u64,
    damaged_arrivals: u32,
    first_loss: Option<ConsumeError>,
}

impl<'a> Reading<'a> {
    fn new(
        consumer: Consumer,
        args: &'a Consume,
        ends: &[PartitionOffsets],
    ) -> Result<Self, Failure> {
        let assigned: BTreeSet<u32> = consumer.assignment().map(|(_, number)| number).collect();
        let mut open = BTreeMap::new();
        for &PartitionOffsets {
            partition,
            high_watermark,
            ..
        } in ends
        {
            let wanted = assigned.contains(&partition);
            if wanted && consumer.position(&args.topic, partition)? != high_watermark {
                open.insert(partition, high_watermark);
            }
        }
        let is_by_time = matches!(args.from, From::Time(_));
        Ok(Self {
            args,
            consumer,
            ends: (!args.follow).then_some(open),
            before_time: assigned.into_iter().filter(|_| is_by_time).collect(),
            messages_left: args.count.unwrap_or(u64::MAX),
            damaged_arrivals: 0,
            first_loss: None,
        })
    }

    fn is_done(&self) -> bool {
        self.messages_left == 0 || self.ends.as_ref().is_some_and(BTreeMap::is_empty)
    }

    /// Waits without limit for new messages only; those that are there have to come.
    async fn wait_for_batch(
        &mut self,
        timeout: Duration,
    ) -> Result<Result<RecordBatch, ConsumeError>, Failure> {
        if self.args.follow {
            return Ok(self.consumer.next_batch().await);
        }
        tokio::time::timeout(timeout, self.consumer.next_batch())
            .await
            .map_err(|_| {
                let what = format!("no messages came within {timeout:?}, though some are left");
                Failure::new(Exit::Unavailable, what).hint("a longer --timeout waits longer")
            })
    }

    fn write(&mut self, batch: &RecordBatch, out: &mut impl Write) -> anyhow::Result<()> {
        self.damaged_arrivals = 0;
        let partition = batch.partition();
        let end = self.end_of(partition);
        let mut written = Ok(());
        let form = self.args.format;
        let (before_time, left) = (&mut self.before_time, &mut self.messages_left);
        let read = batch.for_each(|record| {
            if written.is_err() || *left == 0 || record.offset.0 >= end {
                return;
            }
            if let From::Time(time) = self.args.from
                && before_time.contains(&partition)
            {
                if record.timestamp_ms < time {
                    return;
                }
                before_time.remove(&partition);
            }
            *left -= 1;
            written = output::write(out, form, partition, &record);
        });
        written.context(WRITE)?;
        read.with_context(|| format!("batch at {partition}/{}", batch.start_offset()))?;
        self.close_if_done(partition)
    }

    fn end_of(&self, partition: u32) -> u64 {
        let Some(ends) = &self.ends else {
            return u64::MAX;
        };
        ends.get(&partition).copied().unwrap_or(0)
    }

    /// Stops reading a partition that was read up to its end.
    fn close_if_done(&mut self, partition: u32) -> anyhow::Result<()> {
        let position = self
            .consumer
            .position(&self.args.topic, partition)
            .map_err(Failure::from)?;
        let Some(ends) = &mut self.ends else {
            return Ok(());
        };
        if ends.get(&partition).is_some_and(|end| position >= *end) {
            ends.remove(&partition);
            self.consumer
                .pause(&self.args.topic, partition)
                .map_err(Failure::from)?;
        }
        Ok(())
    }

    /// Goes on where that makes sense, and remembers what was lost.
    fn note(&mut self, error: ConsumeError) -> anyhow::Result<()> {
        match &error {
            ConsumeError::DataCorrupt { partition, .. } => {
                let partition = *partition;
                eprintln!("warning: {error}; going on behind them");
                self.first_loss.get_or_insert(error);
                self.close_if_done(partition)
            }
            ConsumeError::BatchCorrupt { .. } if self.damaged_arrivals < DAMAGED_ARRIVALS_MAX => {
                eprintln!("warning: {error}; fetching it again");
                self.damaged_arrivals += 1;
                Ok(())
            }
            _ => Err(Failure::from(error).into()),
        }
    }

    fn result(self) -> anyhow::Result<()> {
        self.first_loss
            .map_or(Ok(()), |error| Err(Failure::from(error).into()))
    }
}

impl std::convert::From<From> for StartOffset {
    fn from(from: From) -> Self {
        match from {
            From::Earliest => Self::Earliest,
            From::Latest => Self::Latest,
            From::Offset(offset) => Self::Offset(offset),
            From::Time(millis) => Self::Timestamp(millis),
        }
    }
}
