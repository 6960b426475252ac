//! Commands replay to the same state, each refusal names what disagrees, encodings are golden.

use std::collections::BTreeMap;

use catena_protocol::ids::{
    ChainEpoch, ChainId, Durability, NodeId, PartitionId, ProducerId, ShardId, TopicId,
    TopicPartition,
};
use catena_protocol::messages::{Cleanup, TopicConfig};
use proptest::prelude::*;

use super::*;
use crate::limits::{
    CHAINS_PER_CLASS, PARTITION_RANGES_PER_TOPIC_MAX, PARTITIONS_PER_TOPIC_MAX,
    PRODUCER_IDS_PER_COMMAND_MAX, SHARDS_MAX,
};

fn open(shards: u16) -> Command {
    Command::OpenNode {
        node: NodeId(1),
        host: "localhost".into(),
        port: 9440,
        shards,
    }
}

fn create(name: &str, partitions: u32) -> Command {
    let (name, config) = (name.to_owned(), TopicConfig::default());
    Command::CreateTopic {
        name,
        partitions,
        config,
        created_ms: 5,
    }
}

fn grow(name: &str, partitions: u32) -> Command {
    Command::AlterTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        retention_bytes: None,
        retention_ms: None,
        min_durability: None,
        cleanup: None,
    }
}

fn running() -> MetadataState {
    let mut state = MetadataState::default();
    assert_eq!(
        state.apply(&Command::InitCluster {
            cluster_id: [7; 16]
        }),
        Outcome::Initialized
    );
    state.apply(&open(4));
    state
}

fn command() -> impl Strategy<Value = Command> {
    let name = prop_oneof![
        20 => (0..5u32).prop_map(|number| format!("topic-{number}")),
        1 => Just("a/b".to_owned()),
    ];
    let retention = prop::option::of(1..9u64);
    let durability = (0..3u8).prop_map(|n| Durability::from_wire(n).expect("a class"));
    let cleanup = prop::sample::select(&Cleanup::ALL);
    let class = prop_oneof![9 => Just("default".to_owned()), 1 => Just("gold".to_owned())];
    let config = (
        retention.clone(),
        retention.clone(),
        class,
        durability.clone(),
        cleanup.clone(),
    )
        .prop_map(
            |(retention_bytes, retention_ms, class, min_durability, cleanup)| TopicConfig {
                retention_bytes,
                retention_ms,
                class,
                min_durability,
                cleanup,
            },
        );
    let change = prop::option::of(retention);
    prop_oneof![
        1 => any::<[u8; 16]>().prop_map(|cluster_id| Command::InitCluster { cluster_id }),
        2 => (1..3u32, 0..6u16).prop_map(|(node, shards)| Command::OpenNode {
            node: NodeId(node),
            host: format!("host-{shards}"),
            port: 9440,
            shards,
        }),
        8 => (name.clone(), 0..200u32, config, any::<i64>()).prop_map(
            |(name, partitions, config, created_ms)| Command::CreateTopic {
                name, partitions, config, created_ms
            }
        ),
        3 => name.clone().prop_map(|name| Command::DeleteTopic { name }),
        4 => (name, prop::option::of(0..300u32), change.clone(), change,
              prop::option::of(durability), prop::option::of(cleanup)).prop_map(
            |(name, partitions, retention_bytes, retention_ms, min_durability, cleanup)| {
                Command::AlterTopic {
                    name, partitions, retention_bytes, retention_ms, min_durability, cleanup
                }
            }
        ),
        2 => (0..2_000_000u32).prop_map(|count| Command::AllocateProducers { count }),
    ]
}

