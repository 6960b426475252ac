//! Every bound of the load generator, in one place.

use std::time::Duration;

/// Shortest latency told apart, in nanoseconds: below the timer calls' own cost.
pub(crate) const LATENCY_NS_MIN: u64 = 1_000;

/// Longest latency recorded exactly; longer ones are counted as saturated at this value.
pub(crate) const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// Significant decimal digits a latency histogram keeps.
pub(crate) const LATENCY_DIGITS: u8 = 3;

/// An open-loop send that starts this much after its intended time is counted as late.
pub(crate) const LATE_NS: u64 = 100_000;

/// The shortest pause between two sends of an open loop. To arm a timer of the kernel can take ten
/// microseconds in a virtual machine: one for each send took half of a core at 50,000 a second.
/// What comes due meanwhile is sent together, each with its own intended time.
pub(crate) const PAUSE_NS_MIN: u64 = 50_000;

const _: () = assert!(PAUSE_NS_MIN < LATE_NS, "a pause alone makes no send late");

/// Sends between two turns of the runtime, which sees to the sockets.
pub(crate) const SENDS_PER_TURN_MAX: u32 = 64;

/// Payload bytes sent between two turns of the runtime.
pub(crate) const BYTES_PER_TURN_MAX: u64 = 256 << 10;

/// Bytes of a random key.
pub(crate) const KEY_BYTES: usize = 8;

/// Memory a producer may use at least; an open loop must not be slowed by the client's budget
/// before the broker is seconds behind.
pub(crate) const PRODUCER_MEMORY_BYTES_MIN: usize = 256 << 20;

/// Batches a producer may have in flight per partition at least.
pub(crate) const PRODUCER_BATCHES_MIN: usize = 8_192;

/// Bytes a producer may have in flight per partition at least.
pub(crate) const PRODUCER_BYTES_IN_FLIGHT_MIN: usize = 64 << 20;

/// What the client charges a record with besides its key and value, at most.
pub(crate) const RECORD_OVERHEAD_BYTES_MAX: u64 = 64;

/// Batches a consumer takes between two turns of the runtime.
pub(crate) const BATCHES_PER_TURN_MAX: u32 = 64;

/// How often a consumer looks, after the window, whether everything has arrived, in nanoseconds.
pub(crate) const DELIVERY_CHECK_NS: u64 = 5_000_000;

/// How long nothing new must have come when all is there, before it counts as all, in nanoseconds.
pub(crate) const QUIET_NS: u64 = 100_000_000;

/// Lanes of a producer that writes to many partitions: the chains of the default class, which
/// partitions are dealt to in turn.
pub(crate) const LANES_MAX: u32 = 64;

/// Largest record the generator makes; larger ones cannot fit in a batch.
pub(crate) const RECORD_BYTES_MAX: u32 = 1_000_000;

/// Records of one produce call.
pub(crate) const BATCH_RECORDS_MAX: u32 = 65_535;

/// Calls in flight per producer.
pub(crate) const IN_FLIGHT_MAX: u32 = 1 << 20;

/// Load threads, each with its own runtime and connections.
pub(crate) const THREADS_MAX: u16 = 256;

/// Producers (or consumers) in one process.
pub(crate) const CLIENTS_MAX: u32 = 10_000;

/// Random bytes that record contents are cut from, at least. It fits a core's second-level cache,
/// as a record just made by an application does; copying from memory instead took a third of
/// the generator's time.
pub(crate) const PAYLOAD_POOL_BYTES_MIN: usize = 256 << 10;

/// Distinct kinds of error kept by name; the rest are counted together.
pub(crate) const ERROR_KINDS_MAX: usize = 32;

/// Largest metrics page read from the broker's admin address.
pub(crate) const METRICS_BYTES_MAX: usize = 16 << 20;

/// How often the server process is sampled, in milliseconds.
pub(crate) const SERVER_SAMPLE_MS: u64 = 100;

