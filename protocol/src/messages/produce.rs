//! Produce and its acks: fixed structs, because these are the hottest messages.
//!
//! ```text
//! request header: head, then item_count items; payload: one batch per item, in order
//!   head  0 durability u8 | 1 reserved u8 | 2 item_count u16 | 4 timeout_ms u32
//!   item  0 topic u32 | 4 partition u32 | 8 batch_bytes u32 | 12 chain_epoch u32 (0: any)
//! ack header: items until it ends (api Produce, response flag, correlation 0)
//!   item  0 correlation u32 | 4 item u16 | 6 error u16 | 8 detail u64
//! ```
//!
//! One ack frame completes items of many requests; a request of k items gets k acks, maybe in
//! several frames. Durability none gets no ack. Invariant: a view's batch sizes add up to the
//! payload. Nothing is allocated to read one. Any thread.

use std::ops::Range;

use super::check_count;
use crate::bytes_at::{put_at, u16_at, u32_at, u64_at};
use crate::error::{DecodeError, ErrorCode};
use crate::frame::{Api, FLAG_RESPONSE, FrameStart, PROTOCOL_VERSION};
use crate::ids::{ChainEpoch, CorrelationId, Durability, PartitionId, TopicId, TopicPartition};
use crate::limits::{ACK_ITEMS_MAX, PRODUCE_ITEMS_MAX};

/// Bytes of the head of a produce request.
const HEAD_BYTES: usize = 8;

/// Bytes of an item of a produce request.
const ITEM_BYTES: usize = 16;

/// Bytes of an ack.
const ACK_BYTES: usize = 16;

/// One batch of a produce request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProduceItem {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Bytes of the batch.
    pub batch_bytes: u32,
    /// The chain's epoch as the client knows it; 0 for any.
    pub chain_epoch: ChainEpoch,
}

impl ProduceItem {
    /// The partition.
    pub const fn tp(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }

    fn encode(&self) -> [u8; ITEM_BYTES] {
        let mut bytes = [0; ITEM_BYTES];
        put_at(&mut bytes, 0, self.topic.0.to_le_bytes());
        put_at(&mut bytes, 4, self.partition.0.to_le_bytes());
        put_at(&mut bytes, 8, self.batch_bytes.to_le_bytes());
        put_at(&mut bytes, 12, self.chain_epoch.0.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ITEM_BYTES]) -> Self {
        Self {
            topic: TopicId(u32_at(bytes, 0)),
            partition: PartitionId(u32_at(bytes, 4)),
            batch_bytes: u32_at(bytes, 8),
            chain_epoch: ChainEpoch(u32_at(bytes, 12)),
        }
    }
}

/// Appends prefix and header of a produce request to `out`. The caller sends the batches after
/// them, in the order of the items. `timeout_ms` is how long the server may wait for the commit;
/// 0 leaves it to the server.
///
/// # Panics
/// If there is no item, or more than 65,535, or the frame exceeds the limit of a request.
pub fn encode_produce_header(
    out: &mut Vec<u8>,
    correlation: CorrelationId,
    durability: Durability,
    timeout_ms: u32,
    items: &[ProduceItem],
) {
    assert!(!items.is_empty(), "a produce request has an item");
    let item_count = u16::try_from(items.len()).expect("a produce request has <= 65,535 items");
    let mut head = [0; HEAD_BYTES];
    head[0] = durability.to_wire();
    put_at(&mut head, 2, item_count.to_le_bytes());
    put_at(&mut head, 4, timeout_ms.to_le_bytes());

    let frame = FrameStart::begin(out);
    out.reserve(HEAD_BYTES + items.len() * ITEM_BYTES);
    out.extend_from_slice(&head);
    let mut payload_bytes = 0_u32;
    for item in items {
        out.extend_from_slice(&item.encode());
        payload_bytes = payload_bytes.saturating_add(item.batch_bytes);
    }
    frame.finish(
        out,
        Api::Produce,
        PROTOCOL_VERSION,
        0,
        correlation,
        payload_bytes,
    );
}

/// The header of a produce request, in place.
#[derive(Clone, Copy, Debug)]
pub struct ProduceView<'a> {
    durability: Durability,
    timeout_ms: u32,
    items: &'a [[u8; ITEM_BYTES]],
}

