//! What clients know: what was sent, what was acknowledged, what was read. Everything that they
//! learn is held against it, and a contradiction ends the run with a panic that names it.
//!
//! The promises: an acknowledged durable record is at its offset, once; an offset has one record
//! for ever; nothing is read that was not sent, or twice; a producer's records are in order;
//! offsets are dense; of each key of a compacted topic the newest record is there, and what was
//! deleted stays deleted; the high watermark and the log start never fall; what was damaged is
//! reported, and only if there was damage.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use catena_protocol::ids::TopicPartition;

use crate::node::TOMBSTONE_MS;

/// A record's value: who sent it and the how many-th of that sender it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Value {
    pub(crate) sender: u32,
    pub(crate) number: u32,
}

/// The keys of a compacted topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    /// How many there are.
    pub(crate) count: u32,
    /// One record in about so many is a tombstone; 0 for none.
    pub(crate) tombstones: u32,
}

impl Keys {
    /// The key of a record.
    pub(crate) fn of(self, value: Value) -> u32 {
        value.number % self.count
    }

    /// Whether a record deletes its key.
    pub(crate) fn deletes(self, value: Value) -> bool {
        let mixed = (value.number ^ value.sender.rotate_left(16)).wrapping_mul(0x9E37_79B1) >> 16;
        self.tombstones > 0 && mixed.is_multiple_of(self.tombstones)
    }
}

/// What may go wrong in a run without anybody being to blame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tolerance {
    /// Stored data is damaged: it may be lost if that is reported.
    pub(crate) damage: bool,
    /// Reads fail for a moment.
    pub(crate) read_errors: bool,
}

/// Shared by all clients of a run.
pub(crate) type SharedModel = Rc<RefCell<Model>>;

pub(crate) struct Model {
    pub(crate) tolerance: Tolerance,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Durable acks.
    pub(crate) acks: u64,
    /// Records read, final read included.
    pub(crate) reads: u64,
    /// Ranges of offsets that were answered with an error for damage.
    pub(crate) reported_lost: u64,
}

#[derive(Default)]
struct Partition {
    is_trimmed: bool,
    /// Compacted, with these keys: a record may go when a newer one of its key is there, and a
    /// tombstone after its time.
    keys: Option<Keys>,
    is_forgotten: bool,
    /// What was sent, with the time at which it was made, in microseconds.
    sent: BTreeMap<Value, u64>,
    /// What is known to be at an offset, by ack or by read.
    known: BTreeMap<u64, Value>,
    places: BTreeMap<Value, u64>,
    /// First places of what was written again although it was there.
    written_again: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    /// Acknowledged as written, at an offset that is not known.
    somewhere: BTreeSet<Value>,
    high_watermark: u64,
    log_start: u64,
    /// Offsets that the broker reported as damaged. A range can be as long as offsets go.
    reported: Vec<Range<u64>>,
}

/// A complete read of a partition, and when it ended.
struct LastRead<'a> {
    records: &'a BTreeMap<u64, Value>,
    now_us: u64,
}

impl Partition {
    fn is_reported(&self, offset: u64) -> bool {
        self.reported.iter().any(|range| range.contains(&offset))
    }

    /// Whether compaction may have dropped a record: a newer one of its key was read, or was there
    /// and is reported as damaged, or its key was deleted so long ago that the tombstone may be
    /// gone, too. That can be the record itself.
    fn may_be_dropped(&self, offset: u64, value: Value, read: &LastRead<'_>) -> bool {
        let Some(keys) = self.keys else { return false };
        let is_of_key = |other: &Value| keys.of(*other) == keys.of(value);
        let is_over = |other: &Value| keys.deletes(*other) && self.is_over(*other, read.now_us);
        let mut newer = read.records.range(offset + 1..);
        let mut known = self.known.range(offset..);
        // Where it came to lie is not known, but not before what the same producer sent earlier.
        let mut unplaced = self.sent.keys().filter(|other| {
            let is_earlier = other.sender == value.sender && other.number < value.number;
            !is_earlier && !self.places.contains_key(other)
        });
        newer.any(|(_, other)| is_of_key(other))
            || known
                .any(|(at, other)| is_of_key(other) && (self.is_reported(*at) || is_over(other)))
            || unplaced.any(|other| is_of_key(other) && is_over(other))
    }

