//! A map by partition, made for going through the partitions of large topics.
//!
//! A commit touches one entry of each of thousands of partitions. In a hash table of all of them
//! every look-up misses the processor's caches twice; here the values of neighbouring partitions of
//! a topic share a page, so that the table of pages stays small and those who go in order find the
//! next value beside the last.
//!
//! Invariant: a page holds at least one value, and none behind the last.

use std::mem::size_of;

use catena_protocol::ids::{PartitionId, TopicId, TopicPartition};
use rustc_hash::FxHashMap;

use crate::codec::index_of;

/// Partitions of a page. More would cost topics that are spread over many shards, where the
/// neighbours belong to others.
const PAGE_PARTITIONS: u32 = 64;

/// Values by partition.
///
/// ```
/// use catena_core::partition_map::PartitionMap;
/// use catena_protocol::ids::{PartitionId, TopicId, TopicPartition};
///
/// let tp = TopicPartition { topic: TopicId(7), partition: PartitionId(0) };
/// let mut ends = PartitionMap::default();
/// assert_eq!(ends.insert(tp, 3), None);
/// assert_eq!(ends.get(tp), Some(&3));
/// assert_eq!(ends.remove(tp), Some(3));
/// assert!(ends.is_empty());
/// ```
#[derive(Debug)]
pub struct PartitionMap<V> {
    pages: FxHashMap<PageKey, Vec<Option<V>>>,
    len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PageKey {
    topic: TopicId,
    page: u32,
}

impl<V> Default for PartitionMap<V> {
    fn default() -> Self {
        Self {
            pages: FxHashMap::default(),
            len: 0,
        }
    }
}

impl<V> PartitionMap<V> {
    /// The value of a partition.
    pub fn get(&self, tp: TopicPartition) -> Option<&V> {
        let (key, index) = place(tp);
        self.pages.get(&key)?.get(index)?.as_ref()
    }

    /// The value of a partition, to change it.
    pub fn get_mut(&mut self, tp: TopicPartition) -> Option<&mut V> {
        let (key, index) = place(tp);
        self.pages.get_mut(&key)?.get_mut(index)?.as_mut()
    }

    /// The value of a partition, made by `make` if there is none.
    pub fn get_or_insert_with(&mut self, tp: TopicPartition, make: impl FnOnce() -> V) -> &mut V {
        let (key, index) = place(tp);
        let page = self.pages.entry(key).or_default();
        if page.len() <= index {
            if page.is_empty() {
                // Of a topic with one partition, or spread over many shards, no more may come.
                page.reserve_exact(index + 1);
            }
            page.resize_with(index + 1, || None);
        }
        let value = &mut page[index];
        self.len += usize::from(value.is_none());
        value.get_or_insert_with(make)
    }

    /// Sets the value of a partition; returns the one it had.
    pub fn insert(&mut self, tp: TopicPartition, value: V) -> Option<V> {
        let mut value = Some(value);
        let kept = self.get_or_insert_with(tp, || value.take().expect("it is made once"));
        value.map(|value| std::mem::replace(kept, value))
    }

    /// Takes the value of a partition away.
    pub fn remove(&mut self, tp: TopicPartition) -> Option<V> {
        let (key, index) = place(tp);
        let page = self.pages.get_mut(&key)?;
        let value = page.get_mut(index)?.take()?;
        self.len -= 1;
        let used = page.iter().rposition(Option::is_some);
        page.truncate(used.map_or(0, |last| last + 1));
        if page.is_empty() {
            self.pages.remove(&key);
        }
        Some(value)
    }

    /// Whether a partition has a value.
    pub fn contains(&self, tp: TopicPartition) -> bool {
        self.get(tp).is_some()
    }

    /// All partitions with their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (TopicPartition, &V)> {
        self.pages.iter().flat_map(|(key, page)| {
            let partitions = key.page * PAGE_PARTITIONS..=u32::MAX;
            let values = partitions.zip(page);
            values.filter_map(|(partition, value)| {
                let tp = TopicPartition {
                    topic: key.topic,
                    partition: PartitionId(partition),
                };
                value.as_ref().map(|value| (tp, value))
            })
        })
    }

    /// All values, in no order, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.pages.values_mut().flatten().flatten()
    }

    /// How many partitions have a value.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory held, in bytes, counted by capacity.
    pub fn bytes(&self) -> usize {
        let values: usize = self.pages.values().map(Vec::capacity).sum();
        values * size_of::<Option<V>>() + self.pages.capacity() * PAGE_BYTES
    }
}

/// One slot of the table of pages: key, page and the table's control byte.
const PAGE_BYTES: usize = size_of::<(PageKey, Vec<()>)>() + 1;

fn place(tp: TopicPartition) -> (PageKey, usize) {
    let PartitionId(partition) = tp.partition;
    let key = PageKey {
        topic: tp.topic,
        page: partition / PAGE_PARTITIONS,
    };
    (key, index_of(partition % PAGE_PARTITIONS))
}

#[cfg(test)]
mod tests;
