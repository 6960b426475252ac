//! Fetch sessions: interest is sent once, then only its changes.
//!
//! ```text
//! response header: head, then item_count items; payload: their batches, in order
//!   head  0 session u32 | 4 item_count u32
//!   item  0 topic u32 | 4 partition u32 | 8 fetch_offset u64 | 16 high_watermark u64
//!        24 log_start u64 | 32 bytes u32 | 36 error u16 | 38 flags u16 (written as 0)
//! ```
//!
//! A session belongs to a connection, is named by the client and made by the first request that
//! uses its id. The server keeps the position of each interest and moves it by what it sends.
//! Invariant: a view's sizes add up to the payload. Any thread.

use std::ops::Range;

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{check_count, encode_table, read_items, read_table};
use crate::bytes_at::{put_at, u16_at, u32_at, u64_at};
use crate::error::{DecodeError, ErrorCode};
use crate::frame::{Api, FLAG_RESPONSE, FrameStart, PREFIX_BYTES, PROTOCOL_VERSION};
use crate::generated::wire;
use crate::ids::{
    ChainEpoch, CorrelationId, Offset, PartitionId, SessionId, TopicId, TopicPartition,
};
use crate::limits::{FETCH_INTERESTS_MAX, FETCH_ITEMS_MAX};

/// Bytes of the head of a fetch response.
const HEAD_BYTES: usize = 8;

/// Bytes of an item of a fetch response.
const ITEM_BYTES: usize = 40;

/// A partition that a session shall read, and from where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchInterest {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The next offset to send.
    pub offset: Offset,
    /// Bytes per response; 0 for no cap. At least one batch is sent whatever its size.
    pub max_bytes: u32,
    /// The chain's epoch as the client knows it; 0 for any.
    pub chain_epoch: ChainEpoch,
}

/// Asks for the next batches of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchRequest {
    /// The session; made if the connection has none of this id.
    pub session: SessionId,
    /// How long the server may wait for `min_bytes`, in ms.
    pub max_wait_ms: u32,
    /// Answer as soon as so many bytes are there.
    pub min_bytes: u32,
    /// Bytes of the response's payload; at least one batch is sent whatever its size.
    pub max_bytes: u32,
    /// End the session; the response is empty.
    pub close: bool,
    /// Partitions to read from now on. One that is there already is moved. At most 100,000.
    pub add: Vec<FetchInterest>,
    /// Partitions to read no more; done before `add`. At most 100,000.
    pub remove: Vec<TopicPartition>,
}

impl super::Message for FetchRequest {
    const API: Api = Api::Fetch;
    const IS_RESPONSE: bool = false;

    fn encode(&self, correlation: CorrelationId, out: &mut Vec<u8>) {
        self.encode(correlation, out);
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(header)
    }
}

impl FetchInterest {
    /// The partition.
    pub const fn tp(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }

    fn to_wire(self) -> wire::FetchInterest {
        wire::FetchInterest::new(
            self.topic.0,
            self.partition.0,
            self.offset.0,
            self.max_bytes,
            self.chain_epoch.0,
        )
    }

    fn from_wire(item: &wire::FetchInterest) -> Self {
        Self {
            topic: TopicId(item.topic()),
            partition: PartitionId(item.partition()),
            offset: Offset(item.offset()),
            max_bytes: item.max_bytes(),
            chain_epoch: ChainEpoch(item.chain_epoch()),
        }
    }
}

impl FetchRequest {
    /// Appends the whole frame, prefix and header, to `out`.
    ///
    /// # Panics
    /// If the message exceeds the limits of a frame.
    pub fn encode(&self, correlation: CorrelationId, out: &mut Vec<u8>) {
        encode_table(out, Api::Fetch, false, correlation, |builder| {
            self.write(builder)
        });
    }

    /// Reads the header of a frame that was verified.
    pub fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let table = read_table::<wire::FetchRequest<'_>>("FetchRequest", header)?;
        let add = |item: &wire::FetchInterest| Ok(FetchInterest::from_wire(item));
        let remove = |item: &wire::TopicPartition| {
            Ok(TopicPartition::new(
                TopicId(item.topic()),
                PartitionId(item.partition()),
            ))
        };
        Ok(Self {
            session: SessionId(table.session()),
            max_wait_ms: table.max_wait_ms(),
            min_bytes: table.min_bytes(),
            max_bytes: table.max_bytes(),
            close: table.close(),
            add: read_items("interests to add", table.add(), FETCH_INTERESTS_MAX, add)?,
            remove: read_items(
                "interests to remove",
                table.remove(),
                FETCH_INTERESTS_MAX,
                remove,
            )?,
        })
    }

    /// A request that changes nothing, which is nearly every one, has no vectors.
    fn write<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<wire::FetchRequest<'b>> {
        let add = (!self.add.is_empty()).then(|| {
            builder.create_vector_from_iter(self.add.iter().map(|interest| interest.to_wire()))
        });
        let remove = (!self.remove.is_empty()).then(|| {
            let remove = self.remove.iter();
            builder.create_vector_from_iter(
                remove.map(|tp| wire::TopicPartition::new(tp.topic.0, tp.partition.0)),
            )
        });
        let args = wire::FetchRequestArgs {
            session: self.session.0,
            max_wait_ms: self.max_wait_ms,
            min_bytes: self.min_bytes,
            max_bytes: self.max_bytes,
            close: self.close,
            add,
            remove,
        };
        wire::FetchRequest::create(builder, &args)
    }
}

