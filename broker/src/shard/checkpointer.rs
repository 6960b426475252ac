//! Checkpoints: the shard's state in one file, so that a restart reads little of the journal.
//!
//! A checkpoint has a section per chain, folded to the chain's commit LSN at that moment, and the
//! directories of the index runs. It is encoded in slices and written to a new file that is renamed
//! into place; the one before it is kept in case the new one cannot be read. Runs on the shard's
//! executor; the file work on its helper thread.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use catena_core::checkpoint::{CheckpointEncoder, ShardCheckpoint};
use catena_core::ids::JournalPos;
use catena_protocol::ids::ChainId;
use tracing::{debug, warn};

use super::Shard;
use crate::journal::Journal;
use crate::limits::{CHECKPOINT_INTERVAL_US, CHECKPOINT_JOURNAL_BYTES_MAX};
use crate::patience::{Patience, Refusal};
use crate::runtime::clock;
use crate::runtime::executor;
use crate::runtime::file::FileAgent;

/// Checkpoint files kept.
pub const KEPT: usize = 2;

/// What the shard knows of its checkpoints.
#[derive(Debug, Default, Clone)]
pub struct Taken {
    /// Number of the newest.
    pub sequence: u64,
    /// Where a scan would start with the newest.
    pub scan_from: JournalPos,
    /// What was noted when it was taken.
    pub noted_to: JournalPos,
    /// Journal bytes written by then.
    pub written_bytes: u64,
    /// When.
    pub at_us: u64,
}

impl Shard {
    /// Takes a checkpoint if enough has happened since the last one.
    pub async fn checkpoint_if_due(self: &Rc<Self>, taken: &mut Taken) -> io::Result<()> {
        // An emptied segment is freed only when both kept checkpoints are past the move.
        let dirty = self.noted_to.get() != taken.noted_to || self.pins.borrow().hold_moved();
        let journal_bytes = self.journal.written_bytes() - taken.written_bytes;
        let journal_max = CHECKPOINT_JOURNAL_BYTES_MAX.min(self.journal.space_bytes() / 8);
        let waited_us = clock::now_us().saturating_sub(taken.at_us);
        if journal_bytes >= journal_max || (dirty && waited_us >= CHECKPOINT_INTERVAL_US) {
            self.checkpoint(taken).await?;
            remove_old(&self.journal, taken.sequence).await;
        }
        Ok(())
    }

    /// Takes a checkpoint. Older ones stay: whoever knows that the new one counts removes them.
    pub async fn checkpoint(self: &Rc<Self>, taken: &mut Taken) -> io::Result<()> {
        let noted_to = self.noted_to.get();
        let written_bytes = self.journal.written_bytes();
        let sequence = taken.sequence + 1;
        let head = ShardCheckpoint {
            store_uuid: self.node.store_uuid,
            journal: self.journal.id(),
            sequence,
            shard_count: self.node.shards,
            layout_generation: self.layout_generation,
            scan_from: self.index.covered.get().min(noted_to),
            index_covered: self.index.covered.get(),
            ..ShardCheckpoint::default()
        };
        let run_segments = self.index.runs.borrow().segments().clone();
        let bytes = self.encode_checkpoint(&head).await;
        let size = bytes.len();
        let path = checkpoint_path(self.journal.dir(), sequence);
        write(&self.journal, &path, bytes).await?;
        self.metrics.checkpoints.add(1);
        debug!(shard = self.id.get(), sequence, size, scan_from = %head.scan_from, "checkpoint");
        // Until the next one succeeds the one before this may be needed, with the runs it names.
        self.recovery_start.set(taken.scan_from);
        self.pins.borrow_mut().note_checkpoint(run_segments);
        *taken = Taken {
            sequence,
            scan_from: head.scan_from,
            noted_to,
            written_bytes,
            at_us: clock::now_us(),
        };
        Ok(())
    }

