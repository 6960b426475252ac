//! What a fetch session knows: the position of each partition and which of them have something new.
//!
//! Each time the client adds a partition its interest begins anew, with a new *generation*. Reads
//! take time, and the client may seek meanwhile: a [`Position`] names the generation it was taken
//! in, and nothing that was read for an earlier one changes a later one. Invariant: a partition is
//! on the ready list at most once, and only while the session is interested in it.
//!
//! Plain state; runs on the shard's executor.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use catena_core::ids::BlockLocation;
use catena_core::index::Extent;
use catena_protocol::ids::{CorrelationId, Offset, SessionId, TopicPartition};
use catena_protocol::limits::FETCH_INTERESTS_MAX;
use catena_protocol::messages::{FetchInterest, FetchRequest};
use rustc_hash::{FxHashMap, FxHashSet};

use super::ready::{Asked, ReadyList};
use crate::limits::{FETCH_EXTENTS_AHEAD, FETCH_TURN_JOURNAL_BYTES};
use crate::runtime::channel::Notify;

/// What a session knows of one partition.
struct Interest {
    generation: u64,
    offset: Offset,
    bytes_max: usize,
    /// Whether it is on the ready list.
    queued: bool,
    /// Whether the shard tells the session of commits.
    watched: bool,
    /// Whether the last blocks were not in the cache: it is worth reading ahead.
    cold: bool,
    ahead: VecDeque<Extent>,
}

impl Interest {
    /// Forgets what was looked up and is passed.
    fn pass(&mut self, offset: Offset) {
        while self.ahead.front().is_some_and(|e| e.end_offset <= offset) {
            self.ahead.pop_front();
        }
    }

    /// What it wants next.
    fn asks(&mut self) -> Asked {
        self.pass(self.offset);
        match self.ahead.front() {
            Some(next) if self.cold => Asked::OldTurn(*next),
            _ => Asked::Turn,
        }
    }
}

/// Where a partition is read from, and for which interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) tp: TopicPartition,
    pub(super) offset: Offset,
    /// Bytes for one response; at least one batch is sent whatever its size.
    pub(super) bytes_max: usize,
    generation: u64,
}

/// A request that waits for its turn.
pub(super) struct Waiting {
    pub(super) correlation: CorrelationId,
    pub(super) bytes_min: usize,
    pub(super) bytes_max: usize,
    pub(super) deadline_us: u64,
}

/// One session of one connection.
pub struct FetchSession {
    id: SessionId,
    interests: RefCell<FxHashMap<TopicPartition, Interest>>,
    ready: RefCell<ReadyList>,
    requests: RefCell<VecDeque<Waiting>>,
    generations: Cell<u64>,
    /// The block in which old data was read last.
    last_block: Cell<Option<BlockLocation>>,
    /// Tells of new requests, new data, and the end.
    pub(super) wake: Notify,
    closed: Cell<bool>,
}

impl FetchSession {
    pub(super) fn new(id: SessionId) -> FetchSession {
        FetchSession {
            id,
            interests: RefCell::default(),
            ready: RefCell::default(),
            requests: RefCell::default(),
            generations: Cell::new(0),
            last_block: Cell::new(None),
            wake: Notify::new(),
            closed: Cell::new(false),
        }
    }

    /// Notes that a partition has something new. At most one entry per partition waits.
    pub fn mark_ready(&self, tp: TopicPartition) {
        if let Some(interest) = self.interests.borrow_mut().get_mut(&tp)
            && !interest.queued
        {
            interest.queued = true;
            let asked = interest.asks();
            self.ready.borrow_mut().push(tp, asked);
            self.wake.notify();
        }
    }

    /// Ends the session's task.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake.notify();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }

    /// Whether the session can take what the request adds.
    pub(super) fn takes(&self, request: &FetchRequest) -> bool {
        let interests = self.interests.borrow();
        if interests.len() + request.add.len() <= FETCH_INTERESTS_MAX {
            return true;
        }
        let known = |tp: &TopicPartition| interests.contains_key(tp);
        let removed: FxHashSet<_> = request.remove.iter().copied().filter(known).collect();
        let added: FxHashSet<_> = request
            .add
            .iter()
            .map(FetchInterest::tp)
            .filter(|tp| !known(tp) || removed.contains(tp))
            .collect();
        interests.len() - removed.len() + added.len() <= FETCH_INTERESTS_MAX
    }

    /// Begins an interest, anew if there is one.
    pub(super) fn add(&self, added: &FetchInterest) {
        let generation = self.generations.get();
        self.generations.set(generation + 1);
        let mut interests = self.interests.borrow_mut();
        let before = interests.get(&added.tp());
        let interest = Interest {
            generation,
            offset: added.offset,
            bytes_max: match added.max_bytes {
                0 => usize::MAX,
                cap => usize::try_from(cap).expect("u32 fits usize"),
            },
            queued: before.is_some_and(|interest| interest.queued),
            watched: before.is_some_and(|interest| interest.watched),
            cold: false,
            ahead: VecDeque::new(),
        };
        interests.insert(added.tp(), interest);
        drop(interests);
        self.mark_ready(added.tp());
    }

    /// Ends interests.
    pub(super) fn remove(&self, gone: &[TopicPartition]) {
        let mut interests = self.interests.borrow_mut();
        let mut was_queued = false;
        for tp in gone {
            let interest = interests.remove(tp);
            was_queued |= interest.is_some_and(|interest| interest.queued);
        }
        if was_queued {
            let mut ready = self.ready.borrow_mut();
            ready.retain(|tp| interests.contains_key(&tp));
        }
    }

