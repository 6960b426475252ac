//! Passes over a partition in memory, held against a plain map of keys.

mod tombstones;

use std::collections::BTreeMap;

use catena_protocol::batch::{
    BatchBuilder, BatchOptions, Decompressor, Records, split, stamp, verify_body,
};
use catena_protocol::compression::Codec;
use catena_protocol::ids::{ChainEpoch, Offset, PartitionId, TopicId, TopicPartition};
use catena_protocol::record::Record;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::ids::{BlockLocation, JournalId, SegmentSeq};
use crate::index::Extent;

const TP: TopicPartition = TopicPartition {
    topic: TopicId(3),
    partition: PartitionId(1),
};

const HOUR_MS: i64 = 3_600_000;

/// An extent with its batches, which may have become unreadable.
#[derive(Debug, Clone)]
struct Stored {
    extent: Extent,
    bytes: Vec<u8>,
    is_damaged: bool,
}

/// A record of the plan: key, or none, and value; a value of `None` deletes the key.
type Planned = (Option<u8>, Option<u8>);

/// A record as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    offset: u64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
}

/// A partition, and everything that was ever appended to it.
#[derive(Debug, Default)]
struct Partition {
    stored: Vec<Stored>,
    appended: Vec<Read>,
    known: CompactedPartition,
    /// When each offset was first below the end of a pass that left nothing behind.
    sole_since_ms: BTreeMap<u64, i64>,
}

impl Partition {
    fn end(&self) -> u64 {
        self.stored
            .last()
            .map_or(0, |last| last.extent.end_offset.0)
    }

    /// Appends an extent of some batches.
    fn append(&mut self, batches: &[Vec<Planned>], codec: Codec, now_ms: i64) {
        let base = self.end();
        let mut bytes = Vec::new();
        for records in batches {
            self.append_batch(records, codec, now_ms, &mut bytes);
        }
        let extent = extent(base, self.appended.len() as u64, bytes.len(), now_ms);
        self.stored.push(Stored {
            extent,
            bytes,
            is_damaged: false,
        });
    }

    fn append_batch(&mut self, records: &[Planned], codec: Codec, now_ms: i64, out: &mut Vec<u8>) {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec,
            ..BatchOptions::default()
        });
        let base = self.appended.len() as u64;
        for (key, value) in records {
            let offset = self.appended.len() as u64;
            let key = key.map(|key| vec![b'k', key]);
            let value = value.map(|value| vec![value; usize::from(value)]);
            let record = Record {
                timestamp_ms: now_ms,
                key: key.as_deref(),
                value: value.as_deref(),
                ..Record::default()
            };
            builder.push(&record).expect("small records fit");
            self.appended.push(Read { offset, key, value });
        }
        let at = out.len();
        builder.finish_into(out).expect("the codec works");
        stamp(&mut out[at..], Offset(base), now_ms, ChainEpoch(1), TP);
    }

    /// What can be read, in order.
    fn readable(&self) -> Vec<Read> {
        let intact = self.stored.iter().filter(|stored| !stored.is_damaged);
        intact
            .flat_map(|stored| records_of(&stored.bytes))
            .collect()
    }

    /// A pass; `keys_max` keys fit into the map.
    fn compact(&mut self, policy: &CompactionPolicy, now_ms: i64, keys_max: usize) {
        let known = self.known.clone();
        let keys = KeyMap::with_limit(100, keys_max);
        let mut pass = Pass::with_keys(TP, &known, policy, now_ms, ([1, 2], keys));
        self.note(&mut pass);
        if !pass.is_of_use() {
            return;
        }
        let end = pass.end();
        self.rewrite(&mut pass);
        self.known = pass.finish(self.known.clone(), now_ms);
        assert_eq!(self.known.clean_to, end);
        if let Some(cleaning) = self.known.cleanings.last() {
            for offset in 0..cleaning.below.0 {
                self.sole_since_ms.entry(offset).or_insert(cleaning.at_ms);
            }
        }
    }

    fn note(&self, pass: &mut Pass) {
        let mut decompressor = Decompressor::default();
        for stored in &self.stored {
            if stored.extent.end_offset <= pass.at(Offset(0)) {
                continue;
            }
            if stored.is_damaged {
                assert!(pass.pass_over(&stored.extent));
            }
            for batch in split(&stored.bytes).filter(|_| !stored.is_damaged) {
                let (header, batch) = batch.expect("whole batches");
                if header.append_time_ms > pass.appended_before_ms {
                    return pass.end_noting(Some(header.base_offset));
                }
                let mut records = Judge::open(&header, batch, &mut decompressor).expect("it reads");
                while match pass.note(&mut records, 3).expect("it reads") {
                    Ok(more) => more,
                    Err(NotedTo { at }) => return pass.end_noting(Some(at)),
                } {}
            }
            pass.noted(&stored.extent);
        }
        pass.end_noting(None);
    }

    fn rewrite(&mut self, pass: &mut Pass) {
        let mut stretch = Stretch::new(TP, 600, u64::MAX);
        let mut after = Vec::new();
        for stored in std::mem::take(&mut self.stored) {
            let extent = stored.extent;
            let is_over = extent.base_offset >= pass.end();
            if is_over || stored.is_damaged || !stretch.takes(&extent) {
                finish(pass, &mut stretch, &mut after);
            }
            if stored.is_damaged && !is_over {
                pass.leave(&extent);
                pass.rewritten(extent.end_offset, extent.bytes.into());
            }
            let is_passed_over = is_over || stored.is_damaged;
            after.push(stored.clone());
            if !is_passed_over {
                rewrite_extent(pass, &mut stretch, &stored);
            }
        }
        finish(pass, &mut stretch, &mut after);
        after.sort_by_key(|stored| stored.extent.base_offset);
        self.stored = after;
    }
}

