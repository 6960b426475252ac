//! What was acknowledged: counts for the summary, and on request a line in a file for each message.
//!
//! Invariant: a line stands in the file only if its message was acknowledged, whenever this program
//! ends. Lines reach the file before this program waits for further acks.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use catena_client::{BatchHandle, DeliveryHandle, ProduceError};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;

const BUFFER_BYTES: usize = 1 << 18;

/// Messages that were handed to the producer, in order of their lines.
#[derive(Debug)]
pub(crate) struct Sent {
    /// The number of the first line, counted from 1.
    pub(crate) first_line: u64,
    pub(crate) lines: u64,
    pub(crate) handles: Handles,
}

/// Who tells of them.
#[derive(Debug)]
pub(crate) enum Handles {
    /// One for each line.
    Each(Vec<DeliveryHandle>),
    /// One for all, which went to one partition.
    Run(BatchHandle),
}

/// What became of the messages.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) acked: u64,
    pub(crate) by_partition: BTreeMap<u32, u64>,
    /// Without an acknowledgement, so far as is known.
    pub(crate) failed: u64,
    /// Of the failed, those that may have been written all the same.
    pub(crate) uncertain: u64,
    pub(crate) first_error: Option<ProduceError>,
}

/// The file that records acknowledged lines.
#[derive(Debug)]
pub(crate) struct AckedFile(BufWriter<File>);

impl AckedFile {
    /// Opens the file to append to it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        Ok(Self(BufWriter::with_capacity(BUFFER_BYTES, file)))
    }
}

/// Takes acknowledgements in the order of the lines, and keeps count.
#[derive(Debug)]
pub(crate) struct Collector {
    tally: Tally,
    file: Option<AckedFile>,
    /// Set at the first failure, for the sender to stop.
    failed: Arc<AtomicBool>,
}

impl Collector {
    pub(crate) fn new(file: Option<AckedFile>, failed: Arc<AtomicBool>) -> Self {
        Self {
            tally: Tally::default(),
            file,
            failed,
        }
    }

    /// Waits for every message that comes down the channel.
    pub(crate) async fn run(mut self, mut sent: mpsc::Receiver<Sent>) -> anyhow::Result<Tally> {
        while let Some(Sent {
            first_line,
            lines,
            handles,
        }) = sent.recv().await
        {
            match handles {
                Handles::Each(handles) => {
                    for (line, handle) in (first_line..).zip(handles) {
                        let outcome = self.outcome(handle).await?;
                        let outcome = outcome.map(|place| (place.partition, place.offset));
                        self.take(line, 1, outcome)?;
                    }
                }
                Handles::Run(handle) => self.take_run(first_line, lines, handle).await?,
            }
        }
        self.flush()?;
        Ok(self.tally)
    }

    async fn take_run(
        &mut self,
        first_line: u64,
        lines: u64,
        handle: BatchHandle,
    ) -> anyhow::Result<()> {
        let batches = match self.outcome(handle).await? {
            Ok(batches) => batches,
            Err(error) => return self.take(first_line, lines, Err(error)),
        };
        let mut line = first_line;
        for batch in batches {
            let lines = u64::from(batch.record_count);
            self.take(line, lines, Ok((batch.partition, batch.base_offset)))?;
            line += lines;
        }
        Ok(())
    }

    /// The outcome, after a flush if it is not there yet: what is known so far must not wait.
    async fn outcome<F: Future + Unpin>(&mut self, mut handle: F) -> anyhow::Result<F::Output> {
        if let Some(outcome) = (&mut handle).now_or_never() {
            return Ok(outcome);
        }
        self.flush()?;
        Ok(handle.await)
    }

    /// Counts lines that follow each other and share an outcome: partition and first offset.
    fn take(
        &mut self,
        line: u64,
        lines: u64,
        outcome: Result<(u32, Option<u64>), ProduceError>,
    ) -> anyhow::Result<()> {
        let (partition, offset) = match outcome {
            Ok(place) => place,
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                self.tally.failed += lines;
                self.tally.uncertain += if error.may_have_been_written() {
                    lines
                } else {
                    0
                };
                self.tally.first_error.get_or_insert(error);
                return Ok(());
            }
        };
        self.tally.acked += lines;
        *self.tally.by_partition.entry(partition).or_default() += lines;
        let Some(AckedFile(file)) = &mut self.file else {
            return Ok(());
        };
        for index in 0..lines {
            let line = line + index;
            let written = match offset {
                Some(offset) => writeln!(file, "{line} {partition} {}", offset + index),
                None => writeln!(file, "{line} {partition} -"),
            };
            written.context(WRITE)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.file
            .as_mut()
            .map_or(Ok(()), |file| file.0.flush())
            .context(WRITE)
    }
}

const WRITE: &str = "write the file of acknowledged lines";
