//! Administration of topics: create, delete, alter, describe.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::metadata::{ChainInfo, PartitionRange, TopicConfig, TopicInfo, read_durability};
use super::{Cleanup, message, read_items, read_text};
use crate::error::DecodeError;
use crate::generated::wire;
use crate::ids::{Durability, TopicId};
use crate::limits::{METADATA_CHAINS_MAX, METADATA_PAGE_RANGES_MAX, TOPIC_NAME_BYTES_MAX};

/// Makes a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreateTopicRequest {
    /// The name, at most 249 bytes.
    pub name: String,
    /// Partitions, at least 1.
    pub partitions: u32,
    /// The settings.
    pub config: TopicConfig,
}

/// The topic is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateTopicResponse {
    /// Its id.
    pub topic: TopicId,
    /// The metadata version from which on it is seen.
    pub metadata_version: u64,
}

/// Deletes a topic and its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteTopicRequest {
    /// The name.
    pub name: String,
}

/// The topic is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteTopicResponse {
    /// The metadata version from which on it is not seen.
    pub metadata_version: u64,
}

/// Changes a topic. What is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlterTopicRequest {
    /// The name.
    pub name: String,
    /// The new count of partitions, not below the old.
    pub partitions: Option<u32>,
    /// Bytes kept per partition; `Some(None)` removes the limit.
    pub retention_bytes: Option<Option<u64>>,
    /// Age kept, in ms; `Some(None)` removes the limit.
    pub retention_ms: Option<Option<u64>>,
    /// The weakest durability that a producer may ask for.
    pub min_durability: Option<Durability>,
    /// How old records go.
    pub cleanup: Option<Cleanup>,
}

/// The topic is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlterTopicResponse {
    /// The metadata version from which on the change is seen.
    pub metadata_version: u64,
}

/// Asks for one topic in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeTopicRequest {
    /// The name.
    pub name: String,
}

/// One topic in full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeTopicResponse {
    /// The topic.
    pub topic: TopicInfo,
    /// Its partitions.
    pub ranges: Vec<PartitionRange>,
    /// The chains they live in.
    pub chains: Vec<ChainInfo>,
    /// When it was made, in ms since 1970.
    pub created_ms: i64,
}

message!(CreateTopicRequest -> CreateTopicResponse, CreateTopic);
message!(DeleteTopicRequest -> DeleteTopicResponse, DeleteTopic);
message!(AlterTopicRequest -> AlterTopicResponse, AlterTopic);
message!(DescribeTopicRequest -> DescribeTopicResponse, DescribeTopic);

fn read_name(name: &str) -> Result<String, DecodeError> {
    read_text("topic name", Some(name), TOPIC_NAME_BYTES_MAX)
}

impl CreateTopicRequest {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::CreateTopicRequest<'b>> {
        let name = Some(builder.create_string(&self.name));
        let config = Some(self.config.write(builder));
        let args = wire::CreateTopicRequestArgs {
            name,
            partitions: self.partitions,
            config,
        };
        wire::CreateTopicRequest::create(builder, &args)
    }

    fn read(table: wire::CreateTopicRequest<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: read_name(table.name())?,
            partitions: table.partitions(),
            config: TopicConfig::read(table.config())?,
        })
    }
}

impl CreateTopicResponse {
    fn write<'b>(
        self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::CreateTopicResponse<'b>> {
        let (topic, metadata_version) = (self.topic.0, self.metadata_version);
        let args = wire::CreateTopicResponseArgs {
            topic,
            metadata_version,
        };
        wire::CreateTopicResponse::create(builder, &args)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of all messages")]
    fn read(table: wire::CreateTopicResponse<'_>) -> Result<Self, DecodeError> {
        let metadata_version = table.metadata_version();
        Ok(Self {
            topic: TopicId(table.topic()),
            metadata_version,
        })
    }
}

