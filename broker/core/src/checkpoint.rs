//! Checkpoints: the state of a shard at a point of its journal, so that a restart reads only what
//! was written after it.
//!
//! Invariant: a chain's section folds exactly the frames up to its LSN, and `scan_from` is at or
//! below the first frame that any section lacks. Each section stands alone with its own checksum,
//! so that sections can be taken and written one at a time between other work. Pure; any thread.
//!
//! A file is a sequence of envelopes (see [`crate::codec`]): one head, the directories of all index
//! runs, the sections of all chains in order, one end.
//!
//! ```text
//! head "CtCp", count 0: store_uuid [16] | journal u16 | shard_count u16 | sequence u64
//!   | layout_generation u64 | scan_from (segment u32, offset u32) | index_covered (same)
//! run "CtId": see `index::run::directory`
//! chain "CtCs": see `checkpoint::section`
//! end "CtCe", count 0: runs u32 | chains u32 | crc u32 of all bytes before the end
//! ```

mod section;

use crate::codec::{self, DecodeError, Put, malformed};
use crate::ids::{JournalId, JournalPos};
use crate::index::run::RunDirectory;

pub use section::{ChainSection, LostRange, PartitionRow, ProducerEntry};

use section::CHAIN_SECTION_MAGIC;

/// Magic of the head: `CtCp`.
pub const CHECKPOINT_MAGIC: u32 = u32::from_le_bytes(*b"CtCp");

/// Magic of the end: `CtCe`.
pub const CHECKPOINT_END_MAGIC: u32 = u32::from_le_bytes(*b"CtCe");

/// Everything a shard keeps at one point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardCheckpoint {
    /// The store it belongs to.
    pub store_uuid: [u8; 16],
    /// The journal of the shard.
    pub journal: JournalId,
    /// Rises by one per checkpoint of the journal.
    pub sequence: u64,
    /// Shards of the node when it was taken.
    pub shard_count: u16,
    /// The generation of the shard layout when it was taken.
    pub layout_generation: u64,
    /// The scan of the journal starts here.
    pub scan_from: JournalPos,
    /// Extents of blocks before this are in `runs`.
    pub index_covered: JournalPos,
    /// The index runs, the oldest first.
    pub runs: Vec<RunDirectory>,
    /// The chains, in order.
    pub chains: Vec<ChainSection>,
}

impl ShardCheckpoint {
    /// The whole file. A busy shard uses [`CheckpointEncoder`] instead, section by section.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = CheckpointEncoder::default();
        let mut out = encoder.head(self);
        for run in &self.runs {
            out.extend(encoder.run(run));
        }
        for chain in &self.chains {
            out.extend(encoder.chain(chain));
        }
        out.extend(encoder.finish());
        out
    }

    /// Decodes a whole file; bytes after its end are ignored, because files are padded to whole
    /// pages.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (mut checkpoint, mut rest) = Self::decode_head(bytes)?;
        while !starts_with(rest, CHECKPOINT_END_MAGIC) {
            rest = checkpoint.decode_section(rest)?;
        }
        let covered = &bytes[..bytes.len() - rest.len()];
        checkpoint.check_end(rest, covered)?;
        Ok(checkpoint)
    }

    /// Decodes one section after the head; returns what follows it.
    fn decode_section<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], DecodeError> {
        if starts_with(bytes, CHAIN_SECTION_MAGIC) {
            let (chain, rest) = ChainSection::decode_front(bytes)?;
            if self
                .chains
                .last()
                .is_some_and(|last| last.chain >= chain.chain)
            {
                return Err(malformed("order of chains"));
            }
            self.chains.push(chain);
            Ok(rest)
        } else if self.chains.is_empty() {
            let (run, rest) = RunDirectory::decode_front(bytes)?;
            self.runs.push(run);
            Ok(rest)
        } else {
            Err(malformed("order of checkpoint sections"))
        }
    }

    fn decode_head(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let envelope = codec::open_envelope(bytes, CHECKPOINT_MAGIC)?;
        let mut body = envelope.body;
        let checkpoint = Self {
            store_uuid: body.array("store uuid")?,
            journal: JournalId(body.u16("journal")?),
            shard_count: body.u16("shard count")?,
            sequence: body.u64("checkpoint sequence")?,
            layout_generation: body.u64("layout generation")?,
            scan_from: body.journal_pos("scan position")?,
            index_covered: body.journal_pos("index position")?,
            ..Self::default()
        };
        body.finish("bytes after the checkpoint's head")?;
        Ok((checkpoint, envelope.rest))
    }

    fn check_end(&self, end: &[u8], covered: &[u8]) -> Result<(), DecodeError> {
        let mut body = codec::open_envelope(end, CHECKPOINT_END_MAGIC)?.body;
        let runs = codec::index_of(body.u32("run count")?);
        let chains = codec::index_of(body.u32("chain count")?);
        let expected = body.u32("checkpoint crc")?;
        body.finish("bytes in the checkpoint's end")?;
        if (runs, chains) != (self.runs.len(), self.chains.len()) {
            return Err(malformed("count of checkpoint sections"));
        }
        let found = crc32fast::hash(covered);
        if found != expected {
            let (expected, found) = (expected.into(), found.into());
            return Err(DecodeError::Checksum {
                what: "checkpoint",
                expected,
                found,
            });
        }
        Ok(())
    }
}

/// Encodes a checkpoint one section at a time. The parts it returns, in the order of the calls,
/// are the file: first the head, then the runs, then the chains in order, then the end.
#[derive(Debug, Default)]
pub struct CheckpointEncoder {
    hasher: crc32fast::Hasher,
    runs: u32,
    chains: u32,
}

impl CheckpointEncoder {
    /// The head: everything in `checkpoint` but its runs and chains.
    pub fn head(&mut self, checkpoint: &ShardCheckpoint) -> Vec<u8> {
        let mut out = Vec::new();
        let start = codec::begin_envelope(&mut out);
        out.put(&checkpoint.store_uuid);
        out.put_u16(checkpoint.journal.get());
        out.put_u16(checkpoint.shard_count);
        out.put_u64(checkpoint.sequence);
        out.put_u64(checkpoint.layout_generation);
        out.put_journal_pos(checkpoint.scan_from);
        out.put_journal_pos(checkpoint.index_covered);
        codec::seal_envelope(&mut out, start, CHECKPOINT_MAGIC, 0);
        self.hasher.update(&out);
        out
    }

    /// One run.
    pub fn run(&mut self, run: &RunDirectory) -> Vec<u8> {
        let mut out = Vec::new();
        run.encode(&mut out);
        self.runs += 1;
        self.hasher.update(&out);
        out
    }

    /// One chain.
    pub fn chain(&mut self, chain: &ChainSection) -> Vec<u8> {
        let out = chain.encode();
        self.chains += 1;
        self.hasher.update(&out);
        out
    }

    /// The end.
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::new();
        let start = codec::begin_envelope(&mut out);
        out.put_u32(self.runs);
        out.put_u32(self.chains);
        out.put_u32(self.hasher.finalize());
        codec::seal_envelope(&mut out, start, CHECKPOINT_END_MAGIC, 0);
        out
    }
}

fn starts_with(bytes: &[u8], magic: u32) -> bool {
    bytes.starts_with(&magic.to_le_bytes())
}

#[cfg(test)]
mod tests;
