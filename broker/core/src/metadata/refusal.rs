//! Why a metadata command is refused: the two values that disagree, and the wire code.

use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{NodeId, TopicId};
use catena_protocol::limits::TOPIC_NAME_BYTES_MAX;
use thiserror::Error;

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The cluster has no identity yet.
    #[error("the cluster is not initialised")]
    NotInitialized,
    /// The cluster has its identity.
    #[error("the cluster is initialised already")]
    AlreadyInitialized,
    /// The name is no topic name.
    #[error("invalid topic name {name:?}: {fault}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// The name is taken.
    #[error("topic {name:?} exists with id {topic}")]
    TopicExists {
        /// The name.
        name: String,
        /// The topic that has it.
        topic: TopicId,
    },
    /// No topic has the name.
    #[error("topic {name:?} does not exist")]
    TopicNotFound {
        /// The name.
        name: String,
    },
    /// A topic cannot have so many partitions.
    #[error("{wanted} partitions; a topic has 1 to {limit}")]
    PartitionCount {
        /// The count asked for.
        wanted: u32,
        /// The most a topic may have.
        limit: u32,
    },
    /// Partitions are only ever added.
    #[error("{wanted} partitions, the topic has {current}: partitions are only added")]
    PartitionsShrink {
        /// The partitions it has.
        current: u32,
        /// The count asked for.
        wanted: u32,
    },
    /// The topic grew too often.
    #[error("the topic consists of {current} ranges, at most {limit} are kept: it grew too often")]
    TooManyRanges {
        /// The ranges it has.
        current: usize,
        /// The most it may have.
        limit: usize,
    },
    /// The cluster is full of topics.
    #[error("{current} topics, at most {limit} are kept")]
    TooManyTopics {
        /// The topics there are.
        current: usize,
        /// The most there may be.
        limit: usize,
    },
    /// No such class.
    #[error("class {class:?} does not exist")]
    UnknownClass {
        /// The class named.
        class: String,
    },
    /// A node cannot have so many shards.
    #[error("{wanted} shards; a node has 1 to {limit}")]
    ShardCount {
        /// The count named.
        wanted: u16,
        /// The most a node may have.
        limit: u16,
    },
    /// The host name is empty or too long.
    #[error("a host name of {bytes} bytes; 1 to {limit} are allowed")]
    Host {
        /// Its length.
        bytes: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A single-node cluster belongs to another node.
    #[error("node {found} in a cluster that belongs to node {current}")]
    OtherNode {
        /// The cluster's node.
        current: NodeId,
        /// The node that opened.
        found: NodeId,
    },
    /// So many producer ids are not handed out at once.
    #[error("{wanted} producer ids; 1 to {limit} are handed out at once")]
    ProducerCount {
        /// The count asked for.
        wanted: u32,
        /// The most at once.
        limit: u32,
    },
    /// Ids are never reused, and none is left.
    #[error("no {what} are left after {last}")]
    Exhausted {
        /// The kind of id.
        what: &'static str,
        /// The last one.
        last: u64,
    },
}

impl Refusal {
    /// The code of the answer.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidName { .. } => ErrorCode::InvalidTopicName,
            Self::TopicExists { .. } => ErrorCode::TopicExists,
            Self::TopicNotFound { .. } => ErrorCode::TopicNotFound,
            Self::PartitionCount { .. } | Self::PartitionsShrink { .. } => {
                ErrorCode::InvalidPartitionCount
            }
            Self::UnknownClass { .. }
            | Self::TooManyTopics { .. }
            | Self::TooManyRanges { .. }
            | Self::ShardCount { .. }
            | Self::Host { .. }
            | Self::ProducerCount { .. } => ErrorCode::InvalidConfig,
            Self::NotInitialized
            | Self::AlreadyInitialized
            | Self::OtherNode { .. }
            | Self::Exhausted { .. } => ErrorCode::Internal,
        }
    }
}

/// What is wrong with a topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameFault {
    /// It is empty or too long.
    #[error("{bytes} bytes; 1 to {TOPIC_NAME_BYTES_MAX} are allowed")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// It means a directory elsewhere.
    #[error("\".\" and \"..\" are not names")]
    Dots,
    /// It names a tenant.
    #[error("\"/\" is reserved for tenants")]
    Tenant,
    /// It contains something else than letters, digits, '.', '_' and '-'.
    #[error("{found:?} is none of a-z A-Z 0-9 . _ -")]
    Character {
        /// The first such character.
        found: char,
    },
}

/// Checks the rules for topic names.
///
/// # Errors
/// The first rule it breaks.
pub fn check_topic_name(name: &str) -> Result<(), NameFault> {
    if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(NameFault::Length { bytes: name.len() });
    }
    if name == "." || name == ".." {
        return Err(NameFault::Dots);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match name.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        Some('/') => Err(NameFault::Tenant),
        Some(found) => Err(NameFault::Character { found }),
    }
}
