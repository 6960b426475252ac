//! The settings of a consumer and their defaults.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use catena_protocol::ids::{PartitionId, TopicPartition};
use catena_protocol::messages::{ListOffsetsItem, OffsetSpec};

use super::Consumer;
use super::shared::{Assigned, ConsumerConfig, ResetPolicy, Shared};
use crate::admin::{check_topics, list_offsets, with_current_ids};
use crate::client::core::Core;
use crate::error::{BuildError, ConfigError, RequestError};
use crate::limits::FETCH_BYTES_MIN;

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartOffset {
    /// At the first offset there is.
    #[default]
    Earliest,
    /// Behind the last record that readers may see at the time of the build.
    Latest,
    /// At this offset, in every partition.
    Offset(u64),
    /// At the first batch with a record at or after this time, in ms since 1970; at the end if
    /// there is none. The batch may begin with older records.
    Timestamp(i64),
}

/// Builds a [`Consumer`].
///
/// ```no_run
/// # async fn example(client: catena_client::Client) -> Result<(), catena_client::BuildError> {
/// use catena_client::{ResetPolicy, StartOffset};
///
/// let consumer = client
///     .consumer()
///     .topic("orders")
///     .partitions([0, 1, 2])
///     .start(StartOffset::Latest)
///     .reset(ResetPolicy::Earliest)
///     .build()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ConsumerBuilder {
    core: Arc<Core>,
    topics: Vec<(String, Option<BTreeSet<u32>>)>,
    has_stray_partitions: bool,
    start: StartOffset,
    config: ConsumerConfig,
}

