//! `catena produce`: each line of the input becomes a message.
//!
//! Three parties: a blocking thread reads and finds line ends, this task hands lines to the
//! producer, and a third takes acknowledgements. Channels between them are short, so that memory
//! stays bounded by the producer's own budget.

mod acked;
mod lines;

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use catena_client::{
    BatchHandle, Codec, DeliveryHandle, Durability, ProduceError, Producer, Record,
};
use catena_protocol::batch::BATCH_HEADER_BYTES;
use catena_protocol::limits::BATCH_BYTES_MAX;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use crate::cli::{Acks, Compression, Connection, Produce};
use crate::connect::connect;
use crate::exit::{Exit, Failure};
use crate::quantity;
use acked::{AckedFile, Collector, Handles, Sent, Tally};
use lines::{Pieces, ReadError};

/// Pieces that were read and wait to be sent.
const PIECES_WAITING_MAX: usize = 4;

/// Sent pieces whose acknowledgements are not taken yet. The producer's memory is the real bound.
const SENT_WAITING_MAX: usize = 1024;

/// The longest line that fits into a batch as the value of a record without a key, whose other
/// parts take 6 bytes.
const LINE_BYTES_MAX: usize = BATCH_BYTES_MAX - BATCH_HEADER_BYTES - 6;

pub(crate) async fn run(connection: &Connection, args: Produce) -> anyhow::Result<()> {
    if args.acks == Acks::None && args.acked.is_some() {
        let what = "--acked lists what was acknowledged, with --acks none nothing is";
        return Err(Failure::new(Exit::Usage, what)
            .hint("use --acks received or durable, or leave --acked out")
            .into());
    }
    let (input, bytes) = open_input(args.file.as_deref())?;
    let acked = args.acked.as_deref().map(AckedFile::open).transpose()?;
    let client = connect(connection).await?;
    let builder = client
        .producer()
        .durability(args.acks.into())
        .compression(args.compression.into())
        .delivery_timeout(connection.timeout);
    let producer = builder.build().await.map_err(Failure::from)?;

    let failed = Arc::new(AtomicBool::new(false));
    let (pieces_in, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let reader = tokio::task::spawn_blocking(move || read(input, &pieces_in));
    let (sent_in, sent) = mpsc::channel(SENT_WAITING_MAX);
    let collector = tokio::spawn(Collector::new(acked, failed.clone()).run(sent));

    let started = Instant::now();
    let mut sender = Sender::new(&args, producer, sent_in, progress(bytes));
    let sending = sender.send_all(pieces, &failed).await;
    sender.producer.flush().await;
    let Sender {
        next_line,
        value_bytes,
        progress,
        producer,
        sent,
        ..
    } = sender;
    drop(sent);
    let tally = collector
        .await
        .context("the task that takes acknowledgements")??;
    progress.finish_and_clear();
    let lost = producer.records_lost();
    let outcome = match (sending, tally.first_error.clone()) {
        (Err(error), _) => Err(error),
        (Ok(()), Some(error)) => Err(Failure::from(error).into()),
        // The reader has ended: its channel is closed. On failure it may still wait for input.
        (Ok(()), None) => reader
            .await
            .context("the thread that reads the input")?
            .map_err(|error| unreadable(args.file.as_deref(), next_line, &error).into()),
    };
    let lines = next_line - 1;
    let summary = Summary {
        lines,
        value_bytes,
        lost,
        started,
        args: &args,
        tally: &tally,
    };
    if outcome.is_ok() || lines > 0 {
        eprint!("{summary}");
    }
    outcome
}

/// The input and, for a file, its length.
fn open_input(path: Option<&Path>) -> anyhow::Result<(Box<dyn Read + Send>, Option<u64>)> {
    let Some(path) = path else {
        return Ok((Box::new(io::stdin()), None));
    };
    let failure = |error: io::Error| cannot_read(Some(path), &error);
    let file = File::open(path).map_err(failure)?;
    let metadata = file.metadata().map_err(failure)?;
    if metadata.is_dir() {
        return Err(failure(io::ErrorKind::IsADirectory.into()).into());
    }
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

fn cannot_read(path: Option<&Path>, error: &io::Error) -> Failure {
    let name = path.map_or_else(
        || "standard input".to_owned(),
        |path| path.display().to_string(),
    );
    Failure::new(Exit::Usage, format!("cannot read {name}: {error}"))
}

fn too_long(line: u64) -> Failure {
    let what = format!("line {line} is longer than {LINE_BYTES_MAX} bytes");
    Failure::new(Exit::Usage, what).hint("split the line")
}

/// Why reading ended before the input did. `line` is the first that was not read.
fn unreadable(path: Option<&Path>, line: u64, error: &ReadError) -> Failure {
    match error {
        ReadError::Io(error) => cannot_read(path, error),
        ReadError::LineTooLong => too_long(line),
    }
}

/// Reads until the input ends or nobody wants more.
fn read(input: Box<dyn Read + Send>, pieces: &mpsc::Sender<Bytes>) -> Result<(), ReadError> {
    let mut source = Pieces::new(input, BATCH_BYTES_MAX);
    while let Some(piece) = source.next()? {
        if pieces.blocking_send(piece).is_err() {
            break;
        }
    }
    Ok(())
}

/// Bytes done, on a terminal only.
fn progress(bytes: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let Some(bytes) = bytes else {
        let style = "{spinner} {binary_bytes} {binary_bytes_per_sec} {msg}";
        return ProgressBar::no_length().with_style(style_of(style));
    };
    let style = "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    ProgressBar::new(bytes).with_style(style_of(style))
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well formed")
}

/// Hands lines to the producer and keeps count of them.
struct Sender<'a> {
    producer: Producer,
    sent: mpsc::Sender<Sent>,
    progress: ProgressBar,
    template: Record,
    key_separator: Option<memchr::memmem::Finder<'a>>,
    next_line: u64,
    value_bytes: u64,
}

impl<'a> Sender<'a> {
    fn new(
        args: &'a Produce,
        producer: Producer,
        sent: mpsc::Sender<Sent>,
        progress: ProgressBar,
    ) -> Self {
        let template = Record::to(args.topic.as_str());
        let template = match args.partition {
            Some(partition) => template.partition(partition),
            None => template,
        };
        let key_separator = args
            .key_separator
            .as_deref()
            .map(memchr::memmem::Finder::new);
        Self {
            producer,
            sent,
            progress,
            template,
            key_separator,
            next_line: 1,
            value_bytes: 0,
        }
    }

    /// Sends until the input ends or a message has failed.
    async fn send_all(
        &mut self,
        mut pieces: mpsc::Receiver<Bytes>,
        failed: &AtomicBool,
    ) -> anyhow::Result<()> {
        while let Some(piece) = pieces.recv().await {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            let first_line = self.next_line;
            let (handles, outcome) = if self.key_separator.is_some() {
                let mut handles = Vec::new();
                let outcome = self.send_keyed(&piece, &mut handles).await;
                // Also when it failed: those before the bad line are on their way.
                (Handles::Each(handles), outcome)
            } else {
                let (handle, outcome) = self.send_run(&piece).await?;
                (Handles::Run(handle), outcome)
            };
            let sent = Sent {
                first_line,
                lines: self.next_line - first_line,
                handles,
            };
            if self.sent.send(sent).await.is_err() {
                // The collector has failed; its own error is reported.
                break;
            }
            outcome?;
            self.progress.inc(piece.len() as u64);
        }
        Ok(())
    }

    /// Without keys all lines of a piece go to one partition, in one call; those before one that is
    /// too long.
    async fn send_run(
        &mut self,
        piece: &Bytes,
    ) -> Result<(BatchHandle, Result<(), Failure>), Failure> {
        let mut bytes = 0;
        let mut has_too_long = false;
        let records: Vec<Record> = lines::lines(piece)
            .take_while(|line| {
                has_too_long = line.len() > LINE_BYTES_MAX;
                !has_too_long
            })
            .map(|line| {
                bytes += line.len() as u64;
                self.template.clone().value(line)
            })
            .collect();
        let lines = records.len() as u64;
        let handle = self.producer.send_all(records).await?;
        self.next_line += lines;
        self.value_bytes += bytes;
        let outcome = if has_too_long {
            Err(too_long(self.next_line))
        } else {
            Ok(())
        };
        Ok((handle, outcome))
    }

    async fn send_keyed(
        &mut self,
        piece: &Bytes,
        handles: &mut Vec<DeliveryHandle>,
    ) -> Result<(), Failure> {
        for line in lines::lines(piece) {
            let (key, value) = self.split(&line)?;
            let bytes = value.len() as u64;
            let record = self.template.clone().key(key).value(value);
            let sent = self.producer.send(record).await;
            handles.push(sent.map_err(|error| refused(self.next_line, error))?);
            self.next_line += 1;
            self.value_bytes += bytes;
        }
        Ok(())
    }

    fn split(&self, line: &Bytes) -> Result<(Bytes, Bytes), Failure> {
        let separator = self
            .key_separator
            .as_ref()
            .expect("lines with keys have a separator");
        let at = separator.find(line).ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("line {} has no key separator", self.next_line),
            )
            .hint("lines before it may have been sent")
        })?;
        Ok((
            line.slice(..at),
            line.slice(at + separator.needle().len()..),
        ))
    }
}

