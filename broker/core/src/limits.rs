//! Every bound of the core in one place, related to each other by const assertions.

use catena_protocol::limits::BATCH_BYTES_MAX;

use crate::block::BLOCK_HEADER_BYTES;
use crate::entry::{ENTRY_HEADER_BYTES, ROW_BYTES};

/// Blocks start and end at multiples of this: the unit of direct I/O, and the step in which
/// recovery looks for the next block after a bad one.
pub const BLOCK_ALIGN: usize = 4096;

/// `BLOCK_ALIGN` as a distance between positions.
pub const BLOCK_ALIGN_U32: u32 = 4096;

/// Longest block, padding included.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;

/// `BLOCK_BYTES_MAX` as a distance between positions.
pub const BLOCK_BYTES_MAX_U32: u32 = 1 << 20;

/// Longest group: the blocks that share one flush.
pub const GROUP_BYTES_MAX: usize = 16 << 20;

/// A group of one block up to this size is one `O_DSYNC` write instead of a write and a flush.
pub const DSYNC_BYTES_MAX: usize = 256 << 10;

/// Most blocks in one group.
pub const GROUP_BLOCKS_MAX: usize = GROUP_BYTES_MAX / BLOCK_ALIGN;

/// The page at the start of each segment; blocks start behind it.
pub const SEGMENT_HEADER_BYTES: u32 = 4096;

/// Smallest segment file: embedded brokers and the metadata journal.
pub const SEGMENT_BYTES_MIN: u32 = 4 << 20;

/// Largest segment file.
pub const SEGMENT_BYTES_MAX: u32 = 256 << 20;

/// Longest read that recovery asks for: one block of the longest kind.
pub const SCAN_READ_BYTES_MAX: u32 = BLOCK_BYTES_MAX_U32;

/// Damaged ranges that one scan names one by one; further ones widen the last range.
pub const SCAN_CORRUPT_RANGES_MAX: usize = 4096;

/// Most directory rows in one Batches frame.
pub const FRAME_ROWS_MAX: usize = u16::MAX as usize;

/// Longest body of a control frame or journal record: alone in a block.
pub const CONTROL_BODY_BYTES_MAX: usize = BLOCK_BYTES_MAX - BLOCK_HEADER_BYTES - ENTRY_HEADER_BYTES;

/// Groups of at least this many requests, and smaller than `DSYNC_BYTES_MAX`, call for gathering.
pub const GATHER_REQUESTS_MIN: u32 = 16;

/// When gathering, the shortest time from the start of one group to the start of the next.
pub const GATHER_INTERVAL_US: u64 = 500;

/// What a source may take from the admission queue in one turn.
pub const ADMISSION_QUANTUM_BYTES: usize = 64 << 10;

/// How far control and replication may run ahead of data before data gets its turn.
pub const CONTROL_AHEAD_BYTES_MAX: usize = 1 << 20;

/// Once it has used its lead, control gets one byte for every so many bytes of data.
pub const CONTROL_DATA_RATIO: usize = 3;

/// Offsets stay below this, so that adding a batch never overflows.
pub const OFFSET_MAX: u64 = 1 << 62;

/// Longest encoded page of an index run.
pub const INDEX_PAGE_BYTES_MAX: usize = 16 << 10;

/// Runs that are merged into one; also the ratio between the tiers of runs.
pub const RUN_MERGE_FAN_IN: usize = 8;

/// Runs up to this size, in bytes, form the lowest tier.
pub const RUN_TIER_BYTES_MIN: u64 = 256 << 10;

/// (sequence, offset) runs that a producer row remembers, to answer duplicates with their offset.
pub const PRODUCER_RUNS_MAX: usize = 3;

/// Records that one such run covers at most, so that all runs stay within the circle of sequences.
pub const PRODUCER_RUN_RECORDS_MAX: u32 = 1 << 30;

/// An idle producer's row is dropped after this, in seconds.
pub const PRODUCER_IDLE_S_MAX: u32 = 24 * 3600;

/// Producer rows that one expiry frame drops at most.
pub const PRODUCER_EXPIRY_ROWS_MAX: usize = 32_768;

/// Epochs of a chain that are remembered with their first frame; older ones are forgotten.
pub const EPOCH_HISTORY_MAX: usize = 256;

/// Ranges of lost offsets that one partition remembers; further ones widen the last.
pub const LOST_RANGES_MAX: usize = 1024;

