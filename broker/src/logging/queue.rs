//! The bounded queue between the threads that log and the thread that writes.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::limits::LOG_LINES_WAITING_MAX;

/// How long the end of the program waits for a reader of standard error that does not read.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(1);

enum Item {
    Line(Vec<u8>),
    Stop,
}

/// Takes lines from any thread without ever waiting.
#[derive(Clone)]
pub(super) struct LogQueue {
    lines: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

/// Writes what is still queued when it is dropped.
#[derive(Debug)]
#[must_use = "the last lines are lost without it"]
pub struct LogGuard {
    queue: LogQueue,
    /// Disconnected when the writing thread has ended.
    ended: Receiver<()>,
    /// How long a drop waits for that.
    patience: Duration,
}

/// Starts the thread that writes to `sink`.
pub(super) fn start(sink: impl Write + Send + 'static) -> io::Result<(LogQueue, LogGuard)> {
    let (lines, waiting) = mpsc::sync_channel(LOG_LINES_WAITING_MAX);
    let queue = LogQueue {
        lines,
        dropped: Arc::default(),
    };
    let (running, ended) = mpsc::channel();
    let dropped = Arc::clone(&queue.dropped);
    thread::Builder::new().name("log".into()).spawn(move || {
        write_lines(sink, &waiting, &dropped);
        drop::<mpsc::Sender<()>>(running);
    })?;
    let guard = LogGuard {
        queue: queue.clone(),
        ended,
        patience: LAST_LINES_TIMEOUT,
    };
    Ok((queue, guard))
}

fn write_lines(mut sink: impl Write, waiting: &Receiver<Item>, dropped: &AtomicU64) {
    while let Ok(Item::Line(line)) = waiting.recv() {
        // Nothing can be done, or said, about a standard error that is closed.
        let _ = sink.write_all(&line);
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(
                sink,
                "{count} log lines dropped: standard error is read too slowly"
            );
        }
    }
    let _ = sink.flush();
}

impl std::fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogQueue")
            .field("dropped", &self.dropped)
            .finish_non_exhaustive()
    }
}

impl Write for LogQueue {
    /// One call is one line: the subscriber formats an event whole before it writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(Item::Line(line.to_vec())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        // A full queue means that nobody reads; the last lines cannot be shown then.
        if self.queue.lines.try_send(Item::Stop).is_ok() {
            let ended = self.ended.recv_timeout(self.patience);
            debug_assert!(matches!(
                ended,
                Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Waits for `open` before each write, and shows what was written.
    struct Gate {
        open: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Closed for good means open for good.
            let _ = self.open.recv();
            self.written
                .lock()
                .expect("no writer panics")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_never_blocks_a_logger() {
        let (open, gate) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Gate {
            open: gate,
            written: Arc::clone(&written),
        };
        let (mut queue, guard) = start(sink).expect("a thread can be started");
        for _ in 0..LOG_LINES_WAITING_MAX + 100 {
            queue.write_all(b"line\n").expect("never fails");
        }
        // One line may be in the writer's hands besides those in the queue.
        assert!(queue.dropped.load(Ordering::Relaxed) >= 99);
        drop(open);
        while Arc::strong_count(&queue.dropped) > 0 && queue.lines.try_send(Item::Stop).is_err() {
            thread::yield_now();
        }
        assert_eq!(
            guard.ended.recv_timeout(Duration::from_secs(30)),
            Err(RecvTimeoutError::Disconnected)
        );
        let text = String::from_utf8(written.lock().expect("no writer panics").clone());
        let text = text.expect("lines are UTF-8");
        assert!(
            text.starts_with("line\n") && text.contains("log lines dropped"),
            "{text:.200}"
        );
    }

    #[test]
    fn the_guard_writes_what_is_queued() {
        let (open, gate) = mpsc::channel();
        drop(open);
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Gate {
            open: gate,
            written: Arc::clone(&written),
        };
        let (mut queue, mut guard) = start(sink).expect("a thread can be started");
        guard.patience = Duration::from_secs(60);
        queue.write_all(b"first\n").expect("never fails");
        queue.write_all(b"last\n").expect("never fails");
        drop(guard);
        assert_eq!(*written.lock().expect("no writer panics"), b"first\nlast\n");
    }
}