fn rewrite_extent(pass: &mut Pass, stretch: &mut Stretch, stored: &Stored) {
    let mut decompressor = Decompressor::default();
    stretch.begin_extent(&stored.extent);
    for batch in split(&stored.bytes) {
        let (header, batch) = batch.expect("whole batches");
        if Judge::leaves(&header) {
            stretch.copy(&header, batch);
            continue;
        }
        let mut verdicts = Verdicts::default();
        let records = Judge::open(&header, batch, &mut decompressor).expect("it reads");
        let mut judged = records.clone();
        while pass
            .judge
            .judge(&mut judged, 3, &mut verdicts)
            .expect("it reads")
        {}
        if verdicts.has_tombstones {
            pass.note_tombstones();
        }
        if verdicts.dropped == 0 {
            stretch.copy(&header, batch);
            continue;
        }
        stretch.begin_batch(&header, batch).expect("it reads");
        let (mut records, mut from) = (records, 0);
        while stretch
            .keep(&mut records, 3, (&verdicts, from))
            .expect("it fits")
        {
            from += 3;
        }
        stretch.end_batch(&verdicts).expect("it fits");
    }
}

/// Puts what became of a stretch in the place of its extents.
fn finish(pass: &mut Pass, stretch: &mut Stretch, after: &mut Vec<Stored>) {
    match stretch.finish() {
        Outcome::Unchanged(from) => {
            for extent in &from {
                pass.rewritten(extent.end_offset, extent.bytes.into());
            }
        }
        Outcome::Stuck(from) => {
            for extent in &from {
                pass.leave(extent);
                pass.rewritten(extent.end_offset, extent.bytes.into());
            }
        }
        Outcome::Compacted(compacted) => {
            let covered = &compacted.from;
            assert_eq!(
                (
                    covered[0].base_offset,
                    covered[covered.len() - 1].end_offset
                ),
                (
                    compacted.moved.extent.base_offset,
                    compacted.moved.extent.end_offset
                ),
                "whole extents are covered"
            );
            pass.rewritten(compacted.moved.extent.end_offset, compacted.bytes_after());
            after.retain(|stored| !covered.contains(&stored.extent));
            let bytes = u32::try_from(compacted.moved.bytes.len()).expect("small");
            after.push(Stored {
                extent: Extent {
                    bytes,
                    ..compacted.moved.extent
                },
                bytes: compacted.moved.bytes,
                is_damaged: false,
            });
        }
    }
}

fn extent(base: u64, end: u64, bytes: usize, max_timestamp_ms: i64) -> Extent {
    Extent {
        base_offset: Offset(base),
        end_offset: Offset(end),
        block: BlockLocation {
            journal: JournalId(0),
            segment: SegmentSeq(1),
            offset: 4096,
            bytes: 4096,
        },
        offset_in_block: 128,
        bytes: u32::try_from(bytes).expect("small"),
        max_timestamp_ms,
    }
}