impl<'a> ProduceView<'a> {
    /// Checks the header of a frame that was verified: its length against the item count, and the
    /// items' sizes against the payload.
    pub fn decode(header: &'a [u8], payload_bytes: u32) -> Result<Self, DecodeError> {
        let what = "produce request";
        let Some((head, items)) = header.split_first_chunk::<HEAD_BYTES>() else {
            return Err(DecodeError::Length {
                what,
                actual: header.len(),
                expected: HEAD_BYTES,
            });
        };
        let item_count = usize::from(u16_at(head, 2));
        let (items, rest) = items.as_chunks::<ITEM_BYTES>();
        if items.len() != item_count || !rest.is_empty() {
            let expected = HEAD_BYTES + item_count * ITEM_BYTES;
            return Err(DecodeError::Length {
                what,
                actual: header.len(),
                expected,
            });
        }
        if items.is_empty() {
            return Err(DecodeError::Missing {
                what: "item of a produce request",
            });
        }
        check_count("produce items", item_count, PRODUCE_ITEMS_MAX)?;
        let batch_bytes = items
            .iter()
            .map(|item| u64::from(u32_at(item, 8)))
            .sum::<u64>();
        if batch_bytes != u64::from(payload_bytes) {
            let what = "produce payload";
            let expected = usize::try_from(batch_bytes).unwrap_or(usize::MAX);
            return Err(DecodeError::Length {
                what,
                actual: payload_bytes as usize,
                expected,
            });
        }
        let durability = super::metadata::read_durability(head[0])?;
        Ok(Self {
            durability,
            timeout_ms: u32_at(head, 4),
            items,
        })
    }

    /// What the acks shall promise.
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// How long the server may wait for the commit, in ms; 0 leaves it to the server.
    pub const fn timeout_ms(&self) -> u32 {
        self.timeout_ms
    }

    /// The items, in order; their index is the `item` of their ack.
    pub fn items(&self) -> impl ExactSizeIterator<Item = ProduceItem> + Clone + use<'a> {
        self.items.iter().map(ProduceItem::decode)
    }

    /// The items, each with where its batch lies in the payload.
    pub fn items_in_payload(
        &self,
    ) -> impl ExactSizeIterator<Item = (ProduceItem, Range<usize>)> + Clone + use<'a> {
        let mut end = 0;
        self.items().map(move |item| {
            let start = end;
            end += item.batch_bytes as usize;
            (item, start..end)
        })
    }
}

/// The answer to one item of one produce request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckItem {
    /// The request.
    pub correlation: CorrelationId,
    /// The index of the item in it.
    pub item: u16,
    /// `None`, or why the batch was not taken.
    pub error: ErrorCode,
    /// The base offset if the error is `None`, else the error's detail. The class `received` has
    /// no offset: 2^64 - 1.
    pub detail: u64,
}

impl AckItem {
    /// The `detail` of a success without an offset.
    pub const OFFSET_UNKNOWN: u64 = u64::MAX;

    fn encode(&self) -> [u8; ACK_BYTES] {
        let mut bytes = [0; ACK_BYTES];
        put_at(&mut bytes, 0, self.correlation.0.to_le_bytes());
        put_at(&mut bytes, 4, self.item.to_le_bytes());
        put_at(&mut bytes, 6, self.error.to_wire().to_le_bytes());
        put_at(&mut bytes, 8, self.detail.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ACK_BYTES]) -> Self {
        Self {
            correlation: CorrelationId(u32_at(bytes, 0)),
            item: u16_at(bytes, 4),
            error: ErrorCode::from_wire(u16_at(bytes, 6)),
            detail: u64_at(bytes, 8),
        }
    }
}

/// Appends a whole ack frame to `out`.
///
/// # Panics
/// If there are more than 65,535 items.
pub fn encode_produce_ack(out: &mut Vec<u8>, items: &[AckItem]) {
    assert!(
        items.len() <= ACK_ITEMS_MAX,
        "an ack frame has <= 65,535 items"
    );
    let frame = FrameStart::begin(out);
    out.reserve(items.len() * ACK_BYTES);
    for item in items {
        out.extend_from_slice(&item.encode());
    }
    let correlation = CorrelationId(0);
    frame.finish(
        out,
        Api::Produce,
        PROTOCOL_VERSION,
        FLAG_RESPONSE,
        correlation,
        0,
    );
}

/// The header of an ack frame, in place.
#[derive(Clone, Copy, Debug)]
pub struct AckView<'a> {
    items: &'a [[u8; ACK_BYTES]],
}

impl<'a> AckView<'a> {
    /// Checks the header of a frame that was verified.
    pub fn decode(header: &'a [u8]) -> Result<Self, DecodeError> {
        let (items, rest) = header.as_chunks::<ACK_BYTES>();
        if !rest.is_empty() {
            let (what, actual) = ("produce ack", header.len());
            return Err(DecodeError::Length {
                what,
                actual,
                expected: items.len() * ACK_BYTES,
            });
        }
        check_count("produce acks", items.len(), ACK_ITEMS_MAX)?;
        Ok(Self { items })
    }

    /// The acks, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = AckItem> + Clone + use<'a> {
        self.items.iter().map(AckItem::decode)
    }
}
