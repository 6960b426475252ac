//! The control plane of a node: commits metadata commands and tells every shard.
//!
//! A command is a frame of chain 0 in a small journal of its own, written by the same journal code
//! as everything else. It is applied when it is durable, sent to the shards, and answered when all
//! of them have applied it. Runs on an executor of its own, so that the data path cannot delay it.

mod damage;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use catena_core::checkpoint::{ChainSection, ShardCheckpoint};
use catena_core::entry::FrameKind;
use catena_core::ids::{JournalId, JournalPos};
use catena_core::log::ShardLog;
use catena_core::metadata::{Command, MetadataState, Outcome};
use catena_core::recover::{FrameSummary, ScannedFrames};
use catena_protocol::ids::{ChainEpoch, ChainId};
use tracing::{info, warn};

pub use damage::MetadataError;

use crate::boot::BootPlan;
use crate::journal::{Journal, JournalConfig, recovery};
use crate::limits::{
    LEDGER_IDLE, METADATA_COMMANDS_PER_SNAPSHOT, METADATA_SEGMENT_BYTES, METADATA_SPACE_BYTES,
};
use crate::metrics::ShardMetrics;
use crate::patience::Patience;
use crate::runtime::channel::{self, Receiver, Sender};
use crate::runtime::clock;
use crate::runtime::file::{self, FileAgent};
use crate::shard::NodeIdentity;
use crate::shard::assembler::Assembler;
use crate::shard::checkpointer;
use crate::shard::files::journal_dir;
use crate::shard::message::{ControlError, ControlRequest, ShardMessage};

/// The only chain of the control plane.
const METADATA_CHAIN: ChainId = ChainId::new(0);

/// How often the control plane looks whether a shard that does not answer has ended.
const TELL_CHECK: Duration = Duration::from_millis(100);

/// What the control plane is told when its thread starts.
pub struct ControlBoot {
    /// The directory of journals.
    pub journals: PathBuf,
    /// The node.
    pub node: Arc<NodeIdentity>,
    /// Its counters.
    pub metrics: Arc<ShardMetrics>,
    /// Takes what the shards start from.
    pub plan: Sender<Arc<BootPlan>>,
    /// Gives the shards, once all of them serve.
    pub shards: Receiver<Vec<Sender<ShardMessage>>>,
    /// Commands.
    pub requests: Receiver<ControlRequest>,
}

/// Runs the control plane from start to stop.
pub async fn run(boot: ControlBoot) -> Result<()> {
    file::self_test(&boot.journals)
        .await
        .context("the data directory cannot be used")?;
    let metrics = Arc::clone(&boot.metrics);
    let mut control = ControlPlane::open(&boot.journals, boot.node.store_uuid, metrics).await?;
    let served = start(&mut control, boot).await;
    let closed = control.journal.close().await;
    served?;
    Ok(closed?)
}

/// Gives the shards what they start from, and serves once they do.
async fn start(control: &mut ControlPlane, boot: ControlBoot) -> Result<()> {
    open_node(control, &boot.node).await?;
    control.snapshot().await;
    let read = control
        .plan(&boot.journals)
        .await
        .context("cannot read the checkpoints")?;
    boot.plan
        .send(Arc::new(read))
        .await
        .ok()
        .context("the start was given up")?;
    // None come if the start of a shard failed.
    if let Some(shards) = boot.shards.recv().await {
        control.serve(boot.requests, shards).await;
    }
    Ok(())
}

async fn open_node(control: &mut ControlPlane, node: &NodeIdentity) -> Result<()> {
    if control.state().cluster_id().is_none() {
        control
            .commit(&Command::InitCluster {
                cluster_id: node.cluster_id,
            })
            .await?;
    }
    let open = Command::OpenNode {
        node: node.node,
        host: node.advertised_host.clone(),
        port: node.advertised_port,
        shards: node.shards,
    };
    match control.commit(&open).await? {
        Outcome::Refused(refusal) => Err(refusal.into()),
        _ => Ok(()),
    }
}

/// Metadata, and the journal that makes it durable.
pub struct ControlPlane {
    state: MetadataState,
    log: ShardLog,
    journal: Rc<Journal>,
    agent: Rc<FileAgent>,
    store_uuid: [u8; 16],
    snapshot_sequence: u64,
    scan_from: JournalPos,
    commands_since_snapshot: u32,
}