fn records_of(bytes: &[u8]) -> Vec<Read> {
    let mut found = Vec::new();
    let mut decompressor = Decompressor::default();
    for batch in split(bytes) {
        let (header, batch) = batch.expect("whole batches");
        verify_body(batch).expect("its checksum is right");
        let records = decompressor.records(&header, batch).expect("it decodes");
        for record in Records::new(&header, records) {
            let record = record.expect("it decodes");
            found.push(Read {
                offset: record.offset.0,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
            });
        }
    }
    found
}

/// What a reader of all records ends with: each key that is not deleted, and its value.
fn replayed(records: &[Read]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut map = BTreeMap::new();
    for Read { key, value, .. } in records {
        match (key, value) {
            (Some(key), Some(value)) => drop(map.insert(key.clone(), value.clone())),
            (Some(key), None) => drop(map.remove(key)),
            (None, _) => {}
        }
    }
    map
}

fn assert_tiles(partition: &Partition) {
    let mut next = 0;
    for stored in &partition.stored {
        assert_eq!(stored.extent.base_offset.0, next, "extents tile");
        for batch in split(&stored.bytes) {
            let (header, _) = batch.expect("whole batches");
            assert_eq!(header.base_offset.0, next, "batches tile");
            next = header.next_offset().0;
        }
        assert_eq!(stored.extent.end_offset.0, next, "an extent is its batches");
    }
    assert_eq!(
        next,
        partition.appended.len() as u64,
        "all offsets are stood for"
    );
}

/// Everything that is promised, of a partition without damage.
fn assert_kept(partition: &Partition, policy: &CompactionPolicy, now_ms: i64) {
    assert_tiles(partition);
    let found = partition.readable();
    assert_eq!(replayed(&found), replayed(&partition.appended));
    for record in &found {
        let as_sent = &partition.appended[usize::try_from(record.offset).expect("small")];
        assert_eq!(record, as_sent, "a record never changes");
    }
    for sent in &partition.appended {
        let is_newest = !partition
            .appended
            .iter()
            .any(|other| other.key == sent.key && other.offset > sent.offset);
        let is_there = found.contains(sent);
        let kept_ms = i64::try_from(policy.tombstone_ms).expect("days");
        let may_expire = sent.value.is_none()
            && partition
                .sole_since_ms
                .get(&sent.offset)
                .is_some_and(|since| since + kept_ms <= now_ms);
        let must_stay = sent.key.is_none() || (is_newest && !may_expire);
        assert!(is_there || !must_stay, "lost: {sent:?}");
    }
}

fn codec() -> impl Strategy<Value = Codec> {
    prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)]
}

fn planned() -> impl Strategy<Value = Planned> {
    let key = prop_oneof![1 => Just(None), 12 => (0..6u8).prop_map(Some)];
    let value = prop_oneof![1 => Just(None), 3 => (0..90u8).prop_map(Some)];
    (key, value)
}

#[derive(Debug, Clone)]
enum Event {
    Append(Vec<Vec<Planned>>, Codec),
    Compact { keys_max: usize },
    Damage(prop::sample::Index),
    Wait(i64),
}

fn event(with_damage: u32) -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (vec(vec(planned(), 1..9), 1..4), codec()).prop_map(|(b, c)| Event::Append(b, c)),
        4 => prop_oneof![1..4usize, Just(100usize)]
            .prop_map(|keys_max| Event::Compact { keys_max }),
        with_damage => any::<prop::sample::Index>().prop_map(Event::Damage),
        2 => (1..30i64).prop_map(|hours| Event::Wait(hours * HOUR_MS)),
    ]
}

fn run(events: Vec<Event>, check: impl Fn(&Partition, &CompactionPolicy, i64)) {
    let policy = CompactionPolicy::default();
    let mut partition = Partition::default();
    let mut now_ms = 1_000_000 * HOUR_MS;
    for event in events {
        match event {
            Event::Append(batches, codec) => partition.append(&batches, codec, now_ms),
            Event::Compact { keys_max } => partition.compact(&policy, now_ms, keys_max),
            Event::Damage(index) => {
                if !partition.stored.is_empty() {
                    let at = index.index(partition.stored.len());
                    partition.stored[at].is_damaged = true;
                }
            }
            Event::Wait(ms) => now_ms += ms,
        }
        now_ms += 1;
        check(&partition, &policy, now_ms);
    }
}

