//! What a shard counts about itself.
//!
//! Nothing on the data path is shared between shards: each shard has its own [`ShardMetrics`] and
//! is its only writer. A scrape reads from another thread, so the cells are atomics, but every
//! update is a plain load and store (no locked instruction). Two writers would lose counts.

mod export;
mod histogram;
mod process;

use std::sync::atomic::{AtomicU64, Ordering};

pub use export::render;
pub use histogram::Histogram;

/// A number that only grows. One writer: the thread of the shard that owns it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; wraps after 2^64.
    ///
    /// Only the owning thread may call this: the load and the store are separate.
    pub fn add(&self, n: u64) {
        let value = self.0.load(Ordering::Relaxed);
        self.0.store(value.wrapping_add(n), Ordering::Relaxed);
    }

    /// The value now; any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down. One writer: the thread of the shard that owns it.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`. Only the owning thread may call this.
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Takes `n` away and stops at zero. Only the owning thread may call this.
    pub fn sub(&self, n: u64) {
        self.set(self.get().saturating_sub(n));
    }

    /// Keeps the larger of the value and `value`. Only the owning thread may call this.
    pub fn raise_to(&self, value: u64) {
        if value > self.get() {
            self.set(value);
        }
    }

    /// The value now; any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a stored number is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    /// As it is: requests, bytes, records.
    Plain,
    /// Stored in microseconds, shown in seconds.
    Micros,
}

/// One number of a shard, as the exporter sees it.
enum Reading<'a> {
    Counter(&'a Counter),
    Gauge(&'a Gauge),
    Histogram(&'a Histogram),
}

impl<'a> From<&'a Counter> for Reading<'a> {
    fn from(counter: &'a Counter) -> Self {
        Self::Counter(counter)
    }
}

impl<'a> From<&'a Gauge> for Reading<'a> {
    fn from(gauge: &'a Gauge) -> Self {
        Self::Gauge(gauge)
    }
}

impl<'a> From<&'a Histogram> for Reading<'a> {
    fn from(histogram: &'a Histogram) -> Self {
        Self::Histogram(histogram)
    }
}

/// A metric name with its help text and the field it is read from.
struct Family {
    name: &'static str,
    help: &'static str,
    scale: Scale,
    read: fn(&ShardMetrics) -> Reading<'_>,
}