    async fn encode_checkpoint(self: &Rc<Self>, head: &ShardCheckpoint) -> Vec<u8> {
        let mut encoder = CheckpointEncoder::default();
        let mut bytes = encoder.head(head);
        // The runs of this moment: maintenance, which alone changes them, is what runs this.
        let runs = self.index.runs.borrow().len();
        for index in 0..runs {
            bytes.extend(encoder.run(&self.index.runs.borrow()[index]));
            executor::yield_if_needed().await;
        }
        let chains: Vec<ChainId> = self.log.borrow().chains().collect();
        for chain in chains {
            let section = self.log.borrow().section(chain);
            bytes.extend(
                section
                    .map(|section| encoder.chain(&section))
                    .unwrap_or_default(),
            );
            executor::yield_if_needed().await;
        }
        bytes.extend(encoder.finish());
        bytes
    }
}

/// The checkpoints of a journal that can be read, the newest first.
///
/// # Errors
/// If it cannot be told what is stored.
pub async fn load_all(
    agent: &FileAgent,
    dir: &Path,
    store_uuid: [u8; 16],
) -> io::Result<Vec<ShardCheckpoint>> {
    agent.create_dir(dir).await?;
    let patience = Patience::of_start(agent, dir).await?;
    let mut readable = Vec::new();
    for sequence in sequences(agent, dir).await?.into_iter().rev() {
        let path = checkpoint_path(dir, sequence);
        let Some(bytes) = read_undamaged(agent, &patience, &path).await? else {
            continue;
        };
        match ShardCheckpoint::decode(&bytes) {
            Ok(checkpoint) if checkpoint.store_uuid == store_uuid => readable.push(checkpoint),
            Ok(_) => warn!(path = %path.display(), "a checkpoint of another store is passed over"),
            Err(error) => {
                warn!(path = %path.display(), %error, "a damaged checkpoint is passed over");
            }
        }
    }
    Ok(readable)
}

/// Reads a small file; none if it is not there, or the medium refuses it for good.
///
/// # Errors
/// If it cannot be told what is stored.
pub async fn read_undamaged(
    agent: &FileAgent,
    patience: &Patience,
    path: &Path,
) -> io::Result<Option<Vec<u8>>> {
    let read = patience.read(|| path.to_owned(), async || agent.read(path).await);
    let damage = match read.await {
        Ok(bytes) => return Ok(Some(bytes)),
        Err(Refusal::Failed(error)) if error.kind() == io::ErrorKind::NotFound => error,
        Err(refused) => refused.damage()?,
    };
    warn!(error = %damage, "a file that cannot be read is passed over");
    Ok(None)
}

/// Writes a small file of a journal. Latches the journal if its name may be lost.
///
/// # Errors
/// What the operating system says.
pub async fn write(journal: &Journal, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
    let segments = journal.segments();
    let written = segments.agent().write_atomic(path, bytes).await;
    written.inspect_err(|error| _ = segments.latch_if_flush_failed(error))
}

/// Removes a small file of a journal. Latches the journal if it may come back.
///
/// # Errors
/// What the operating system says.
pub async fn remove(journal: &Journal, path: &Path) -> io::Result<()> {
    let segments = journal.segments();
    let removed = segments.agent().remove(path).await;
    removed.inspect_err(|error| _ = segments.latch_if_flush_failed(error))
}

/// Removes the checkpoints that are no longer kept and tells which.
pub async fn remove_old(journal: &Journal, newest: u64) -> Vec<u64> {
    let Ok(sequences) = sequences(journal.segments().agent(), journal.dir()).await else {
        return Vec::new();
    };
    let old = sequences
        .into_iter()
        .rev()
        .filter(|sequence| *sequence <= newest)
        .skip(KEPT);
    let old: Vec<u64> = old.collect();
    for sequence in &old {
        if let Err(error) = remove(journal, &checkpoint_path(journal.dir(), *sequence)).await {
            warn!(%error, "an old checkpoint could not be removed");
        }
    }
    old
}

/// The numbers of a journal's checkpoints, ascending.
pub async fn sequences(agent: &FileAgent, dir: &Path) -> io::Result<Vec<u64>> {
    let listed = agent.list(dir).await?;
    let mut sequences: Vec<u64> = listed
        .iter()
        .filter_map(|entry| entry.name.strip_prefix("checkpoint-")?.parse().ok())
        .collect();
    sequences.sort_unstable();
    Ok(sequences)
}

/// Where a checkpoint is kept.
pub fn checkpoint_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("checkpoint-{sequence:010}"))
}
