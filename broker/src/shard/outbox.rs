//! What waits to be sent on one connection, and how much memory it pins.
//!
//! A fetch response is a small header and slices of cached blocks; nothing of a batch is copied. A
//! reader that does not read would pin those blocks for as long as it likes, so a stalled outbox
//! can be *parked*: its slices become positions on disk, which cost nothing, and are read again
//! when the socket takes bytes. A parked slice holds a lease on its segment.
//!
//! Invariant: every slice that pins a buffer is charged to the shard's budget; what finds no room
//! there is parked as it is queued. Runs on the shard's executor; the connection's writer task is
//! the only one that takes bytes out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use bytes::Bytes;
use catena_core::index::Extent;
use catena_protocol::ids::TopicPartition;

use super::budget::{Budget, Charge};
use crate::cache::CachedBytes;
use crate::runtime::channel::Notify;
use crate::shard::files::OpenSegment;

/// Bytes that may be sent in one call.
const SEND_SLICES_MAX: usize = 64;
/// What stays in memory of a parked outbox, so that there is something to wait for the socket with.
const PROBE_BYTES: usize = 2048;

/// A slice of a block, with the place to read it from again.
pub struct BlockSlice {
    /// The bytes.
    pub bytes: CachedBytes,
    /// The segment they came from; keeps it from being reused.
    pub segment: Rc<OpenSegment>,
    /// The partition they belong to.
    pub tp: TopicPartition,
    /// The extent they are part of.
    pub extent: Extent,
    /// Where they start in the segment.
    pub offset: u32,
}

impl BlockSlice {
    /// All but the first `skip` bytes, given up.
    fn parked(&self, skip: usize) -> ParkedSlice {
        ParkedSlice {
            segment: Rc::clone(&self.segment),
            tp: self.tp,
            extent: self.extent,
            offset: self.offset + u32::try_from(skip).expect("a slice is below 1 MiB"),
            bytes: self.bytes.bytes - skip,
        }
    }
}

/// A slice that was given up and must be read again.
pub struct ParkedSlice {
    /// The segment to read from; keeps it from being reused.
    pub segment: Rc<OpenSegment>,
    /// The partition it belongs to.
    pub tp: TopicPartition,
    /// The extent that it is part of.
    pub extent: Extent,
    /// Where the slice starts in the segment.
    pub offset: u32,
    /// Its length.
    pub bytes: usize,
}

enum Piece {
    Copied(Bytes),
    /// A slice and its charge: the capacity of its buffer, or nothing when the slice before it
    /// holds the same one.
    Block(
        BlockSlice,
        #[expect(dead_code, reason = "it is given back when it is dropped")] Charge,
    ),
    Parked(ParkedSlice),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Copied(bytes) => bytes.len(),
            Piece::Block(slice, _) => slice.bytes.bytes,
            Piece::Parked(slice) => slice.bytes,
        }
    }
}

/// What the writer should do next.
pub enum Front {
    /// There is nothing to send.
    Empty,
    /// The slices that [`Outbox::with_slices`] gives can be sent.
    Ready,
    /// This slice must be read from disk first.
    Parked(ParkedSlice),
}

/// The queue of one connection.
pub struct Outbox {
    pieces: RefCell<VecDeque<Piece>>,
    queued_bytes: Cell<usize>,
    memory: Rc<Budget>,
    /// Wakes the writer.
    pub work: Notify,
    /// Wakes those who wait for the queue to shrink.
    pub drained: Notify,
}

