//! Who is next into a group: deficit round robin over sources (Shreedhar and Varghese, 1995), so
//! that a connection with large requests cannot keep others out, and a reserve for replication and
//! control, so that data of any amount cannot either.
//!
//! Invariants. Among sources that always have something waiting, the bytes served never differ by
//! more than two quanta and the largest request. Control is served first until it is a fixed
//! lead ahead; beyond that, data gets three bytes of every four. Each source's requests keep their
//! order. Nothing depends on the order of a hash map.
//!
//! The queue does not bound itself: what a connection may have waiting is bounded by the credits
//! that it was granted, and [`Admission::bytes`] is what the shell compares with its own limit.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::limits::{ADMISSION_QUANTUM_BYTES, CONTROL_AHEAD_BYTES_MAX, CONTROL_DATA_RATIO};

/// The source under which [`Admission::pop`] gives out control items.
pub const CONTROL_SOURCE: u64 = u64::MAX;

/// A fair queue of items with costs in bytes.
///
/// ```
/// use catena_core::admission::Admission;
///
/// let mut admission = Admission::new();
/// admission.push(1, 60_000, "large");
/// admission.push(1, 60_000, "large too");
/// admission.push(2, 100, "small");
/// assert_eq!(admission.pop(), Some((1, "large")));
/// assert_eq!(admission.pop(), Some((2, "small")));
/// assert_eq!(admission.pop(), Some((1, "large too")));
/// assert_eq!(admission.pop(), None);
/// ```
#[derive(Debug)]
pub struct Admission<T> {
    sources: FxHashMap<u64, Source<T>>,
    /// Sources with something waiting, the one whose turn it is in front.
    ring: VecDeque<u64>,
    control: VecDeque<Item<T>>,
    /// How far control is ahead of its share.
    control_ahead_bytes: usize,
    bytes: usize,
    len: usize,
}

#[derive(Debug)]
struct Item<T> {
    cost_bytes: usize,
    value: T,
}

/// Kept while its connection lives, so that steady traffic allocates nothing.
#[derive(Debug)]
struct Source<T> {
    queue: VecDeque<Item<T>>,
    /// What the source may still take in this turn.
    deficit_bytes: usize,
}

impl<T> Default for Admission<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Admission<T> {
    /// An empty queue.
    pub fn new() -> Self {
        Self {
            sources: FxHashMap::default(),
            ring: VecDeque::new(),
            control: VecDeque::new(),
            control_ahead_bytes: 0,
            bytes: 0,
            len: 0,
        }
    }

    /// Queues an item of a source. Its state stays until [`Admission::remove_source`].
    ///
    /// # Panics
    /// If `source` is [`CONTROL_SOURCE`].
    pub fn push(&mut self, source: u64, cost_bytes: usize, value: T) {
        assert_ne!(source, CONTROL_SOURCE, "control has its own queue");
        let entry = self.sources.entry(source).or_insert_with(Source::new);
        if entry.queue.is_empty() {
            entry.deficit_bytes = ADMISSION_QUANTUM_BYTES;
            self.ring.push_back(source);
        }
        entry.queue.push_back(Item { cost_bytes, value });
        self.bytes += cost_bytes;
        self.len += 1;
    }

    /// Queues an item of replication or control.
    pub fn push_control(&mut self, cost_bytes: usize, value: T) {
        self.control.push_back(Item { cost_bytes, value });
        self.bytes += cost_bytes;
        self.len += 1;
    }

    /// What the next [`Admission::pop`] will cost, to see whether it still fits into a group.
    /// Pushes in between do not change it, except that control may come first.
    pub fn next_cost_bytes(&mut self) -> Option<usize> {
        if self.control_is_next() {
            return self.control.front().map(|item| item.cost_bytes);
        }
        let source = self.turn()?;
        self.sources[&source]
            .queue
            .front()
            .map(|item| item.cost_bytes)
    }

    /// Takes the next item, with its source.
    pub fn pop(&mut self) -> Option<(u64, T)> {
        if self.control_is_next() {
            return self.pop_control();
        }
        let source = self.turn()?;
        let entry = self
            .sources
            .get_mut(&source)
            .expect("the ring holds known sources");
        let item = entry
            .queue
            .pop_front()
            .expect("the ring holds sources with items");
        entry.deficit_bytes -= item.cost_bytes;
        if entry.queue.is_empty() {
            entry.deficit_bytes = 0;
            self.ring.pop_front();
        }
        let repaid = item.cost_bytes / CONTROL_DATA_RATIO;
        self.control_ahead_bytes = self.control_ahead_bytes.saturating_sub(repaid);
        self.forget_cost(item.cost_bytes);
        Some((source, item.value))
    }

    /// Forgets a source (its connection closed) and gives back what it had waiting, in order.
    pub fn remove_source(&mut self, source: u64) -> Vec<T> {
        let Some(removed) = self.sources.remove(&source) else {
            return Vec::new();
        };
        if !removed.queue.is_empty() {
            self.ring.retain(|&waiting| waiting != source);
        }
        let give_back = |item: Item<T>| {
            self.bytes -= item.cost_bytes;
            self.len -= 1;
            item.value
        };
        removed.queue.into_iter().map(give_back).collect()
    }

    /// Cost of everything waiting.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Items waiting.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn control_is_next(&self) -> bool {
        let in_lead = self.control_ahead_bytes >= CONTROL_AHEAD_BYTES_MAX;
        !self.control.is_empty() && (!in_lead || self.ring.is_empty())
    }

    fn pop_control(&mut self) -> Option<(u64, T)> {
        let item = self.control.pop_front()?;
        // Bounded, so that control is not shut out for long after it had the journal to itself.
        let ahead = self.control_ahead_bytes.saturating_add(item.cost_bytes);
        self.control_ahead_bytes = ahead.min(2 * CONTROL_AHEAD_BYTES_MAX);
        self.forget_cost(item.cost_bytes);
        Some((CONTROL_SOURCE, item.value))
    }

    /// Moves the ring on until the source in front can pay for its first item.
    fn turn(&mut self) -> Option<u64> {
        loop {
            let source = *self.ring.front()?;
            let entry = self
                .sources
                .get_mut(&source)
                .expect("the ring holds known sources");
            let first = entry
                .queue
                .front()
                .expect("the ring holds sources with items");
            if first.cost_bytes <= entry.deficit_bytes {
                return Some(source);
            }
            entry.deficit_bytes += ADMISSION_QUANTUM_BYTES;
            self.ring.rotate_left(1);
        }
    }

    fn forget_cost(&mut self, cost_bytes: usize) {
        self.bytes -= cost_bytes;
        self.len -= 1;
    }
}

impl<T> Source<T> {
    const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            deficit_bytes: 0,
        }
    }
}

#[cfg(test)]
mod tests;
