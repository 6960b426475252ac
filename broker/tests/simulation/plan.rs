//! What happens in a run, drawn from its seed: the node, the topics, the clients, the crashes and
//! the faults.

use catena_broker::runtime::simulated::disk::Fault;
use catena_broker::runtime::simulated::{Death, Rng};
use catena_protocol::ids::Durability;
use catena_protocol::messages::Cleanup;

use crate::model::{Keys, Tolerance};
use crate::node::NodeOptions;

/// What kind of trouble a run has, besides crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Only crashes.
    Crashes,
    /// The disk reports errors.
    Errors,
    /// The disk damages what it stores.
    Damage,
    /// Operations take long.
    Slowness,
    /// Readers that take nothing, little memory, and segments that are freed under them.
    SlowReaders,
}

impl Trouble {
    /// The kind of a seed: every second run has crashes only.
    pub(crate) fn of_seed(seed: u64) -> Trouble {
        match seed % 8 {
            1 => Trouble::Errors,
            3 => Trouble::Damage,
            5 => Trouble::Slowness,
            7 => Trouble::SlowReaders,
            _ => Trouble::Crashes,
        }
    }

    /// What it excuses.
    pub(crate) fn tolerance(self) -> Tolerance {
        Tolerance {
            damage: self == Trouble::Damage,
            read_errors: matches!(self, Trouble::Errors | Trouble::Damage),
        }
    }

    /// Whether the node may end or refuse to start.
    pub(crate) fn may_fail(self) -> bool {
        matches!(self, Trouble::Errors | Trouble::Damage)
    }
}

/// A crash, and those that follow it during the recovery.
#[derive(Debug, Clone)]
pub(crate) struct Crash {
    /// Operations of the disk from the start of the node on.
    pub(crate) after_ios: u64,
    pub(crate) death: Death,
}

/// A topic of the run.
#[derive(Debug, Clone)]
pub(crate) struct TopicPlan {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    pub(crate) retention_bytes: Option<u64>,
    /// Compacted by key: the keys that its records have.
    pub(crate) keys: Option<Keys>,
    /// Deleted while its clients are at work.
    pub(crate) is_deleted: bool,
}

impl TopicPlan {
    pub(crate) fn cleanup(&self) -> Cleanup {
        match (self.keys, self.retention_bytes) {
            (None, _) => Cleanup::Delete,
            (Some(_), None) => Cleanup::Compact,
            (Some(_), Some(_)) => Cleanup::CompactDelete,
        }
    }
}

/// A producer of the run: `topic` and `partition` by number.
#[derive(Debug, Clone)]
pub(crate) struct ProducerPlan {
    pub(crate) topic: usize,
    pub(crate) partition: u32,
    pub(crate) keys: Option<Keys>,
    pub(crate) batches: u32,
    pub(crate) records_max: u64,
    pub(crate) record_bytes: (u64, u64),
    pub(crate) in_flight: usize,
    pub(crate) durability: Durability,
    pub(crate) reconnects: u64,
    pub(crate) pause_us: u64,
}

/// A reader of the run.
#[derive(Debug, Clone)]
pub(crate) struct ReaderPlan {
    pub(crate) topic: usize,
    pub(crate) partition: u32,
    pub(crate) bytes_max: u32,
    pub(crate) rewinds: u64,
    pub(crate) stalls: u64,
}

/// Everything that a seed decides beforehand.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) trouble: Trouble,
    pub(crate) node: NodeOptions,
    /// One time in so many a restart changes the number of shards; 0 for never.
    pub(crate) redeals: u64,
    pub(crate) topics: Vec<TopicPlan>,
    pub(crate) producers: Vec<ProducerPlan>,
    pub(crate) readers: Vec<ReaderPlan>,
    pub(crate) crashes: Vec<Crash>,
    /// From which operation on, counted from the first start.
    pub(crate) faults: Vec<(u64, Fault)>,
    /// Whether the end is orderly or one more power cut.
    pub(crate) ends_orderly: bool,
}

impl Scenario {
    /// Draws a scenario.
    pub(crate) fn draw(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed ^ 0x5EED_0FCA_7E4A);
        let trouble = Trouble::of_seed(seed);
        let is_large = match trouble {
            Trouble::SlowReaders => true,
            _ => rng.chance(1, 6),
        };
        let mut topics = topics(&mut rng, trouble, is_large);
        compact(seed, &mut topics);
        let producers = producers(&mut rng, trouble, &topics, is_large);
        let readers = readers(&mut rng, trouble, &topics);
        let shards = if rng.chance(2, 3) { 1 } else { 2 };
        let redeals = if rng.chance(1, 4) { 3 } else { 0 };
        // What lies in the journal of another shard stays where it is, and tombstones above it.
        let redeals = if has_tombstones(seed) && seed.is_multiple_of(4) {
            2
        } else {
            redeals
        };
        let mut crashes = crashes(&mut rng, trouble);
        let faults = faults(&mut rng, trouble);
        // The last group before a crash that went astray looks like one that was never written: a
        // single node cannot tell until its ledger says that it was flushed.
        let is_astray = faults.iter().any(|(_, f)| *f == Fault::MisdirectedWrite);
        crashes.retain(|_| !is_astray);
        Scenario {
            trouble,
            node: NodeOptions {
                shards,
                segment_bytes: 2 << 20,
                space_bytes: if is_large { 24 << 20 } else { 64 << 20 },
                cache_bytes: if is_large { 512 << 10 } else { 8 << 20 },
            },
            redeals,
            topics,
            producers,
            readers,
            crashes,
            faults,
            ends_orderly: is_astray || rng.chance(1, 2),
        }
    }
}