proptest! {
    #[test]
    fn the_newest_of_each_key_stays_and_a_replay_ends_in_the_same_map(
        events in vec(event(0), 1..25),
    ) {
        run(events, assert_kept);
    }

    #[test]
    fn damage_is_left_alone_and_nothing_that_was_deleted_comes_back(
        events in vec(event(1), 1..25),
    ) {
        run(events, |partition, _, _| {
            assert_tiles(partition);
            let damaged: Vec<_> = partition.stored.iter().filter(|s| s.is_damaged).collect();
            let was_damaged = |offset: u64| {
                damaged.iter().any(|stored| {
                    let extent = &stored.extent;
                    (extent.base_offset.0..extent.end_offset.0).contains(&offset)
                })
            };
            let found: BTreeMap<_, _> = partition.readable().into_iter()
                .filter_map(|record| Some((record.key?, record.offset))).collect();
            let newest: BTreeMap<_, _> = partition.appended.iter()
                .filter_map(|record| Some((record.key.as_ref()?, record))).collect();
            for (key, record) in newest {
                if record.value.is_some() && !was_damaged(record.offset) {
                    assert_eq!(found.get(key), Some(&record.offset), "lost: {record:?}");
                }
            }
            for (key, value) in replayed(&partition.readable()) {
                // A key that is read was not deleted by anything that can still be read, nor by
                // anything that could be when it was compacted.
                let last = partition.appended.iter().rev()
                    .find(|record| record.key.as_ref() == Some(&key));
                let last = last.expect("it was appended");
                let is_newest = last.value.as_ref() == Some(&value);
                assert!(is_newest || was_damaged_after(partition, &key, found[&key]), "{key:?}");
            }
        });
    }
}

/// Whether something newer of a key than `offset` lies in damage.
fn was_damaged_after(partition: &Partition, key: &[u8], offset: u64) -> bool {
    partition.appended.iter().any(|record| {
        let is_newer = record.offset > offset && record.key.as_deref() == Some(key);
        let holds = |stored: &&Stored| {
            let extent = &stored.extent;
            (extent.base_offset.0..extent.end_offset.0).contains(&record.offset)
        };
        let place = partition.stored.iter().find(holds);
        is_newer && place.is_some_and(|stored| stored.is_damaged)
    })
}

fn keyed(key: u8, value: u8) -> Planned {
    (Some(key), Some(value))
}

#[test]
fn one_pass_leaves_one_record_of_each_key() {
    let mut partition = Partition::default();
    let now_ms = HOUR_MS;
    for round in 0..20 {
        partition.append(
            &[vec![keyed(1, round), keyed(2, round)]],
            Codec::None,
            now_ms,
        );
    }
    partition.compact(&CompactionPolicy::default(), now_ms + 1, 100);
    let left: Vec<u64> = partition
        .readable()
        .iter()
        .map(|read| read.offset)
        .collect();
    assert_eq!(left, [38, 39]);
    assert_tiles(&partition);
}

#[test]
fn what_is_younger_than_the_lag_stays_as_it_is() {
    let policy = CompactionPolicy {
        lag_ms: 1000,
        ..CompactionPolicy::default()
    };
    let mut partition = Partition::default();
    for at_ms in [10_000, 10_001, 11_500] {
        partition.append(&[vec![keyed(1, 5), keyed(1, 6)]], Codec::None, at_ms);
    }
    partition.compact(&policy, 11_001, 100);
    let left: Vec<u64> = partition
        .readable()
        .iter()
        .map(|read| read.offset)
        .collect();
    assert_eq!(left, [3, 4, 5]);
    assert_eq!(partition.known.clean_to, Offset(4));
    partition.append(&[vec![keyed(1, 7)]], Codec::None, 13_000);
    partition.compact(&policy, 12_600, 100);
    let left: Vec<u64> = partition
        .readable()
        .iter()
        .map(|read| read.offset)
        .collect();
    assert_eq!(left, [5, 6]);
}