proptest! {
    #[test]
    fn a_snapshot_is_the_replay_of_the_commands(
        commands in prop::collection::vec(command(), 0..60),
        snapshot_at in 0..60usize,
    ) {
        let mut live = running();
        let mut replayed = running();
        for (number, command) in commands.iter().enumerate() {
            if number == snapshot_at {
                replayed = MetadataState::decode(&replayed.encode()).expect("just encoded");
            }
            let before = live.clone();
            let valid = live.validate(command);
            let outcome = live.apply(command);
            if let Outcome::Refused(refusal) = &outcome {
                prop_assert_eq!(valid, Err(refusal.clone()));
                prop_assert_eq!(&live, &before, "a refused command changes nothing");
            } else {
                prop_assert_eq!(valid, Ok(()));
            }
            let seen = |state: &MetadataState| {
                let topics: Vec<Topic> = state.topics().cloned().collect();
                let chains: Vec<_> = state.chains().collect();
                let nodes: Vec<_> = state.nodes().cloned().collect();
                (topics, chains, nodes)
            };
            let changed = u64::from(seen(&live) != seen(&before));
            prop_assert_eq!(live.version(), before.version() + changed);
            let decoded = Command::decode(&command.encode()).expect("just encoded");
            prop_assert_eq!(replayed.apply(&decoded), outcome);
        }
        prop_assert_eq!(&replayed, &live);
        prop_assert_eq!(replayed.encode(), live.encode());
        for topic in live.topics() {
            prop_assert_eq!(live.topic_by_name(&topic.name), Some(topic));
            for partition in 0..topic.partition_count() {
                let tp = TopicPartition { topic: topic.id, partition: PartitionId(partition) };
                let chain = live.chain_of(tp).expect("each partition has a chain");
                prop_assert!(live.chain(chain).is_some());
            }
            prop_assert!(topic.chain_of(PartitionId(topic.partition_count())).is_none());
        }
    }

    #[test]
    fn no_bytes_make_the_decoders_panic(bytes: Vec<u8>) {
        let _ = Command::decode(&bytes);
        let _ = MetadataState::decode(&bytes);
    }

    #[test]
    fn no_snapshot_body_makes_the_decoder_panic(
        at: usize,
        patch in prop::collection::vec(any::<u8>(), 1..6),
    ) {
        let mut state = running();
        state.apply(&create("one", 3));
        state.apply(&grow("one", 9));
        let encoded = state.encode();
        let mut body = encoded[crate::codec::ENVELOPE_BYTES..].to_vec();
        let at = at % body.len();
        for (byte, new) in body[at..].iter_mut().zip(&patch) {
            *byte = *new;
        }
        let mut sealed = Vec::new();
        let start = crate::codec::begin_envelope(&mut sealed);
        sealed.extend(&body);
        crate::codec::seal_envelope(&mut sealed, start, SNAPSHOT_MAGIC, 0);
        if let Ok(decoded) = MetadataState::decode(&sealed) {
            prop_assert_eq!(decoded.encode(), sealed);
            for topic in decoded.topics() {
                let last = PartitionId(topic.partition_count() - 1);
                prop_assert!(topic.chain_of(last).is_some());
            }
        }
    }
}

/// Checks that each command is refused, with exactly its reason, by a cluster with a topic `taken`
/// of 10 partitions.
fn assert_refused(cases: impl IntoIterator<Item = (Command, Refusal)>) {
    let mut state = running();
    state.apply(&create("taken", 10));
    for (command, refusal) in cases {
        let outcome = state.apply(&command);
        assert_eq!(outcome, Outcome::Refused(refusal), "{command:?}");
    }
}

#[test]
fn each_refused_name_says_what_is_wrong_with_it() {
    let long = "x".repeat(250);
    let cases = [
        ("", NameFault::Length { bytes: 0 }),
        (&long, NameFault::Length { bytes: 250 }),
        ("..", NameFault::Dots),
        ("tenant/topic", NameFault::Tenant),
        ("añb", NameFault::Character { found: 'ñ' }),
    ];
    assert_refused(cases.map(|(name, fault)| {
        let name = name.to_owned();
        (create(&name, 1), Refusal::InvalidName { name, fault })
    }));
}

#[test]
fn each_refused_partition_count_says_what_is_allowed() {
    let limit = PARTITIONS_PER_TOPIC_MAX;
    let above = limit + 1;
    let count = |wanted| Refusal::PartitionCount { wanted, limit };
    let shrink = Refusal::PartitionsShrink {
        current: 10,
        wanted: 9,
    };
    assert_refused([
        (create("a", 0), count(0)),
        (create("a", above), count(above)),
        (grow("taken", 9), shrink),
        (grow("taken", above), count(above)),
    ]);
}

#[test]
fn each_refused_topic_change_names_the_topic_or_class() {
    let taken = || "taken".to_owned();
    let free = || "free".to_owned();
    let gold = || "gold".to_owned();
    let gold_topic = Command::CreateTopic {
        name: "a".into(),
        partitions: 1,
        config: TopicConfig {
            class: gold(),
            ..TopicConfig::default()
        },
        created_ms: 0,
    };
    let exists = Refusal::TopicExists {
        name: taken(),
        topic: TopicId(1),
    };
    let not_found = || Refusal::TopicNotFound { name: free() };
    assert_refused([
        (create("taken", 1), exists),
        (gold_topic, Refusal::UnknownClass { class: gold() }),
        (grow("free", 1), not_found()),
        (Command::DeleteTopic { name: free() }, not_found()),
    ]);
}

