//! Who owns what: topic -> ranges of (partition, chain), paged; chain -> owner; nodes.
//!
//! A failover changes one row of the chain table, whatever the number of partitions.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{Cleanup, ClusterId, message, read_items, read_text, write_tables};
use crate::error::{DecodeError, ErrorCode};
use crate::generated::wire;
use crate::ids::{ChainEpoch, ChainId, Durability, NodeId, PartitionId, ShardId, TopicId};
use crate::limits::{
    CLASS_NAME_BYTES_MAX, HOST_BYTES_MAX, METADATA_CHAINS_MAX, METADATA_NODES_MAX,
    METADATA_PAGE_RANGES_MAX, METADATA_PAGE_TOPICS_MAX, METADATA_TOPICS_MAX, TOPIC_NAME_BYTES_MAX,
};

/// The class of a topic that names none.
const CLASS_DEFAULT: &str = "default";

/// The settings of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Bytes kept per partition; no limit if absent.
    pub retention_bytes: Option<u64>,
    /// Age of the oldest record kept, in ms; no limit if absent.
    pub retention_ms: Option<u64>,
    /// The name of the replication class.
    pub class: String,
    /// The weakest durability that a producer may ask for.
    pub min_durability: Durability,
    /// How old records go.
    pub cleanup: Cleanup,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            retention_bytes: None,
            retention_ms: None,
            class: CLASS_DEFAULT.to_owned(),
            min_durability: Durability::None,
            cleanup: Cleanup::Delete,
        }
    }
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicInfo {
    /// The name.
    pub name: String,
    /// The id; 0 if there is an error.
    pub id: TopicId,
    /// Partitions.
    pub partitions: u32,
    /// The settings.
    pub config: TopicConfig,
    /// `None`, or why a topic that was asked for is not here.
    pub error: ErrorCode,
}

/// A node and the address where clients reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// The node.
    pub node: NodeId,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Shards.
    pub shards: u16,
}

/// A run of partitions of a topic and the chains they live in, dealt round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionRange {
    /// The topic.
    pub topic: TopicId,
    /// The first partition.
    pub first_partition: PartitionId,
    /// How many partitions.
    pub partition_count: u32,
    /// The first chain of the circle.
    pub chain_first: ChainId,
    /// Chains in the circle.
    pub chain_count: u32,
    /// Where in the circle the first partition lives.
    pub chain_start: u32,
}

impl PartitionRange {
    /// The chain of `partition`: `chain_first + (chain_start + i) % chain_count` for the i-th of
    /// the range. `None` if the range does not hold it (or has no chains).
    pub fn chain_of(&self, partition: PartitionId) -> Option<ChainId> {
        let index = partition.0.checked_sub(self.first_partition.0)?;
        if index >= self.partition_count {
            return None;
        }
        let place = (u64::from(self.chain_start) + u64::from(index))
            .checked_rem(u64::from(self.chain_count))?;
        self.chain_first
            .0
            .checked_add(u32::try_from(place).ok()?)
            .map(ChainId)
    }
}

/// A chain and who serves it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainInfo {
    /// The chain.
    pub chain: ChainId,
    /// Its epoch.
    pub epoch: ChainEpoch,
    /// The node that serves producers and consumers.
    pub node: NodeId,
    /// The shard of that node.
    pub shard: ShardId,
}

/// Asks for topics and for where they live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataRequest {
    /// The names; all topics if absent. At most 10,000.
    pub topics: Option<Vec<String>>,
    /// The first topic id of the page: 0, then each response's `next_page`.
    pub page: u32,
}

/// A page of the tables. Nodes and chains are complete in each page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataResponse {
    /// Rises with every change; of two responses the higher counts.
    pub version: u64,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The nodes.
    pub nodes: Vec<NodeInfo>,
    /// The topics of the page.
    pub topics: Vec<TopicInfo>,
    /// The partitions of those topics.
    pub ranges: Vec<PartitionRange>,
    /// The chains.
    pub chains: Vec<ChainInfo>,
    /// The `page` of the next request; absent in the last.
    pub next_page: Option<u32>,
}