impl ControlPlane {
    /// Reads metadata back and opens its journal.
    pub async fn open(
        journals: &Path,
        store_uuid: [u8; 16],
        metrics: Arc<ShardMetrics>,
    ) -> Result<ControlPlane> {
        let agent = Rc::new(FileAgent::start().context("cannot start the file helper")?);
        let dir = journal_dir(journals, JournalId::METADATA);
        let snapshot = load_snapshot(&agent, &dir, store_uuid).await?;
        let (mut state, checkpoint) = snapshot.unwrap_or_default();
        let section = checkpoint.chains.into_iter().next();
        let section = section.unwrap_or_else(|| ChainSection::fresh(METADATA_CHAIN));
        let mut log = ShardLog::default();
        let epoch = ChainEpoch::new(section.epoch().get() + 1);
        log.open_chain(section, epoch)?;
        let start = (checkpoint.sequence > 0).then_some(checkpoint.scan_from);
        let mut found = ScannedFrames::default();
        let scanned = recovery::scan(&agent, &dir, JournalId::METADATA, start, &mut found)
            .await
            .context("cannot read the metadata journal")?;
        if let Some(range) = scanned.corrupt.first() {
            return Err(MetadataError::damaged(&dir, range).into());
        }
        for frame in &found.frames {
            replay(&mut log, &mut state, frame)?;
        }
        let epoch = ChainEpoch::new(log.epoch(METADATA_CHAIN).map_or(1, |epoch| epoch.get() + 1));
        log.adopt_epoch(METADATA_CHAIN, epoch)?;
        let config = JournalConfig {
            id: JournalId::METADATA,
            dir,
            store: store_uuid,
            segment_bytes_min: METADATA_SEGMENT_BYTES,
            segment_bytes_max: METADATA_SEGMENT_BYTES,
            space_bytes: METADATA_SPACE_BYTES,
            prepared_target: 1,
        };
        let journal = Journal::open(config, scanned.tail, Rc::clone(&agent), metrics).await?;
        Ok(ControlPlane {
            state,
            log,
            journal,
            agent,
            store_uuid,
            snapshot_sequence: checkpoint.sequence,
            scan_from: checkpoint.scan_from,
            commands_since_snapshot: 0,
        })
    }

    /// Metadata as it stands.
    pub fn state(&self) -> &MetadataState {
        &self.state
    }

    /// What the shards start from.
    pub async fn plan(&self, journals: &Path) -> std::io::Result<BootPlan> {
        BootPlan::read(&self.agent, journals, self.store_uuid, self.state.clone()).await
    }

    /// Validates a command, makes it durable, applies it.
    pub async fn commit(&mut self, command: &Command) -> Result<Outcome, ControlError> {
        self.state.validate(command)?;
        let mut assembler = Assembler::default();
        let body = Bytes::from(command.encode());
        assembler.add_control(0, METADATA_CHAIN, FrameKind::Metadata, body, &mut self.log);
        let filled = assembler.take(&mut self.log);
        let (blocks, frames): (Vec<_>, Vec<_>) = filled
            .into_iter()
            .map(|filled| (filled.block, filled.frames))
            .unzip();
        let written = self.journal.commit(blocks).await;
        written.map_err(|error| ControlError::Failed(error.to_string()))?;
        for frame in frames.into_iter().flatten() {
            let control = frame.control.expect("a metadata frame is a control frame");
            self.log
                .committed_control(frame.chain, frame.lsn, control.kind, &control.body)
                .expect("a frame that was just built is well formed");
        }
        self.commands_since_snapshot += 1;
        Ok(self.state.apply(command))
    }

    /// Serves commands until told to stop.
    async fn serve(
        &mut self,
        requests: Receiver<ControlRequest>,
        shards: Vec<Sender<ShardMessage>>,
    ) {
        while let Some(ControlRequest::Propose { command, reply }) = self.next(&requests).await {
            let outcome = self.commit(&command).await;
            if outcome.is_ok() {
                tell(&shards, &command).await;
            }
            // A client that is gone needs no answer.
            let _ = reply.send(outcome).await;
            if self.commands_since_snapshot >= METADATA_COMMANDS_PER_SNAPSHOT {
                self.snapshot().await;
            }
        }
        if self.commands_since_snapshot > 0 {
            self.snapshot().await;
        }
    }

    /// The next request; notes in the flush ledger how far the journal is flushed when none comes.
    async fn next(&self, requests: &Receiver<ControlRequest>) -> Option<ControlRequest> {
        if self.journal.ledger_is_behind() && !self.journal.is_latched() {
            if let Ok(request) = clock::timeout(LEDGER_IDLE, requests.recv()).await {
                return request;
            }
            // A failure latches the journal, and the next command reports it.
            let _ = self.journal.note_idle().await;
        }
        requests.recv().await
    }