    /// Whether a tombstone's time can be over.
    fn is_over(&self, tombstone: Value, now_us: u64) -> bool {
        let sent_us = self.sent.get(&tombstone);
        sent_us.is_some_and(|sent_us| now_us >= sent_us + TOMBSTONE_MS * 1_000)
    }

    /// The newest record of each key that was read holds: an older value does not come back when
    /// the key was deleted, whether the tombstone is still there or not.
    fn check_deleted(&self, tp: TopicPartition, read: &LastRead<'_>) {
        let Some(keys) = self.keys else { return };
        let by_key = read.records.iter();
        let newest: BTreeMap<u32, (u64, Value)> = by_key
            .map(|(offset, value)| (keys.of(*value), (*offset, *value)))
            .collect();
        for (key, (offset, value)) in newest {
            let is_tombstone = |other: &Value| keys.of(*other) == key && keys.deletes(*other);
            let mut known = self.known.range(offset + 1..);
            let placed = known.find(|(at, other)| is_tombstone(other) && !self.is_reported(**at));
            let mut somewhere = self.somewhere.iter();
            let unplaced = somewhere.find(|other| {
                let is_behind = other.sender == value.sender && other.number > value.number;
                is_behind && is_tombstone(other) && !self.places.contains_key(other)
            });
            let deleted = placed.map(|(_, other)| other);
            let deleted = deleted.or(unplaced.filter(|_| self.reported.is_empty()));
            assert!(
                deleted.is_none(),
                "resurfaced: {tp} offset {offset} holds {value:?} of key {key}, which was deleted \
                 by {deleted:?}"
            );
        }
    }

    /// The first offset from `offset` on that was not reported.
    fn behind_reported(&self, mut offset: u64) -> u64 {
        while let Some(range) = self.reported.iter().find(|range| range.contains(&offset)) {
            offset = range.end;
        }
        offset
    }
}

impl Model {
    pub(crate) fn new(tolerance: Tolerance) -> SharedModel {
        Rc::new(RefCell::new(Model {
            tolerance,
            partitions: BTreeMap::new(),
            acks: 0,
            reads: 0,
            reported_lost: 0,
        }))
    }

    pub(crate) fn open(&mut self, tp: TopicPartition, is_trimmed: bool, keys: Option<Keys>) {
        let partition = self.partitions.entry(tp).or_default();
        (partition.is_trimmed, partition.keys) = (is_trimmed, keys);
    }

