//! Ranges, chains, hints and refreshes, by example. No I/O.

use super::*;
use catena_protocol::messages::{ChainInfo, NodeInfo, TopicConfig, TopicInfo};

fn page(topic: &str, id: u32, epoch: u32, shard: u16) -> MetadataResponse {
    let range = |first: u32, count: u32, chain: u32| PartitionRange {
        topic: TopicId(id),
        first_partition: PartitionId(first),
        partition_count: count,
        chain_first: ChainId(chain),
        chain_count: 2,
        chain_start: 1,
    };
    let chain = |chain: u32, shard: u16| ChainInfo {
        chain: ChainId(chain),
        epoch: ChainEpoch(epoch),
        node: NodeId(1),
        shard: ShardId(shard),
    };
    MetadataResponse {
        version: 1,
        cluster_id: [0; 16],
        nodes: vec![NodeInfo {
            node: NodeId(1),
            host: "::1".into(),
            port: 9,
            shards: 4,
        }],
        topics: vec![TopicInfo {
            name: topic.into(),
            id: TopicId(id),
            partitions: 6,
            config: TopicConfig::default(),
            error: ErrorCode::None,
        }],
        ranges: vec![range(4, 2, 30), range(0, 4, 10)],
        chains: vec![chain(10, shard), chain(11, 1), chain(30, 2), chain(31, 3)],
        next_page: None,
    }
}

fn shard(table: &Table, topic: u32, partition: u32) -> Option<u16> {
    let place = TopicPartition::new(TopicId(topic), PartitionId(partition));
    table.owner(place)?.shard.map(|shard| shard.0)
}

#[test]
fn partitions_are_found_through_ranges_and_chains() {
    let mut table = Table::default();
    table.replace(&["t".into()], vec![page("t", 7, 1, 0)]);
    let shards: Vec<_> = (0..7)
        .map(|partition| shard(&table, 7, partition))
        .collect();
    let expected = [Some(1), Some(0), Some(1), Some(0), Some(3), Some(2), None];
    assert_eq!(shards, expected);
    assert_eq!(shard(&table, 8, 0), None);
    assert_eq!(table.address(NodeId(1)).as_deref(), Some("[::1]:9"));
}

#[test]
fn a_hint_moves_a_chain_and_is_news_once() {
    let mut table = Table::default();
    table.replace(&["t".into()], vec![page("t", 7, 1, 0)]);
    let place = TopicPartition::new(TopicId(7), PartitionId(1));
    assert!(table.follow_hint(place, NodeId(1), ShardId(3)));
    assert!(!table.follow_hint(place, NodeId(1), ShardId(3)));
    assert!(
        !table.follow_hint(place, NodeId(9), ShardId(0)),
        "a node without address"
    );
    assert_eq!(shard(&table, 7, 3), Some(3), "the whole chain moves");
}

#[test]
fn a_node_that_lags_behind_does_not_undo_a_newer_epoch() {
    let mut table = Table::default();
    table.replace(&["t".into()], vec![page("t", 7, 5, 2)]);
    table.replace(&["t".into()], vec![page("t", 7, 4, 0)]);
    assert_eq!(shard(&table, 7, 1), Some(2));
    table.replace(&["t".into()], vec![page("t", 7, 6, 0)]);
    assert_eq!(shard(&table, 7, 1), Some(0));
}

#[test]
fn a_topic_that_a_refresh_does_not_hold_is_gone() {
    let mut table = Table::default();
    table.replace(&["t".into()], vec![page("t", 7, 1, 0)]);
    table.replace(&["u".into()], vec![page("u", 8, 1, 0)]);
    assert!(table.topic("t").is_some(), "it was not asked for");
    table.replace(&["t".into(), "u".into()], vec![page("u", 8, 1, 0)]);
    assert!(table.topic("t").is_none());
    assert_eq!(shard(&table, 7, 0), None);
}