    /// Writes a snapshot, so that the next start replays little, and frees what it replaces.
    pub async fn snapshot(&mut self) {
        if let Err(error) = self.write_snapshot().await {
            warn!(%error, "no metadata snapshot; the next start replays more");
        }
    }

    async fn write_snapshot(&mut self) -> Result<()> {
        let sequence = self.snapshot_sequence + 1;
        let section = self
            .log
            .section(METADATA_CHAIN)
            .expect("the metadata chain is open");
        let at = self.journal.flushed();
        let checkpoint = ShardCheckpoint {
            store_uuid: self.store_uuid,
            journal: JournalId::METADATA,
            sequence,
            scan_from: at,
            index_covered: at,
            chains: vec![section],
            ..ShardCheckpoint::default()
        };
        let dir = self.journal.dir().to_owned();
        let path = metadata_path(&dir, sequence);
        checkpointer::write(&self.journal, &path, self.state.encode()).await?;
        let path = checkpointer::checkpoint_path(&dir, sequence);
        checkpointer::write(&self.journal, &path, checkpoint.encode()).await?;
        for old in checkpointer::remove_old(&self.journal, sequence).await {
            checkpointer::remove(&self.journal, &metadata_path(&dir, old)).await?;
        }
        // The snapshot before this one must stay usable: free only what it does not need either.
        for sealed in self.journal.segments().sealed() {
            if sealed.segment < self.scan_from.segment {
                self.journal.segments().free(sealed.segment).await?;
            }
        }
        self.snapshot_sequence = sequence;
        self.scan_from = at;
        self.commands_since_snapshot = 0;
        Ok(())
    }
}

fn replay(log: &mut ShardLog, state: &mut MetadataState, frame: &FrameSummary) -> Result<()> {
    use catena_core::log::Folded;
    let folded = log.fold(frame);
    match folded.map_err(|reason| MetadataError::Unlinked { reason })? {
        Folded::Already => Ok(()),
        Folded::Applied {
            lost: Some((first, count)),
            ..
        } => Err(MetadataError::Missing { first, count }.into()),
        Folded::Applied { lost: None, .. } => {
            let number = frame.lsn;
            let command = Command::decode(&frame.body)
                .map_err(|reason| MetadataError::Command { number, reason })?;
            state.apply(&command);
            Ok(())
        }
    }
}

/// Sends a command to every shard and waits until all have applied it.
async fn tell(shards: &[Sender<ShardMessage>], command: &Command) {
    let (applied, done) = channel::bounded(shards.len().max(1));
    let mut told = 0;
    for shard in shards {
        let message = ShardMessage::Apply {
            command: command.clone(),
            applied: applied.clone(),
        };
        told += usize::from(shard.send(message).await.is_ok());
    }
    drop(applied);
    while told > 0 {
        match clock::timeout(TELL_CHECK, done.recv()).await {
            Ok(Some(())) => told -= 1,
            // What was sent to a shard in the instant of its end may be kept.
            Err(_) if !shards.iter().any(Sender::is_closed) => {}
            Ok(None) | Err(_) => {
                info!("a shard ended while metadata changed");
                return;
            }
        }
    }
}

async fn load_snapshot(
    agent: &FileAgent,
    dir: &Path,
    store_uuid: [u8; 16],
) -> Result<Option<(MetadataState, ShardCheckpoint)>> {
    agent.create_dir(dir).await?;
    let patience = Patience::of_start(agent, dir).await?;
    for sequence in checkpointer::sequences(agent, dir).await?.into_iter().rev() {
        let checkpoint = checkpointer::checkpoint_path(dir, sequence);
        let checkpoint = checkpointer::read_undamaged(agent, &patience, &checkpoint).await?;
        let checkpoint = checkpoint.map(|bytes| ShardCheckpoint::decode(&bytes));
        let metadata = metadata_path(dir, sequence);
        let metadata = checkpointer::read_undamaged(agent, &patience, &metadata).await?;
        let (Some(Ok(checkpoint)), Some(metadata)) = (checkpoint, metadata) else {
            warn!(sequence, "a damaged metadata snapshot is passed over");
            continue;
        };
        if checkpoint.store_uuid != store_uuid {
            let dir = dir.to_owned();
            return Err(MetadataError::Foreign { dir }.into());
        }
        match MetadataState::decode(&metadata) {
            Ok(state) => return Ok(Some((state, checkpoint))),
            Err(error) => warn!(sequence, %error, "a damaged metadata snapshot is passed over"),
        }
    }
    Ok(None)
}

fn metadata_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("metadata-{sequence:010}"))
}
