//! Options of the commands that drive a broker.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use super::values::{duration, positive_duration};
use crate::limits::{BATCH_RECORDS_MAX, CLIENTS_MAX, IN_FLIGHT_MAX, RECORD_BYTES_MAX, THREADS_MAX};
use crate::systems::Target;
use crate::workload::{Pace, Phase, Sizes, Values, Workload};

/// Length of the warm-up unless the user says otherwise.
pub(crate) const WARMUP: Duration = Duration::from_secs(2);

/// Which broker and topic.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// System to drive.
    #[arg(long, value_enum, default_value_t = SystemName::Catena)]
    pub(crate) system: SystemName,
    /// Brokers to connect to, separated by commas. By default the system's own port on this host;
    /// for Catena, what the environment variable `CATENA_BROKER` says comes first.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) broker: Option<String>,
    /// Topic; it is made if it does not exist.
    #[arg(long, value_name = "NAME", default_value = "catena-bench")]
    pub(crate) topic: String,
}

/// A system that can be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SystemName {
    Catena,
    /// NATS `JetStream`.
    Nats,
    /// Redis streams.
    Redis,
    /// Kafka, or a broker that speaks its protocol.
    Kafka,
    /// Apache Iggy.
    Iggy,
}

impl SystemName {
    /// Where the system listens unless told otherwise.
    fn default_address(self) -> &'static str {
        match self {
            Self::Catena => "127.0.0.1:9640",
            Self::Nats => "127.0.0.1:4222",
            Self::Redis => "127.0.0.1:6379",
            Self::Kafka => "127.0.0.1:9092",
            Self::Iggy => "127.0.0.1:8090",
        }
    }
}

impl SystemName {
    fn named_by_environment(self) -> Option<String> {
        match self {
            Self::Catena => std::env::var("CATENA_BROKER").ok(),
            _ => None,
        }
    }
}

impl TargetArgs {
    /// What to connect to.
    pub(crate) fn target(&self) -> Target {
        let named = self
            .broker
            .clone()
            .or_else(|| self.system.named_by_environment());
        Target {
            address: named.unwrap_or_else(|| self.system.default_address().to_owned()),
            topic: self.topic.as_str().into(),
        }
    }
}

/// The shape of the topic.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TopicArgs {
    /// Partitions of the topic: one if it is made and none are named, and an error if it exists
    /// with another number.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,
    /// Bytes a partition of a topic that is made keeps, so that a long run recycles its segments.
    #[arg(long, value_name = "N")]
    pub(crate) retention_bytes: Option<u64>,
}

/// How long.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TimeArgs {
    /// Length of the measured window.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    pub(crate) duration: Duration,
    /// Load before the window, not measured; 2 s by default, and none for a consume that begins
    /// at the earliest record.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) warmup: Option<Duration>,
}

/// On which cores, and what to report.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// How long to wait after the window for answers that are still due.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
    /// Load threads, each with its own runtime and connections.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(THREADS_MAX)))]
    pub(crate) threads: u16,
    /// Cores to pin the load threads to, in turn, and to keep everything else of this program to;
    /// unpinned by default.
    #[arg(long = "core", value_name = "CORE", value_delimiter = ',')]
    pub(crate) cores: Vec<usize>,
    /// Server process to sample: processor seconds per GB, memory, threads.
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Admin address of the broker, to tell whether segments were recycled or first-filled.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<String>,
    /// The broker's data directory, to name its file system in the report.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Result of `catena-bench ceiling --json` on this machine to compare with.
    #[arg(long, value_name = "FILE")]
    pub(crate) ceiling: Option<PathBuf>,
    /// Also write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Also write the report to this file, as a page for a browser.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Seed of the record contents and keys.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Succeed even if records failed, as in tests that break the broker on purpose.
    #[arg(long)]
    pub(crate) allow_errors: bool,
}

impl Default for RunArgs {
    /// One thread on any core, and nothing but the report.
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(30),
            threads: 1,
            cores: Vec::new(),
            server_pid: None,
            admin: None,
            data_dir: None,
            ceiling: None,
            json: None,
            html: None,
            seed: 1,
            allow_errors: false,
        }
    }
}

/// When calls start.
#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PaceArgs {
    /// Open loop: this many records per second in all, by a fixed schedule. Polls the clock
    /// between sends, so give each load thread a core that nothing else uses.
    #[arg(long, value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// Closed loop: as fast as possible, bounded by --in-flight.
    #[arg(long)]
    pub(crate) max: bool,
    /// Closed loop with one call in flight per producer.
    #[arg(long)]
    pub(crate) one_in_flight: bool,
}

