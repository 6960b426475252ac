//! Receives frames from one connection.
//!
//! Bytes are received into chunks and handed out as slices of them, without a copy. An idle
//! connection holds no chunk, only room for a frame prefix. Memory grows with the bytes that have
//! arrived, never with the length that a prefix declares. The payload of a large produce request
//! can be received elsewhere ([`Inbox::receive_into`]), straight into its own block.
//!
//! Runs on the shard's executor, in the connection's reader task.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use catena_protocol::frame::{FrameError, FramePrefix, PREFIX_BYTES};

use crate::limits::{CONNECTION_IDLE_TIMEOUT, FRAME_BYTES_PER_SECOND_MIN, FRAME_TIMEOUT};
use crate::runtime::clock;
use crate::runtime::net::Conn;

/// Chunk that bytes are received into while a connection is busy.
const CHUNK_BYTES: usize = 64 << 10;
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

/// The receiving side of one connection.
pub struct Inbox {
    conn: Rc<Conn>,
    chunk: BytesMut,
    filled: usize,
    after_large: bool,
    /// When the frame that has begun must be here.
    deadline_us: u64,
}

impl Inbox {
    /// Receives from `conn`.
    pub fn new(conn: Rc<Conn>) -> Inbox {
        Inbox {
            conn,
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

    /// Takes prefix and header of the frame whose prefix was just seen, and checks them.
    pub async fn header(&mut self, prefix: &FramePrefix) -> Result<Bytes, ReceiveError> {
        let header_bytes = usize::try_from(prefix.header_bytes).expect("u32 fits usize");
        self.fill_to(PREFIX_BYTES + header_bytes).await?;
        let mut bytes = self.take(PREFIX_BYTES + header_bytes);
        let header = bytes.split_off(PREFIX_BYTES);
        prefix.verify(&header)?;
        Ok(header)
    }

    /// Takes the next `count` bytes.
    pub async fn payload(&mut self, count: usize) -> Result<Bytes, ReceiveError> {
        self.after_large = false;
        self.fill_to(count).await?;
        Ok(self.take(count))
    }

    /// Receives the next bytes into `target`: what already arrived is copied, the rest is not.
    pub async fn receive_into(&mut self, target: &mut [u8]) -> Result<(), ReceiveError> {
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
        self.renew_if_small(if self.after_large {
            HEAD_READ_BYTES
        } else {
            CHUNK_BYTES
        });
        match self.conn.try_recv(&mut self.chunk[..]) {
            Ok(0) => return Err(ReceiveError::Closed),
            Ok(count) => {
                self.filled = count;
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        self.chunk = BytesMut::new();
        let mut little = [0; HEAD_READ_BYTES];
        let count = clock::timeout(CONNECTION_IDLE_TIMEOUT, self.conn.recv(&mut little))
            .await
            .map_err(|_| ReceiveError::Idle(CONNECTION_IDLE_TIMEOUT))??;
        if count == 0 {
            return Err(ReceiveError::Closed);
        }
        let room = if self.after_large {
            HEAD_READ_BYTES
        } else {
            CHUNK_BYTES
        };
        self.chunk = BytesMut::zeroed(room);
        self.chunk[..count].copy_from_slice(&little[..count]);
        self.filled = count;
        Ok(())
    }

    /// Receives until `count` bytes are here.
    async fn fill_to(&mut self, count: usize) -> Result<(), ReceiveError> {
        while self.filled < count {
            if self.filled == self.chunk.len() || self.chunk.len() < count {
                self.grow(count);
            }
            let room = &mut self.chunk[self.filled..];
            let received = receive(&self.conn, room, &mut self.deadline_us, allowed(count));
            self.filled += received.await?;
        }
        Ok(())
    }

    /// Makes room for more bytes of a frame of `count`: at most twice of what has arrived.
    fn grow(&mut self, count: usize) {
        let room = count
            .min((self.filled * 2).max(CHUNK_BYTES))
            .max(CHUNK_BYTES);
        if room <= self.chunk.len() && self.filled < self.chunk.len() {
            return;
        }
        let mut larger = BytesMut::zeroed(room.max(self.filled + PREFIX_BYTES));
        larger[..self.filled].copy_from_slice(&self.chunk[..self.filled]);
        self.chunk = larger;
    }

    fn renew_if_small(&mut self, wanted: usize) {
        if self.chunk.len() < wanted.min(CHUNK_BYTES / 4) || wanted < CHUNK_BYTES {
            self.chunk = BytesMut::zeroed(wanted);
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