impl Outbox {
    /// An empty queue that charges what it pins to `memory`, the shard's budget.
    pub fn new(memory: Rc<Budget>) -> Outbox {
        Outbox {
            pieces: RefCell::new(VecDeque::new()),
            queued_bytes: Cell::new(0),
            memory,
            work: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Queues bytes of their own.
    pub fn push_bytes(&self, bytes: Bytes) {
        self.push(Piece::Copied(bytes));
        self.work.notify();
    }

    /// Queues a response: its header, then its slices. They go out without anything in between.
    pub fn push_response(&self, header: Bytes, slices: impl Iterator<Item = ResponseSlice>) {
        self.push(Piece::Copied(header));
        for slice in slices {
            match slice {
                ResponseSlice::Copied(bytes) => self.push(Piece::Copied(bytes)),
                ResponseSlice::Block(slice) => {
                    let piece = match self.memory.try_charge(self.buffer_bytes(&slice)) {
                        Some(charge) => Piece::Block(slice, charge),
                        None => Piece::Parked(slice.parked(0)),
                    };
                    self.push(piece);
                }
            }
        }
        self.work.notify();
    }

    /// Bytes that wait.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    /// What is at the front.
    pub fn front(&self) -> Front {
        let mut pieces = self.pieces.borrow_mut();
        match pieces.front() {
            None => Front::Empty,
            Some(Piece::Copied(_) | Piece::Block(..)) => Front::Ready,
            Some(Piece::Parked(_)) => {
                let Some(Piece::Parked(slice)) = pieces.pop_front() else {
                    unreachable!("the front was just seen to be parked")
                };
                self.queued_bytes.set(self.queued_bytes.get() - slice.bytes);
                Front::Parked(slice)
            }
        }
    }

    /// Puts what was read back in front again, with what it was charged before it was read.
    pub fn restore(&self, slice: BlockSlice, charge: Charge) {
        let piece = Piece::Block(slice, charge);
        self.queued_bytes.set(self.queued_bytes.get() + piece.len());
        self.pieces.borrow_mut().push_front(piece);
    }

    /// Lends the next slices to `send`, up to the first parked one.
    pub fn with_slices<T>(&self, send: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let pieces = self.pieces.borrow();
        let mut slices = [IoSlice::new(&[]); SEND_SLICES_MAX];
        let mut count = 0;
        for piece in pieces.iter().take(SEND_SLICES_MAX) {
            slices[count] = match piece {
                Piece::Copied(bytes) => IoSlice::new(bytes),
                Piece::Block(slice, _) => IoSlice::new(slice.bytes.as_slice()),
                Piece::Parked(_) => break,
            };
            count += 1;
        }
        send(&slices[..count])
    }

    /// A handle on the first bytes, to wait for the socket with.
    pub fn first(&self) -> FirstBytes {
        match self.pieces.borrow().front() {
            Some(Piece::Copied(bytes)) => FirstBytes::Copied(bytes.clone()),
            Some(Piece::Block(slice, _)) => FirstBytes::Block(slice.bytes.clone()),
            Some(Piece::Parked(_)) | None => FirstBytes::Copied(Bytes::new()),
        }
    }

    /// Takes `sent` bytes off the front.
    pub fn advance(&self, mut sent: usize) {
        self.queued_bytes.set(self.queued_bytes.get() - sent);
        let mut pieces = self.pieces.borrow_mut();
        while sent > 0 {
            let piece = pieces.front_mut().expect("no more is sent than was queued");
            let len = piece.len();
            if sent < len {
                match piece {
                    Piece::Copied(bytes) => drop(bytes.split_to(sent)),
                    Piece::Block(slice, _) => {
                        slice.bytes = slice.bytes.slice(sent, len - sent);
                        slice.offset += u32::try_from(sent).expect("a slice is below 1 MiB");
                    }
                    // A send that waited for the socket holds its bytes itself: it can end after
                    // the outbox was parked, and then what it sent is parked here.
                    Piece::Parked(slice) => {
                        slice.bytes -= sent;
                        slice.offset += u32::try_from(sent).expect("a slice is below 1 MiB");
                    }
                }
                break;
            }
            sent -= len;
            pieces.pop_front();
        }
        drop(pieces);
        self.drained.notify();
    }

    /// Gives up every pinned block; a few bytes at the front stay.
    pub fn park(&self) {
        let mut pieces = self.pieces.borrow_mut();
        if let Some(Piece::Block(front, _)) = pieces.front() {
            let probe_bytes = front.bytes.bytes.min(PROBE_BYTES);
            let probe = Bytes::copy_from_slice(&front.bytes.as_slice()[..probe_bytes]);
            let rest = front.parked(probe_bytes);
            pieces.pop_front();
            if rest.bytes > 0 {
                pieces.push_front(Piece::Parked(rest));
            }
            pieces.push_front(Piece::Copied(probe));
        }
        for piece in pieces.iter_mut() {
            if let Piece::Block(slice, _) = piece {
                *piece = Piece::Parked(slice.parked(0));
            }
        }
    }

    /// What a slice at the end pins.
    fn buffer_bytes(&self, slice: &BlockSlice) -> usize {
        match self.pieces.borrow().back() {
            Some(Piece::Block(last, _)) if Rc::ptr_eq(&last.bytes.buffer, &slice.bytes.buffer) => 0,
            _ => slice.bytes.buffer.capacity(),
        }
    }

    fn push(&self, piece: Piece) {
        if piece.len() == 0 {
            return;
        }
        self.queued_bytes.set(self.queued_bytes.get() + piece.len());
        self.pieces.borrow_mut().push_back(piece);
    }
}

/// A piece of a response that is being put together.
pub enum ResponseSlice {
    /// Small neighbours gathered by copying.
    Copied(Bytes),
    /// A slice of a block.
    Block(BlockSlice),
}

/// The first bytes of an outbox, held so that they outlive a wait.
pub enum FirstBytes {
    /// Bytes of their own.
    Copied(Bytes),
    /// Bytes of a block.
    Block(CachedBytes),
}

impl FirstBytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            FirstBytes::Copied(bytes) => bytes,
            FirstBytes::Block(bytes) => bytes.as_slice(),
        }
    }
}

#[cfg(test)]
mod tests;
