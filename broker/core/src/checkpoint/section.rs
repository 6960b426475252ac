//! The section of one chain in a checkpoint.
//!
//! Invariant: rows are in order and nothing in the hashed part depends on anything but the chain's
//! frames up to `lsn`; so the content hash is equal on all replicas that have them.
//!
//! ```text
//! envelope "CtCs", count 0:
//!   content_hash u128 (XXH3-128 of the fold) | fold_bytes u32 | fold | lost
//! fold: chain u32 | lsn u64 | last_frame_crc u32
//!   | n u32 | n x epoch     { epoch u32, first_lsn u64 }
//!   | n u32 | n x partition { topic u32, partition u32, log_start u64, log_end u64, bytes u64,
//!                             first_timestamp_ms i64, append_time_ms i64 }            (48 bytes)
//!   | n u32 | n x producer  { topic u32, partition u32, producer u64, epoch u16, runs u8,
//!                             reserved u8, next_sequence u32, last_append_s u32,
//!                             3 x { sequence u32, offset u64 } }                      (64 bytes)
//! lost: n u32 | n x { topic u32, partition u32, start u64, end u64 }
//! version 2: compacted, see `compaction::state`
//! ```
//!
//! Lost ranges are outside the hash: they say what this replica's disk lost, not what was written.
//! So is what is known of compacted partitions. A section without any is written as version 1,
//! which older brokers read.

use std::collections::BTreeMap;
use std::ops::Range;

use catena_protocol::ids::{ChainEpoch, ChainId, Offset, ProducerId, TopicPartition};
use xxhash_rust::xxh3::xxh3_128;

use crate::codec::{self, DecodeError, Put, Reader, malformed};
use crate::compaction::{CompactedPartition, decode_compacted, encode_compacted};
use crate::ids::Lsn;
use crate::limits::{EPOCH_HISTORY_MAX, OFFSET_MAX};
use crate::producer::{PRODUCER_ROW_BYTES, ProducerRow};

/// Magic of a chain's section: `CtCs`.
pub(super) const CHAIN_SECTION_MAGIC: u32 = u32::from_le_bytes(*b"CtCs");

/// The newest version of a section.
const CHAIN_SECTION_VERSION: u16 = 2;

const EPOCH_BYTES: usize = 12;
const PARTITION_BYTES: usize = 48;
const PRODUCER_BYTES: usize = 16 + PRODUCER_ROW_BYTES;
const LOST_BYTES: usize = 24;

/// The committed state of a chain at `lsn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainSection {
    /// The chain.
    pub chain: ChainId,
    /// The last frame folded into it.
    pub lsn: Lsn,
    /// The crc of that frame; 0 before the first.
    pub last_frame_crc: u32,
    /// The latest epochs, each with its first frame, ascending.
    pub epoch_history: Vec<(ChainEpoch, Lsn)>,
    /// The partitions that have ever had a record, in order.
    pub partitions: Vec<PartitionRow>,
    /// The producers, in order of partition and id.
    pub producers: Vec<ProducerEntry>,
    /// Offsets that this replica lost, in order.
    pub lost: Vec<LostRange>,
    /// What this replica knows of its compacted partitions.
    pub compacted: BTreeMap<TopicPartition, CompactedPartition>,
}

/// The committed state of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRow {
    /// The partition.
    pub tp: TopicPartition,
    /// Its log start.
    pub log_start: Offset,
    /// Its committed end.
    pub log_end: Offset,
    /// Bytes of the batches between.
    pub bytes: u64,
    /// See [`crate::log::PartitionState::first_timestamp_ms`].
    pub first_timestamp_ms: i64,
    /// Append time of the last batch, in milliseconds since 1970.
    pub append_time_ms: i64,
}

/// What is remembered of a producer in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The partition.
    pub tp: TopicPartition,
    /// The producer, never 0.
    pub producer: ProducerId,
    /// The row.
    pub row: ProducerRow,
}

/// Offsets of a partition that were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRange {
    /// The partition.
    pub tp: TopicPartition,
    /// The offsets.
    pub range: Range<Offset>,
}

