//! A fetch response being put together: its items, and the slices of blocks behind them.
//!
//! Pure bookkeeping apart from [`Response::send`], which queues it on the connection's outbox.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use catena_protocol::ids::{CorrelationId, SessionId};
use catena_protocol::limits::FETCH_ITEMS_MAX;
use catena_protocol::messages::{FetchItem, encode_fetch_header};

use super::Shard;
use super::connection::Connection;
use super::outbox::{BlockSlice, ResponseSlice};
use crate::limits::GATHER_SLICE_BYTES_MAX;

/// Items and slices of one response.
pub struct Response {
    session: SessionId,
    items: Vec<FetchItem>,
    slices: Vec<BlockSlice>,
    payload_bytes: usize,
    has_errors: bool,
}

impl Response {
    /// A response without items.
    pub fn empty(session: SessionId) -> Response {
        Response {
            session,
            items: Vec::new(),
            slices: Vec::new(),
            payload_bytes: 0,
            has_errors: false,
        }
    }

    /// Bytes of batches so far.
    pub fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Whether no further item fits.
    pub fn is_full(&self) -> bool {
        self.items.len() >= FETCH_ITEMS_MAX
    }

    /// Whether any item carries an error.
    pub fn has_errors(&self) -> bool {
        self.has_errors
    }

    /// Adds a partition that could not be served.
    pub fn push_error(&mut self, item: FetchItem) {
        self.has_errors = true;
        self.items.push(item);
    }

    /// Adds what a partition has.
    pub fn push(&mut self, mut item: FetchItem, slices: Vec<BlockSlice>) {
        let bytes: usize = slices.iter().map(|slice| slice.bytes.bytes).sum();
        if bytes == 0 {
            return;
        }
        item.bytes = u32::try_from(bytes).expect("a response is below 4 GiB");
        self.payload_bytes += bytes;
        self.items.push(item);
        self.slices.extend(slices);
    }

    /// Queues the response for the client.
    pub fn send(self, shard: &Shard, connection: &Rc<Connection>, correlation: CorrelationId) {
        if connection.is_closed() {
            return;
        }
        let mut header = Vec::new();
        let payload = u32::try_from(self.payload_bytes).expect("a response is below 4 GiB");
        encode_fetch_header(&mut header, correlation, self.session, &self.items);
        shard.metrics.fetch_bytes.add(u64::from(payload));
        let (slices, copied) = gather_small(self.slices);
        shard
            .metrics
            .fetch_bytes_copied
            .add(u64::try_from(copied).expect("usize fits u64"));
        connection
            .outbox
            .push_response(Bytes::from(header), slices.into_iter());
    }
}

/// Copies runs of neighbouring small slices together: below this size one more entry in the
/// kernel's vector costs more than the copy. Larger slices are never copied. Tells how many bytes
/// were.
fn gather_small(slices: Vec<BlockSlice>) -> (Vec<ResponseSlice>, usize) {
    let mut copied = 0;
    let mut gathered = Vec::with_capacity(slices.len());
    let mut small = BytesMut::new();
    for slice in slices {
        if slice.bytes.bytes < GATHER_SLICE_BYTES_MAX {
            small.extend_from_slice(slice.bytes.as_slice());
            copied += slice.bytes.bytes;
        } else {
            if !small.is_empty() {
                gathered.push(ResponseSlice::Copied(small.split().freeze()));
            }
            gathered.push(ResponseSlice::Block(slice));
        }
    }
    if !small.is_empty() {
        gathered.push(ResponseSlice::Copied(small.freeze()));
    }
    (gathered, copied)
}