fn topics(rng: &mut Rng, trouble: Trouble, is_large: bool) -> Vec<TopicPlan> {
    let count = rng.between(1, 2);
    (0..count)
        .map(|number| TopicPlan {
            name: format!("topic-{number}"),
            partitions: u32::try_from(rng.between(1, 3)).expect("a few"),
            retention_bytes: (trouble == Trouble::SlowReaders || is_large || rng.chance(1, 4))
                .then(|| rng.between(20_000, 2_000_000)),
            keys: None,
            is_deleted: number > 0 && rng.chance(1, 4),
        })
        .collect()
}

/// One run in four has compacted topics. What else is drawn stays as it is without them.
fn compact(seed: u64, topics: &mut [TopicPlan]) {
    if !is_compacted(seed) {
        return;
    }
    let mut rng = Rng::new(seed ^ 0xC0_3FAC7);
    let mut of_tombstones = Rng::new(seed ^ 0x0DE1_E7E5);
    for topic in topics {
        let count = u32::try_from(rng.between(1, 12)).expect("a few");
        let tombstones = if has_tombstones(seed) {
            u32::try_from(of_tombstones.between(2, 6)).expect("a few")
        } else {
            0
        };
        let keys = Keys { count, tombstones };
        topic.keys = rng.chance(3, 4).then_some(keys);
    }
}

fn is_compacted(seed: u64) -> bool {
    (seed / 8) % 4 == 1
}

/// Every second run with compacted topics deletes keys.
fn has_tombstones(seed: u64) -> bool {
    is_compacted(seed) && (seed / 32).is_multiple_of(2)
}

fn producers(
    rng: &mut Rng,
    trouble: Trouble,
    topics: &[TopicPlan],
    is_large: bool,
) -> Vec<ProducerPlan> {
    let count = if is_large { 2 } else { rng.between(1, 4) };
    let with_weak = rng.chance(1, 4) && trouble != Trouble::SlowReaders;
    (0..count)
        .map(|number| {
            let topic = rng.index(topics.len());
            let partitions = u64::from(topics[topic].partitions);
            let record_bytes = match rng.below(4) {
                _ if is_large => (10_000, 60_000),
                0 => (8, 60),
                1 => (500, 9_000),
                _ => (20, 700),
            };
            let batches = if is_large {
                rng.between(60, 150)
            } else {
                rng.between(10, 70)
            };
            let is_weak = with_weak && number > 0;
            ProducerPlan {
                topic,
                partition: u32::try_from(rng.below(partitions)).expect("a few"),
                keys: topics[topic].keys,
                batches: u32::try_from(batches).expect("hundreds"),
                records_max: rng.between(1, 4),
                record_bytes,
                in_flight: rng.index(6) + 1,
                durability: if is_weak {
                    Durability::Received
                } else {
                    Durability::Durable
                },
                reconnects: if rng.chance(1, 2) { 20 } else { 0 },
                pause_us: [0, 2_000, 30_000][rng.index(3)],
            }
        })
        .collect()
}

fn readers(rng: &mut Rng, trouble: Trouble, topics: &[TopicPlan]) -> Vec<ReaderPlan> {
    let is_slow = trouble == Trouble::SlowReaders;
    let count = if is_slow { 3 } else { rng.below(3) };
    (0..count)
        .map(|_| {
            let topic = rng.index(topics.len());
            let partitions = u64::from(topics[topic].partitions);
            ReaderPlan {
                topic,
                partition: u32::try_from(rng.below(partitions)).expect("a few"),
                bytes_max: if is_slow { 4 << 20 } else { 64 << 10 },
                rewinds: [0, 4, 20][rng.index(3)],
                stalls: if is_slow { 2 } else { 0 },
            }
        })
        .collect()
}

fn crashes(rng: &mut Rng, trouble: Trouble) -> Vec<Crash> {
    let count = match trouble {
        Trouble::Crashes => rng.between(1, 6),
        Trouble::SlowReaders => rng.below(2),
        Trouble::Damage => rng.between(1, 4),
        Trouble::Errors | Trouble::Slowness => rng.below(4),
    };
    (0..count)
        .map(|number| Crash {
            after_ios: match rng.below(4) {
                // In the start, or in the recovery from the crash before.
                0 => rng.between(1, 90),
                1 if number > 0 => rng.between(1, 160),
                _ => rng.between(60, 350),
            },
            death: if rng.chance(1, 4) {
                Death::Killed
            } else {
                Death::PowerCut
            },
        })
        .collect()
}

fn faults(rng: &mut Rng, trouble: Trouble) -> Vec<(u64, Fault)> {
    let kinds: &[Fault] = match trouble {
        Trouble::Crashes | Trouble::SlowReaders => return Vec::new(),
        Trouble::Errors => &[
            Fault::WriteError,
            Fault::FlushError,
            Fault::FlushError,
            Fault::NoSpace,
            Fault::ReadError,
        ],
        Trouble::Damage => &[
            Fault::BitFlip,
            Fault::SectorRot,
            Fault::SectorRot,
            Fault::MisdirectedWrite,
            Fault::MisdirectedRead,
            Fault::LatentSectorError,
        ],
        Trouble::Slowness => &[Fault::Slow, Fault::Slow, Fault::Hung],
    };
    let (count, last) = if trouble == Trouble::Damage {
        (rng.between(1, 4), 350)
    } else {
        (rng.between(1, 3), 700)
    };
    (0..count)
        .map(|_| (rng.between(90, last), kinds[rng.index(kinds.len())]))
        .collect()
}
