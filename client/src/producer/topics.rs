//! The partition queues of a producer, by topic, class and partition.
//!
//! Invariant: a partition has one queue per class for the life of its topic, whichever view of
//! the topic a caller holds: two queues would number the same sequence twice. A queue is made
//! when its partition is first used. Any thread.

use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use catena_protocol::ids::{
    Durability, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use rustc_hash::FxHashMap;

use super::partition::PartitionQueue;
use super::partitioner::{Partitioner, partition_of_key};
use super::record::Record;
use super::shared::Shared;
use crate::locking::lock;
use crate::metadata::TopicMetadata;

/// Every queue of a producer.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: Mutex<FxHashMap<(TopicPartition, Durability), Arc<PartitionQueue>>>,
}

impl Queues {
    pub(crate) fn all(&self) -> Vec<Arc<PartitionQueue>> {
        lock(&self.queues).values().cloned().collect()
    }

    /// Forgets the queues of a topic that is gone. What they hold still gets its results.
    pub(crate) fn forget(&self, topic: TopicId) {
        lock(&self.queues).retain(|(place, _), _| place.topic != topic);
    }
}

/// A topic as one producer sees it, made anew when metadata changes.
#[derive(Debug)]
pub(crate) struct ProducerTopic {
    pub(crate) metadata: Arc<TopicMetadata>,
    /// The generation of metadata this was made from.
    pub(crate) generation: u64,
    sticky: AtomicU32,
    /// What this view has looked up so far, by class and partition.
    known: [Vec<OnceLock<Arc<PartitionQueue>>>; 3],
}

impl ProducerTopic {
    pub(crate) fn new(metadata: Arc<TopicMetadata>, generation: u64, sticky: u32) -> Self {
        let partitions = usize::try_from(metadata.partitions).expect("u32 fits into usize");
        let known = std::array::from_fn(|_| {
            let mut known = Vec::new();
            known.resize_with(partitions, OnceLock::new);
            known
        });
        let sticky = AtomicU32::new(sticky % metadata.partitions.max(1));
        Self {
            metadata,
            generation,
            sticky,
            known,
        }
    }

    /// The partition that records without partition and key go to at the moment.
    pub(crate) fn sticky(&self) -> u32 {
        self.sticky.load(Ordering::Relaxed)
    }

    /// The partition of a record that names none.
    pub(crate) fn pick(&self, record: &Record, partitioner: Partitioner) -> u32 {
        match (&record.key, partitioner) {
            (Some(key), Partitioner::KeyHash) => {
                partition_of_key(key, self.metadata.partitions.max(1))
            }
            _ => self.sticky(),
        }
    }

    /// The sticky partition was filled: on to the next, unless somebody moved on already.
    pub(crate) fn move_on(&self, partition: u32) {
        let next = (partition + 1) % self.metadata.partitions.max(1);
        let order = Ordering::Relaxed;
        // A failure means that another caller moved on first.
        let _ = self.sticky.compare_exchange(partition, next, order, order);
    }

    /// The queue of a partition, `None` if the topic has no such partition.
    pub(crate) fn queue(
        &self,
        class: Durability,
        partition: u32,
        queues: &Queues,
        shared: &Arc<Shared>,
        identity: (ProducerId, ProducerEpoch),
    ) -> Option<&Arc<PartitionQueue>> {
        let known = &self.known[usize::from(class.to_wire())];
        let known = known.get(usize::try_from(partition).ok()?)?;
        Some(known.get_or_init(|| {
            let place = TopicPartition::new(self.metadata.id, PartitionId(partition));
            match lock(&queues.queues).entry((place, class)) {
                Entry::Occupied(entry) => entry.get().clone(),
                Entry::Vacant(entry) => {
                    let (topic, shared) = (self.metadata.name.clone(), shared.clone());
                    let queue = PartitionQueue::new(topic, place, class, shared, identity);
                    entry.insert(Arc::new(queue)).clone()
                }
            }
        }))
    }
}
