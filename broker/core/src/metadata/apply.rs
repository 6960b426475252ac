//! Applying commands.
//!
//! Invariant: deterministic, and all or nothing: what validates is carried out whole.

use catena_protocol::ids::{ChainEpoch, ChainId, NodeId, PartitionId, ProducerId, TopicId};
use catena_protocol::messages::{ClusterId, NodeInfo, PartitionRange, TopicConfig};

use super::state::Chain;
use super::{CLASS_DEFAULT, Class, Command, MetadataState, Refusal, ShardLayout, Topic};
use crate::limits::CHAINS_PER_CLASS;

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

impl MetadataState {
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
                cleanup,
            } => {
                let change = |config: &mut TopicConfig| {
                    config.retention_bytes = retention_bytes.unwrap_or(config.retention_bytes);
                    config.retention_ms = retention_ms.unwrap_or(config.retention_ms);
                    config.min_durability = min_durability.unwrap_or(config.min_durability);
                    config.cleanup = cleanup.unwrap_or(config.cleanup);
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