/// Offsets that one byte of a journal holds at most: a batch of 64 bytes spans up to 2^16.
pub const PRESUMED_OFFSETS_PER_BYTE: u64 = (1 << 16) / 64;

/// Offsets that are taken for lost where damage leaves a partition's end unknown: what 1 GiB of
/// journal holds at most, and a jump that nobody overlooks. A partition has room for four million.
pub const PRESUMED_OFFSETS_MIN: u64 = PRESUMED_OFFSETS_PER_BYTE << 30;

/// Keys that one pass of compaction notes. Seven eighths of a power of two: a map of so many is
/// full just before it would grow.
pub const COMPACTION_KEYS_MAX: usize = (7 << 20) / 8;

/// Memory of that map, per shard that compacts.
pub const COMPACTION_MAP_BYTES_MAX: usize = 32 << 20;

/// Bytes of one key in the map: hash, offset, a byte of control.
const COMPACTION_KEY_BYTES: usize = 16 + 8 + 1;

/// Passes of compaction that are remembered of a partition; tombstones count their time from one.
pub const COMPACTION_CLEANINGS_MAX: usize = 8;

/// Extents with damage that one pass of compaction passes over.
pub const COMPACTION_LEFT_MAX: usize = 1024;

/// Longest extent that a relocation record takes: one row, alone in a block.
pub const RELOCATED_BYTES_MAX: usize = CONTROL_BODY_BYTES_MAX - ROW_BYTES;

/// Chains of the default class.
pub const CHAINS_PER_CLASS: u32 = 64;

/// Topics of a cluster.
pub const TOPICS_MAX: usize = 100_000;

/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 1_000_000;

/// Ranges that the partitions of one topic consist of: once at creation and once per growth.
pub const PARTITION_RANGES_PER_TOPIC_MAX: usize = 1024;

/// Shards of one node.
pub const SHARDS_MAX: u16 = 1024;

/// Producer ids that one command hands out at most.
pub const PRODUCER_IDS_PER_COMMAND_MAX: u32 = 1 << 20;

/// Longest host name of a node.
pub const HOST_BYTES_MAX: usize = 255;

const _: () = {
    assert!(BLOCK_ALIGN == BLOCK_ALIGN_U32 as usize);
    assert!(BLOCK_BYTES_MAX == BLOCK_BYTES_MAX_U32 as usize);
    assert!(BLOCK_BYTES_MAX.is_multiple_of(BLOCK_ALIGN));
    assert!(GROUP_BYTES_MAX.is_multiple_of(BLOCK_BYTES_MAX));
    assert!(DSYNC_BYTES_MAX <= BLOCK_BYTES_MAX);
    // A group's index and count are u16 in the block header.
    assert!(GROUP_BLOCKS_MAX <= u16::MAX as usize);
    assert!(SEGMENT_HEADER_BYTES == BLOCK_ALIGN_U32);
    assert!(SEGMENT_BYTES_MIN.is_multiple_of(BLOCK_ALIGN_U32));
    assert!(SEGMENT_BYTES_MIN > SEGMENT_HEADER_BYTES + BLOCK_BYTES_MAX_U32);
    assert!(SEGMENT_BYTES_MIN < SEGMENT_BYTES_MAX);
    // The longest batch fits a block of its own, with its heads.
    assert!(
        BLOCK_HEADER_BYTES + ENTRY_HEADER_BYTES + ROW_BYTES + BATCH_BYTES_MAX <= BLOCK_BYTES_MAX
    );
    // However small its batches, a block cannot hold more rows than a frame can count.
    assert!(BLOCK_BYTES_MAX / (ROW_BYTES + 64) <= FRAME_ROWS_MAX);
    // A source's turn is short beside a group, so that a group holds many sources.
    assert!(ADMISSION_QUANTUM_BYTES * 16 <= GROUP_BYTES_MAX);
    // A page is a journal record, an expiry list a frame; each fits a block of its own.
    assert!(INDEX_PAGE_BYTES_MAX <= CONTROL_BODY_BYTES_MAX);
    assert!(PRODUCER_EXPIRY_ROWS_MAX * 16 <= CONTROL_BODY_BYTES_MAX);
    assert!((1 << 20) * COMPACTION_KEY_BYTES <= COMPACTION_MAP_BYTES_MAX);
    // All runs of a producer row together stay within the circle of sequences.
    assert!(PRODUCER_RUN_RECORDS_MAX as u64 * PRODUCER_RUNS_MAX as u64 <= u32::MAX as u64);
};
