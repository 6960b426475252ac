//! The snapshot of the metadata: the whole state in one envelope.
//!
//! ```text
//! envelope "CtMs", count 0: cluster_id [16] | cluster_level u16 | version u64 | last_topic u32
//!   | last_producer u64 | shards u16 | layout_generation u64
//!   | n u32 | n x class { chain_first u32, chain_count u32, chain_next u32,
//!                         replication_factor u8, members_min u8, name string }
//!   | n u32 | n x chain { chain u32, epoch u32, node u32 }
//!   | n u32 | n x node  { node u32, port u16, shards u16, host string }
//!   | n u32 | n x topic { id u32, created_ms i64, name string, config (see `command`),
//!                         n u32, n x range { partition_count u32, chain_first u32,
//!                                            chain_count u32, chain_start u32 } }
//! ```
//!
//! The version of the envelope is that of the configs in it.

use catena_protocol::ids::{ChainEpoch, ChainId, NodeId, PartitionId, ProducerId, TopicId};
use catena_protocol::limits::{CLASS_NAME_BYTES_MAX, HOST_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use catena_protocol::messages::{NodeInfo, PartitionRange};

use super::check_topic_name;
use super::command::{config_version, decode_config, encode_config};
use super::state::{Chain, Class, MetadataState, ShardLayout, Topic};
use crate::codec::{self, DecodeError, Put, Reader, malformed};
use crate::limits::{PARTITION_RANGES_PER_TOPIC_MAX, PARTITIONS_PER_TOPIC_MAX};

/// Magic of a snapshot: `CtMs`.
pub const SNAPSHOT_MAGIC: u32 = u32::from_le_bytes(*b"CtMs");

/// The newest version of a snapshot.
const SNAPSHOT_VERSION: u16 = 2;

const CLASS_BYTES_MIN: usize = 16;
const CHAIN_BYTES: usize = 12;
const NODE_BYTES_MIN: usize = 10;
const TOPIC_BYTES_MIN: usize = 23;
const RANGE_BYTES: usize = 16;

impl MetadataState {
    /// The whole state, encoded.
    ///
    /// # Panics
    /// If the cluster has no identity: there is nothing to keep before.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let start = codec::begin_envelope(&mut out);
        out.put(
            &self
                .cluster_id
                .expect("only an initialised cluster is kept"),
        );
        out.put_u16(self.cluster_level);
        out.put_u64(self.version);
        out.put_u32(self.last_topic.get());
        out.put_u64(self.last_producer.get());
        out.put_u16(self.layout.shards);
        out.put_u64(self.layout.generation);
        self.encode_tables(&mut out);
        let versions = self
            .topics
            .values()
            .map(|topic| config_version(&topic.config));
        let version = versions.max().unwrap_or(1);
        out.put_u32(codec::length_u32(self.topics.len()));
        for topic in self.topics.values() {
            out.put_u32(topic.id.get());
            out.put_i64(topic.created_ms);
            out.put_string(&topic.name);
            encode_config(&topic.config, version, &mut out);
            out.put_u32(codec::length_u32(topic.ranges.len()));
            for range in &topic.ranges {
                out.put_u32(range.partition_count);
                out.put_u32(range.chain_first.get());
                out.put_u32(range.chain_count);
                out.put_u32(range.chain_start);
            }
        }
        codec::seal_envelope_as(version.into(), &mut out, start, SNAPSHOT_MAGIC, 0);
        out
    }

    /// Reads a snapshot that fills `bytes`.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let envelope = codec::open_envelope_to(SNAPSHOT_VERSION, bytes, SNAPSHOT_MAGIC)?;
        let version = u8::try_from(envelope.version).map_err(|_| malformed("version"))?;
        let mut body = envelope.body;
        let mut state = Self {
            cluster_id: Some(body.array("cluster id")?),
            cluster_level: body.u16("cluster level")?,
            version: body.u64("metadata version")?,
            last_topic: TopicId(body.u32("last topic")?),
            last_producer: ProducerId(body.u64("last producer")?),
            layout: ShardLayout {
                shards: body.u16("shards")?,
                generation: body.u64("layout generation")?,
            },
            ..Self::default()
        };
        state.decode_tables(&mut body)?;
        for _ in 0..body.count(TOPIC_BYTES_MIN, "topics")? {
            let topic = decode_topic(&mut body, version)?;
            state.take_topic(topic)?;
        }
        body.finish("bytes in a snapshot")?;
        if !envelope.rest.is_empty() {
            return Err(malformed("bytes after a snapshot"));
        }
        Ok(state)
    }

    fn encode_tables(&self, out: &mut Vec<u8>) {
        out.put_u32(codec::length_u32(self.classes.len()));
        for (name, class) in &self.classes {
            out.put_u32(class.chain_first.get());
            out.put_u32(class.chain_count);
            out.put_u32(class.chain_next);
            out.put_u8(class.replication_factor);
            out.put_u8(class.members_min);
            out.put_string(name);
        }
        out.put_u32(codec::length_u32(self.chains.len()));
        for (chain, row) in &self.chains {
            out.put_u32(chain.get());
            out.put_u32(row.epoch.get());
            out.put_u32(row.node.get());
        }
        out.put_u32(codec::length_u32(self.nodes.len()));
        for node in self.nodes.values() {
            out.put_u32(node.node.get());
            out.put_u16(node.port);
            out.put_u16(node.shards);
            out.put_string(&node.host);
        }
    }

    fn decode_tables(&mut self, body: &mut Reader<'_>) -> Result<(), DecodeError> {
        for _ in 0..body.count(CLASS_BYTES_MIN, "classes")? {
            let class = Class {
                chain_first: ChainId(body.u32("class")?),
                chain_count: body.u32("class")?,
                chain_next: body.u32("class")?,
                replication_factor: body.u8("class")?,
                members_min: body.u8("class")?,
            };
            let name = body.string(CLASS_NAME_BYTES_MAX, "class name")?;
            let repeated = self
                .classes
                .last_key_value()
                .is_some_and(|(last, _)| *last >= name);
            if class.chain_next >= class.chain_count || repeated {
                return Err(malformed("classes"));
            }
            self.classes.insert(name, class);
        }
        for _ in 0..body.count(CHAIN_BYTES, "chains")? {
            let chain = ChainId(body.u32("chain")?);
            let epoch = ChainEpoch(body.u32("chain epoch")?);
            let node = NodeId(body.u32("chain node")?);
            if self
                .chains
                .last_key_value()
                .is_some_and(|(last, _)| *last >= chain)
            {
                return Err(malformed("order of chains"));
            }
            self.chains.insert(chain, Chain { epoch, node });
        }
        for _ in 0..body.count(NODE_BYTES_MIN, "nodes")? {
            let node = NodeId(body.u32("node")?);
            let (port, shards) = (body.u16("port")?, body.u16("shards")?);
            let host = body.string(HOST_BYTES_MAX, "host")?;
            if self
                .nodes
                .last_key_value()
                .is_some_and(|(last, _)| *last >= node)
            {
                return Err(malformed("order of nodes"));
            }
            self.nodes.insert(
                node,
                NodeInfo {
                    node,
                    host,
                    port,
                    shards,
                },
            );
        }
        Ok(())
    }

    fn take_topic(&mut self, topic: Topic) -> Result<(), DecodeError> {
        let ordered = self
            .topics
            .last_key_value()
            .is_none_or(|(last, _)| *last < topic.id);
        let known = topic.id <= self.last_topic && self.classes.contains_key(&topic.config.class);
        let named = check_topic_name(&topic.name).is_ok();
        if !ordered || !known || !named {
            return Err(malformed("topic"));
        }
        if self.names.insert(topic.name.clone(), topic.id).is_some() {
            return Err(malformed("topic name that is taken"));
        }
        self.topics.insert(topic.id, topic);
        Ok(())
    }
}

