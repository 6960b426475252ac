//! The metadata itself and the questions it answers.
//!
//! Invariant: `names` holds exactly the names of `topics`; a topic's ranges tile its partitions;
//! every id is at or below the last one given.

use std::collections::BTreeMap;

use catena_protocol::ids::{
    ChainEpoch, ChainId, NodeId, PartitionId, ProducerId, ShardId, TopicId, TopicPartition,
};
use catena_protocol::messages::{ChainInfo, ClusterId, NodeInfo, PartitionRange, TopicConfig};

/// A replication class and the chains that belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Replicas of each chain.
    pub replication_factor: u8,
    /// A chain with fewer members takes no writes.
    pub members_min: u8,
    /// The first of its chains; they are numbered without gaps.
    pub chain_first: ChainId,
    /// How many chains it has, 1 or more.
    pub chain_count: u32,
    /// Where the next range of partitions starts among the chains, so that topics spread.
    pub chain_next: u32,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: TopicConfig,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// Which chain holds which partition, in order of partitions.
    pub ranges: Vec<PartitionRange>,
}

impl Topic {
    /// How many partitions it has.
    pub fn partition_count(&self) -> u32 {
        self.ranges.last().map_or(0, |range| {
            range.first_partition.get() + range.partition_count
        })
    }

    /// The chain that holds a partition.
    pub fn chain_of(&self, partition: PartitionId) -> Option<ChainId> {
        let after = self
            .ranges
            .partition_point(|range| range.first_partition <= partition);
        self.ranges[..after].last()?.chain_of(partition)
    }
}

/// How the chains of a node are dealt to its shards: chain modulo shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardLayout {
    /// Shards of the node; 0 before it first opened.
    pub shards: u16,
    /// Rises by one whenever the count of shards changes.
    pub generation: u64,
}

impl ShardLayout {
    /// The shard of a chain, or `None` before the node first opened.
    pub fn shard_of(&self, chain: ChainId) -> Option<ShardId> {
        let shard = chain.get().checked_rem(self.shards.into())?;
        Some(ShardId(
            u16::try_from(shard).expect("less than the count of shards, a u16"),
        ))
    }
}

/// A chain's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) epoch: ChainEpoch,
    pub(super) node: NodeId,
}

/// The whole metadata of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataState {
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) cluster_level: u16,
    pub(super) version: u64,
    pub(super) last_topic: TopicId,
    pub(super) last_producer: ProducerId,
    pub(super) layout: ShardLayout,
    pub(super) classes: BTreeMap<String, Class>,
    pub(super) chains: BTreeMap<ChainId, Chain>,
    pub(super) nodes: BTreeMap<NodeId, NodeInfo>,
    pub(super) topics: BTreeMap<TopicId, Topic>,
    pub(super) names: BTreeMap<String, TopicId>,
}

impl MetadataState {
    /// Rises by one per applied command that changes what clients see.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The identity of the cluster, once it has one.
    pub const fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// Gates what only newer releases understand.
    pub const fn cluster_level(&self) -> u16 {
        self.cluster_level
    }

    /// How chains are dealt to shards.
    pub const fn layout(&self) -> ShardLayout {
        self.layout
    }

    /// A topic by its id.
    pub fn topic(&self, id: TopicId) -> Option<&Topic> {
        self.topics.get(&id)
    }

    /// A topic by its name.
    pub fn topic_by_name(&self, name: &str) -> Option<&Topic> {
        self.topics.get(self.names.get(name)?)
    }

    /// All topics, in order of their ids.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.topics.values()
    }

    /// The topics with ids from `first` on: a page starts here.
    pub fn topics_from(&self, first: TopicId) -> impl Iterator<Item = &Topic> {
        self.topics.range(first..).map(|(_, topic)| topic)
    }

    /// The chain that holds a partition.
    pub fn chain_of(&self, tp: TopicPartition) -> Option<ChainId> {
        self.topic(tp.topic)?.chain_of(tp.partition)
    }

    /// The shard that owns a chain.
    pub fn shard_of(&self, chain: ChainId) -> Option<ShardId> {
        self.layout.shard_of(chain)
    }

    /// All partitions that a shard owns, with their chains, in order.
    pub fn partitions_on(&self, shard: ShardId) -> impl Iterator<Item = (TopicPartition, ChainId)> {
        self.topics.values().flat_map(move |topic| {
            (0..topic.partition_count()).filter_map(move |partition| {
                let partition = PartitionId(partition);
                let chain = topic.chain_of(partition)?;
                let here = self.shard_of(chain) == Some(shard);
                here.then_some((
                    TopicPartition {
                        topic: topic.id,
                        partition,
                    },
                    chain,
                ))
            })
        })
    }

    /// A chain with its epoch and owner.
    pub fn chain(&self, chain: ChainId) -> Option<ChainInfo> {
        Some(self.chain_info(chain, *self.chains.get(&chain)?))
    }

    /// All chains, in order.
    pub fn chains(&self) -> impl Iterator<Item = ChainInfo> {
        self.chains
            .iter()
            .map(|(chain, row)| self.chain_info(*chain, *row))
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// A class by its name.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    fn chain_info(&self, chain: ChainId, row: Chain) -> ChainInfo {
        let shard = self.shard_of(chain).unwrap_or(ShardId(0));
        ChainInfo {
            chain,
            epoch: row.epoch,
            node: row.node,
            shard,
        }
    }
}
