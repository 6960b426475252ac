//! Every bound the broker's shell enforces, in one place, related by const assertions.
//!
//! Bounds of formats and rules live in `catena_core::limits` and `catena_protocol::limits`.

use std::time::Duration;

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;
pub const GIB: u64 = 1024 * MIB;

/// Shards of one node. The default class has 64 chains; a shard beyond that would own nothing.
pub const SHARDS_MAX: usize = 64;

/// Open client connections per shard; one more is accepted and closed at once.
pub const CONNECTIONS_PER_SHARD_MAX: usize = 20_000;

/// Descriptors a shard keeps besides its connections: rings, segments, spares, directories.
pub const DESCRIPTORS_PER_SHARD: usize = 1_000;

/// Produce bytes a client may have on the way per connection, granted in the Hello reply.
pub const PRODUCE_CREDIT_BYTES: usize = 16 << 20;

/// Fetch response bytes a client may have asked for per connection, granted in the Hello reply.
pub const FETCH_CREDIT_BYTES: u64 = 64 * MIB;

/// Control requests (metadata, topics, offsets) outstanding per connection.
pub const CONTROL_CREDIT_REQUESTS: u32 = 64;

/// What fetches may hold per shard, as a share of the shard's cache: half in sends, half in reads
/// of old data, so that neither waits for the other. Once half of its half is used a stalled send
/// gives up its buffers and resumes by position; what finds no room is read again when its turn
/// comes. Readers of old data wait for room; one may read at any time,
/// [`FETCH_RESPONSE_BYTES_MAX`] at most.
pub const FETCH_PIN_CACHE_DIVISOR: usize = 4;

/// The first request (Hello) has to arrive within this time after the accept.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection without a request and without a pending fetch is closed after this time.
pub const CONNECTION_IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// A send that makes no progress for this long closes its connection.
pub const SLOW_SEND_CLOSE: Duration = Duration::from_secs(30);

/// The longest a graceful stop waits for requests in progress.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A stop that was asked for by a signal and is not done by then ends at once.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Segment sizes: journals start small, double as they grow, and stop at `--segment-bytes`.
pub const SEGMENT_BYTES_MIN: u64 = catena_core::limits::SEGMENT_BYTES_MIN as u64;
pub const SEGMENT_BYTES_INITIAL: u64 = 16 * MIB;
pub const SEGMENT_BYTES_MAX: u64 = catena_core::limits::SEGMENT_BYTES_MAX as u64;

/// No segment is larger than this share of a shard's space budget.
pub const SEGMENT_SPACE_DIVISOR: u64 = 64;

/// The cache, all shards together: by default 1/8 of memory within these bounds.
pub const CACHE_MEMORY_DIVISOR: u64 = 8;
pub const CACHE_BYTES_DEFAULT_MIN: u64 = 64 * MIB;
pub const CACHE_BYTES_DEFAULT_MAX: u64 = 4 * GIB;

/// The smallest cache a shard works with: a few of the largest blocks.
pub const CACHE_BYTES_PER_SHARD_MIN: u64 = 8 * MIB;

/// The store's budget by default, as a share of free and already used bytes.
pub const SPACE_DEFAULT_PERCENT: u64 = 85;

/// The smallest budget per shard: active, prepared, reserved and a few sealed segments.
pub const SPACE_BYTES_PER_SHARD_MIN: u64 = 16 * SEGMENT_BYTES_MIN;

/// A broker inside another program, unless told otherwise: its cache, what its journals may take in
/// memory or on disk, and the free buffers that each of its shards keeps.
pub const EMBEDDED_CACHE_BYTES: u64 = 16 * MIB;
pub const EMBEDDED_MEMORY_BYTES: u64 = 256 * MIB;
pub const EMBEDDED_SPACE_BYTES: u64 = 4 * GIB;
pub const EMBEDDED_FREE_BUFFER_BYTES: usize = 8 << 20;

/// How often the watchdog looks, and after how long without a beat it reports a shard. Executors
/// beat every 50 ms.
pub const WATCHDOG_PERIOD: Duration = Duration::from_millis(50);
pub const WATCHDOG_STALL: Duration = Duration::from_millis(200);

/// The admin HTTP server: one request per connection, and nothing of it waits for long.
pub const ADMIN_CONNECTIONS_MAX: usize = 32;
/// Connections that the kernel keeps until one of those is over.
pub const ADMIN_BACKLOG: i32 = 128;
pub const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(2);
pub const ADMIN_CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// The pause after a failed accept (out of descriptors): trying again at once would spin.
pub const ADMIN_ACCEPT_RETRY: Duration = Duration::from_millis(100);
pub const ADMIN_REQUEST_HEAD_BYTES_MAX: usize = 16 * 1024;

/// Log lines waiting for a slow reader of standard error; more are dropped and counted.
pub const LOG_LINES_WAITING_MAX: usize = 8192;