    /// Ends all interests and says which there were.
    pub(super) fn clear(&self) -> Vec<TopicPartition> {
        self.ready.borrow_mut().clear();
        let interests = std::mem::take(&mut *self.interests.borrow_mut());
        interests.into_keys().collect()
    }

    pub(super) fn push_request(&self, waiting: Waiting) {
        self.requests.borrow_mut().push_back(waiting);
        self.wake.notify();
    }

    pub(super) fn next_request(&self) -> Option<Waiting> {
        self.requests.borrow_mut().pop_front()
    }

    pub(super) fn waiting_requests(&self) -> usize {
        self.requests.borrow().len()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty()
    }

    /// Takes a partition off the ready list.
    pub(super) fn next_ready(&self) -> Option<Position> {
        let tp = self.ready.borrow_mut().pop()?;
        let mut interests = self.interests.borrow_mut();
        let interest = interests
            .get_mut(&tp)
            .expect("only what is of interest is on the list");
        interest.queued = false;
        Some(Position {
            tp,
            offset: interest.offset,
            bytes_max: interest.bytes_max,
            generation: interest.generation,
        })
    }

    /// Whether the client has not changed its mind since the position was taken.
    pub(super) fn is_current(&self, position: &Position) -> bool {
        self.with_current(position, |_| ()).is_some()
    }

    /// Notes that the shard is going to tell of commits; false if it does so already.
    pub(super) fn begin_watch(&self, position: &Position) -> bool {
        self.with_current(position, |interest| {
            !std::mem::replace(&mut interest.watched, true)
        }) == Some(true)
    }

    /// Moves on to `offset` after sending, if the interest is still the same.
    pub(super) fn advance(&self, position: &Position, offset: Offset) -> bool {
        self.with_current(position, |interest| interest.offset = offset)
            .is_some()
    }

    /// Ends the interest, if it is still the same.
    pub(super) fn end(&self, position: &Position) -> bool {
        let is_current = self.is_current(position);
        if is_current {
            self.remove(&[position.tp]);
        }
        is_current
    }

    /// The extent that holds `offset`, if it was looked up before.
    pub(super) fn ahead(&self, position: &Position, offset: Offset) -> Option<Extent> {
        self.with_current(position, |interest| {
            interest.pass(offset);
            let ahead = &interest.ahead;
            ahead.front().copied().filter(|e| e.base_offset <= offset)
        })
        .flatten()
    }

    /// What is worth reading with `extent`, of all that was looked up: what follows in its
    /// partition, or, if others read old data, too, what they read behind it in this sweep.
    pub(super) fn worth_reading(
        &self,
        position: &Position,
        extent: Extent,
    ) -> Vec<(TopicPartition, Extent)> {
        let mut worth = vec![(position.tp, extent)];
        let ready = self.ready.borrow();
        if ready.has_old() {
            worth.extend(ready.old_behind(&extent).take(FETCH_EXTENTS_AHEAD));
        } else {
            self.with_current(position, |interest| {
                let ahead = interest.ahead.iter().copied();
                let behind = ahead.filter(|next| next.base_offset > extent.base_offset);
                worth.extend(behind.map(|next| (position.tp, next)));
            });
        }
        worth
    }

    /// Whether old data was read in this block before, and in no other since.
    pub(super) fn is_again_in(&self, block: BlockLocation) -> bool {
        self.last_block.replace(Some(block)) == Some(block)
    }

    /// Whether the partition's next batches, at `offset`, are for another turn than the one that
    /// began at `first`: if others read old data, too, they are read when the sweep comes there,
    /// unless they are near and in memory.
    pub(super) fn is_turn_over(
        &self,
        position: &Position,
        first: &BlockLocation,
        offset: Offset,
        is_in_memory: impl FnOnce(BlockLocation) -> bool,
    ) -> bool {
        if !self.ready.borrow().has_old() {
            return false;
        }
        let next = self.ahead(position, offset);
        next.is_some_and(|next| {
            !is_within_a_turn(first, &next.block) || !is_in_memory(next.place())
        })
    }

    /// Keeps what was looked up.
    pub(super) fn keep_ahead(&self, position: &Position, extents: Vec<Extent>) {
        self.with_current(position, |interest| interest.ahead = extents.into());
    }

    pub(super) fn is_cold(&self, position: &Position) -> bool {
        self.with_current(position, |interest| interest.cold) == Some(true)
    }

    pub(super) fn set_cold(&self, position: &Position, cold: bool) {
        self.with_current(position, |interest| interest.cold = cold);
    }

    fn with_current<T>(
        &self,
        position: &Position,
        then: impl FnOnce(&mut Interest) -> T,
    ) -> Option<T> {
        let mut interests = self.interests.borrow_mut();
        let interest = interests.get_mut(&position.tp)?;
        (interest.generation == position.generation).then(|| then(interest))
    }
}

/// Whether a turn that begins with one block goes on with the other.
fn is_within_a_turn(first: &BlockLocation, next: &BlockLocation) -> bool {
    let distance = next.offset.checked_sub(first.offset);
    first.segment_key() == next.segment_key()
        && distance.is_some_and(|distance| distance < FETCH_TURN_JOURNAL_BYTES)
}

#[cfg(test)]
mod tests;