impl ConsumerBuilder {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let config = ConsumerConfig {
            reset: ResetPolicy::default(),
            prefetch_bytes_max: 32 << 20,
            fetch_bytes_max: 4 << 20,
            fetch_wait_max: Duration::from_millis(500),
            fetch_bytes_min: 1,
        };
        let (topics, start) = (Vec::new(), StartOffset::default());
        Self {
            core,
            topics,
            has_stray_partitions: false,
            start,
            config,
        }
    }

    /// Adds a topic, with all partitions it has at the time of the build.
    pub fn topic(mut self, name: impl Into<String>) -> Self {
        self.topics.push((name.into(), None));
        self
    }

    /// Reads only these partitions of the topic named last.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        match self.topics.last_mut() {
            Some((_, chosen)) => *chosen = Some(partitions.into_iter().collect()),
            None => self.has_stray_partitions = true,
        }
        self
    }

    /// Where to begin; at the earliest offset by default.
    pub const fn start(mut self, start: StartOffset) -> Self {
        self.start = start;
        self
    }

    /// What to do when the position is outside the partition; report it by default.
    pub const fn reset(mut self, reset: ResetPolicy) -> Self {
        self.config.reset = reset;
        self
    }

    /// Memory for what was asked for or fetched and not yet taken; 32 MiB by default, at least
    /// 256 KiB. Shared evenly among the connections in use, each of which may go beyond its share
    /// for one batch.
    pub const fn prefetch_bytes_max(mut self, bytes: usize) -> Self {
        self.config.prefetch_bytes_max = bytes;
        self
    }

    /// Bytes of one response; 4 MiB by default, from 64 KiB to 48 MiB.
    pub const fn fetch_bytes_max(mut self, bytes: u32) -> Self {
        self.config.fetch_bytes_max = bytes;
        self
    }

    /// Bytes the broker waits for before it answers; 1 by default, at least 1.
    pub const fn fetch_bytes_min(mut self, bytes: u32) -> Self {
        self.config.fetch_bytes_min = bytes;
        self
    }

    /// How long the broker waits for them; 500 ms by default. Well below the request timeout.
    pub const fn fetch_wait_max(mut self, wait: Duration) -> Self {
        self.config.fetch_wait_max = wait;
        self
    }

    /// Makes the consumer; looks topics and start offsets up.
    ///
    /// # Errors
    /// If a setting is out of range, a topic or partition does not exist, or the cluster can not
    /// be reached within the request timeout.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn build(self) -> Result<Consumer, BuildError> {
        self.check()?;
        let (assigned, positions) = with_current_ids(&self.core, || self.look_up()).await?;
        let shared = Shared::new(self.core, self.config, assigned, &positions);
        Ok(Consumer::start(Arc::new(shared), positions))
    }

    /// The partitions and where each begins.
    async fn look_up(&self) -> Result<(Vec<Assigned>, Vec<u64>), RequestError> {
        let generation = self.core.metadata.generation();
        let assigned = self.assign().await?;
        let positions = self.positions(&assigned, generation).await?;
        Ok((assigned, positions))
    }

    async fn assign(&self) -> Result<Vec<Assigned>, RequestError> {
        let mut assigned = Vec::new();
        for (name, chosen) in &self.topics {
            let topic = self.core.metadata.topic(&self.core, name).await?;
            let partitions = match chosen {
                None => (0..topic.partitions).collect(),
                Some(chosen) => chosen.clone(),
            };
            for partition in partitions {
                if partition >= topic.partitions {
                    let (topic, partitions) = (topic.name.clone(), topic.partitions);
                    return Err(RequestError::UnknownPartition {
                        topic,
                        partition,
                        partitions,
                    });
                }
                let place = TopicPartition::new(topic.id, PartitionId(partition));
                assigned.push(Assigned {
                    topic: topic.name.clone(),
                    place,
                });
            }
        }
        Ok(assigned)
    }

    async fn positions(
        &self,
        assigned: &[Assigned],
        generation: u64,
    ) -> Result<Vec<u64>, RequestError> {
        let spec = match self.start {
            StartOffset::Offset(offset) => {
                // No broker is asked here that could tell of a topic that is another by now.
                self.core.metadata.refresh(&self.core, generation).await?;
                check_topics(&self.core, assigned.iter().map(|it| it.place.topic))?;
                return Ok(vec![offset; assigned.len()]);
            }
            StartOffset::Earliest => OffsetSpec::Earliest,
            StartOffset::Latest => OffsetSpec::Latest,
            StartOffset::Timestamp(time_ms) => OffsetSpec::Time(time_ms),
        };
        let item = |Assigned { place, .. }: &Assigned| ListOffsetsItem {
            topic: place.topic,
            partition: place.partition,
            spec,
        };
        let found = list_offsets(&self.core, assigned.iter().map(item).collect()).await?;
        let offset = |Assigned { place, .. }: &Assigned| {
            found.get(place).map_or(0, |result| result.offset.0)
        };
        Ok(assigned.iter().map(offset).collect())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let config = &self.config;
        let mut names: Vec<_> = self.topics.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        let rules = [
            (!self.topics.is_empty(), "topic", "at least one is needed"),
            (
                names.windows(2).all(|pair| pair[0] != pair[1]),
                "topic",
                "one is named twice",
            ),
            (
                !self.has_stray_partitions,
                "partitions",
                "name the topic first",
            ),
            (
                config.prefetch_bytes_max >= 256 << 10,
                "prefetch_bytes_max",
                "at least 256 KiB",
            ),
            (
                (FETCH_BYTES_MIN..=48 << 20).contains(&config.fetch_bytes_max),
                "fetch_bytes_max",
                "from 64 KiB to 48 MiB",
            ),
            (config.fetch_bytes_min > 0, "fetch_bytes_min", "at least 1"),
            (
                config.fetch_wait_max <= self.core.timeouts.request / 2,
                "fetch_wait_max",
                "at most half the request timeout",
            ),
        ];
        match rules.into_iter().find(|(holds, _, _)| !holds) {
            Some((_, setting, reason)) => Err(ConfigError { setting, reason }),
            None => Ok(()),
        }
    }
}