/// The config file, `store.toml` and the like are read whole; none is ever near this size.
pub const TEXT_FILE_BYTES_MAX: u64 = MIB;

/// A produce request of at least this size is received straight into its own block.
pub const IN_PLACE_BYTES_MIN: usize = 128 << 10;

/// Batches that a shard admits before other tasks get a turn: a full group of small ones
/// takes tens of milliseconds.
pub const ADMITTED_AT_ONCE_MAX: usize = 256;

/// Batches that a shard collects before it admits them, if the next request is here already: what
/// they need of many partitions then comes from memory side by side.
pub const ADMITTED_TOGETHER_MAX: usize = 32;

/// Produce bytes that may wait on a shard before it stops reading from producers.
pub const PRODUCE_PENDING_BYTES_MAX: usize = 128 << 20;

/// How long a journal must be idle before its flush ledger is written.
pub const LEDGER_IDLE: Duration = Duration::from_millis(5);

/// A frame that has begun must be complete within this time, and a second more for each of so many
/// of its bytes.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
pub const FRAME_BYTES_PER_SECOND_MIN: usize = 64 << 10;

/// Bytes that are being received in place on a shard; beyond it requests are received in chunks
/// that grow with what has arrived.
pub const IN_PLACE_RECEIVING_BYTES_MAX: usize = 64 << 20;

/// Bytes of other frames above 64 KiB that are being received on a shard; beyond it they wait.
pub const RECEIVING_BYTES_MAX: usize = 128 << 20;

/// Bytes that may wait to be sent on a connection before its requests are read no further.
pub const OUTBOX_BYTES_MAX: usize = 16 << 20;

/// Longest `Hello`.
pub const HELLO_BYTES_MAX: usize = 64 << 10;

/// Payload of one fetch response at the most, whatever the client asks for.
pub const FETCH_RESPONSE_BYTES_MAX: usize = 8 << 20;

/// Bytes of fetch responses of a connection, queued or being put together, before its sessions
/// wait.
pub const FETCH_QUEUED_BYTES_MAX: usize = 4 << 20;

/// Fetch sessions of one connection, and requests of one session that may wait.
pub const FETCH_SESSIONS_PER_CONNECTION_MAX: usize = 64;
pub const FETCH_REQUESTS_PER_SESSION_MAX: usize = 4;

/// Extents that a session looks ahead per partition when it reads.
pub const FETCH_EXTENTS_AHEAD: usize = 64;

/// How far a partition goes through a journal in one turn while others of its session read old
/// data, too.
pub const FETCH_TURN_JOURNAL_BYTES: u32 = 4 << 20;

/// Slices below this size are gathered by copying; larger ones are sent from where they are.
pub const GATHER_SLICE_BYTES_MAX: usize = 4 << 10;

/// Chunks of old data read ahead of a reader.
pub const READ_AHEAD_CHUNKS: usize = 3;

/// Bytes of blocks that a shard reads from disk at once: reads ahead are left out beyond it, others
/// wait.
pub const READ_BYTES_IN_FLIGHT_MAX: usize = 32 << 20;

/// Where so much of a region of 1 MiB was read in parts, whole blocks are read. How many regions
/// are remembered, and for how long.
pub const READ_VISITED_BYTES: u64 = 256 * KIB;
pub const READ_VISITS_MAX: usize = 4096;
pub const READ_VISIT_US: u64 = 1_000_000;

/// Gaps between wanted blocks up to this size are read along.
pub const READ_GAP_BYTES_MAX: u32 = 64 << 10;

/// A place that the disk refuses to give is tried again after these pauses before it counts as
/// damaged: five tries within 2.6 s.
pub const READ_PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

/// A run of the index is written when so much journal is not covered by one, or its memory is used.
pub const INDEX_JOURNAL_BYTES_MAX: u64 = 64 * MIB;
pub const INDEX_MEMORY_BYTES_MAX: usize = 16 << 20;

/// Pages of a run that are written at once.
pub const INDEX_PAGES_IN_FLIGHT: usize = 32;

/// A checkpoint is taken after so much journal, or after so long if anything changed.
pub const CHECKPOINT_JOURNAL_BYTES_MAX: u64 = 256 * MIB;
pub const CHECKPOINT_INTERVAL_US: u64 = 30_000_000;

/// Freeable segments that wait for a checkpoint only: so many bytes of them bring it about.
pub const FREES_BYTES_MAX: u64 = 256 * MIB;

/// Extents that retention looks at in one step, per partition.
pub const RETENTION_EXTENTS_PER_STEP: usize = 4096;
/// Partitions whose log starts are moved together.
pub const TRIMS_AT_ONCE: usize = 64;

/// State of idempotent producers per shard; the least recently used beyond it are dropped.
pub const PRODUCER_ROWS_BYTES_MAX: usize = 64 << 20;

/// A relocation record of the cleaner: with the small batches of the same moment it stays a group
/// of one write.
pub const CLEANER_RECORD_BYTES: usize = 128 << 10;