fn decode_topic(body: &mut Reader<'_>, version: u8) -> Result<Topic, DecodeError> {
    let id = TopicId(body.u32("topic id")?);
    let created_ms = body.i64("creation time")?;
    let name = body.string(TOPIC_NAME_BYTES_MAX, "topic name")?;
    let config = decode_config(body, version)?;
    let count = body.count(RANGE_BYTES, "partition ranges")?;
    if count == 0 || count > PARTITION_RANGES_PER_TOPIC_MAX {
        return Err(malformed("partition ranges"));
    }
    let mut ranges = Vec::with_capacity(count);
    let mut partitions = 0u32;
    for _ in 0..count {
        let range = PartitionRange {
            topic: id,
            first_partition: PartitionId(partitions),
            partition_count: body.u32("partition range")?,
            chain_first: ChainId(body.u32("partition range")?),
            chain_count: body.u32("partition range")?,
            chain_start: body.u32("partition range")?,
        };
        let bounded = (1..=PARTITIONS_PER_TOPIC_MAX - partitions).contains(&range.partition_count);
        let last_chain = range.chain_first.get().checked_add(range.chain_count);
        if !bounded || range.chain_start >= range.chain_count || last_chain.is_none() {
            return Err(malformed("partition range"));
        }
        partitions += range.partition_count;
        ranges.push(range);
    }
    Ok(Topic {
        id,
        name,
        config,
        created_ms,
        ranges,
    })
}