/// What a response holds of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchItem {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The position this item reads from. The first batch may begin before it: skip its records
    /// below.
    pub fetch_offset: Offset,
    /// The high watermark; for the errors `NotOwner` and `DataCorrupt` the error's detail.
    pub high_watermark: Offset,
    /// The log start.
    pub log_start: Offset,
    /// Bytes of the item's batches in the payload.
    pub bytes: u32,
    /// `None`, or why the session reads this partition no more.
    pub error: ErrorCode,
}

impl FetchItem {
    /// The partition.
    pub const fn tp(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }

    /// The detail of the item's error: that of the code where it defines one, else 0.
    pub const fn error_detail(&self) -> u64 {
        match self.error {
            ErrorCode::NotOwner | ErrorCode::DataCorrupt => self.high_watermark.0,
            _ => 0,
        }
    }

    fn encode(&self) -> [u8; ITEM_BYTES] {
        let mut bytes = [0; ITEM_BYTES];
        put_at(&mut bytes, 0, self.topic.0.to_le_bytes());
        put_at(&mut bytes, 4, self.partition.0.to_le_bytes());
        put_at(&mut bytes, 8, self.fetch_offset.0.to_le_bytes());
        put_at(&mut bytes, 16, self.high_watermark.0.to_le_bytes());
        put_at(&mut bytes, 24, self.log_start.0.to_le_bytes());
        put_at(&mut bytes, 32, self.bytes.to_le_bytes());
        put_at(&mut bytes, 36, self.error.to_wire().to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; ITEM_BYTES]) -> Self {
        Self {
            topic: TopicId(u32_at(bytes, 0)),
            partition: PartitionId(u32_at(bytes, 4)),
            fetch_offset: Offset(u64_at(bytes, 8)),
            high_watermark: Offset(u64_at(bytes, 16)),
            log_start: Offset(u64_at(bytes, 24)),
            bytes: u32_at(bytes, 32),
            error: ErrorCode::from_wire(u16_at(bytes, 36)),
        }
    }
}

/// Bytes of prefix and header of a fetch response with so many items.
pub const fn fetch_header_frame_bytes(item_count: usize) -> usize {
    PREFIX_BYTES + HEAD_BYTES + item_count * ITEM_BYTES
}

/// Appends prefix and header of a fetch response to `out`. The caller sends the batches after
/// them, in the order of the items.
///
/// # Panics
/// If there are more than 65,535 items, or the frame exceeds the limit of a response.
pub fn encode_fetch_header(
    out: &mut Vec<u8>,
    correlation: CorrelationId,
    session: SessionId,
    items: &[FetchItem],
) {
    assert!(
        items.len() <= FETCH_ITEMS_MAX,
        "a fetch response has <= 65,535 items"
    );
    let item_count = u32::try_from(items.len()).expect("65,535 fits");
    let frame = FrameStart::begin(out);
    out.reserve(HEAD_BYTES + items.len() * ITEM_BYTES);
    out.extend_from_slice(&session.0.to_le_bytes());
    out.extend_from_slice(&item_count.to_le_bytes());
    let mut payload_bytes = 0_u32;
    for item in items {
        out.extend_from_slice(&item.encode());
        payload_bytes = payload_bytes.saturating_add(item.bytes);
    }
    let (version, flags) = (PROTOCOL_VERSION, FLAG_RESPONSE);
    frame.finish(out, Api::Fetch, version, flags, correlation, payload_bytes);
}

/// The header of a fetch response, in place.
#[derive(Clone, Copy, Debug)]
pub struct FetchView<'a> {
    session: SessionId,
    items: &'a [[u8; ITEM_BYTES]],
}

impl<'a> FetchView<'a> {
    /// Checks the header of a frame that was verified: its length against the item count, and the
    /// items' sizes against the payload.
    pub fn decode(header: &'a [u8], payload_bytes: u32) -> Result<Self, DecodeError> {
        let what = "fetch response";
        let Some((head, items)) = header.split_first_chunk::<HEAD_BYTES>() else {
            return Err(DecodeError::Length {
                what,
                actual: header.len(),
                expected: HEAD_BYTES,
            });
        };
        let item_count = u32_at(head, 4) as usize;
        check_count("fetch items", item_count, FETCH_ITEMS_MAX)?;
        let (items, rest) = items.as_chunks::<ITEM_BYTES>();
        if items.len() != item_count || !rest.is_empty() {
            let expected = HEAD_BYTES + item_count * ITEM_BYTES;
            return Err(DecodeError::Length {
                what,
                actual: header.len(),
                expected,
            });
        }
        let bytes = items
            .iter()
            .map(|item| u64::from(u32_at(item, 32)))
            .sum::<u64>();
        if bytes != u64::from(payload_bytes) {
            let what = "fetch payload";
            let expected = usize::try_from(bytes).unwrap_or(usize::MAX);
            return Err(DecodeError::Length {
                what,
                actual: payload_bytes as usize,
                expected,
            });
        }
        Ok(Self {
            session: SessionId(u32_at(head, 0)),
            items,
        })
    }

    /// The session that is answered.
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The items, in order.
    pub fn items(&self) -> impl ExactSizeIterator<Item = FetchItem> + Clone + use<'a> {
        self.items.iter().map(FetchItem::decode)
    }

    /// The items, each with where its batches lie in the payload.
    pub fn items_in_payload(
        &self,
    ) -> impl ExactSizeIterator<Item = (FetchItem, Range<usize>)> + Clone + use<'a> {
        let mut end = 0;
        self.items().map(move |item| {
            let start = end;
            end += item.bytes as usize;
            (item, start..end)
        })
    }
}