/// Batches that the cleaner moves at once, and what it reads for that at the most. They are held in
/// memory, and put in order among each other.
pub const CLEANER_PIECE_BYTES: usize = 16 << 20;
pub const CLEANER_PIECE_READ_BYTES: usize = 64 << 20;

/// How fast the cleaner writes while the store is not full.
pub const CLEANER_BYTES_PER_SECOND: u64 = 64 * MIB;

/// What the cleaner may write before others have written as much, and how much it may save up, as
/// shares of the shard's space.
pub const CLEANER_ALLOWANCE_DIVISOR: u64 = 16;
pub const CLEANER_CREDIT_DIVISOR: u64 = 2;

/// No more than so much was written in a second, for so long: time to put interleaved batches in
/// order.
pub const CLEANER_IDLE_BYTES_MAX: u64 = 256 * KIB;
pub const CLEANER_IDLE_US: u64 = 5_000_000;

/// Segments whose extents are larger on average are in order, and one whose partitions do not have
/// so many extents each is not worth writing anew.
pub const CLEANER_EXTENT_BYTES_MAX: u64 = 32 * KIB;
pub const CLEANER_REGROUP_GAIN_MIN: usize = 4;

/// Moved extents are joined within this share of the time that their topic keeps records, so that
/// joining keeps nothing much longer.
pub const CLEANER_JOIN_AGE_DIVISOR: u64 = 16;

/// Bytes of batches that compaction looks at in one step. What of them is written anew is held in
/// memory until it is written.
pub const COMPACTION_STEP_BYTES: usize = 16 << 20;

/// A piece of a larger partition is written when it can be so large.
pub const COMPACTION_PIECE_BYTES_MIN: usize = 1 << 20;

/// Records that compaction looks at without a chance for others to run: some tens of microseconds.
pub const COMPACTION_RECORDS_PER_SLICE: usize = 256;

/// A partition that had nothing to compact is looked at again after this, or when the frame floor
/// has moved. The floor is not raised for compaction more often either.
pub const COMPACTION_RETRY_US: u64 = 10_000_000;

/// Extents that the cleaner looks up at once.
pub const CLEANER_EXTENTS_AHEAD: usize = 256;

/// Decoded pages of index runs that a shard keeps, of up to some 100 KiB each. A lookup asks one
/// of each run, and there are fewer runs than this unless they are merged late.
pub const INDEX_PAGES_DECODED_MAX: usize = 64;

/// Stretches of batches of up to 56 bytes that are kept in memory while lost pages of the index are
/// built anew. If more may belong there, the pages stay lost.
pub const INDEX_REBUILD_STRETCHES_MAX: usize = 1 << 18;

/// Producer ids that a shard takes from the control plane at once.
pub const PRODUCER_IDS_PER_BLOCK: u32 = 1000;

/// Messages that may wait for a shard or for the control plane.
pub const SHARD_MESSAGES_MAX: usize = 1024;

/// The metadata journal: its segments, its budget, and how many commands a restart replays.
pub const METADATA_SEGMENT_BYTES: u32 = 4 << 20;
pub const METADATA_SPACE_BYTES: u64 = 256 * MIB;
pub const METADATA_COMMANDS_PER_SNAPSHOT: u32 = 1000;

const _: () = {
    assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_INITIAL);
    assert!(SEGMENT_BYTES_INITIAL <= SEGMENT_BYTES_MAX);
    assert!(SEGMENT_BYTES_MIN.is_power_of_two() && SEGMENT_BYTES_MAX.is_power_of_two());
    assert!(CACHE_BYTES_PER_SHARD_MIN <= CACHE_BYTES_DEFAULT_MIN);
    assert!(CACHE_BYTES_DEFAULT_MIN <= CACHE_BYTES_DEFAULT_MAX);
    assert!(EMBEDDED_CACHE_BYTES >= CACHE_BYTES_PER_SHARD_MIN);
    assert!(EMBEDDED_MEMORY_BYTES >= SPACE_BYTES_PER_SHARD_MIN);
    assert!(EMBEDDED_MEMORY_BYTES <= EMBEDDED_SPACE_BYTES);
    assert!(DRAIN_TIMEOUT.as_millis() * 2 <= STOP_TIMEOUT.as_millis());
    assert!(SPACE_DEFAULT_PERCENT < 100);
    assert!(CLEANER_RECORD_BYTES * 2 <= catena_core::limits::DSYNC_BYTES_MAX);
    assert!(CLEANER_RECORD_BYTES <= CLEANER_PIECE_BYTES);
    assert!(COMPACTION_STEP_BYTES <= CLEANER_PIECE_BYTES);
    // A watchdog that was not run itself charges a shard with two periods at most.
    assert!(WATCHDOG_STALL.as_millis() >= 4 * WATCHDOG_PERIOD.as_millis());
    assert!(ADMIN_HEADER_TIMEOUT.as_millis() < ADMIN_CONNECTION_TIMEOUT.as_millis());
};
