//! What a node is made of, whoever asks for it: the server program, or a program with a broker in
//! it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use catena_core::compaction::CompactionPolicy;

use crate::config::{Config, HostPort};
use crate::limits::{
    EMBEDDED_CACHE_BYTES, EMBEDDED_FREE_BUFFER_BYTES, EMBEDDED_MEMORY_BYTES, EMBEDDED_SPACE_BYTES,
    SEGMENT_BYTES_MIN,
};
use crate::runtime::buffer;

/// Where a node keeps its data, which also decides what it runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory, for as long as the node runs. Uses no `io_uring`.
    Memory,
    /// In this directory, on a local disk with direct I/O. Made and formatted if it does not exist.
    /// A relative path counts from the process's current directory at the start. Needs `io_uring`.
    Directory(PathBuf),
}

/// How a node is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// Where its data is.
    pub storage: Storage,
    /// Where clients connect; port 0 picks a free one. `None`: only from the same process.
    pub listen: Option<SocketAddr>,
    /// What clients are told to connect to; `None`: the address that was bound.
    pub advertise: Option<HostPort>,
    /// One entry per shard, 1 to [`SHARDS_MAX`](crate::limits::SHARDS_MAX): the CPU that its
    /// thread is pinned to, or `None` to leave that to the scheduler.
    pub cores: Vec<Option<usize>>,
    /// The largest segment a journal grows to: a power of two from 4 MiB to 256 MiB.
    pub segment_bytes: u64,
    /// The read cache, all shards together.
    pub cache_bytes: u64,
    /// What the journals may take of the storage, all shards together.
    pub space_bytes: u64,
    /// Free buffers that each shard keeps for reuse.
    pub free_buffer_bytes: usize,
    /// When the partitions of compacted topics are compacted.
    pub compaction: CompactionPolicy,
}

impl NodeOptions {
    /// A small node inside another program: one shard, not pinned, on a free port of the loopback
    /// address.
    ///
    /// ```
    /// use catena_broker::server::{Broker, NodeOptions, Storage};
    ///
    /// let broker = Broker::start(&NodeOptions::embedded(Storage::Memory))?;
    /// assert!(broker.addr().is_some_and(|addr| addr.ip().is_loopback()));
    /// broker.stop()?;
    /// # Ok::<(), anyhow::Error>(())
    /// ```
    pub fn embedded(storage: Storage) -> Self {
        let space_bytes = match storage {
            Storage::Memory => EMBEDDED_MEMORY_BYTES,
            Storage::Directory(_) => EMBEDDED_SPACE_BYTES,
        };
        Self {
            storage,
            listen: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)),
            advertise: None,
            cores: vec![None],
            segment_bytes: SEGMENT_BYTES_MIN,
            cache_bytes: EMBEDDED_CACHE_BYTES,
            space_bytes,
            free_buffer_bytes: EMBEDDED_FREE_BUFFER_BYTES,
            compaction: CompactionPolicy::default(),
        }
    }
}

impl From<&Config> for NodeOptions {
    /// The node that the server program runs: its shards are pinned.
    fn from(config: &Config) -> Self {
        Self {
            storage: Storage::Directory(config.data_dir.clone()),
            listen: Some(config.listen),
            advertise: config.advertise.clone(),
            cores: config.cores.iter().copied().map(Some).collect(),
            segment_bytes: config.segment_bytes,
            cache_bytes: config.cache_bytes,
            space_bytes: config.space_bytes,
            free_buffer_bytes: buffer::FREE_BYTES_MAX,
            compaction: config.compaction,
        }
    }
}