impl ChainSection {
    /// A chain without frames.
    pub const fn fresh(chain: ChainId) -> Self {
        Self {
            chain,
            lsn: Lsn::ZERO,
            last_frame_crc: 0,
            epoch_history: Vec::new(),
            partitions: Vec::new(),
            producers: Vec::new(),
            lost: Vec::new(),
            compacted: BTreeMap::new(),
        }
    }

    /// The epoch of the last frame; 0 before the first.
    pub fn epoch(&self) -> ChainEpoch {
        self.epoch_history
            .last()
            .map_or(ChainEpoch(0), |(epoch, _)| *epoch)
    }

    /// Depends on the chain's frames up to `lsn` and on nothing else.
    pub fn content_hash(&self) -> u128 {
        let mut fold = Vec::new();
        self.encode_fold(&mut fold);
        xxh3_128(&fold)
    }

    /// The encoded section.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let start = codec::begin_envelope(&mut out);
        let hash_at = out.len();
        out.put(&[0; 20]);
        let fold_at = out.len();
        self.encode_fold(&mut out);
        let hash = xxh3_128(&out[fold_at..]);
        let fold_bytes = codec::length_u32(out.len() - fold_at);
        out[hash_at..][..16].copy_from_slice(&hash.to_le_bytes());
        out[hash_at + 16..][..4].copy_from_slice(&fold_bytes.to_le_bytes());
        out.put_u32(codec::length_u32(self.lost.len()));
        for LostRange { tp, range } in &self.lost {
            out.put_topic_partition(*tp);
            out.put_u64(range.start.get());
            out.put_u64(range.end.get());
        }
        if self.compacted.is_empty() {
            codec::seal_envelope(&mut out, start, CHAIN_SECTION_MAGIC, 0);
        } else {
            encode_compacted(&self.compacted, &mut out);
            let version = CHAIN_SECTION_VERSION;
            codec::seal_envelope_as(version, &mut out, start, CHAIN_SECTION_MAGIC, 0);
        }
        out
    }

    fn encode_fold(&self, out: &mut Vec<u8>) {
        out.put_u32(self.chain.get());
        out.put_u64(self.lsn.get());
        out.put_u32(self.last_frame_crc);
        out.put_u32(codec::length_u32(self.epoch_history.len()));
        for (epoch, lsn) in &self.epoch_history {
            out.put_u32(epoch.get());
            out.put_u64(lsn.get());
        }
        out.put_u32(codec::length_u32(self.partitions.len()));
        for row in &self.partitions {
            out.put_topic_partition(row.tp);
            out.put_u64(row.log_start.get());
            out.put_u64(row.log_end.get());
            out.put_u64(row.bytes);
            out.put_i64(row.first_timestamp_ms);
            out.put_i64(row.append_time_ms);
        }
        out.put_u32(codec::length_u32(self.producers.len()));
        for entry in &self.producers {
            out.put_topic_partition(entry.tp);
            out.put_u64(entry.producer.get());
            entry.row.encode(out);
        }
    }

    /// Decodes the section at the start of `bytes`; returns what follows it.
    pub(super) fn decode_front(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let newest = CHAIN_SECTION_VERSION;
        let envelope = codec::open_envelope_to(newest, bytes, CHAIN_SECTION_MAGIC)?;
        let mut body = envelope.body;
        let expected = u128::from_le_bytes(body.array("content hash")?);
        let fold_bytes = codec::index_of(body.u32("fold bytes")?);
        let fold = body.take(fold_bytes, "fold of a chain")?;
        let found = xxh3_128(fold);
        if found != expected {
            return Err(DecodeError::Checksum {
                what: "content of a chain",
                expected,
                found,
            });
        }
        let mut section = Self::decode_fold(fold)?;
        let count = body.count(LOST_BYTES, "lost ranges")?;
        section.lost.reserve_exact(count);
        for _ in 0..count {
            let tp = body.topic_partition("lost range")?;
            let range = body.offset("lost range")?..body.offset("lost range")?;
            section.lost.push(LostRange { tp, range });
        }
        if envelope.version >= 2 {
            section.compacted = decode_compacted(&mut body)?;
        }
        body.finish("bytes after a chain")?;
        section.check()?;
        Ok((section, envelope.rest))
    }

    fn decode_fold(fold: &[u8]) -> Result<Self, DecodeError> {
        let mut body = Reader::new(fold);
        let mut section = Self::fresh(ChainId(body.u32("chain")?));
        section.lsn = Lsn(body.u64("lsn")?);
        section.last_frame_crc = body.u32("frame crc")?;
        let epochs = body.count(EPOCH_BYTES, "epochs")?;
        section.epoch_history.reserve_exact(epochs);
        for _ in 0..epochs {
            let epoch = ChainEpoch(body.u32("epoch")?);
            section.epoch_history.push((epoch, Lsn(body.u64("epoch")?)));
        }
        let partitions = body.count(PARTITION_BYTES, "partitions of a chain")?;
        section.partitions.reserve_exact(partitions);
        for _ in 0..partitions {
            section.partitions.push(PartitionRow {
                tp: body.topic_partition("partition row")?,
                log_start: body.offset("log start")?,
                log_end: body.offset("log end")?,
                bytes: body.u64("partition bytes")?,
                first_timestamp_ms: body.i64("first timestamp")?,
                append_time_ms: body.i64("append time")?,
            });
        }
        let producers = body.count(PRODUCER_BYTES, "producers of a chain")?;
        section.producers.reserve_exact(producers);
        for _ in 0..producers {
            let tp = body.topic_partition("producer row")?;
            let producer = ProducerId(body.u64("producer row")?);
            section.producers.push(ProducerEntry {
                tp,
                producer,
                row: ProducerRow::decode(&mut body)?,
            });
        }
        body.finish("bytes after the fold of a chain")?;
        Ok(section)
    }

    /// What the log relies on when it takes a section over.
    fn check(&self) -> Result<(), DecodeError> {
        let history = &self.epoch_history;
        let epochs_ordered = history.is_sorted_by(|one, two| one.0 < two.0 && one.1 < two.1);
        let epochs_bounded = history.last().is_none_or(|(_, lsn)| *lsn <= self.lsn)
            && history.len() <= EPOCH_HISTORY_MAX;
        if !epochs_ordered || !epochs_bounded || self.lsn.get() > OFFSET_MAX {
            return Err(malformed("epochs of a chain"));
        }
        let row_sane = |row: &PartitionRow| {
            row.log_start <= row.log_end
                && row.log_end.get() <= OFFSET_MAX
                && row.bytes <= OFFSET_MAX
        };
        let rows_ordered = self.partitions.is_sorted_by(|one, two| one.tp < two.tp);
        if !rows_ordered || !self.partitions.iter().all(row_sane) {
            return Err(malformed("partitions of a chain"));
        }
        let producer_sane = |entry: &ProducerEntry| {
            let end_offset = self.row_of(entry.tp).map(|row| row.log_end);
            entry.producer != ProducerId(0)
                && end_offset.is_some_and(|end| entry.row.end_offset() <= end)
        };
        let key = |entry: &ProducerEntry| (entry.tp, entry.producer);
        let producers_ordered = self.producers.is_sorted_by(|one, two| key(one) < key(two));
        if !producers_ordered || !self.producers.iter().all(producer_sane) {
            return Err(malformed("producers of a chain"));
        }
        let lost_sane = |lost: &LostRange| {
            let end_offset = self.row_of(lost.tp).map(|row| row.log_end);
            lost.range.start < lost.range.end && end_offset.is_some_and(|end| lost.range.end <= end)
        };
        let lost_ordered = self.lost.is_sorted_by(|one, two| {
            one.tp < two.tp || (one.tp == two.tp && one.range.end <= two.range.start)
        });
        if !lost_ordered || !self.lost.iter().all(lost_sane) {
            return Err(malformed("lost ranges of a chain"));
        }
        let compacted_sane = |(tp, compacted): (&TopicPartition, &CompactedPartition)| {
            let row = self.row_of(*tp);
            row.is_some_and(|row| compacted.clean_to <= row.log_end)
        };
        if !self.compacted.iter().all(compacted_sane) {
            return Err(malformed("compacted partitions of a chain"));
        }
        Ok(())
    }

    fn row_of(&self, tp: TopicPartition) -> Option<&PartitionRow> {
        let index = self
            .partitions
            .binary_search_by_key(&tp, |row| row.tp)
            .ok()?;
        Some(&self.partitions[index])
    }
}