#[test]
fn each_refused_cluster_command_names_what_disagrees() {
    let node = |node, host: &str| Command::OpenNode {
        node: NodeId(node),
        host: host.to_owned(),
        port: 1,
        shards: 1,
    };
    let other_node = Refusal::OtherNode {
        current: NodeId(1),
        found: NodeId(2),
    };
    let no_host = Refusal::Host {
        bytes: 0,
        limit: 255,
    };
    let no_shards = Refusal::ShardCount {
        wanted: 0,
        limit: SHARDS_MAX,
    };
    let no_producers = Refusal::ProducerCount {
        wanted: 0,
        limit: PRODUCER_IDS_PER_COMMAND_MAX,
    };
    let again = Command::InitCluster {
        cluster_id: [1; 16],
    };
    assert_refused([
        (again, Refusal::AlreadyInitialized),
        (open(0), no_shards),
        (node(1, ""), no_host),
        (node(2, "h"), other_node),
        (Command::AllocateProducers { count: 0 }, no_producers),
    ]);
    let fresh = MetadataState::default();
    let early = fresh.validate(&create("a", 1));
    assert_eq!(early, Err(Refusal::NotInitialized));
}

#[test]
fn small_topics_spread_over_all_chains() {
    let mut state = running();
    for number in 0..CHAINS_PER_CLASS * 2 {
        state.apply(&create(&format!("t{number}"), 1));
    }
    state.apply(&create("large", 130));
    let mut load: BTreeMap<ChainId, u32> = BTreeMap::new();
    for topic in state.topics() {
        for partition in 0..topic.partition_count() {
            let chain = topic.chain_of(PartitionId(partition)).expect("it has one");
            *load.entry(chain).or_default() += 1;
        }
    }
    assert_eq!(load.len(), 64);
    assert!(
        load.values().all(|count| (4..=5).contains(count)),
        "{load:?}"
    );
}

#[test]
fn a_topic_that_grows_keeps_its_partitions_where_they_are() {
    let mut state = running();
    state.apply(&create("one", 70));
    state.apply(&create("two", 5));
    let before: Vec<_> = (0..70)
        .map(|p| {
            state
                .topic_by_name("one")
                .expect("created")
                .chain_of(PartitionId(p))
        })
        .collect();
    let (topic, partitions_before, partitions) = (TopicId(1), 70, 100);
    let altered = Outcome::TopicAltered {
        topic,
        partitions_before,
        partitions,
    };
    assert_eq!(state.apply(&grow("one", 100)), altered);
    let one = state.topic_by_name("one").expect("created");
    assert_eq!(one.ranges.len(), 2);
    assert_eq!(one.partition_count(), 100);
    let after: Vec<_> = (0..70).map(|p| one.chain_of(PartitionId(p))).collect();
    assert_eq!(after, before);

    let version = state.version();
    let same = Outcome::TopicAltered {
        topic,
        partitions_before: 100,
        partitions: 100,
    };
    assert_eq!(state.apply(&grow("one", 100)), same);
    assert_eq!(state.version(), version, "nothing changed");
    for count in 101.. {
        if let Outcome::Refused(refusal) = state.apply(&grow("one", count)) {
            let limit = PARTITION_RANGES_PER_TOPIC_MAX;
            assert_eq!(
                refusal,
                Refusal::TooManyRanges {
                    current: limit,
                    limit
                }
            );
            break;
        }
    }
}

#[test]
fn opening_a_node_raises_epochs_and_moves_chains_only_when_shards_change() {
    let mut state = running();
    let (first, shard) = (state.layout(), |chain: u32| {
        ShardId(u16::try_from(chain % 4).expect("small"))
    });
    assert_eq!((first.shards, first.generation), (4, 1));
    for info in state.chains() {
        assert_eq!((info.epoch, info.node), (ChainEpoch(1), NodeId(1)));
        assert_eq!(info.shard, shard(info.chain.get()));
    }
    assert_eq!(state.apply(&open(4)), Outcome::NodeOpened { layout: first });
    assert!(state.chains().all(|info| info.epoch == ChainEpoch(2)));
    state.apply(&open(3));
    assert_eq!(
        state.layout(),
        ShardLayout {
            shards: 3,
            generation: 2
        }
    );
    state.apply(&create("topic", 200));
    let dealt: usize = (0..3)
        .map(|shard| state.partitions_on(ShardId(shard)).count())
        .sum();
    assert_eq!(dealt, 200);
    let of_first: Vec<_> = state.partitions_on(ShardId(0)).collect();
    assert!(of_first.is_sorted() && of_first.iter().all(|(_, chain)| chain.get() % 3 == 0));
}

