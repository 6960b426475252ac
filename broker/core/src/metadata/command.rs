//! Metadata commands and their encoding, the body of `Metadata` frames.
//!
//! ```text
//! 0 version u8 = 1, or 2 with what is marked so | 1 tag u8 | fields
//! 1 InitCluster       cluster_id [16]
//! 2 OpenNode          node u32 | port u16 | shards u16 | host string
//! 3 CreateTopic       partitions u32 | created_ms i64 | name string | config
//! 4 DeleteTopic       name string
//! 5 AlterTopic        name string | partitions optional u32 | retention_bytes change
//!                     | retention_ms change | flag, min_durability u8
//!                     | version 2: flag, cleanup u8
//! 6 AllocateProducers count u32
//! string: length u16, UTF-8 | optional: flag u8, then the value if 1
//! change: flag u8, then, if 1, an optional u64
//! config: retention_bytes optional u64 | retention_ms optional u64 | min_durability u8
//!         | class string | version 2: cleanup u8
//! ```
//!
//! What needs no field of version 2 is written as version 1, which older brokers read.

use catena_protocol::ids::{Durability, NodeId};
use catena_protocol::limits::{CLASS_NAME_BYTES_MAX, HOST_BYTES_MAX, TOPIC_NAME_BYTES_MAX};
use catena_protocol::messages::{Cleanup, ClusterId, TopicConfig};

use crate::codec::{DecodeError, Put, Reader, malformed};

/// The newest version of the encoding.
const COMMAND_VERSION: u8 = 2;

/// A change of the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Gives the cluster its identity and its default class; the first command of all.
    InitCluster {
        /// The identity: 16 random bytes.
        cluster_id: ClusterId,
    },
    /// A node starts: each chain gets a new epoch, and a new place if the shards changed.
    OpenNode {
        /// The node.
        node: NodeId,
        /// Where clients reach it.
        host: String,
        /// Where clients reach it.
        port: u16,
        /// Its shards, 1 or more.
        shards: u16,
    },
    /// Creates a topic.
    CreateTopic {
        /// Its name.
        name: String,
        /// Its partitions, 1 or more.
        partitions: u32,
        /// Its settings.
        config: TopicConfig,
        /// When, in milliseconds since 1970.
        created_ms: i64,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Its name.
        name: String,
    },
    /// Changes a topic; what is `None` stays.
    AlterTopic {
        /// Its name.
        name: String,
        /// The new count of partitions, not lower than the old.
        partitions: Option<u32>,
        /// The new limit by bytes; `Some(None)` lifts it.
        retention_bytes: Option<Option<u64>>,
        /// The new limit by age; `Some(None)` lifts it.
        retention_ms: Option<Option<u64>>,
        /// The new weakest durability.
        min_durability: Option<Durability>,
        /// The new way to get rid of old records.
        cleanup: Option<Cleanup>,
    },
    /// Takes a block of producer ids that nobody else will get.
    AllocateProducers {
        /// How many.
        count: u32,
    },
}

impl Command {
    /// The command as the body of a frame.
    ///
    /// # Panics
    /// If a string is longer than 64 KiB: validate first.
    pub fn encode(&self) -> Vec<u8> {
        let version = self.version();
        let mut out = vec![version, self.tag()];
        match self {
            Self::InitCluster { cluster_id } => out.put(cluster_id),
            Self::OpenNode {
                node,
                host,
                port,
                shards,
            } => {
                out.put_u32(node.get());
                out.put_u16(*port);
                out.put_u16(*shards);
                out.put_string(host);
            }
            Self::CreateTopic {
                name,
                partitions,
                config,
                created_ms,
            } => {
                out.put_u32(*partitions);
                out.put_i64(*created_ms);
                out.put_string(name);
                encode_config(config, version, &mut out);
            }
            Self::DeleteTopic { name } => out.put_string(name),
            Self::AlterTopic {
                name,
                partitions,
                retention_bytes,
                retention_ms,
                min_durability,
                cleanup,
            } => {
                out.put_string(name);
                out.put_flag(partitions.is_some());
                if let Some(partitions) = partitions {
                    out.put_u32(*partitions);
                }
                put_change(*retention_bytes, &mut out);
                put_change(*retention_ms, &mut out);
                out.put_flag(min_durability.is_some());
                if let Some(durability) = min_durability {
                    out.put_u8(durability.to_wire());
                }
                if let Some(cleanup) = cleanup {
                    out.put_flag(true);
                    out.put_u8(cleanup.to_wire());
                }
            }
            Self::AllocateProducers { count } => out.put_u32(*count),
        }
        out
    }