/// A longer time between two samples than this is remarked on: ten sampling intervals.
pub(crate) const SAMPLING_GAP_MS_MAX: f64 = 1_000.0;

/// Between the moment all threads are ready and the first send, in nanoseconds.
pub(crate) const START_DELAY_NS: u64 = 5_000_000;

/// How often the line of progress changes, in milliseconds.
pub(crate) const METER_MS: u64 = 250;

/// Numbered records of one producer in an end-to-end run: at one bit each, 512 MiB.
pub(crate) const NUMBERS_MAX: u64 = 1 << 32;

/// Bytes of the stamp of a record that is to be received; the least such a record can be long.
pub(crate) const STAMP_BYTES: usize = 28;

/// How long it may take to read everything back that a run has produced.
pub(crate) const VERIFICATION_MAX: Duration = Duration::from_secs(3_600);

/// Runs of a workload on each system of a comparison.
pub(crate) const COMPARE_RUNS_MAX: u32 = 99;

/// Longest phase of a quick comparison.
pub(crate) const QUICK_DURATION: Duration = Duration::from_secs(1);

/// Longest warm-up of a quick comparison.
pub(crate) const QUICK_WARMUP: Duration = Duration::from_millis(300);

/// How long a broker may take until it listens.
pub(crate) const SERVER_START_MAX: Duration = Duration::from_secs(60);

/// How long a broker may take to stop.
pub(crate) const SERVER_STOP_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether a broker listens, or has ended.
pub(crate) const SERVER_POLL: Duration = Duration::from_millis(20);

/// Tries to remove the brokers' data after a signal, [`SERVER_POLL`] apart.
pub(crate) const REMOVE_TRIES_MAX: u32 = 100;

/// How much of a broker's log is shown when it does not start.
pub(crate) const LOG_TAIL_BYTES: usize = 1_000;

/// Lengths drawn from a distribution before a run.
pub(crate) const SIZES_DRAWN: usize = 1 << 16;

/// Largest file that record values are taken from.
pub(crate) const LINES_BYTES_MAX: u64 = 1 << 30;

/// Phases of a run, each step of a ramp counted.
pub(crate) const PHASES_MAX: usize = 100;

/// Steps of a ramp.
pub(crate) const RAMP_STEPS_MAX: u32 = 100;

/// A consumer that reads from the earliest record on has caught up when it receives what was meant
/// to be sent less than this before, in nanoseconds.
pub(crate) const CAUGHT_UP_NS: u64 = 1_000_000_000;

/// Share of a rate that a system must reach to have kept up with it.
pub(crate) const KNEE_SHARE: f64 = 0.98;

/// How far p99 may rise above that of the lowest rate while the system is said to keep up.
pub(crate) const KNEE_P99_FACTOR: f64 = 5.0;

/// Percentiles of a latency curve per halving of the distance to 100 %.
pub(crate) const CURVE_STEPS: u32 = 5;

/// Moments of a run whose totals are kept, to show how its throughput went.
pub(crate) const SERIES_POINTS_MAX: usize = 2_048;

/// Pairs of a producer and a partition whose order is watched; a run with more is refused.
pub(crate) const ORDER_PAIRS_MAX: u64 = 1 << 22;

/// Batches that a consumer of a peer receives ahead.
#[cfg(feature = "peers")]
pub(crate) const FEED_BATCHES_MAX: usize = 16;

/// `O_DIRECT` alignment of memory, offsets and lengths.
pub(crate) const DIRECT_ALIGN: usize = 4096;

/// Smallest file the ceiling is measured over.
pub(crate) const CEILING_BYTES_MIN: u64 = 64 << 20;

/// Test files of one ceiling process at a time.
pub(crate) const TEST_FILES_MAX: u32 = 16;

/// Runs per ceiling measurement.
pub(crate) const CEILING_RUNS_MAX: u8 = 99;

const _: () = assert!(LATENCY_NS_MIN < LATE_NS);
const _: () = assert!(DIRECT_ALIGN.is_power_of_two());