impl DeleteTopicRequest {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::DeleteTopicRequest<'b>> {
        let name = Some(builder.create_string(&self.name));
        wire::DeleteTopicRequest::create(builder, &wire::DeleteTopicRequestArgs { name })
    }

    fn read(table: wire::DeleteTopicRequest<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: read_name(table.name())?,
        })
    }
}

impl DeleteTopicResponse {
    fn write<'b>(
        self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::DeleteTopicResponse<'b>> {
        let args = wire::DeleteTopicResponseArgs {
            metadata_version: self.metadata_version,
        };
        wire::DeleteTopicResponse::create(builder, &args)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of all messages")]
    fn read(table: wire::DeleteTopicResponse<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            metadata_version: table.metadata_version(),
        })
    }
}

impl AlterTopicRequest {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::AlterTopicRequest<'b>> {
        let name = builder.create_string(&self.name);
        let retention_bytes = self.retention_bytes.map(change_to_wire);
        let retention_ms = self.retention_ms.map(change_to_wire);
        let args = wire::AlterTopicRequestArgs {
            name: Some(name),
            partitions: self.partitions,
            retention_bytes: retention_bytes.as_ref(),
            retention_ms: retention_ms.as_ref(),
            min_durability: self.min_durability.map(Durability::to_wire),
            cleanup: self.cleanup.map(Cleanup::to_wire),
        };
        wire::AlterTopicRequest::create(builder, &args)
    }

    fn read(table: wire::AlterTopicRequest<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: read_name(table.name())?,
            partitions: table.partitions(),
            retention_bytes: table.retention_bytes().map(change_from_wire),
            retention_ms: table.retention_ms().map(change_from_wire),
            min_durability: table.min_durability().map(read_durability).transpose()?,
            cleanup: table.cleanup().map(Cleanup::read).transpose()?,
        })
    }
}

fn change_to_wire(limit: Option<u64>) -> wire::RetentionChange {
    wire::RetentionChange::new(limit.unwrap_or(0), limit.is_some())
}

fn change_from_wire(change: &wire::RetentionChange) -> Option<u64> {
    change.limited().then(|| change.value())
}

impl AlterTopicResponse {
    fn write<'b>(
        self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::AlterTopicResponse<'b>> {
        let args = wire::AlterTopicResponseArgs {
            metadata_version: self.metadata_version,
        };
        wire::AlterTopicResponse::create(builder, &args)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form of all messages")]
    fn read(table: wire::AlterTopicResponse<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            metadata_version: table.metadata_version(),
        })
    }
}

impl DescribeTopicRequest {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::DescribeTopicRequest<'b>> {
        let name = Some(builder.create_string(&self.name));
        wire::DescribeTopicRequest::create(builder, &wire::DescribeTopicRequestArgs { name })
    }

    fn read(table: wire::DescribeTopicRequest<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: read_name(table.name())?,
        })
    }
}

impl DescribeTopicResponse {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::DescribeTopicResponse<'b>> {
        let topic = self.topic.write(builder);
        let ranges = self.ranges.iter().map(|range| range.to_wire());
        let ranges = builder.create_vector_from_iter(ranges);
        let chains = self.chains.iter().map(|chain| chain.to_wire());
        let chains = builder.create_vector_from_iter(chains);
        let args = wire::DescribeTopicResponseArgs {
            topic: Some(topic),
            ranges: Some(ranges),
            chains: Some(chains),
            created_ms: self.created_ms,
        };
        wire::DescribeTopicResponse::create(builder, &args)
    }

    fn read(table: wire::DescribeTopicResponse<'_>) -> Result<Self, DecodeError> {
        let (ranges, chains) = (PartitionRange::from_wire, ChainInfo::from_wire);
        Ok(Self {
            topic: TopicInfo::read(table.topic())?,
            ranges: read_items("ranges", table.ranges(), METADATA_PAGE_RANGES_MAX, ranges)?,
            chains: read_items("chains", table.chains(), METADATA_CHAINS_MAX, chains)?,
            created_ms: table.created_ms(),
        })
    }
}