#[test]
fn a_full_map_ends_the_pass_early_and_the_next_goes_on() {
    let mut partition = Partition::default();
    // One extent with more keys than the map takes, and some more extents.
    let first: Vec<Planned> = (0..10).map(|number| keyed(number, number)).collect();
    partition.append(&[first], Codec::Lz4, 5);
    for number in 10..30u8 {
        partition.append(&[vec![keyed(number % 10, number)]], Codec::None, 5);
    }
    let policy = CompactionPolicy::default();
    let mut passes = 0;
    while partition.known.clean_to < Offset(30) {
        let before = partition.known.clean_to;
        partition.compact(&policy, 10 + passes, 4);
        assert!(partition.known.clean_to > before, "each pass comes further");
        passes += 1;
    }
    assert!(passes > 3);
    assert_eq!(partition.readable().len(), 10);
}

#[test]
fn a_map_holds_what_it_may_and_not_more() {
    let hasher = KeyHasher::new([3, 4]);
    let key = |number: u32| hasher.hash(&number.to_le_bytes());
    let mut keys = KeyMap::with_limit(0, 3);
    for number in 0..3 {
        assert_eq!(keys.note(key(number), Offset(number.into())), Ok(()));
    }
    assert_eq!(keys.note(key(3), Offset(3)), Err(KeysFull));
    assert_eq!(
        keys.note(key(1), Offset(9)),
        Ok(()),
        "a known key needs no room"
    );
    assert_eq!(keys.note(key(1), Offset(4)), Ok(()));
    assert_eq!(
        (keys.newest(key(1)), keys.newest(key(3)), keys.len()),
        (Some(Offset(9)), None, 3)
    );
    assert!(KeyMap::new(u64::MAX).is_empty());
}

#[test]
fn hashes_depend_on_the_secret() {
    let (one, two) = (KeyHasher::new([1, 2]), KeyHasher::new([1, 3]));
    assert_ne!(one.hash(b"key"), two.hash(b"key"));
    assert_eq!(one.hash(b"key"), KeyHasher::new([1, 2]).hash(b"key"));
}

#[test]
fn what_is_stored_is_what_is_counted_less_what_was_saved_whatever_is_trimmed() {
    let mut known = CompactedPartition {
        clean_bytes: 300,
        saved_bytes: 700,
        ..CompactedPartition::default()
    };
    assert_eq!(
        (known.stored_bytes(1500), known.dirty_bytes(800)),
        (800, 500)
    );
    // 100 of the 800 bytes go, which the log subtracts from what it counts.
    known.note_trim(100, None);
    assert_eq!(
        (known.stored_bytes(1400), known.dirty_bytes(700)),
        (700, 500)
    );
    // All goes: what the log still counts is what was saved.
    known.note_trim(700, Some(700));
    assert_eq!((known.stored_bytes(700), known.dirty_bytes(0)), (0, 0));
    assert_eq!(known.stored_bytes(900), 200, "what comes then is stored");
}

#[test]
fn few_cleanings_are_remembered_and_thinning_only_keeps_longer() {
    let policy = CompactionPolicy::default();
    let mut known = CompactedPartition::default();
    let mut all = Vec::new();
    for number in 1..100u64 {
        let at_ms = i64::try_from(number * number).expect("small") * HOUR_MS / 10;
        known.note_cleaning(Offset(number * 10), at_ms);
        all.push((number * 10, at_ms));
        let day_ms = 24 * HOUR_MS;
        let exact = all
            .iter()
            .filter(|(_, since)| since + day_ms <= at_ms)
            .map(|(b, _)| *b);
        let exact = exact.max().unwrap_or(0);
        assert!(known.tombstones_below(&policy, at_ms).0 <= exact);
        assert!(known.cleanings.len() <= crate::limits::COMPACTION_CLEANINGS_MAX);
    }
    assert!(known.tombstones_below(&policy, 2000 * HOUR_MS) == Offset(990));
}

