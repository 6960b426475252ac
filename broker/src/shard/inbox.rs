//! Receives frames from one connection.
//!
//! Bytes are received into chunks and handed out as slices of them, without a copy. An idle
//! connection holds no memory. Memory grows with the bytes that have arrived, never with the length
//! that a prefix declares, and beyond a chunk it is charged to the shard. The payload of a large
//! produce request can be received elsewhere ([`Inbox::receive_into`]), straight into its own
//! block; one that nobody wants is not kept.
//!
//! Runs on the shard's executor, in the connection's reader task.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use catena_protocol::frame::{FrameError, FramePrefix, PREFIX_BYTES};

use super::budget::{Budget, Charge};
use crate::limits::{
    CONNECTION_IDLE_TIMEOUT, FRAME_BYTES_PER_SECOND_MIN, FRAME_TIMEOUT,
    IN_PLACE_RECEIVING_BYTES_MAX, RECEIVING_BYTES_MAX,
};
use crate::runtime::clock;
use crate::runtime::net::{Conn, Lender};

/// Chunk that bytes are received into while a connection is busy.
const CHUNK_BYTES: usize = 64 << 10;
/// The rest of a chunk is used as long as it has so many bytes.
const CHUNK_BYTES_MIN: usize = CHUNK_BYTES / 4;
/// The first read after a large request: its successor's prefix, head and first item, and no more,
/// so that the payload behind them can be received in place.
const HEAD_READ_BYTES: usize = PREFIX_BYTES + 8 + 16;

/// Why receiving ended.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer closed, or the socket failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The peer closed between two frames.
    #[error("closed by the peer")]
    Closed,
    /// A frame did not arrive in time.
    #[error("a frame did not arrive within {0:?}")]
    TooSlow(Duration),
    /// Nothing came for so long that the connection may be closed.
    #[error("idle for {0:?}")]
    Idle(Duration),
    /// The bytes are not a frame: there is no telling where the next one starts.
    #[error("not a frame: {0}")]
    Malformed(#[from] FrameError),
}

/// What the receiving sides of a shard's connections share.
pub struct Receiving {
    /// Bytes of frames that are larger than a chunk, as far as they have arrived.
    grown: Rc<Budget>,
    /// Bytes of produce requests that are received in place.
    pub in_place: Rc<Budget>,
    /// The rest of a chunk that its connection has no use for. Its contents are arbitrary: zeroing
    /// memory at every wake-up would cost more than receiving into it.
    spare: RefCell<BytesMut>,
}

impl Default for Receiving {
    fn default() -> Receiving {
        Receiving {
            grown: Budget::new(RECEIVING_BYTES_MAX),
            in_place: Budget::new(IN_PLACE_RECEIVING_BYTES_MAX),
            spare: RefCell::default(),
        }
    }
}

/// The start of the spare chunk, so many bytes at most.
struct Spare<'a>(&'a Receiving, usize);

impl Lender for Spare<'_> {
    fn lend<T>(&self, receive: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut chunk = self.0.chunk(CHUNK_BYTES_MIN);
        let room = self.1.min(chunk.len());
        let received = receive(&mut chunk[..room]);
        *self.0.spare.borrow_mut() = chunk;
        received
    }
}

impl Receiving {
    /// A chunk of at least `bytes`, and of a useful length.
    fn chunk(&self, bytes: usize) -> BytesMut {
        let spare = self.spare.take();
        if spare.len() >= bytes.max(CHUNK_BYTES_MIN) {
            return spare;
        }
        BytesMut::zeroed(bytes.max(CHUNK_BYTES))
    }

    fn give_back(&self, chunk: BytesMut) {
        let mut spare = self.spare.borrow_mut();
        if chunk.len() > spare.len() {
            *spare = chunk;
        }
    }
}

/// The receiving side of one connection.
pub struct Inbox {
    conn: Rc<Conn>,
    receiving: Rc<Receiving>,
    chunk: BytesMut,
    filled: usize,
    after_large: bool,
    /// When the frame that has begun must be here.
    deadline_us: u64,
    /// For what the chunk has grown to.
    charge: Charge,
}

impl Inbox {
    /// Receives from `conn`.
    pub fn new(conn: Rc<Conn>, receiving: Rc<Receiving>) -> Inbox {
        Inbox {
            conn,
            charge: receiving.grown.charge(),
            receiving,
            chunk: BytesMut::new(),
            filled: 0,
            after_large: false,
            deadline_us: 0,
        }
    }

    /// Waits for the next frame's prefix. It stays in the inbox until the frame is taken.
    pub async fn prefix(&mut self) -> Result<FramePrefix, ReceiveError> {
        if self.filled == 0 {
            self.first_bytes().await?;
        }
        self.deadline_us = 0;
        self.fill_to(PREFIX_BYTES).await?;
        let bytes = self.chunk[..PREFIX_BYTES]
            .try_into()
            .expect("the slice has that length");
        Ok(FramePrefix::decode(bytes)?)
    }

    /// Whether the next frame has arrived, whole.
    pub fn holds_frame(&self) -> bool {
        let prefix = self.chunk[..self.filled].first_chunk();
        let prefix = prefix.and_then(|bytes| FramePrefix::decode(bytes).ok());
        let bytes = prefix.and_then(|prefix| usize::try_from(prefix.length).ok());
        bytes.is_some_and(|bytes| bytes <= self.filled)
    }

