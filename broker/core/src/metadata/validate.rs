//! Whether a command makes sense; nothing is changed here.

use catena_protocol::ids::NodeId;
use catena_protocol::limits::HOST_BYTES_MAX;
use catena_protocol::messages::TopicConfig;

use super::{Command, MetadataState, Refusal, Topic, check_topic_name};
use crate::limits::{
    PARTITION_RANGES_PER_TOPIC_MAX, PARTITIONS_PER_TOPIC_MAX, PRODUCER_IDS_PER_COMMAND_MAX,
    SHARDS_MAX, TOPICS_MAX,
};

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