/// Why the producer did not take a line with a key.
fn refused(line: u64, error: ProduceError) -> Failure {
    let is_too_large = matches!(error, ProduceError::RecordTooLarge { .. });
    let mut failure = Failure::from(error);
    if is_too_large {
        failure.message = format!("line {line}: {failure}");
    }
    failure
}

/// What was done, for people; on stderr.
struct Summary<'a> {
    lines: u64,
    value_bytes: u64,
    lost: u64,
    started: Instant,
    args: &'a Produce,
    tally: &'a Tally,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lines,
            value_bytes,
            lost,
            started,
            args,
            tally,
        } = self;
        let Tally {
            acked,
            by_partition,
            failed,
            uncertain,
            ..
        } = tally;
        let (class, meaning) = match args.acks {
            Acks::Durable => ("durable", "flushed to stable storage"),
            Acks::Received => ("received", "in the broker's memory, a crash may lose them"),
            Acks::None => ("none", "handed to the connection, nothing was acknowledged"),
        };
        let topic = &args.topic;
        let partitions = quantity::counted(by_partition.len() as u64, "partition");
        let lines = quantity::counted(*lines, "message");
        let (size, seconds) = (
            quantity::Bytes(*value_bytes),
            started.elapsed().as_secs_f64(),
        );
        writeln!(
            f,
            "{acked} of {lines} sent to {topic} in {partitions}, \
             {size} in {seconds:.2} s"
        )?;
        if *acked > 0 {
            writeln!(f, "durability {class}: {meaning}")?;
        }
        if *failed > 0 {
            writeln!(
                f,
                "{failed} without acknowledgement, of which {uncertain} may have been written"
            )?;
        }
        if *lost > 0 {
            writeln!(f, "{lost} acknowledged as received were lost by a crash")?;
        }
        Ok(())
    }
}

impl From<Acks> for Durability {
    fn from(acks: Acks) -> Self {
        match acks {
            Acks::Durable => Self::Durable,
            Acks::Received => Self::Received,
            Acks::None => Self::None,
        }
    }
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
            Compression::Zstd => Self::Zstd,
        }
    }
}

#[cfg(test)]
mod tests {
    use catena_protocol::batch::{BatchBuilder, BatchOptions, PushError};
    use catena_protocol::record::Record;

    use super::*;

    #[test]
    fn the_longest_line_is_the_longest_value_that_fits_into_a_batch() {
        let value = vec![b'x'; LINE_BYTES_MAX + 1];
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let longer = builder.push(&Record::from_value(&value));
        assert!(
            matches!(longer, Err(PushError::TooLarge { .. })),
            "{longer:?}"
        );
        let longest = builder.push(&Record::from_value(&value[1..]));
        assert_eq!(longest, Ok(()));
    }
}