message!(MetadataRequest -> MetadataResponse, Metadata);

impl TopicConfig {
    pub(super) fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::TopicConfig<'b>> {
        let class = builder.create_string(&self.class);
        let args = wire::TopicConfigArgs {
            retention_bytes: self.retention_bytes,
            retention_ms: self.retention_ms,
            class: Some(class),
            min_durability: self.min_durability.to_wire(),
            cleanup: self.cleanup.to_wire(),
        };
        wire::TopicConfig::create(builder, &args)
    }

    /// An absent table, or an empty class, stands for the default.
    pub(super) fn read(table: Option<wire::TopicConfig<'_>>) -> Result<Self, DecodeError> {
        let Some(table) = table else {
            return Ok(Self::default());
        };
        let class = table
            .class()
            .filter(|class| !class.is_empty())
            .unwrap_or(CLASS_DEFAULT);
        Ok(Self {
            retention_bytes: table.retention_bytes(),
            retention_ms: table.retention_ms(),
            class: read_text("class name", Some(class), CLASS_NAME_BYTES_MAX)?,
            min_durability: read_durability(table.min_durability())?,
            cleanup: Cleanup::read(table.cleanup())?,
        })
    }
}

pub(super) fn read_durability(value: u8) -> Result<Durability, DecodeError> {
    let what = "durability";
    Durability::from_wire(value).ok_or(DecodeError::UnknownValue {
        what,
        value: value.into(),
    })
}

impl TopicInfo {
    pub(super) fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::TopicInfo<'b>> {
        let name = builder.create_string(&self.name);
        let config = self.config.write(builder);
        let args = wire::TopicInfoArgs {
            name: Some(name),
            id: self.id.0,
            partitions: self.partitions,
            config: Some(config),
            error: self.error.to_wire(),
        };
        wire::TopicInfo::create(builder, &args)
    }

    pub(super) fn read(table: wire::TopicInfo<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            // A name that was asked for comes back with its error, even if it is no valid name.
            name: read_text("topic name", Some(table.name()), TOPIC_NAME_BYTES_MAX)?,
            id: TopicId(table.id()),
            partitions: table.partitions(),
            config: TopicConfig::read(table.config())?,
            error: ErrorCode::from_wire(table.error()),
        })
    }
}

impl NodeInfo {
    fn write<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<wire::NodeInfo<'b>> {
        let host = builder.create_string(&self.host);
        let (node, port, shards) = (self.node.0, self.port, self.shards);
        let args = wire::NodeInfoArgs {
            node,
            host: Some(host),
            port,
            shards,
        };
        wire::NodeInfo::create(builder, &args)
    }

    fn read(table: wire::NodeInfo<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            node: NodeId(table.node()),
            host: read_text("host name", Some(table.host()), HOST_BYTES_MAX)?,
            port: table.port(),
            shards: table.shards(),
        })
    }
}

