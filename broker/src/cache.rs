//! The block cache of one shard: written blocks for tailing readers and cold chunks read back.
//!
//! One budget covers both, charged by the capacity of the buffers. An entry holds whole blocks that
//! lie next to each other in one segment, or a part of one block, so a reader that knows a place
//! finds it with one ordered lookup. Eviction is second chance: an entry that was read since the
//! hand last passed it gets another round. Runs on the shard's executor; nothing in it is shared
//! between cores.
//!
//! Invariant: entries of one segment never overlap, and every byte in an entry was verified (by the
//! produce path or when it was read back).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};

use crate::runtime::buffer::{self, Buffer};

/// Keys that the hand may hold, besides twice the number of entries, before it is swept.
const HAND_SLACK: usize = 1024;

/// Where an entry starts.
type Key = (JournalId, SegmentSeq, u32);

/// Some bytes of a cached buffer.
#[derive(Clone)]
pub struct CachedBytes {
    /// The buffer that holds them; cloning pins it, not its place in the cache.
    pub buffer: Rc<Buffer>,
    /// First byte, within the buffer.
    pub start: usize,
    /// Number of bytes.
    pub bytes: usize,
}

impl CachedBytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.buffer[self.start..self.start + self.bytes]
    }

    /// A part of these bytes, `start` counted from their own beginning.
    #[must_use]
    pub fn slice(&self, start: usize, bytes: usize) -> CachedBytes {
        assert!(
            start + bytes <= self.bytes,
            "a slice must lie within its bytes"
        );
        CachedBytes {
            buffer: Rc::clone(&self.buffer),
            start: self.start + start,
            bytes,
        }
    }
}

/// What an entry consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Whole blocks.
    Blocks,
    /// Something within one block.
    Part,
}

struct Entry {
    cached: CachedBytes,
    holding: Holding,
    recently_used: bool,
}

impl Entry {
    fn bytes(&self) -> u32 {
        u32::try_from(self.cached.bytes).expect("a buffer has at most 1 MiB")
    }
}

/// Blocks of this shard (and of old journals it reads) in memory.
pub struct BlockCache {
    entries: BTreeMap<Key, Entry>,
    /// Keys in the order of the rounds; those of removed entries among them.
    hand: VecDeque<Key>,
    charged_bytes: usize,
    budget_bytes: usize,
}

impl BlockCache {
    /// An empty cache that keeps at most `budget_bytes` of buffer capacity.
    pub fn new(budget_bytes: usize) -> BlockCache {
        BlockCache {
            entries: BTreeMap::new(),
            hand: VecDeque::new(),
            charged_bytes: 0,
            budget_bytes,
        }
    }

    /// The bytes at `place`, if the cache holds all of them.
    pub fn get(&mut self, place: BlockLocation) -> Option<CachedBytes> {
        let key = (place.journal, place.segment, place.offset);
        let (&(journal, segment, start), entry) = self.entries.range_mut(..=key).next_back()?;
        if (journal, segment) != (place.journal, place.segment) {
            return None;
        }
        let skip = place.offset - start;
        if skip.checked_add(place.bytes)? > entry.bytes() {
            return None;
        }
        entry.recently_used = true;
        let (skip, bytes) = (skip.try_into().ok()?, place.bytes.try_into().ok()?);
        Some(entry.cached.slice(skip, bytes))
    }

    /// Where the next entry behind the start of `place` begins, of those of whole blocks with more
    /// than `bytes_min` bytes; none if that is behind the end of `place`.
    pub fn next_blocks(&self, place: BlockLocation, bytes_min: u32) -> Option<u32> {
        let at = |offset| (place.journal, place.segment, offset);
        let behind = at(place.offset + 1)..at(place.offset + place.bytes);
        let mut entries = self.entries.range(behind);
        let next = entries
            .find(|(_, entry)| entry.holding == Holding::Blocks && entry.bytes() > bytes_min);
        next.map(|(key, _)| key.2)
    }

    /// Keeps `cached`, which begins at `offset` of the segment, and evicts to stay within the
    /// budget. Entries that the new one overlaps make room for it.
    pub fn insert(
        &mut self,
        journal: JournalId,
        segment: SegmentSeq,
        offset: u32,
        cached: CachedBytes,
        holding: Holding,
    ) {
        let capacity = cached.buffer.capacity();
        if capacity > self.budget_bytes {
            return;
        }
        let entry = Entry {
            cached,
            holding,
            recently_used: false,
        };
        self.remove_overlapping(journal, segment, offset, entry.bytes());
        self.evict_to(self.budget_bytes - capacity);
        self.charged_bytes += capacity;
        let key = (journal, segment, offset);
        self.entries.insert(key, entry);
        self.hand.push_back(key);
        self.sweep_hand();
        self.lend_rest();
    }

    /// Forgets every block of a segment that is about to be reused.
    pub fn forget_segment(&mut self, journal: JournalId, segment: SegmentSeq) {
        let keys: Vec<Key> = self
            .entries
            .range((journal, segment, 0)..=(journal, segment, u32::MAX))
            .map(|(key, _)| *key)
            .collect();
        for key in keys {
            self.remove(key);
        }
    }

    /// Lets free buffers use what the cache does not: a whole segment that is forgotten leaves more
    /// of them than are kept otherwise, and the next blocks would need fresh memory.
    fn lend_rest(&self) {
        buffer::lend(self.budget_bytes - self.charged_bytes);
    }

    /// Capacity held, in bytes.
    pub fn charged_bytes(&self) -> usize {
        self.charged_bytes
    }

    fn remove_overlapping(&mut self, journal: JournalId, segment: SegmentSeq, at: u32, bytes: u32) {
        let end = at.saturating_add(bytes);
        let mut keys: Vec<Key> = self
            .entries
            .range((journal, segment, at)..(journal, segment, end))
            .map(|(key, _)| *key)
            .collect();
        if let Some((&key, entry)) = self.entries.range(..(journal, segment, at)).next_back()
            && (key.0, key.1) == (journal, segment)
            && key.2 + entry.bytes() > at
        {
            keys.push(key);
        }
        for key in keys {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.charged_bytes -= entry.cached.buffer.capacity();
            self.lend_rest();
            // Only now, so that it is kept.
            drop(entry);
        }
    }

    /// Drops the keys of removed entries once they are the most: eviction alone meets them only
    /// while the budget is used up.
    fn sweep_hand(&mut self) {
        if self.hand.len() > 2 * self.entries.len() + HAND_SLACK {
            let mut seen = BTreeSet::new();
            self.hand
                .retain(|key| self.entries.contains_key(key) && seen.insert(*key));
        }
    }

    fn evict_to(&mut self, target_bytes: usize) {
        while self.charged_bytes > target_bytes {
            let key = self
                .hand
                .pop_front()
                .expect("charged bytes belong to entries in the hand");
            match self.entries.get_mut(&key) {
                Some(entry) if entry.recently_used => {
                    entry.recently_used = false;
                    self.hand.push_back(key);
                }
                Some(_) => self.remove(key),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
