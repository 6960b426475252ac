//! The table of topics, partition ranges, chains and nodes.
//!
//! Invariant: every topic's ranges are sorted by first partition. Plain values, no I/O.

use std::sync::Arc;

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{
    ChainEpoch, ChainId, Durability, NodeId, PartitionId, ShardId, TopicId, TopicPartition,
};
use catena_protocol::messages::{MetadataResponse, PartitionRange};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::connection::Endpoint;

/// One topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicMetadata {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    pub(crate) partitions: u32,
    /// The weakest class the topic takes.
    pub(crate) min_durability: Durability,
    /// Whether every record needs a key.
    pub(crate) needs_keys: bool,
    ranges: Vec<PartitionRange>,
}

impl TopicMetadata {
    fn chain(&self, partition: PartitionId) -> Option<ChainId> {
        let after = self
            .ranges
            .partition_point(|range| range.first_partition <= partition);
        let range = self.ranges.get(after.checked_sub(1)?)?;
        range.chain_of(partition)
    }
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    epoch: ChainEpoch,
    node: NodeId,
    shard: ShardId,
}

/// What one refresh, or the hints since, have told.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Names that this client changed since; their topics still lead the way, but not by name.
    outdated: FxHashSet<Arc<str>>,
    /// The newest version that a change of this client was told to have made.
    version_min: u64,
    topics: FxHashMap<Arc<str>, Arc<TopicMetadata>>,
    by_id: FxHashMap<TopicId, Arc<TopicMetadata>>,
    chains: FxHashMap<ChainId, Owner>,
    nodes: FxHashMap<NodeId, Arc<str>>,
}

impl Table {
    pub(crate) fn topic(&self, name: &str) -> Option<Arc<TopicMetadata>> {
        if self.outdated.contains(name) {
            return None;
        }
        self.topics.get(name).cloned()
    }

    pub(crate) fn holds(&self, topic: TopicId) -> bool {
        self.by_id.contains_key(&topic)
    }

    /// The topic of this name was changed, in this version. Returns whether it was in use.
    pub(crate) fn note_change(&mut self, name: &str, version: u64) -> bool {
        self.version_min = self.version_min.max(version);
        let topic = self.topics.get(name);
        topic.is_some_and(|topic| self.outdated.insert(topic.name.clone()))
    }

    pub(crate) fn address(&self, node: NodeId) -> Option<Arc<str>> {
        self.nodes.get(&node).cloned()
    }

    pub(crate) fn nodes(&self) -> Vec<Endpoint> {
        let endpoint = |(node, address): (&NodeId, &Arc<str>)| Endpoint {
            address: address.clone(),
            node: Some(*node),
            shard: None,
        };
        self.nodes.iter().map(endpoint).collect()
    }

    pub(crate) fn owner(&self, place: TopicPartition) -> Option<Endpoint> {
        let chain = self.by_id.get(&place.topic)?.chain(place.partition)?;
        let owner = self.chains.get(&chain)?;
        let address = self.address(owner.node)?;
        Some(Endpoint {
            address,
            node: Some(owner.node),
            shard: Some(owner.shard),
        })
    }

    /// A hint moves the whole chain. Returns whether it says anything new.
    pub(crate) fn follow_hint(
        &mut self,
        place: TopicPartition,
        node: NodeId,
        shard: ShardId,
    ) -> bool {
        let chain = self
            .by_id
            .get(&place.topic)
            .and_then(|topic| topic.chain(place.partition));
        let Some(owner) = chain.and_then(|chain| self.chains.get_mut(&chain)) else {
            return false;
        };
        if (owner.node, owner.shard) == (node, shard) || !self.nodes.contains_key(&node) {
            return false;
        }
        (owner.node, owner.shard) = (node, shard);
        true
    }

    /// Takes the pages of a refresh that asked for `names`; of these, what the pages do not hold
    /// is gone. Pages from before a change that this client made are not taken: `false`.
    pub(crate) fn replace(&mut self, names: &[Arc<str>], pages: Vec<MetadataResponse>) -> bool {
        if pages.iter().any(|page| page.version < self.version_min) {
            return false;
        }
        self.nodes.clear();
        for name in names {
            self.outdated.remove(name);
            if let Some(topic) = self.topics.remove(name) {
                self.by_id.remove(&topic.id);
            }
        }
        let mut ranges: FxHashMap<TopicId, Vec<PartitionRange>> = FxHashMap::default();
        let mut topics = Vec::new();
        for page in pages {
            for node in page.nodes {
                let host = node.host;
                let is_bare_v6 = host.contains(':') && !host.starts_with('[');
                let host = if is_bare_v6 {
                    format!("[{host}]")
                } else {
                    host
                };
                self.nodes
                    .insert(node.node, format!("{host}:{}", node.port).into());
            }
            for range in page.ranges {
                ranges.entry(range.topic).or_default().push(range);
            }
            for chain in page.chains {
                let (epoch, node, shard) = (chain.epoch, chain.node, chain.shard);
                let owner = self.chains.entry(chain.chain);
                let owner = owner.or_insert(Owner { epoch, node, shard });
                // A node that lags behind must not undo what a newer one said.
                if epoch >= owner.epoch {
                    *owner = Owner { epoch, node, shard };
                }
            }
            topics.extend(
                page.topics
                    .into_iter()
                    .filter(|topic| topic.error == ErrorCode::None),
            );
        }
        for topic in topics {
            let mut ranges = ranges.remove(&topic.id).unwrap_or_default();
            ranges.sort_by_key(|range| range.first_partition);
            let topic = Arc::new(TopicMetadata {
                name: topic.name.into(),
                id: topic.id,
                partitions: topic.partitions,
                min_durability: topic.config.min_durability,
                needs_keys: topic.config.cleanup.compacts(),
                ranges,
            });
            self.by_id.insert(topic.id, topic.clone());
            self.topics.insert(topic.name.clone(), topic);
        }
        true
    }
}

#[cfg(test)]
mod tests;
