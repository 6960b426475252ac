//! The settings of a producer and their defaults.

use std::sync::Arc;
use std::time::Duration;

use catena_protocol::batch::BatchOptions;
use catena_protocol::compression::Codec;
use catena_protocol::ids::Durability;
use catena_protocol::limits::BATCH_BYTES_MAX;

use super::Producer;
use super::flow::FlowLimits;
use super::partitioner::Partitioner;
use super::shared::ProducerConfig;
use crate::client::core::Core;
use crate::error::{BuildError, ConfigError};

/// Builds a [`Producer`]. The defaults are safe: durable acks, idempotence, order.
///
/// ```no_run
/// # async fn example(client: catena_client::Client) -> Result<(), catena_client::BuildError> {
/// use std::time::Duration;
/// use catena_client::Codec;
///
/// let producer = client
///     .producer()
///     .linger(Duration::from_millis(2))
///     .compression(Codec::Lz4)
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ProducerBuilder {
    core: Arc<Core>,
    config: ProducerConfig,
}

impl ProducerBuilder {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let config = ProducerConfig {
            durability: Durability::Durable,
            is_idempotent: true,
            linger: Duration::ZERO,
            batch_bytes_max: 512 << 10,
            batch: BatchOptions::default(),
            batch_records_max: u16::MAX,
            memory_bytes_max: 64 << 20,
            delivery_timeout: Duration::from_secs(30),
            flow: FlowLimits {
                batches: 1_024,
                bytes: 16 << 20,
            },
            partitioner: Partitioner::KeyHash,
        };
        Self { core, config }
    }

    /// What an acknowledgement promises; durable by default. A record may name its own class. Of
    /// the class `none`, to which no broker answers, what a topic refuses by its settings
    /// (`min_durability`, a key for every record) fails here, as far as metadata knows them.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// Whether the broker recognises repeated batches; true by default. Without it a repeated
    /// attempt may write a batch twice or out of order.
    pub const fn idempotence(mut self, is_idempotent: bool) -> Self {
        self.config.is_idempotent = is_idempotent;
        self
    }

    /// How long a batch that is not full waits for more records; 0 by default. Under load batches
    /// grow without it, behind those in flight.
    pub const fn linger(mut self, linger: Duration) -> Self {
        self.config.linger = linger;
        self
    }

    /// Bytes of a batch before compression, at which it is sent; 512 KiB by default, from 1 KiB
    /// to [`BATCH_BYTES_MAX`]. A larger record goes alone; one that fits into no batch is refused.
    pub const fn batch_bytes_max(mut self, bytes: usize) -> Self {
        self.config.batch_bytes_max = bytes;
        self
    }

    /// Records of a batch, at which it is sent; 65,535 by default and at most, at least 1.
    pub const fn batch_records_max(mut self, records: u16) -> Self {
        self.config.batch_records_max = records;
        self
    }

    /// Memory for records that have no result yet; 64 MiB by default. When it is used up, `send`
    /// waits. At least 2 MiB.
    pub const fn memory_bytes_max(mut self, bytes: usize) -> Self {
        self.config.memory_bytes_max = bytes;
        self
    }

    /// The longest time from handing in a record to its result; 30 s by default, at least 10 ms.
    pub const fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = timeout;
        self
    }

    /// Batches in flight per partition; 1,024 by default, at least 1.
    pub const fn in_flight_batches_max(mut self, batches: usize) -> Self {
        self.config.flow.batches = batches;
        self
    }

    /// Bytes in flight per partition; 16 MiB by default. One batch is always allowed.
    pub const fn in_flight_bytes_max(mut self, bytes: usize) -> Self {
        self.config.flow.bytes = bytes;
        self
    }

    /// How records without an explicit partition find one; by the hash of the key by default.
    pub const fn partitioner(mut self, partitioner: Partitioner) -> Self {
        self.config.partitioner = partitioner;
        self
    }

    /// Compression of batches; none by default. A batch that would not shrink is sent as it is.
    pub const fn compression(mut self, codec: Codec) -> Self {
        self.config.batch.codec = codec;
        self
    }

    /// The level of zstd, 1 to 22; 3 by default.
    pub const fn zstd_level(mut self, level: i32) -> Self {
        self.config.batch.zstd_level = level;
        self
    }

    /// Makes the producer; asks the cluster for a producer id.
    ///
    /// # Errors
    /// If a setting is out of range, or the cluster can not be reached within the request
    /// timeout.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn build(self) -> Result<Producer, BuildError> {
        self.check()?;
        Producer::start(self.core, self.config).await
    }

    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let rules = [
            (
                (1 << 10..=BATCH_BYTES_MAX).contains(&config.batch_bytes_max),
                "batch_bytes_max",
                "from 1 KiB to the largest batch, 1 MiB less 16 KiB",
            ),
            (
                config.batch_records_max > 0,
                "batch_records_max",
                "at least 1",
            ),
            (
                config.memory_bytes_max >= 2 << 20,
                "memory_bytes_max",
                "at least 2 MiB",
            ),
            (
                config.memory_bytes_max <= tokio::sync::Semaphore::MAX_PERMITS,
                "memory_bytes_max",
                "more than a machine has",
            ),
            (
                config.delivery_timeout >= Duration::from_millis(10),
                "delivery_timeout",
                "at least 10 ms",
            ),
            (
                config.linger < config.delivery_timeout,
                "linger",
                "below the delivery timeout",
            ),
            (
                config.flow.batches > 0,
                "in_flight_batches_max",
                "at least 1",
            ),
            (
                (1..=22).contains(&config.batch.zstd_level),
                "zstd_level",
                "from 1 to 22",
            ),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, setting, reason)) => Err(ConfigError { setting, reason }),
            None => Ok(()),
        }
    }
}
