//! Connections for questions with one answer each: metadata, admin, offsets, producer ids.
//!
//! Invariant: every question gets exactly one outcome: its answer, or the error the connection
//! ended with; one that was never given to a connection is asked on the next. Questions are encoded
//! by whoever asks; one task per connection moves the bytes.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use catena_protocol::ids::CorrelationId;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio::time::timeout_at;

use super::Endpoint;
use super::driver::{Driver, DriverTimeouts, Handler, Stop, Violation};
use super::handshake::{Identity, establish};
use super::read_buffer::Frame;
use super::write_queue::WriteQueue;
use crate::error::{ConnectionError, RequestError};
use crate::limits::CONTROL_REQUESTS_MAX;
use crate::locking::lock;

type Reply = Result<Frame, ConnectionError>;

/// The connections of one client, by endpoint. Made when needed, dropped when idle.
#[derive(Debug)]
pub(crate) struct ControlPool {
    identity: Arc<Identity>,
    timeouts: DriverTimeouts,
    slots: Mutex<FxHashMap<Endpoint, Slot>>,
}

/// The async lock keeps callers from making one connection twice.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<ControlConnection>>>>;

impl ControlPool {
    pub(crate) fn new(identity: Arc<Identity>, timeouts: DriverTimeouts) -> Self {
        Self {
            identity,
            timeouts,
            slots: Mutex::default(),
        }
    }

    /// Asks and waits for the answer, for the request timeout at the most. The error says whether
    /// the question was sent. Dropping the future drops the answer, not the question.
    pub(crate) async fn call(
        &self,
        endpoint: &Endpoint,
        encode: impl Fn(CorrelationId, &mut Vec<u8>),
    ) -> Result<Frame, RequestError> {
        let after = self.timeouts.request;
        let deadline = (Instant::now() + after).into();
        let timed_out = |_: Elapsed| ConnectionError::TimedOut {
            address: endpoint.address.clone(),
            after,
        };
        // The caller may have kept its thread busy. Let the runtime look at the sockets first, so
        // that a change is not sent, with unknown outcome, to a broker that is long gone.
        tokio::task::yield_now().await;
        loop {
            let connection = timeout_at(deadline, self.connection(endpoint)).await;
            let connection = connection.map_err(timed_out)??;
            let Some(receiver) = connection.ask(&encode) else {
                continue;
            };
            match timeout_at(deadline, receiver).await {
                Ok(Ok(reply)) => return reply.map_err(RequestError::Unanswered),
                // It closed before the question was sent.
                Ok(Err(_)) => {}
                Err(elapsed) => return Err(RequestError::Unanswered(timed_out(elapsed))),
            }
        }
    }

    async fn connection(
        &self,
        endpoint: &Endpoint,
    ) -> Result<Arc<ControlConnection>, ConnectionError> {
        let slot = match lock(&self.slots).entry(endpoint.clone()) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => entry.insert(Slot::default()).clone(),
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = &*slot
            && connection.is_open()
        {
            return Ok(connection.clone());
        }
        let established = establish(endpoint, &self.identity).await?;
        let connection = Arc::new(ControlConnection::default());
        let address = established.address.clone();
        let handler = ControlHandler {
            connection: connection.clone(),
            address,
        };
        let driver = Driver::new(established, self.timeouts, handler);
        tokio::spawn(async move {
            let (handler, stop) = driver.run().await;
            handler.connection.close(stop, &handler.address);
        });
        *slot = Some(connection.clone());
        Ok(connection)
    }
}

impl Drop for ControlPool {
    fn drop(&mut self) {
        for slot in lock(&self.slots).values() {
            if let Ok(slot) = slot.try_lock()
                && let Some(connection) = &*slot
            {
                let mut state = lock(&connection.state);
                state.is_done = true;
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

#[derive(Debug, Default)]
struct ControlConnection {
    state: Mutex<ControlState>,
}

#[derive(Debug, Default)]
struct ControlState {
    closed: Option<ConnectionError>,
    is_done: bool,
    next_correlation: u32,
    /// The correlation of the first question in `outgoing`.
    first_outgoing: u32,
    /// Encoded questions that no task has taken yet.
    outgoing: Vec<u8>,
    waiting: FxHashMap<u32, Question>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Question {
    asked: Instant,
    reply: oneshot::Sender<Reply>,
}

impl ControlConnection {
    fn is_open(&self) -> bool {
        let state = lock(&self.state);
        state.closed.is_none() && state.waiting.len() < CONTROL_REQUESTS_MAX
    }

    /// Sends a question, unless the connection is closed.
    fn ask(
        &self,
        encode: impl FnOnce(CorrelationId, &mut Vec<u8>),
    ) -> Option<oneshot::Receiver<Reply>> {
        let mut state = lock(&self.state);
        if state.closed.is_some() {
            return None;
        }
        let correlation = state.next_correlation;
        state.next_correlation = correlation.wrapping_add(1);
        encode(CorrelationId(correlation), &mut state.outgoing);
        let (reply, receiver) = oneshot::channel();
        state.waiting.insert(
            correlation,
            Question {
                asked: Instant::now(),
                reply,
            },
        );
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Some(receiver)
    }

    fn close(&self, stop: Stop, address: &Arc<str>) {
        let error = match stop {
            Stop::Failed(error) => error,
            Stop::Idle => ConnectionError::Closed {
                address: address.clone(),
            },
        };
        let waiting = {
            let mut state = lock(&self.state);
            state.closed = Some(error.clone());
            // Those that no task has taken: without a reply they are asked again.
            let (first, end) = (state.first_outgoing, state.next_correlation);
            let sent =
                |correlation: u32| correlation.wrapping_sub(first) >= end.wrapping_sub(first);
            state.waiting.retain(|correlation, _| sent(*correlation));
            std::mem::take(&mut state.waiting)
        };
        for question in waiting.into_values() {
            // Whoever asked may have stopped waiting.
            drop(question.reply.send(Err(error.clone())));
        }
    }
}

#[derive(Debug)]
struct ControlHandler {
    connection: Arc<ControlConnection>,
    address: Arc<str>,
}

impl Handler for ControlHandler {
    fn fill(&mut self, cx: &mut Context<'_>, _now: Instant, out: &mut WriteQueue) {
        let mut state = lock(&self.connection.state);
        out.header().append(&mut state.outgoing);
        state.first_outgoing = state.next_correlation;
        state.waker = Some(cx.waker().clone());
    }

    fn handle_frame(&mut self, _now: Instant, frame: Frame) -> Result<(), Violation> {
        let correlation = frame.prefix.correlation.0;
        let Some(question) = lock(&self.connection.state).waiting.remove(&correlation) else {
            return Err(format!(
                "an answer to question {correlation}, which was not asked"
            ));
        };
        drop(question.reply.send(Ok(frame)));
        Ok(())
    }

    fn oldest_request(&self) -> Option<Instant> {
        let state = lock(&self.connection.state);
        state.waiting.values().map(|question| question.asked).min()
    }

    fn is_idle(&self) -> bool {
        lock(&self.connection.state).waiting.is_empty()
    }

    fn close_if_idle(&mut self) -> bool {
        let mut state = lock(&self.connection.state);
        let is_idle = state.waiting.is_empty();
        if is_idle {
            state.closed = Some(ConnectionError::Closed {
                address: self.address.clone(),
            });
        }
        is_idle
    }

    fn is_done(&self) -> bool {
        lock(&self.connection.state).is_done
    }
}
