//! One client connection on its owning shard: a reader task, a writer task, and what they share.
//!
//! The reader parses frames and hands requests on; it never waits for a request to finish, so
//! requests are pipelined. It stops reading only when the client exceeds the produce credit that
//! `Hello` granted, or when the shard's own produce budget is used up. The writer sends what the
//! outbox holds. Acks are collected per group commit, so that one frame completes many requests.
//!
//! Runs on the shard's executor.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use catena_core::limits::BLOCK_BYTES_MAX;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{CorrelationId, SessionId};
use catena_protocol::messages::{AckItem, ErrorResponse, encode_produce_ack};
use futures_util::future::{Either, select};
use tracing::{debug, warn};

use super::access::Principal;
use super::budget::Budget;
use super::fetch::FetchSession;
use super::outbox::{Front, Outbox};
use super::reader::ReadError;
use super::{Shard, requests};
use crate::limits::{
    CONTROL_CREDIT_REQUESTS, FETCH_QUEUED_BYTES_MAX, PRODUCE_CREDIT_BYTES, SLOW_SEND_CLOSE,
};
use crate::runtime::channel::Notify;
use crate::runtime::clock;
use crate::runtime::executor::{self, Queue};
use crate::runtime::net::Conn;

/// How often a stalled send is looked at.
const STALL_CHECK: Duration = Duration::from_millis(500);

/// What the tasks of one connection share.
pub struct Connection {
    /// Number of the connection on this shard; the admission queue's source.
    pub id: u64,
    /// Who is on the other side.
    pub principal: Principal,
    /// What waits to be sent.
    pub outbox: Outbox,
    /// Fetch sessions by the client's numbers.
    pub sessions: RefCell<BTreeMap<SessionId, Rc<FetchSession>>>,
    socket: Rc<Conn>,
    acks: RefCell<Vec<AckItem>>,
    unacked_bytes: Cell<usize>,
    controls: Cell<u32>,
    credit: Notify,
    park: Notify,
    /// Bytes of fetch responses that are being put together.
    gathering_bytes: Cell<usize>,
    fetch_room: Notify,
    stalled: Cell<bool>,
    closed: Cell<bool>,
}

impl Connection {
    /// A connection whose `Hello` was answered.
    pub fn new(id: u64, socket: Rc<Conn>, principal: Principal, memory: Rc<Budget>) -> Self {
        Connection {
            id,
            principal,
            outbox: Outbox::new(memory),
            sessions: RefCell::default(),
            socket,
            acks: RefCell::default(),
            unacked_bytes: Cell::new(0),
            controls: Cell::new(0),
            credit: Notify::new(),
            park: Notify::new(),
            gathering_bytes: Cell::new(0),
            fetch_room: Notify::new(),
            stalled: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    /// Queues a whole frame.
    pub fn send(&self, frame: Vec<u8>) {
        if !self.closed.get() {
            self.outbox.push_bytes(Bytes::from(frame));
        }
    }

    /// Answers a request with an error.
    pub fn send_error(&self, to: CorrelationId, code: ErrorCode, detail: u64, message: &str) {
        let mut frame = Vec::new();
        ErrorResponse {
            code,
            message: message.to_owned(),
            detail,
        }
        .encode(to, &mut frame);
        self.send(frame);
    }

    /// Notes an ack; the first since the last frame returns true, and the caller then makes sure
    /// that [`flush_acks`](Self::flush_acks) is called.
    pub fn push_ack(&self, ack: AckItem) -> bool {
        let mut acks = self.acks.borrow_mut();
        acks.push(ack);
        acks.len() == 1
    }

    /// Sends the collected acks as one frame.
    pub fn flush_acks(&self) {
        let acks = std::mem::take(&mut *self.acks.borrow_mut());
        if !acks.is_empty() {
            let mut frame = Vec::new();
            for items in acks.chunks(usize::from(u16::MAX)) {
                encode_produce_ack(&mut frame, items);
            }
            self.send(frame);
        }
    }

    /// Charges `bytes` of produce payload against the connection's credit.
    pub fn charge(&self, bytes: usize) {
        self.unacked_bytes.set(self.unacked_bytes.get() + bytes);
    }

    /// Gives credit back.
    pub fn release(&self, bytes: usize) {
        self.unacked_bytes.set(self.unacked_bytes.get() - bytes);
        self.credit.notify();
    }

    /// Waits until the client is within its credit again.
    pub async fn credit(&self) {
        while self.exceeds_credit() && !self.closed.get() {
            self.credit.notified().await;
        }
    }

    fn exceeds_credit(&self) -> bool {
        self.unacked_bytes.get() > PRODUCE_CREDIT_BYTES
            || self.controls.get() > CONTROL_CREDIT_REQUESTS
    }

    /// Counts a control request that is not answered yet.
    pub fn control_began(&self) {
        self.controls.set(self.controls.get() + 1);
    }

    /// Counts it as answered.
    pub fn control_ended(&self) {
        self.controls.set(self.controls.get() - 1);
        self.credit.notify();
    }

    /// Waits until at most `bytes` wait to be sent.
    pub async fn drained_to(&self, bytes: usize) {
        while self.outbox.queued_bytes() > bytes && !self.closed.get() {
            self.outbox.drained.notified().await;
            // One wake-up lets one waiter through; each lets the next one look.
            if self.outbox.queued_bytes() <= bytes || self.closed.get() {
                self.outbox.drained.notify();
            }
        }
    }

    /// Begins a fetch response, whose bytes count against the connection's room for them.
    pub fn gathering(&self) -> Gathering<'_> {
        Gathering {
            connection: self,
            bytes: 0,
        }
    }

    /// Whether another partition may be read for a fetch response.
    pub fn has_fetch_room(&self) -> bool {
        self.fetch_bytes() < FETCH_QUEUED_BYTES_MAX
    }

    /// Whether half of the room for fetch responses is used.
    pub fn is_fetch_crowded(&self) -> bool {
        self.fetch_bytes() > FETCH_QUEUED_BYTES_MAX / 2
    }

    /// Waits until there is room for fetch responses again.
    pub async fn fetch_room(&self) {
        while !self.has_fetch_room() && !self.closed.get() {
            self.fetch_room.notified().await;
            // One wake-up lets one waiter through; each lets the next one look.
            if self.has_fetch_room() || self.closed.get() {
                self.fetch_room.notify();
            }
        }
    }

    /// Bytes that are queued or of which a fetch response is being put together.
    fn fetch_bytes(&self) -> usize {
        self.outbox.queued_bytes() + self.gathering_bytes.get()
    }

    fn note_sent(&self, bytes: usize) {
        self.outbox.advance(bytes);
        self.fetch_room.notify();
    }

    /// Whether the connection is going down.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Whether the peer does not take what waits for it.
    pub fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    /// Ends the connection; its tasks end soon.
    pub fn close(&self) {
        if !self.closed.replace(true) {
            self.socket.shutdown();
            self.outbox.work.notify();
            self.outbox.drained.notify();
            self.credit.notify();
            self.park.notify();
            self.fetch_room.notify();
            for session in self.sessions.borrow().values() {
                session.close();
            }
        }
    }

    /// Gives up the blocks that a stalled peer pins.
    pub fn park(&self) {
        self.outbox.park();
        self.park.notify();
    }
}

/// The bytes of one fetch response that is being put together.
pub struct Gathering<'a> {
    connection: &'a Connection,
    bytes: usize,
}

