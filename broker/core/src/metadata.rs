//! Cluster metadata: topics, chains, nodes, shard layout, producer ids.
//!
//! Invariant: the state is a function of the commands applied to it, in order; a snapshot is equal
//! to their replay. A refused command changes nothing. Ids of topics and producers are never
//! reused. Owned by the control plane; shards get what they need from it in messages.
//!
//! ```
//! use catena_core::metadata::{Command, MetadataState, Outcome};
//! use catena_protocol::ids::{NodeId, PartitionId, TopicPartition};
//!
//! let mut state = MetadataState::default();
//! state.apply(&Command::InitCluster { cluster_id: [7; 16] });
//! let host = "localhost".to_owned();
//! state.apply(&Command::OpenNode { node: NodeId(1), host, port: 9440, shards: 2 });
//! let create = Command::CreateTopic {
//!     name: "orders".into(),
//!     partitions: 3,
//!     config: Default::default(),
//!     created_ms: 0,
//! };
//! let Outcome::TopicCreated { topic } = state.apply(&create) else { panic!("refused") };
//! let tp = TopicPartition { topic, partition: PartitionId(2) };
//! assert!(state.chain_of(tp).is_some());
//! ```

mod apply;
mod command;
mod refusal;
mod snapshot;
mod state;
mod validate;

pub use apply::Outcome;
pub use command::Command;
pub use refusal::{NameFault, Refusal, check_topic_name};
pub use snapshot::SNAPSHOT_MAGIC;
pub use state::{Class, MetadataState, ShardLayout, Topic};

/// The class that every cluster has.
pub const CLASS_DEFAULT: &str = "default";

#[cfg(test)]
mod tests;
