//! The metadata state machine: validate, apply, look up.
//!
//! Invariant: `names` holds exactly the names of `topics`; a topic's ranges tile its partitions;
//! every id is below its next one.

use std::collections::BTreeMap;

use catena_protocol::ids::{
    ChainEpoch, ChainId, NodeId, PartitionId, ProducerId, ShardId, TopicId, TopicPartition,
};
use catena_protocol::limits::HOST_BYTES_MAX;
use catena_protocol::messages::{ChainInfo, ClusterId, NodeInfo, PartitionRange, TopicConfig};

use super::{CLASS_DEFAULT, Command, Refusal, check_topic_name};
use crate::limits::{
    CHAINS_PER_CLASS, PARTITION_RANGES_PER_TOPIC_MAX, PARTITIONS_PER_TOPIC_MAX,
    PRODUCER_IDS_PER_COMMAND_MAX, SHARDS_MAX, TOPICS_MAX,
};

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

/// What an applied command gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster has its identity.
    Initialized,
    /// The node is open.
    NodeOpened {
        /// The layout that holds now.
        layout: ShardLayout,
    },
    /// The topic exists.
    TopicCreated {
        /// Its id.
        topic: TopicId,
    },
    /// The topic is gone.
    TopicDeleted {
        /// What it was; its chains drop it next.
        topic: Topic,
    },
    /// The topic is changed.
    TopicAltered {
        /// Its id.
        topic: TopicId,
        /// Partitions it had before; those from here on are new.
        partitions_before: u32,
        /// Partitions it has now.
        partitions: u32,
    },
    /// A block of producer ids.
    ProducersAllocated {
        /// The first.
        first: ProducerId,
        /// How many.
        count: u32,
    },
    /// Nothing changed.
    Refused(Refusal),
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
    /// Whether a command would be applied.
    ///
    /// # Errors
    /// [`Refusal`], the one that `apply` would give.
    pub fn validate(&self, command: &Command) -> Result<(), Refusal> {
        if let Command::InitCluster { .. } = command {
            return if self.cluster_id.is_none() {
                Ok(())
            } else {
                Err(Refusal::AlreadyInitialized)
            };
        }
        if self.cluster_id.is_none() {
            return Err(Refusal::NotInitialized);
        }
        match command {
            Command::InitCluster { .. } => Ok(()),
            Command::OpenNode {
                node, host, shards, ..
            } => self.validate_open(*node, host, *shards),
            Command::CreateTopic {
                name,
                partitions,
                config,
                ..
            } => self.validate_create(name, *partitions, config),
            Command::DeleteTopic { name } => self.named(name).map(|_| ()),
            Command::AlterTopic {
                name, partitions, ..
            } => {
                let topic = self.named(name)?;
                partitions.map_or(Ok(()), |wanted| validate_growth(topic, wanted))
            }
            Command::AllocateProducers { count } => self.validate_producers(*count),
        }
    }

    /// Applies a command, or refuses it. The same commands give the same state everywhere.
    pub fn apply(&mut self, command: &Command) -> Outcome {
        if let Err(refusal) = self.validate(command) {
            return Outcome::Refused(refusal);
        }
        match command {
            Command::InitCluster { cluster_id } => self.init(*cluster_id),
            Command::OpenNode {
                node,
                host,
                port,
                shards,
            } => {
                let host = host.clone();
                self.open_node(NodeInfo {
                    node: *node,
                    host,
                    port: *port,
                    shards: *shards,
                })
            }
            Command::CreateTopic {
                name,
                partitions,
                config,
                created_ms,
            } => self.create_topic(name, *partitions, config, *created_ms),
            Command::DeleteTopic { name } => self.delete_topic(name),
            Command::AlterTopic {
                name,
                partitions,
                retention_bytes,
                retention_ms,
                min_durability,
            } => {
                let change = |config: &mut TopicConfig| {
                    config.retention_bytes = retention_bytes.unwrap_or(config.retention_bytes);
                    config.retention_ms = retention_ms.unwrap_or(config.retention_ms);
                    config.min_durability = min_durability.unwrap_or(config.min_durability);
                };
                self.alter_topic(name, *partitions, change)
            }
            Command::AllocateProducers { count } => {
                let first = ProducerId(self.last_producer.get() + 1);
                self.last_producer = ProducerId(self.last_producer.get() + u64::from(*count));
                Outcome::ProducersAllocated {
                    first,
                    count: *count,
                }
            }
        }
    }

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
        let row = self.chains.get(&chain)?;
        Some(self.chain_info(chain, row))
    }

    /// All chains, in order.
    pub fn chains(&self) -> impl Iterator<Item = ChainInfo> {
        self.chains
            .iter()
            .map(|(chain, row)| self.chain_info(*chain, row))
    }

    /// All nodes, in order.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// A class by its name.
    pub fn class(&self, name: &str) -> Option<&Class> {
        self.classes.get(name)
    }

    fn chain_info(&self, chain: ChainId, row: &Chain) -> ChainInfo {
        let shard = self.shard_of(chain).unwrap_or(ShardId(0));
        ChainInfo {
            chain,
            epoch: row.epoch,
            node: row.node,
            shard,
        }
    }

    fn named(&self, name: &str) -> Result<&Topic, Refusal> {
        self.topic_by_name(name)
            .ok_or_else(|| Refusal::TopicNotFound {
                name: name.to_owned(),
            })
    }

    fn validate_open(&self, node: NodeId, host: &str, shards: u16) -> Result<(), Refusal> {
        if shards == 0 || shards > SHARDS_MAX {
            return Err(Refusal::ShardCount {
                wanted: shards,
                limit: SHARDS_MAX,
            });
        }
        if host.is_empty() || host.len() > HOST_BYTES_MAX {
            return Err(Refusal::Host {
                bytes: host.len(),
                limit: HOST_BYTES_MAX,
            });
        }
        if let Some(current) = self.nodes.keys().find(|current| **current != node) {
            return Err(Refusal::OtherNode {
                current: *current,
                found: node,
            });
        }
        let last = self
            .chains
            .values()
            .map(|chain| chain.epoch.get())
            .max()
            .unwrap_or(0);
        if last == u32::MAX {
            return Err(Refusal::Exhausted {
                what: "chain epochs",
                last: last.into(),
            });
        }
        Ok(())
    }

    fn validate_create(
        &self,
        name: &str,
        partitions: u32,
        config: &TopicConfig,
    ) -> Result<(), Refusal> {
        if let Err(fault) = check_topic_name(name) {
            return Err(Refusal::InvalidName {
                name: name.to_owned(),
                fault,
            });
        }
        if let Some(topic) = self.names.get(name) {
            return Err(Refusal::TopicExists {
                name: name.to_owned(),
                topic: *topic,
            });
        }
        check_partition_count(partitions)?;
        if !self.classes.contains_key(&config.class) {
            return Err(Refusal::UnknownClass {
                class: config.class.clone(),
            });
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(Refusal::TooManyTopics {
                current: self.topics.len(),
                limit: TOPICS_MAX,
            });
        }
        if self.last_topic.get() == u32::MAX {
            let last = self.last_topic.get().into();
            return Err(Refusal::Exhausted {
                what: "topic ids",
                last,
            });
        }
        Ok(())
    }

    fn validate_producers(&self, count: u32) -> Result<(), Refusal> {
        if count == 0 || count > PRODUCER_IDS_PER_COMMAND_MAX {
            let limit = PRODUCER_IDS_PER_COMMAND_MAX;
            return Err(Refusal::ProducerCount {
                wanted: count,
                limit,
            });
        }
        let last = self.last_producer.get();
        if last.checked_add(count.into()).is_none() {
            return Err(Refusal::Exhausted {
                what: "producer ids",
                last,
            });
        }
        Ok(())
    }

    fn init(&mut self, cluster_id: ClusterId) -> Outcome {
        self.cluster_id = Some(cluster_id);
        self.cluster_level = 1;
        let class = Class {
            replication_factor: 1,
            members_min: 1,
            chain_first: ChainId(1),
            chain_count: CHAINS_PER_CLASS,
            chain_next: 0,
        };
        self.classes.insert(CLASS_DEFAULT.to_owned(), class);
        for chain in 1..=CHAINS_PER_CLASS {
            self.chains.insert(
                ChainId(chain),
                Chain {
                    epoch: ChainEpoch(0),
                    node: NodeId(0),
                },
            );
        }
        self.version += 1;
        Outcome::Initialized
    }

    fn open_node(&mut self, info: NodeInfo) -> Outcome {
        for chain in self.chains.values_mut() {
            chain.epoch = ChainEpoch(chain.epoch.get() + 1);
            chain.node = info.node;
        }
        if self.layout.shards != info.shards {
            let generation = self.layout.generation + 1;
            self.layout = ShardLayout {
                shards: info.shards,
                generation,
            };
        }
        self.nodes.insert(info.node, info);
        self.version += 1;
        Outcome::NodeOpened {
            layout: self.layout,
        }
    }

    fn create_topic(
        &mut self,
        name: &str,
        partitions: u32,
        config: &TopicConfig,
        created_ms: i64,
    ) -> Outcome {
        let id = TopicId(self.last_topic.get() + 1);
        self.last_topic = id;
        let range = self.next_range(&config.class, id, PartitionId(0), partitions);
        let (name, config) = (name.to_owned(), config.clone());
        self.names.insert(name.clone(), id);
        self.topics.insert(
            id,
            Topic {
                id,
                name,
                config,
                created_ms,
                ranges: vec![range],
            },
        );
        self.version += 1;
        Outcome::TopicCreated { topic: id }
    }

    fn delete_topic(&mut self, name: &str) -> Outcome {
        let id = self.names.remove(name).expect("validated");
        let topic = self
            .topics
            .remove(&id)
            .expect("each name belongs to a topic");
        self.version += 1;
        Outcome::TopicDeleted { topic }
    }

    fn alter_topic(
        &mut self,
        name: &str,
        partitions: Option<u32>,
        change: impl FnOnce(&mut TopicConfig),
    ) -> Outcome {
        let topic = self.topic_by_name(name).expect("validated");
        let (id, partitions_before) = (topic.id, topic.partition_count());
        let mut config = topic.config.clone();
        change(&mut config);
        let partitions = partitions.unwrap_or(partitions_before);
        let added = partitions - partitions_before;
        let range = (added > 0)
            .then(|| self.next_range(&config.class, id, PartitionId(partitions_before), added));
        let topic = self.topics.get_mut(&id).expect("found above");
        let changed = topic.config != config || range.is_some();
        topic.config = config;
        topic.ranges.extend(range);
        self.version += u64::from(changed);
        Outcome::TopicAltered {
            topic: id,
            partitions_before,
            partitions,
        }
    }

    /// Deals the next partitions of a topic to the chains of its class, one after the other from
    /// where the last deal ended.
    fn next_range(
        &mut self,
        class: &str,
        topic: TopicId,
        first_partition: PartitionId,
        partition_count: u32,
    ) -> PartitionRange {
        let class = self.classes.get_mut(class).expect("a topic's class exists");
        let chain_start = class.chain_next;
        let dealt = u64::from(chain_start) + u64::from(partition_count);
        let next = dealt % u64::from(class.chain_count);
        class.chain_next = u32::try_from(next).expect("less than the count of chains, a u32");
        PartitionRange {
            topic,
            first_partition,
            partition_count,
            chain_first: class.chain_first,
            chain_count: class.chain_count,
            chain_start,
        }
    }
}

fn check_partition_count(wanted: u32) -> Result<(), Refusal> {
    if (1..=PARTITIONS_PER_TOPIC_MAX).contains(&wanted) {
        return Ok(());
    }
    Err(Refusal::PartitionCount {
        wanted,
        limit: PARTITIONS_PER_TOPIC_MAX,
    })
}

fn validate_growth(topic: &Topic, wanted: u32) -> Result<(), Refusal> {
    check_partition_count(wanted)?;
    let current = topic.partition_count();
    if wanted < current {
        return Err(Refusal::PartitionsShrink { current, wanted });
    }
    if wanted > current && topic.ranges.len() >= PARTITION_RANGES_PER_TOPIC_MAX {
        let limit = PARTITION_RANGES_PER_TOPIC_MAX;
        return Err(Refusal::TooManyRanges {
            current: topic.ranges.len(),
            limit,
        });
    }
    Ok(())
}