/// Declares the fields and, from the same lines, what the exporter shows. A counter's exported
/// name gets the suffix `_total` from the exporter.
macro_rules! shard_metrics {
    ($($field:ident: $kind:ident, $name:literal, $scale:ident, $help:literal;)*) => {
        /// The numbers of one shard. See the module for who may write.
        ///
        /// Aligned so that two shards' numbers never share a cache line (128: adjacent-line
        /// prefetch pulls lines in pairs).
        ///
        /// ```
        /// # use catena_broker::metrics::ShardMetrics;
        /// let metrics = ShardMetrics::default();
        /// metrics.produce_requests.add(1);
        /// metrics.flush_us.record(180);
        /// assert_eq!(metrics.produce_requests.get(), 1);
        /// assert_eq!(metrics.flush_us.count(), 1);
        /// ```
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct ShardMetrics {
            $(#[doc = $help] pub $field: $kind,)*
        }

        const FAMILIES: &[Family] = &[
            $(Family {
                name: $name,
                help: $help,
                scale: Scale::$scale,
                read: |shard| Reading::from(&shard.$field),
            },)*
        ];
    };
}

shard_metrics! {
    produce_requests: Counter, "catena_produce_requests", Plain,
        "Produce requests received";
    produce_batches: Counter, "catena_produce_batches", Plain,
        "Record batches appended";
    produce_records: Counter, "catena_produce_records", Plain,
        "Records appended";
    produce_bytes: Counter, "catena_produce_bytes", Plain,
        "Bytes of record batches appended";
    produce_errors: Counter, "catena_produce_errors", Plain,
        "Produce items answered with an error";
    fetch_requests: Counter, "catena_fetch_requests", Plain,
        "Fetch requests received";
    fetch_bytes: Counter, "catena_fetch_bytes", Plain,
        "Bytes of record batches sent";
    fetch_bytes_copied: Counter, "catena_fetch_bytes_copied", Plain,
        "Bytes of record batches copied in user space on the way out (slices below 4 KiB only)";
    fetch_cold_reads: Counter, "catena_fetch_cold_reads", Plain,
        "Reads from disk for fetches";
    fetch_cold_bytes: Counter, "catena_fetch_cold_bytes", Plain,
        "Bytes read from disk for fetches";
    fetch_damaged: Counter, "catena_fetch_damaged", Plain,
        "Reads answered with an error because what is stored there is damaged or gone";
    fetch_sessions: Gauge, "catena_fetch_sessions", Plain,
        "Open fetch sessions";
    connections: Gauge, "catena_connections", Plain,
        "Open client connections";
    connections_accepted: Counter, "catena_connections_accepted", Plain,
        "Client connections accepted";
    connections_refused: Counter, "catena_connections_refused", Plain,
        "Client connections closed at once because a limit was reached";
    frames_malformed: Counter, "catena_frames_malformed", Plain,
        "Requests that could not be decoded";
    journal_groups: Counter, "catena_journal_groups", Plain,
        "Commit groups written";
    journal_blocks: Counter, "catena_journal_blocks", Plain,
        "Commit blocks written";
    journal_bytes: Counter, "catena_journal_bytes", Plain,
        "Bytes written to the journal, padding included";
    journal_flushes: Counter, "catena_journal_flushes", Plain,
        "Flushes of the journal (each ends one commit group)";
    journal_padding_bytes: Counter, "catena_journal_padding_bytes", Plain,
        "Bytes of padding in commit blocks";
    journal_failed: Gauge, "catena_journal_failed", Plain,
        "1 after a failed write or flush: the journal takes no writes until the broker restarts";
    group_requests: Histogram, "catena_group_requests", Plain,
        "Requests per commit group";
    flush_us: Histogram, "catena_flush_seconds", Micros,
        "Time from submitting a commit group to its flush";
    commit_us: Histogram, "catena_commit_seconds", Micros,
        "Time from the arrival of a produce request to its ack";
    segments_created: Counter, "catena_segments_created", Plain,
        "Segments made from new files";
    segments_recycled: Counter, "catena_segments_recycled", Plain,
        "Segments made from freed ones";
    segments_freed: Counter, "catena_segments_freed", Plain,
        "Segments freed by retention";
    segments_active: Gauge, "catena_segments_active", Plain,
        "Segments that hold data";
    disk_bytes: Gauge, "catena_disk_bytes", Plain,
        "Bytes of all segment files, prepared ones included";
    storage_full: Gauge, "catena_storage_full", Plain,
        "1 while produce requests are refused because the space budget is used up";
    cache_bytes: Gauge, "catena_cache_bytes", Plain,
        "Bytes in the read cache";
    cache_hits: Counter, "catena_cache_hits", Plain,
        "Lookups served from the read cache";
    cache_misses: Counter, "catena_cache_misses", Plain,
        "Lookups that needed a read from disk";
    pinned_bytes: Gauge, "catena_pinned_bytes", Plain,
        "Bytes held by reads and sends in progress";
    partitions: Gauge, "catena_partitions", Plain,
        "Partitions owned";
    chains: Gauge, "catena_chains", Plain,
        "Chains owned";
    producer_rows: Gauge, "catena_producer_rows", Plain,
        "Rows of idempotent producer state";
    checkpoints: Counter, "catena_checkpoints", Plain,
        "Checkpoints written";
    index_runs: Gauge, "catena_index_runs", Plain,
        "Index runs on disk";
    index_pages_unreadable: Counter, "catena_index_pages_unreadable", Plain,
        "Index pages that could not be read at the start";
    index_pages_rebuilt: Counter, "catena_index_pages_rebuilt", Plain,
        "Index pages that could not be read and were built anew from the journal";
    live_bytes: Gauge, "catena_live_bytes", Plain,
        "Bytes of record batches that are wanted; the rest of the segments is padding or dead";
    cleaner_bytes: Counter, "catena_cleaner_bytes", Plain,
        "Bytes of batches that the cleaner wrote anew";
    cleaner_segments: Counter, "catena_cleaner_segments", Plain,
        "Segments that the cleaner emptied";
    cleaner_regrouped: Counter, "catena_cleaner_regrouped", Plain,
        "Of these, segments whose partitions were put in order while the shard was idle";
    compaction_passes: Counter, "catena_compaction_passes", Plain,
        "Passes of key compaction over a partition that came to their end";
    compaction_bytes_read: Counter, "catena_compaction_bytes_read", Plain,
        "Bytes read from disk for key compaction";
    compaction_bytes_saved: Counter, "catena_compaction_bytes_saved", Plain,
        "Bytes by which key compaction made batches smaller";
    compaction_records_dropped: Counter, "catena_compaction_records_dropped", Plain,
        "Records that key compaction left out";
    compaction_extents_left: Counter, "catena_compaction_extents_left", Plain,
        "Times that batches were not compacted because of damage, their place or their size";
    compaction_dirty_bytes: Gauge, "catena_compaction_dirty_bytes", Plain,
        "Bytes of batches of compacted topics that came after the last pass over their partition";
    scan_bytes: Gauge, "catena_scan_bytes", Plain,
        "Bytes of journal read back at the last start";
    stalls_total: Counter, "catena_stalls", Plain,
        "Times the shard's own heartbeat came late";
    stall_max_us: Gauge, "catena_stall_max_seconds", Micros,
        "The longest delay of the shard's own heartbeat since start";
}

#[cfg(test)]
mod tests;