/// What is sent and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct ShapeArgs {
    /// Bytes of a record's value.
    #[arg(long, value_name = "N", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(RECORD_BYTES_MAX)))]
    pub(crate) record_bytes: u32,
    /// Records per produce call, acknowledged together as one batch; 1 sends single messages.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_RECORDS_MAX)))]
    pub(crate) batch_records: u32,
    /// Let the client group single records into batches, instead of one batch for each.
    #[arg(long, conflicts_with_all = ["batch_records", "spread"])]
    pub(crate) client_batching: bool,
    /// Producers, dealt to the load threads.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    pub(crate) producers: u32,
    /// Closed loop: calls in flight per producer.
    #[arg(long, value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(IN_FLIGHT_MAX)))]
    pub(crate) in_flight: u32,
    /// Durability class: when the broker acknowledges.
    #[arg(long, value_enum, default_value_t = Acks::Durable)]
    pub(crate) acks: Acks,
    /// How a record finds its partition.
    #[arg(long, value_enum, default_value_t = KeyMode::None)]
    pub(crate) key_mode: KeyMode,
    /// Each call carries one record for each of this many partitions, in turn over all.
    #[arg(long, value_name = "PARTITIONS", conflicts_with_all = ["batch_records", "key_mode"],
          value_parser = clap::value_parser!(u32).range(1..=i64::from(BATCH_RECORDS_MAX)))]
    pub(crate) spread: Option<u32>,
    /// Compression of batches by the producer.
    #[arg(long, value_enum, default_value_t = Codec::None)]
    pub(crate) compression: Codec,
}

impl PaceArgs {
    fn pace(self) -> Pace {
        match self.rate {
            Some(rate) => Pace::Rate(rate),
            None if self.one_in_flight => Pace::OneInFlight,
            None => Pace::Max,
        }
    }
}

impl ShapeArgs {
    /// The workload of one phase that the options describe.
    pub(crate) fn workload(
        &self,
        name: &str,
        topic: TopicArgs,
        pace: PaceArgs,
        time: TimeArgs,
    ) -> Workload {
        let warmup = time.warmup.unwrap_or(WARMUP);
        Workload {
            name: name.to_owned(),
            partitions: topic.partitions,
            retention_bytes: topic.retention_bytes,
            values: Values::Random(Sizes::Fixed(self.record_bytes)),
            keys: self.key_mode,
            batch_records: self.batch_records,
            spread: self.spread,
            client_batching: self.client_batching,
            producers: self.producers,
            in_flight: self.in_flight,
            acks: self.acks,
            compression: self.compression,
            consumers: 0,
            catch_up_consumers: 0,
            verify: false,
            phases: vec![Phase {
                warmup,
                ..Phase::new(pace.pace(), time.duration)
            }],
        }
    }
}

/// When a record counts as acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Acks {
    /// Flushed on every member of the chain.
    Durable,
    /// In the head's memory; may be lost in a crash.
    Received,
    /// Never; a send counts as done when the client has taken it.
    None,
}

/// How a record finds its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyMode {
    /// No key; each producer keeps to one partition.
    None,
    /// No key; calls go to the partitions in turn.
    RoundRobinPartitions,
    /// An 8-byte random key per record, partitioned by its hash.
    RandomKeys,
}

/// Compression codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Codec {
    None,
    Lz4,
    Zstd,
}

/// Produce records and measure throughput and acknowledgement latency.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProduceArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) topic: TopicArgs,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Read everything that was acknowledged back at the end: once, and in order.
    #[arg(long, conflicts_with = "retention_bytes")]
    pub(crate) verify: bool,
    #[command(flatten)]
    pub(crate) time: TimeArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Consume what a topic holds and measure throughput.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConsumeArgs {
    /// Brokers to connect to, separated by commas.
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9640",
        env = "CATENA_BROKER"
    )]
    pub(crate) broker: String,
    /// Topic to read.
    #[arg(long, value_name = "NAME", default_value = "catena-bench")]
    pub(crate) topic: String,
    /// Partitions the topic must have.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) partitions: Option<u32>,
    /// Where to begin.
    #[arg(long, value_enum, default_value_t = StartAt::Earliest)]
    pub(crate) from: StartAt,
    /// Consumers, dealt to the load threads; the partitions are dealt to the consumers.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    pub(crate) consumers: u32,
    /// Stop after this many records.
    #[arg(long, value_name = "N")]
    pub(crate) records: Option<u64>,
    /// Stop after this many bytes of batches.
    #[arg(long, value_name = "N")]
    pub(crate) bytes: Option<u64>,
    /// Decode every record instead of handing out whole batches.
    #[arg(long)]
    pub(crate) decode: bool,
    #[command(flatten)]
    pub(crate) time: TimeArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StartAt {
    /// The first record there is.
    Earliest,
    /// What is written after the start.
    Latest,
}

/// Produce and consume at once; latency from the intended send to the receipt.
#[derive(Clone, Debug, Args)]
pub(crate) struct E2eArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) topic: TopicArgs,
    #[command(flatten)]
    pub(crate) pace: PaceArgs,
    #[command(flatten)]
    pub(crate) shape: ShapeArgs,
    /// Consumers, dealt to the load threads; the partitions are dealt to the consumers.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    pub(crate) consumers: u32,
    #[command(flatten)]
    pub(crate) time: TimeArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

/// Put the load that a file describes on a broker.
#[derive(Clone, Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// The workload: TOML, see docs/PERFORMANCE.md.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}