impl PartitionRange {
    pub(super) fn to_wire(self) -> wire::PartitionRange {
        wire::PartitionRange::new(
            self.topic.0,
            self.first_partition.0,
            self.partition_count,
            self.chain_first.0,
            self.chain_count,
            self.chain_start,
        )
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form that `read_items` takes")]
    pub(super) fn from_wire(range: &wire::PartitionRange) -> Result<Self, DecodeError> {
        Ok(Self {
            topic: TopicId(range.topic()),
            first_partition: PartitionId(range.first_partition()),
            partition_count: range.partition_count(),
            chain_first: ChainId(range.chain_first()),
            chain_count: range.chain_count(),
            chain_start: range.chain_start(),
        })
    }
}

impl ChainInfo {
    pub(super) fn to_wire(self) -> wire::ChainInfo {
        wire::ChainInfo::new(self.chain.0, self.epoch.0, self.node.0, self.shard.0)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form that `read_items` takes")]
    pub(super) fn from_wire(chain: &wire::ChainInfo) -> Result<Self, DecodeError> {
        Ok(Self {
            chain: ChainId(chain.chain()),
            epoch: ChainEpoch(chain.epoch()),
            node: NodeId(chain.node()),
            shard: ShardId(chain.shard()),
        })
    }
}

impl MetadataRequest {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::MetadataRequest<'b>> {
        let topics = self.topics.as_ref().map(|topics| {
            let names: Vec<_> = topics
                .iter()
                .map(|name| builder.create_string(name))
                .collect();
            builder.create_vector(&names)
        });
        wire::MetadataRequest::create(
            builder,
            &wire::MetadataRequestArgs {
                topics,
                page: self.page,
            },
        )
    }

    fn read(table: wire::MetadataRequest<'_>) -> Result<Self, DecodeError> {
        let read = |name: &str| read_text("topic name", Some(name), TOPIC_NAME_BYTES_MAX);
        let topics = table
            .topics()
            .map(|topics| read_items("topics", Some(topics), METADATA_TOPICS_MAX, read))
            .transpose()?;
        Ok(Self {
            topics,
            page: table.page(),
        })
    }
}

impl MetadataResponse {
    fn write<'b>(
        &self,
        builder: &mut FlatBufferBuilder<'b>,
    ) -> WIPOffset<wire::MetadataResponse<'b>> {
        let nodes = write_tables(builder, &self.nodes, NodeInfo::write);
        let topics = write_tables(builder, &self.topics, TopicInfo::write);
        let ranges = self.ranges.iter().map(|range| range.to_wire());
        let ranges = builder.create_vector_from_iter(ranges);
        let chains = self.chains.iter().map(|chain| chain.to_wire());
        let chains = builder.create_vector_from_iter(chains);
        let args = wire::MetadataResponseArgs {
            version: self.version,
            cluster_id: Some(&wire::ClusterId::new(&self.cluster_id)),
            nodes: Some(nodes),
            topics: Some(topics),
            ranges: Some(ranges),
            chains: Some(chains),
            next_page: self.next_page,
        };
        wire::MetadataResponse::create(builder, &args)
    }

    fn read(table: wire::MetadataResponse<'_>) -> Result<Self, DecodeError> {
        let cluster_id = table
            .cluster_id()
            .ok_or(DecodeError::Missing { what: "cluster id" })?;
        let (ranges, chains) = (PartitionRange::from_wire, ChainInfo::from_wire);
        Ok(Self {
            version: table.version(),
            cluster_id: cluster_id.bytes().into(),
            nodes: read_items("nodes", table.nodes(), METADATA_NODES_MAX, NodeInfo::read)?,
            topics: read_items(
                "topics",
                table.topics(),
                METADATA_PAGE_TOPICS_MAX,
                TopicInfo::read,
            )?,
            ranges: read_items("ranges", table.ranges(), METADATA_PAGE_RANGES_MAX, ranges)?,
            chains: read_items("chains", table.chains(), METADATA_CHAINS_MAX, chains)?,
            next_page: table.next_page(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_deals_its_partitions_round_its_chains() {
        let range = PartitionRange {
            topic: TopicId(1),
            first_partition: PartitionId(10),
            partition_count: 5,
            chain_first: ChainId(1),
            chain_count: 3,
            chain_start: 2,
        };
        let chains: Vec<_> = (9..16).map(|i| range.chain_of(PartitionId(i))).collect();
        let expected = [None, Some(3), Some(1), Some(2), Some(3), Some(1), None];
        assert_eq!(chains, expected.map(|chain| chain.map(ChainId)));
        let none = PartitionRange {
            chain_count: 0,
            ..range
        };
        assert_eq!(none.chain_of(PartitionId(10)), None);
    }
}