impl Gathering<'_> {
    /// Sets what the response holds or is about to read.
    pub fn set(&mut self, bytes: usize) {
        let total = &self.connection.gathering_bytes;
        total.set(total.get() - self.bytes + bytes);
        if bytes < self.bytes {
            self.connection.fetch_room.notify();
        }
        self.bytes = bytes;
    }
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Serves a connection until either side ends it.
pub async fn serve(shard: Rc<Shard>, connection: Rc<Connection>, inbox: super::inbox::Inbox) {
    let writer = executor::spawn(
        Queue::Network,
        write_loop(Rc::clone(&shard), Rc::clone(&connection)),
    );
    let ended = requests::read_loop(&shard, &connection, inbox).await;
    if let Err(reason) = ended {
        debug!(connection = connection.id, %reason, "connection ended");
    }
    connection.close();
    writer.await;
    connection.sessions.borrow_mut().clear();
    shard.forget_connection(&connection);
}

async fn write_loop(shard: Rc<Shard>, connection: Rc<Connection>) {
    if let Err(error) = write_until_closed(&shard, &connection).await {
        debug!(connection = connection.id, %error, "sending ended");
    }
    connection.close();
}

async fn write_until_closed(shard: &Rc<Shard>, connection: &Rc<Connection>) -> io::Result<()> {
    let outbox = &connection.outbox;
    while !connection.closed.get() {
        match outbox.front() {
            Front::Empty => outbox.work.notified().await,
            Front::Parked(slice) => {
                // A whole block is read, and it may come with its neighbours.
                let mut charge = shard.sends_memory.charge();
                charge.grow_to(BLOCK_BYTES_MAX).await;
                let slice = shard.reader.read_back(&slice).await;
                let slice = slice.map_err(|error| lost_on_the_way(shard, error))?;
                charge.shrink_to(slice.bytes.buffer.capacity());
                outbox.restore(slice, charge);
            }
            Front::Ready => {
                match outbox.with_slices(|slices| connection.socket.try_send(slices)) {
                    Ok(sent) => connection.note_sent(sent),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        wait_writable(shard, connection).await?;
                    }
                    Err(error) => return Err(error),
                }
                executor::yield_if_needed().await;
            }
        }
    }
    Ok(())
}

/// What a response has promised cannot be sent any more, and what was sent of it cannot be taken
/// back: the client has to ask again, and is then told what is lost.
fn lost_on_the_way(shard: &Shard, error: ReadError) -> io::Error {
    shard.metrics.fetch_damaged.add(1);
    warn!(%error, "records that wait to be sent cannot be read again; closing the connection");
    io::Error::other(error)
}

/// Waits until the peer takes bytes. Its blocks can be parked meanwhile.
async fn wait_writable(shard: &Rc<Shard>, connection: &Rc<Connection>) -> io::Result<()> {
    connection.stalled.set(true);
    shard.note_stalled(connection);
    let give_up_us = clock::now_us() + duration_us(SLOW_SEND_CLOSE);
    let sent = loop {
        if connection.closed.get() {
            break Ok(0);
        }
        if clock::now_us() >= give_up_us {
            break Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("the peer took nothing for {SLOW_SEND_CLOSE:?}"),
            ));
        }
        let first = connection.outbox.first();
        let writable = std::pin::pin!(connection.socket.writable(first.as_slice()));
        let parked = std::pin::pin!(connection.park.notified());
        let either = clock::timeout(STALL_CHECK, select(writable, parked)).await;
        if let Ok(Either::Left((sent, _))) = either {
            break sent;
        }
    };
    connection.stalled.set(false);
    connection.note_sent(sent?);
    Ok(())
}

fn duration_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("seconds in microseconds fit u64")
}

#[cfg(test)]
mod tests;