#[test]
fn what_is_known_comes_back_from_a_checkpoint() {
    let mut known = CompactedPartition {
        clean_to: Offset(90),
        clean_bytes: 7,
        saved_bytes: 8,
        left_from: Some(Offset(95)),
        has_tombstones: true,
        ..CompactedPartition::default()
    };
    known.note_cleaning(Offset(50), 1000);
    known.note_cleaning(Offset(90), 2000);
    let partitions = BTreeMap::from([(TP, known)]);
    let mut bytes = Vec::new();
    encode_compacted(&partitions, &mut bytes);
    let golden = [
        1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, // one, 3/1
        90, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, //
        95, 0, 0, 0, 0, 0, 0, 0, // left from
        0xd0, 7, 0, 0, 0, 0, 0, 0, 3, 2, 0, 0, 0, // compacted at, flags, two cleanings
        50, 0, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0, 0, 0, 0, 0, //
        90, 0, 0, 0, 0, 0, 0, 0, 0xd0, 7, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes, golden);
    let mut reader = crate::codec::Reader::new(&bytes);
    assert_eq!(decode_compacted(&mut reader), Ok(partitions));
    for length in 0..bytes.len() {
        let mut reader = crate::codec::Reader::new(&bytes[..length]);
        assert!(decode_compacted(&mut reader).is_err(), "cut at {length}");
    }
}

#[test]
fn a_stretch_that_would_grow_beyond_a_block_stays_as_it_is() {
    let mut partition = Partition::default();
    let records: Vec<Planned> = (0..65_535).map(|_| (Some(1), Some(9))).collect();
    partition.append(&[records], Codec::None, 5);
    let stored = &partition.stored[0];
    assert!(stored.bytes.len() > 980_000);
    let mut stretch = Stretch::new(TP, 600, u64::MAX);
    stretch.begin_extent(&stored.extent);
    let (header, batch) = split(&stored.bytes).next().expect("one").expect("a batch");
    let mut decompressor = Decompressor::default();
    let mut records = Judge::open(&header, batch, &mut decompressor).expect("it reads");
    // One record in each piece goes, so that almost all others have to carry their offset.
    let mut verdicts = Verdicts {
        stays: (0..65_535).map(|index| index % 4000 != 1).collect(),
        ..Verdicts::default()
    };
    verdicts.dropped = 17;
    stretch.begin_batch(&header, batch).expect("it reads");
    let more = stretch.keep(&mut records, 65_535, (&verdicts, 0));
    assert_eq!(more, Ok(true));
    stretch.end_batch(&verdicts).expect("no codec fails");
    assert_eq!(stretch.finish(), Outcome::Stuck(vec![stored.extent]));
    assert!(stretch.is_empty());
}

/// Appends an extent of one batch as full as can be, with records that have no key but for those
/// that are deleted later.
/// Without one of those the rest of its piece has to carry offsets, and is too large.
fn append_wide(partition: &mut Partition) {
    let keyed = |index: usize| {
        let is_deleted = index % 4000 == 1;
        let key = u8::try_from(index / 4000).expect("17 of them");
        // As long as the others: those have no key and two bytes more of value.
        if is_deleted {
            (Some(key), Some(9))
        } else {
            (None, Some(11))
        }
    };
    let records: Vec<Planned> = (0..65_535).map(keyed).collect();
    partition.append(&[records], Codec::None, HOUR_MS);
}

#[test]
fn a_pass_passes_over_so_many_damaged_extents_and_no_more() {
    let known = CompactedPartition::default();
    let policy = CompactionPolicy::default();
    let mut pass = Pass::new(TP, &known, &policy, 5, ([0, 0], 0));
    let limit = crate::limits::COMPACTION_LEFT_MAX as u64;
    for number in 0..limit {
        assert!(pass.pass_over(&extent(number * 10, number * 10 + 10, 64, 0)));
    }
    let one_more = extent(limit * 10, limit * 10 + 10, 64, 0);
    assert!(!pass.pass_over(&one_more));
    assert!(pass.contradicts(&extent(5, 11, 64, 0)) && !pass.contradicts(&one_more));
}

#[cfg(feature = "planted-bugs")]
#[test]
fn the_planted_bug_loses_the_newest_record() {
    use crate::planted::{self, Bug};

    let mut partition = Partition::default();
    partition.append(&[vec![keyed(1, 5)]], Codec::None, 5);
    planted::set_on_thread(Some(Bug::CompactionDropsNewest));
    partition.compact(&CompactionPolicy::default(), 10, 100);
    planted::set_on_thread(None);
    assert!(
        partition.readable().is_empty(),
        "what the tests above would find"
    );
}