    /// The topic is deleted: what is still on its way counts for nothing.
    pub(crate) fn forget(&mut self, tp: TopicPartition) {
        self.partition(tp).is_forgotten = true;
    }

    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        self.partitions.keys().copied().collect()
    }

    fn partition(&mut self, tp: TopicPartition) -> &mut Partition {
        self.partitions.entry(tp).or_default()
    }

    pub(crate) fn sent(&mut self, tp: TopicPartition, value: Value, now_us: u64) {
        self.partition(tp).sent.insert(value, now_us);
    }

    /// A durable ack came: the records are at these offsets.
    pub(crate) fn acknowledged(&mut self, tp: TopicPartition, base: u64, values: &[Value]) {
        self.acks += 1;
        for (offset, value) in (base..).zip(values) {
            self.note(tp, offset, *value, "acknowledged");
            self.partition(tp).acknowledged.insert(offset);
        }
    }

    /// An ack said that the records had been written before.
    pub(crate) fn acknowledged_somewhere(&mut self, tp: TopicPartition, values: &[Value]) {
        self.acks += 1;
        self.partition(tp).somewhere.extend(values);
    }

    /// A record was read.
    pub(crate) fn read(&mut self, tp: TopicPartition, offset: u64, value: Value) {
        self.reads += 1;
        if self.partition(tp).is_forgotten {
            return;
        }
        let is_sent = self.partition(tp).sent.contains_key(&value);
        assert!(
            is_sent,
            "phantom: {tp} offset {offset} holds {value:?}, never sent"
        );
        self.note(tp, offset, value, "read");
    }

    fn note(&mut self, tp: TopicPartition, offset: u64, value: Value, how: &str) {
        let is_damaged = self.tolerance.damage;
        let partition = self.partition(tp);
        let known = *partition.known.entry(offset).or_insert(value);
        assert_eq!(known, value, "two values: {tp} offset {offset}, {how}");
        let place = partition.places.insert(value, offset).unwrap_or(offset);
        if place != offset && is_damaged {
            // Its first place must turn out to be lost, and with it that it was written.
            partition.written_again.insert(place);
            return;
        }
        assert_eq!(place, offset, "duplicate: {value:?} in {tp}, {how}");
    }

    /// The bounds that some reader has seen: what is asked from now on cannot be below.
    pub(crate) fn bounds_so_far(&mut self, tp: TopicPartition) -> (u64, u64) {
        let partition = self.partition(tp);
        (partition.log_start, partition.high_watermark)
    }

    /// A fetch told the partition's bounds; `before` were known when it was asked.
    pub(crate) fn bounds(
        &mut self,
        tp: TopicPartition,
        before: (u64, u64),
        (log_start, high_watermark): (u64, u64),
    ) {
        let damaged = self.tolerance.damage;
        let partition = self.partition(tp);
        if partition.is_forgotten {
            return;
        }
        assert!(
            high_watermark >= before.1 || damaged,
            "high watermark fell: {tp} from {} to {high_watermark}",
            before.1
        );
        assert!(
            log_start >= before.0 || damaged,
            "log start fell: {tp} from {} to {log_start}",
            before.0
        );
        assert!(
            log_start == 0 || partition.is_trimmed,
            "trimmed without a policy: {tp} starts at {log_start}"
        );
        partition.high_watermark = partition.high_watermark.max(high_watermark);
        partition.log_start = partition.log_start.max(log_start);
    }

    /// The broker reported these offsets as damaged.
    pub(crate) fn reported_lost(&mut self, tp: TopicPartition, from: u64, next: u64) {
        assert!(
            self.tolerance.damage,
            "damage without a cause: {tp} offsets {from} to {next}"
        );
        assert!(next > from, "damage without an end: {tp} offset {from}");
        self.reported_lost += 1;
        let range = from..next;
        let partition = self.partition(tp);
        if !partition.reported.contains(&range) {
            partition.reported.push(range);
        }
    }

    /// Holds a complete read of a partition against everything that is known of it.
    pub(crate) fn check_final(
        &mut self,
        tp: TopicPartition,
        (log_start, high_watermark): (u64, u64),
        read: &BTreeMap<u64, Value>,
        now_us: u64,
    ) {
        let damaged = self.tolerance.damage;
        let partition = self.partition(tp);
        let mut next = log_start;
        for offset in read.keys().copied().chain([high_watermark]) {
            let expected = partition.behind_reported(next);
            assert!(
                offset <= expected.max(next) || next >= high_watermark || partition.keys.is_some(),
                "gap: {tp} offset {expected} of {log_start}..{high_watermark} was not read"
            );
            next = next.max(offset + 1);
        }
        let last_read = LastRead {
            records: read,
            now_us,
        };
        partition.check_deleted(tp, &last_read);
        for (offset, value) in partition.known.range(log_start..) {
            let is_acknowledged = partition.acknowledged.contains(offset);
            let is_read = read.get(offset) == Some(value);
            assert!(
                is_read
                    || partition.may_be_dropped(*offset, *value, &last_read)
                    || (damaged && partition.is_reported(*offset)),
                "lost: {tp} offset {offset} held {value:?} (acknowledged: {is_acknowledged}), \
                 the log is {log_start}..{high_watermark}"
            );
        }
        for value in &partition.somewhere {
            let may_be_gone = log_start > 0 || damaged || partition.keys.is_some();
            assert!(
                partition.places.contains_key(value) || may_be_gone,
                "lost: {value:?} was acknowledged as written before, and is not in {tp}"
            );
        }
        for place in &partition.written_again {
            assert!(
                *place < log_start || partition.is_reported(*place),
                "duplicate: what {tp} holds at offset {place} is there again"
            );
        }
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        let counts = |(offset, _): &(&u64, &Value)| !partition.written_again.contains(*offset);
        for (offset, value) in partition.known.iter().filter(counts) {
            let before = last.insert(value.sender, value.number);
            assert!(
                before.is_none_or(|before| before < value.number),
                "out of order: {tp} offset {offset} holds {value:?} after {before:?}"
            );
        }
    }
}