    /// Takes prefix and header of the frame whose prefix was just seen, and checks them. Its
    /// payload is to be taken or discarded next, also if it is empty.
    pub async fn header(&mut self, prefix: &FramePrefix) -> Result<Bytes, ReceiveError> {
        let header_bytes = usize::try_from(prefix.header_bytes).expect("u32 fits usize");
        self.fill_to(PREFIX_BYTES + header_bytes).await?;
        let mut bytes = self.take(PREFIX_BYTES + header_bytes);
        let header = bytes.split_off(PREFIX_BYTES);
        prefix.verify(&header)?;
        Ok(header)
    }

    /// Takes the payload, the next `count` bytes.
    pub async fn payload(&mut self, count: usize) -> Result<Bytes, ReceiveError> {
        self.after_large = false;
        self.fill_to(count).await?;
        // Who gets it counts it from now on.
        self.charge.release();
        Ok(self.take(count))
    }

    /// Receives the payload and keeps nothing of it.
    pub async fn discard(&mut self, count: usize) -> Result<(), ReceiveError> {
        self.after_large = false;
        self.charge.release();
        let here = self.filled.min(count);
        drop(self.take(here));
        let mut rest = count - here;
        while rest > 0 {
            self.renew();
            let room = self.chunk.len().min(rest);
            let room = &mut self.chunk[..room];
            rest -= receive(&self.conn, room, &mut self.deadline_us, allowed(count)).await?;
        }
        Ok(())
    }

    /// Receives the payload into `target`: what already arrived is copied, the rest is not.
    pub async fn receive_into(&mut self, target: &mut [u8]) -> Result<(), ReceiveError> {
        self.charge.release();
        let here = self.filled.min(target.len());
        let arrived = self.take(here);
        target[..here].copy_from_slice(&arrived);
        self.after_large = true;
        let mut at = here;
        while at < target.len() {
            let allowed = allowed(target.len());
            let room = &mut target[at..];
            at += receive(&self.conn, room, &mut self.deadline_us, allowed).await?;
        }
        Ok(())
    }

    /// Waits, without holding a chunk, until something arrives.
    async fn first_bytes(&mut self) -> Result<(), ReceiveError> {
        let room = if self.after_large {
            HEAD_READ_BYTES
        } else {
            usize::MAX
        };
        self.receiving.give_back(std::mem::take(&mut self.chunk));
        let spare = Spare(&self.receiving, room);
        let received = clock::timeout(CONNECTION_IDLE_TIMEOUT, self.conn.recv_lent(&spare));
        let count = received
            .await
            .map_err(|_| ReceiveError::Idle(CONNECTION_IDLE_TIMEOUT))??;
        if count == 0 {
            return Err(ReceiveError::Closed);
        }
        // Nobody else ran since it was received into the spare chunk.
        self.chunk = self.receiving.spare.take();
        self.filled = count;
        Ok(())
    }

    /// Receives until `count` bytes are here.
    async fn fill_to(&mut self, count: usize) -> Result<(), ReceiveError> {
        while self.filled < count {
            if self.filled == self.chunk.len() || self.chunk.len() < count.min(CHUNK_BYTES) {
                self.grow(count).await;
            }
            // Behind a large request comes another: its payload is left for its own block.
            let end = if self.after_large {
                count.min(self.chunk.len())
            } else {
                self.chunk.len()
            };
            let room = &mut self.chunk[self.filled..end];
            let received = receive(&self.conn, room, &mut self.deadline_us, allowed(count));
            self.filled += received.await?;
        }
        Ok(())
    }

    /// Makes room for more bytes of a frame of `count`: at most twice of what has arrived.
    async fn grow(&mut self, count: usize) {
        let bytes = count.min((self.filled * 2).max(CHUNK_BYTES));
        let mut larger = if bytes <= CHUNK_BYTES {
            self.receiving.chunk(bytes)
        } else {
            self.charge_for(bytes).await;
            BytesMut::zeroed(bytes)
        };
        larger[..self.filled].copy_from_slice(&self.chunk[..self.filled]);
        self.chunk = larger;
    }

    /// Waits until the shard has room for a chunk of `bytes`; the peer's time stands still.
    async fn charge_for(&mut self, bytes: usize) {
        let began_us = clock::now_us();
        self.charge.grow_to(bytes).await;
        if self.deadline_us != 0 {
            self.deadline_us += clock::now_us() - began_us;
        }
    }

    /// Makes sure that there is a chunk worth receiving into; nothing is in it.
    fn renew(&mut self) {
        if self.chunk.len() < CHUNK_BYTES_MIN {
            self.chunk = self.receiving.chunk(CHUNK_BYTES_MIN);
        }
    }

    fn take(&mut self, count: usize) -> Bytes {
        self.filled -= count;
        self.chunk.split_to(count).freeze()
    }
}

/// One receive of a frame that must be here by `deadline_us`, which is set when it first waits.
async fn receive(
    conn: &Conn,
    room: &mut [u8],
    deadline_us: &mut u64,
    allowed: Duration,
) -> Result<usize, ReceiveError> {
    let count = match conn.try_recv(room) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let now_us = clock::now_us();
            if *deadline_us == 0 {
                *deadline_us = now_us + u64::try_from(allowed.as_micros()).unwrap_or(u64::MAX);
            }
            let rest = Duration::from_micros(deadline_us.saturating_sub(now_us));
            clock::timeout(rest, conn.recv(room))
                .await
                .map_err(|_| ReceiveError::TooSlow(allowed))??
        }
        done => done?,
    };
    if count == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(count)
}

/// The time that a frame may take: some for any, and more for its size.
fn allowed(bytes: usize) -> Duration {
    let seconds = u64::try_from(bytes / FRAME_BYTES_PER_SECOND_MIN).expect("usize fits u64");
    FRAME_TIMEOUT + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
