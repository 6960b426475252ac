//! Offsets of partitions by time, and their two ends. Goes to the shard that owns them.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{message, read_items};
use crate::error::{DecodeError, ErrorCode};
use crate::generated::wire;
use crate::ids::{Offset, PartitionId, TopicId, TopicPartition};
use crate::limits::LIST_OFFSETS_ITEMS_MAX;

/// Which offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffsetSpec {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first offset of a batch whose newest timestamp is at or after this time, in ms since
    /// 1970; the high watermark if there is none.
    Time(i64),
}

/// Asks for one offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOffsetsItem {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Which offset.
    pub spec: OffsetSpec,
}

/// Asks for offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOffsetsRequest {
    /// What is asked; at most 65,535.
    pub items: Vec<ListOffsetsItem>,
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListOffsetsResult {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// `None`, or why there is no offset.
    pub error: ErrorCode,
    /// The offset; for an error, its detail.
    pub offset: Offset,
    /// The newest timestamp of the batch found by time, in ms since 1970; else -1.
    pub timestamp_ms: i64,
}

/// The answers, in the order of the items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOffsetsResponse {
    /// One for each item.
    pub items: Vec<ListOffsetsResult>,
}

message!(ListOffsetsRequest -> ListOffsetsResponse, ListOffsets);

impl ListOffsetsItem {
    /// The partition.
    pub const fn tp(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }

    fn to_wire(self) -> wire::ListOffsetsItem {
        let (spec, time_ms) = match self.spec {
            OffsetSpec::Earliest => (0, 0),
            OffsetSpec::Latest => (1, 0),
            OffsetSpec::Time(time_ms) => (2, time_ms),
        };
        wire::ListOffsetsItem::new(self.topic.0, self.partition.0, time_ms, spec)
    }

    fn from_wire(item: &wire::ListOffsetsItem) -> Result<Self, DecodeError> {
        let spec = match item.spec() {
            0 => OffsetSpec::Earliest,
            1 => OffsetSpec::Latest,
            2 => OffsetSpec::Time(item.time_ms()),
            value => {
                let what = "offset spec";
                return Err(DecodeError::UnknownValue {
                    what,
                    value: value.into(),
                });
            }
        };
        Ok(Self {
            topic: TopicId(item.topic()),
            partition: PartitionId(item.partition()),
            spec,
        })
    }
}

impl ListOffsetsRequest {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::ListOffsetsRequest<'b>> {
        let items = self.items.iter().map(|item| item.to_wire());
        let items = builder.create_vector_from_iter(items);
        let args = wire::ListOffsetsRequestArgs { items: Some(items) };
        wire::ListOffsetsRequest::create(builder, &args)
    }

    fn read(table: wire::ListOffsetsRequest<'_>) -> Result<Self, DecodeError> {
        let (what, max) = ("list-offsets items", LIST_OFFSETS_ITEMS_MAX);
        Ok(Self {
            items: read_items(what, table.items(), max, ListOffsetsItem::from_wire)?,
        })
    }
}

impl ListOffsetsResult {
    /// The partition.
    pub const fn tp(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }

    fn to_wire(self) -> wire::ListOffsetsResult {
        wire::ListOffsetsResult::new(
            self.topic.0,
            self.partition.0,
            self.offset.0,
            self.timestamp_ms,
            self.error.to_wire(),
        )
    }

    fn from_wire(item: &wire::ListOffsetsResult) -> Self {
        Self {
            topic: TopicId(item.topic()),
            partition: PartitionId(item.partition()),
            error: ErrorCode::from_wire(item.error()),
            offset: Offset(item.offset()),
            timestamp_ms: item.timestamp_ms(),
        }
    }
}

impl ListOffsetsResponse {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::ListOffsetsResponse<'b>> {
        let items = self.items.iter().map(|item| item.to_wire());
        let items = builder.create_vector_from_iter(items);
        let args = wire::ListOffsetsResponseArgs { items: Some(items) };
        wire::ListOffsetsResponse::create(builder, &args)
    }

    fn read(table: wire::ListOffsetsResponse<'_>) -> Result<Self, DecodeError> {
        let (what, max) = ("list-offsets results", LIST_OFFSETS_ITEMS_MAX);
        let read = |item: &wire::ListOffsetsResult| Ok(ListOffsetsResult::from_wire(item));
        Ok(Self {
            items: read_items(what, table.items(), max, read)?,
        })
    }
}
