//! Moves the bytes of one connection: fills the write queue from a handler, writes, reads, and
//! hands whole frames to the handler.
//!
//! Invariant: work is taken from the handler only while less than `WRITE_QUEUE_BYTES_MAX` waits
//! to be written, so what can not be sent stays where it can still be batched. The task owns the
//! socket; one turn is bounded, so that a current-thread runtime gets to its other tasks.

use std::future::Future;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Interval, MissedTickBehavior};

use super::handshake::Established;
use super::read_buffer::{Frame, ReadBuffer};
use super::stream::Stream;
use super::write_queue::WriteQueue;
use crate::error::ConnectionError;
use crate::limits::{READ_TURN_BYTES_MAX, WRITE_QUEUE_BYTES_MAX, WRITE_SLICES_MAX};

/// Rounds of filling, writing and reading before the task gives way to others.
const ROUNDS_PER_TURN: usize = 4;

/// A frame that can not be what the protocol allows here.
pub(crate) type Violation = String;

/// What a connection is for.
pub(crate) trait Handler: Send {
    /// Appends frames to `out` while its size stays in bounds. If there is (for now) nothing to
    /// do, it must see to it that the waker in `cx` is woken when there is.
    fn fill(&mut self, cx: &mut Context<'_>, now: Instant, out: &mut WriteQueue);

    /// Takes a frame. An error closes the connection.
    fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), Violation>;

    /// When the oldest request was sent that still waits for its answer.
    fn oldest_request(&self) -> Option<Instant>;

    /// Whether there is no work. A connection without work is closed after the idle timeout.
    fn is_idle(&self) -> bool;

    /// Closes the handler to new work, unless some came in the meantime.
    fn close_if_idle(&mut self) -> bool;

    /// Whether the connection shall close now.
    fn is_done(&self) -> bool;
}

/// The time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DriverTimeouts {
    /// The longest wait for the answer to a request.
    pub(crate) request: Duration,
    /// The longest time without work.
    pub(crate) idle: Duration,
}

/// Why a driver stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// There was no work for the idle timeout, or the handler is done.
    Idle,
    Failed(ConnectionError),
}

/// One connection at work.
#[derive(Debug)]
pub(crate) struct Driver<H> {
    stream: Stream,
    address: Arc<str>,
    read: ReadBuffer,
    write: WriteQueue,
    handler: H,
    timeouts: DriverTimeouts,
    tick: Interval,
    idle_since: Option<Instant>,
}

impl<H: Handler> Driver<H> {
    pub(crate) fn new(established: Established, timeouts: DriverTimeouts, handler: H) -> Self {
        let period = timeouts.request.min(timeouts.idle) / 8;
        let period = period.clamp(Duration::from_millis(5), Duration::from_millis(500));
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            stream: established.stream,
            address: established.address,
            read: established.read,
            write: WriteQueue::default(),
            handler,
            timeouts,
            tick,
            idle_since: None,
        }
    }

    /// Runs until the connection ends; gives the handler back.
    pub(crate) async fn run(mut self) -> (H, Stop) {
        let stop = std::future::poll_fn(|cx| self.poll_turn(cx)).await;
        (self.handler, stop)
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        for _ in 0..ROUNDS_PER_TURN {
            match self.poll_round(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(stop) => return Poll::Ready(stop),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does what can be done now; whether there was anything.
    fn poll_round(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let now = Instant::now();
        // First, so that nothing is taken for a connection whose end is known already.
        let read = self.poll_read(cx, now).map_err(Stop::Failed)?;
        if self.write.bytes() < WRITE_QUEUE_BYTES_MAX {
            self.handler.fill(cx, now, &mut self.write);
        }
        if self.handler.is_done() && self.write.is_empty() {
            return Err(Stop::Idle);
        }
        let wrote = self.poll_write(cx).map_err(Stop::Failed)?;
        while self.tick.poll_tick(cx).is_ready() {
            self.check_time(now)?;
        }
        Ok(wrote || read)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, ConnectionError> {
        let mut progress = false;
        while !self.write.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
            let count = self.write.slices(&mut slices);
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => {
                    return Err(ConnectionError::Closed {
                        address: self.address.clone(),
                    });
                }
                Poll::Ready(Ok(bytes)) => {
                    self.write.advance(bytes);
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Err(self.failed(error)),
                Poll::Pending => break,
            }
        }
        Ok(progress)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, ConnectionError> {
        let mut bytes_read = 0;
        while bytes_read < READ_TURN_BYTES_MAX {
            let room = self.read.room();
            let read = pin!(self.stream.read_buf(room));
            match read.poll(cx) {
                Poll::Ready(Ok(0)) => {
                    return Err(ConnectionError::Closed {
                        address: self.address.clone(),
                    });
                }
                Poll::Ready(Ok(bytes)) => bytes_read += bytes,
                Poll::Ready(Err(error)) => return Err(self.failed(error)),
                Poll::Pending => break,
            }
            self.handle_frames(now)?;
        }
        Ok(bytes_read > 0)
    }

    fn handle_frames(&mut self, now: Instant) -> Result<(), ConnectionError> {
        loop {
            let frame = match self.read.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.violated(&error.to_string())),
            };
            if let Err(reason) = self.handler.handle_frame(now, frame) {
                return Err(self.violated(&reason));
            }
        }
    }

    fn check_time(&mut self, now: Instant) -> Result<(), Stop> {
        let after = self.timeouts.request;
        if self
            .handler
            .oldest_request()
            .is_some_and(|sent| now >= sent + after)
        {
            let address = self.address.clone();
            return Err(Stop::Failed(ConnectionError::TimedOut { address, after }));
        }
        if !self.handler.is_idle() || !self.write.is_empty() {
            self.idle_since = None;
        } else if now >= *self.idle_since.get_or_insert(now) + self.timeouts.idle
            && self.handler.close_if_idle()
        {
            return Err(Stop::Idle);
        }
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> ConnectionError {
        ConnectionError::Io {
            address: self.address.clone(),
            source: Arc::new(error),
        }
    }

    fn violated(&self, reason: &str) -> ConnectionError {
        ConnectionError::Protocol {
            address: self.address.clone(),
            reason: reason.into(),
        }
    }
}