#[test]
fn ids_are_never_given_twice() {
    let mut state = running();
    assert_eq!(
        state.apply(&create("a", 1)),
        Outcome::TopicCreated { topic: TopicId(1) }
    );
    state.apply(&Command::DeleteTopic { name: "a".into() });
    assert_eq!(
        state.apply(&create("a", 1)),
        Outcome::TopicCreated { topic: TopicId(2) }
    );
    let version = state.version();
    for first in [1, 1001, 2001] {
        let block = state.apply(&Command::AllocateProducers { count: 1000 });
        let expected = Outcome::ProducersAllocated {
            first: ProducerId(first),
            count: 1000,
        };
        assert_eq!(block, expected);
    }
    assert_eq!(state.version(), version, "clients do not see it");
}

#[test]
fn commands_have_golden_bytes() {
    let compacted = Command::CreateTopic {
        name: "ab".into(),
        partitions: 3,
        config: TopicConfig {
            cleanup: Cleanup::CompactDelete,
            ..TopicConfig::default()
        },
        created_ms: 5,
    };
    let compact = Command::AlterTopic {
        name: "ab".into(),
        partitions: None,
        retention_bytes: None,
        retention_ms: None,
        min_durability: None,
        cleanup: Some(Cleanup::Compact),
    };
    let cases: [(Command, &[u8]); 7] = [
        (
            compacted,
            b"\x02\x03\x03\0\0\0\x05\0\0\0\0\0\0\0\x02\0ab\0\0\x02\x07\0default\x02",
        ),
        (compact, b"\x02\x05\x02\0ab\0\0\0\0\x01\x01"),
        (open(4), b"\x01\x02\x01\0\0\0\xe0\x24\x04\0\x09\0localhost"),
        (
            create("ab", 3),
            b"\x01\x03\x03\0\0\0\x05\0\0\0\0\0\0\0\x02\0ab\0\0\x02\x07\0default",
        ),
        (
            Command::DeleteTopic { name: "ab".into() },
            b"\x01\x04\x02\0ab",
        ),
        (grow("ab", 9), b"\x01\x05\x02\0ab\x01\x09\0\0\0\0\0\0"),
        (
            Command::AllocateProducers { count: 258 },
            b"\x01\x06\x02\x01\0\0",
        ),
    ];
    for (command, golden) in cases {
        assert_eq!(command.encode(), golden, "{command:?}");
        assert_eq!(Command::decode(golden), Ok(command));
    }
}

#[test]
fn a_snapshot_has_golden_bytes() {
    let mut state = MetadataState::default();
    state.apply(&Command::InitCluster {
        cluster_id: [7; 16],
    });
    let bytes = state.encode();
    assert_eq!(bytes[..4], *b"CtMs");
    let body = &bytes[crate::codec::ENVELOPE_BYTES..];
    let golden = [
        7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // cluster id
        1, 0, 1, 0, 0, 0, 0, 0, 0, 0, // level, version
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // last topic, last producer
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // shards, generation
        1, 0, 0, 0, 1, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 1, 1, // one class
    ];
    assert_eq!(body[..golden.len()], golden);
    assert_eq!(body[golden.len()..][..9], *b"\x07\0default");
    assert_eq!(body.len(), golden.len() + 9 + 4 + 64 * 12 + 4 + 4);
    assert_eq!(bytes[4..6], [1, 0], "older brokers read it");
}

#[test]
fn a_snapshot_with_a_compacted_topic_has_a_version_of_its_own() {
    let mut state = running();
    let mut config = TopicConfig::default();
    for (name, cleanup) in [("a", Cleanup::Delete), ("b", Cleanup::Compact)] {
        config.cleanup = cleanup;
        state.apply(&Command::CreateTopic {
            name: name.into(),
            partitions: 1,
            config: config.clone(),
            created_ms: 0,
        });
    }
    let bytes = state.encode();
    assert_eq!(bytes[4..6], [2, 0]);
    assert_eq!(MetadataState::decode(&bytes), Ok(state));
}