    /// Reads a command that fills `bytes`.
    ///
    /// # Errors
    /// Any [`DecodeError`]; whether the command makes sense is for `validate` to say.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("command version")?;
        if !(1..=COMMAND_VERSION).contains(&version) {
            let newest = COMMAND_VERSION.into();
            return Err(DecodeError::Version {
                newest,
                found: version.into(),
            });
        }
        let command = match reader.u8("command tag")? {
            1 => Self::InitCluster {
                cluster_id: reader.array("cluster id")?,
            },
            2 => {
                let node = NodeId(reader.u32("node")?);
                let port = reader.u16("port")?;
                let shards = reader.u16("shards")?;
                let host = reader.string(HOST_BYTES_MAX, "host")?;
                Self::OpenNode {
                    node,
                    host,
                    port,
                    shards,
                }
            }
            3 => {
                let partitions = reader.u32("partitions")?;
                let created_ms = reader.i64("creation time")?;
                let name = reader.string(TOPIC_NAME_BYTES_MAX, "topic name")?;
                let config = decode_config(&mut reader, version)?;
                Self::CreateTopic {
                    name,
                    partitions,
                    config,
                    created_ms,
                }
            }
            4 => Self::DeleteTopic {
                name: reader.string(TOPIC_NAME_BYTES_MAX, "topic name")?,
            },
            5 => decode_alter(&mut reader, version)?,
            6 => Self::AllocateProducers {
                count: reader.u32("producer count")?,
            },
            _ => return Err(malformed("command tag")),
        };
        reader.finish("bytes after a command")?;
        Ok(command)
    }

    /// The oldest version that has all its fields.
    fn version(&self) -> u8 {
        match self {
            Self::CreateTopic { config, .. } => config_version(config),
            Self::AlterTopic { cleanup, .. } => 1 + u8::from(cleanup.is_some()),
            Self::InitCluster { .. }
            | Self::OpenNode { .. }
            | Self::DeleteTopic { .. }
            | Self::AllocateProducers { .. } => 1,
        }
    }

    const fn tag(&self) -> u8 {
        match self {
            Self::InitCluster { .. } => 1,
            Self::OpenNode { .. } => 2,
            Self::CreateTopic { .. } => 3,
            Self::DeleteTopic { .. } => 4,
            Self::AlterTopic { .. } => 5,
            Self::AllocateProducers { .. } => 6,
        }
    }
}

fn decode_alter(reader: &mut Reader<'_>, version: u8) -> Result<Command, DecodeError> {
    let name = reader.string(TOPIC_NAME_BYTES_MAX, "topic name")?;
    let has_partitions = reader.flag("partitions")?;
    let partitions = if has_partitions {
        Some(reader.u32("partitions")?)
    } else {
        None
    };
    let retention_bytes = read_change(reader, "retention bytes")?;
    let retention_ms = read_change(reader, "retention time")?;
    let has_durability = reader.flag("durability")?;
    let min_durability = if has_durability {
        Some(read_durability(reader)?)
    } else {
        None
    };
    let has_cleanup = version >= 2 && reader.flag("cleanup")?;
    let cleanup = if has_cleanup {
        Some(read_cleanup(reader)?)
    } else {
        None
    };
    Ok(Command::AlterTopic {
        name,
        partitions,
        retention_bytes,
        retention_ms,
        min_durability,
        cleanup,
    })
}

/// The oldest version that has all settings.
pub(super) fn config_version(config: &TopicConfig) -> u8 {
    1 + u8::from(config.cleanup != Cleanup::Delete)
}

pub(super) fn encode_config(config: &TopicConfig, version: u8, out: &mut Vec<u8>) {
    out.put_optional_u64(config.retention_bytes);
    out.put_optional_u64(config.retention_ms);
    out.put_u8(config.min_durability.to_wire());
    out.put_string(&config.class);
    if version >= 2 {
        out.put_u8(config.cleanup.to_wire());
    }
}

pub(super) fn decode_config(
    reader: &mut Reader<'_>,
    version: u8,
) -> Result<TopicConfig, DecodeError> {
    Ok(TopicConfig {
        retention_bytes: reader.optional_u64("retention bytes")?,
        retention_ms: reader.optional_u64("retention time")?,
        min_durability: read_durability(reader)?,
        class: reader.string(CLASS_NAME_BYTES_MAX, "class name")?,
        cleanup: if version >= 2 {
            read_cleanup(reader)?
        } else {
            Cleanup::Delete
        },
    })
}

fn read_cleanup(reader: &mut Reader<'_>) -> Result<Cleanup, DecodeError> {
    Cleanup::from_wire(reader.u8("cleanup")?).ok_or(malformed("cleanup"))
}

fn read_durability(reader: &mut Reader<'_>) -> Result<Durability, DecodeError> {
    Durability::from_wire(reader.u8("durability")?).ok_or(malformed("durability"))
}

#[allow(
    clippy::option_option,
    reason = "unchanged, lifted and set are three cases"
)]
fn put_change(change: Option<Option<u64>>, out: &mut Vec<u8>) {
    out.put_flag(change.is_some());
    if let Some(value) = change {
        out.put_optional_u64(value);
    }
}

#[allow(
    clippy::option_option,
    reason = "unchanged, lifted and set are three cases"
)]
fn read_change(
    reader: &mut Reader<'_>,
    what: &'static str,
) -> Result<Option<Option<u64>>, DecodeError> {
    if reader.flag(what)? {
        reader.optional_u64(what).map(Some)
    } else {
        Ok(None)
    }
}
