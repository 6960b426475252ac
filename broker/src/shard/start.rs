//! Starts a shard: reads journals back, rebuilds the state, opens its journal, serves, and stops.
//!
//! Nothing is served before everything recovered is on stable storage. Runs as the main future of
//! the shard's executor.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result};
use catena_core::checkpoint::ChainSection;
use catena_core::compaction::CompactionPolicy;
use catena_core::entry::RecordKind;
use catena_core::ids::{JournalId, JournalPos, SegmentSeq};
use catena_core::log::{Folded, ShardLog};
use catena_core::recover::{FrameSummary, MovedBatch, ScannedFrames, only_moved};
use catena_protocol::ids::{ChainId, ShardId, TopicId};
use futures_util::future::try_join_all;
use tracing::{info, warn};

use super::budget::Budget;
use super::checkpointer::Taken;
use super::claims::Claims;
use super::cleaner::Cleaner;
use super::committer::Committer;
use super::compaction::Compaction;
use super::files::{SegmentFiles, journal_dir};
use super::index::{Runs, SegmentKey, ShardIndex};
use super::message::{ControlRequest, ShardMessage};
use super::pins::Pins;
use super::reader::BlockReader;
use super::{NodeIdentity, Shard, listener, maintenance};
use crate::boot::{self, BootPlan, ShardInput};
use crate::cache::BlockCache;
use crate::journal::segments::{RESERVED_SEGMENTS, segment_of, segment_path};
use crate::journal::{Journal, JournalConfig, JournalTail, recovery};
use crate::limits::{DRAIN_TIMEOUT, FETCH_PIN_CACHE_DIVISOR, FETCH_RESPONSE_BYTES_MAX};
use crate::metrics::ShardMetrics;
use crate::runtime::channel::{Notify, Receiver, Sender};
use crate::runtime::clock;
use crate::runtime::executor::{self, Progress, Queue, Task, TaskTracker};
use crate::runtime::file::{self, FileAgent, LogFile};
use crate::runtime::net::{Conn, Listener, Socket};

/// What a shard is told when its thread starts.
pub struct ShardBoot {
    /// Its number.
    pub id: ShardId,
    /// The node.
    pub node: Arc<NodeIdentity>,
    /// The directory of journals.
    pub journals: PathBuf,
    /// Checkpoints and metadata.
    pub plan: Arc<BootPlan>,
    /// Where to listen; `None` for a broker that is reached from its own process only.
    pub listen: Option<SocketAddr>,
    /// Segment sizes, in bytes.
    pub segment_bytes: (u32, u32),
    /// Bytes of segments that this shard may keep.
    pub space_bytes: u64,
    /// Bytes of its cache.
    pub cache_bytes: usize,
    /// When partitions are compacted.
    pub compaction: CompactionPolicy,
    /// Its counters.
    pub metrics: Arc<ShardMetrics>,
    /// Beats of its executor.
    pub progress: Arc<Progress>,
    /// The control plane.
    pub control: Sender<ControlRequest>,
    /// All shards.
    pub mesh: Vec<Sender<ShardMessage>>,
    /// Messages to this one.
    pub messages: Receiver<ShardMessage>,
    /// Takes what the shard read back.
    pub scanned: Sender<ScannedFrames>,
    /// Gives what it starts from.
    pub input: Receiver<ShardInput>,
    /// Told when its start is durable, and again when it accepts connections.
    pub ready: Sender<ShardId>,
}

/// Runs the shard from start to stop.
pub async fn run(boot: ShardBoot) -> Result<()> {
    let agent = Rc::new(FileAgent::start().context("cannot start the file helper")?);
    file::self_test(&boot.journals)
        .await
        .context("the data directory cannot be used")?;
    let (tail, found) = scan(&boot, &agent).await?;
    tell(&boot.scanned, found).await?;
    let input = boot.input.recv().await.context("the start was given up")?;
    let (listen, ready) = (boot.listen, boot.ready.clone());
    let (shard, opening) = build(boot, input, tail, agent).await?;
    let committer = executor::spawn(Queue::Journal, Rc::clone(&shard).commit_loop());
    let served = serve(&shard, opening, listen, &ready).await;
    let stopped = stop(&shard, committer).await;
    served.and(stopped)
}

/// Makes the start durable, serves until told to stop, and ends the background work.
async fn serve(
    shard: &Rc<Shard>,
    mut opening: Opening,
    listen: Option<SocketAddr>,
    ready: &Sender<ShardId>,
) -> Result<()> {
    settle(shard, &mut opening.taken).await?;
    tell(ready, shard.id).await?;
    // Until every shard has come so far a crash goes back to what was there before, so nothing new
    // may be taken in.
    let first = match opening.messages.recv().await {
        None | Some(ShardMessage::Stop) => return Ok(()),
        // A shard that was told to serve a moment earlier may already have something to say.
        Some(first) => first,
    };
    let bind = |at| Listener::bind(at).with_context(|| format!("cannot listen on {at}"));
    let listener = listen.map(bind).transpose()?;
    let maintenance = executor::spawn(
        Queue::Background,
        maintenance::run(Rc::clone(shard), opening.taken, opening.old_segments),
    );
    if let Some(listener) = listener {
        let accept = listener::accept_loop(Rc::clone(shard), listener);
        shard.tasks.spawn(Queue::Network, accept);
    }
    let told = tell(ready, shard.id).await;
    if told.is_ok() {
        serve_messages(shard, first, &opening.messages).await;
    }
    info!(shard = shard.id.get(), "stopping");
    shard.begin_stop();
    // Connections among them: their clients see them closed instead of waiting for a greeting.
    opening.messages.close();
    if clock::timeout(DRAIN_TIMEOUT, maintenance).await.is_err() {
        warn!(
            shard = shard.id.get(),
            "background work was cut off; the next start reads more"
        );
    }
    told
}

async fn tell<T>(to: &Sender<T>, what: T) -> Result<()> {
    to.send(what).await.ok().context("the start was given up")
}

/// Reads back the journals that this shard looks after.
async fn scan(boot: &ShardBoot, agent: &Rc<FileAgent>) -> Result<(JournalTail, ScannedFrames)> {
    let own = JournalId::new(boot.id.get());
    let mut tail = JournalTail::default();
    let mut found = ScannedFrames::default();
    for journal in boot.plan.journals_to_scan(boot.id) {
        let dir = journal_dir(&boot.journals, journal);
        let start = boot.plan.scan_from(journal);
        let scanned = recovery::scan(agent, &dir, journal, start, &mut found)
            .await
            .with_context(|| format!("cannot read journal {journal}"))?;
        boot.metrics.scan_bytes.add(scanned.bytes);
        if journal == own {
            tail = scanned.tail;
        } else if let Some(previous) = scanned.tail.previous {
            // What is served from here on must be on stable storage; nobody opens this one again.
            let last = LogFile::open(segment_path(&dir, previous.segment), true).await?;
            last.flush().await?;
        }
    }
    Ok((tail, found))
}

/// What a shard that is built starts with.
struct Opening {
    messages: Receiver<ShardMessage>,
    taken: Taken,
    /// Segments of other shards that it may have a claim on.
    old_segments: Vec<SegmentKey>,
}

async fn build(
    boot: ShardBoot,
    mut input: ShardInput,
    tail: JournalTail,
    agent: Rc<FileAgent>,
) -> Result<(Rc<Shard>, Opening)> {
    let mut log = open_chains(&boot, std::mem::take(&mut input.sections))?;
    let moved = only_moved(&input.moved, &input.frames);
    let presumed = fold(&mut log, &boot, &input, &moved)?;
    let old = OldSegments::list(&boot, &agent).await?;
    let index = ShardIndex::new(old.elsewhere);
    let own = JournalId::new(boot.id.get());
    rebuild_index(&index, &log, &boot.plan, &input.frames, moved);
    index.covered.set(boot.plan.index_covered(own));
    let runs = Runs::new(input.runs);
    let pins = Pins::new(runs.segments().clone());
    *index.runs.borrow_mut() = runs;

    let (least, most) = boot.segment_bytes;
    let config = JournalConfig {
        id: own,
        dir: journal_dir(&boot.journals, own),
        store: boot.node.store_uuid,
        segment_bytes_min: least,
        segment_bytes_max: most,
        space_bytes: boot.space_bytes,
        prepared_target: RESERVED_SEGMENTS + 1,
    };
    let metrics = Arc::clone(&boot.metrics);
    let journal = Journal::open(config, tail, Rc::clone(&agent), Arc::clone(&metrics)).await?;
    let cache = Rc::new(RefCell::new(BlockCache::new(boot.cache_bytes)));
    let files = SegmentFiles::new(boot.journals.clone());
    let probe = recovery::ledger_path(journal.dir());
    let checkpoint = boot.plan.checkpoints.get(&own).and_then(Option::as_ref);
    let taken = Taken {
        sequence: checkpoint.map_or(0, |checkpoint| checkpoint.sequence),
        scan_from: checkpoint
            .map(|checkpoint| checkpoint.scan_from)
            .unwrap_or_default(),
        at_us: clock::now_us(),
        ..Taken::default()
    };
    let (sends_memory, cold_memory) = fetch_memory(boot.cache_bytes);
    let shard = Rc::new(Shard {
        id: boot.id,
        node: boot.node,
        log: RefCell::new(log),
        index,
        reader: BlockReader::new(files, probe, Rc::clone(&cache), Arc::clone(&metrics)),
        cache,
        noted_to: Cell::new(journal.flushed()),
        first_segment: journal.active_segment(),
        journal,
        committer: Committer::default(),
        metadata: RefCell::new(boot.plan.metadata.clone()),
        metrics,
        progress: boot.progress,
        tasks: TaskTracker::new(),
        control: boot.control,
        mesh: boot.mesh,
        agent,
        dropped: RefCell::default(),
        pins: RefCell::new(pins),
        cleaner: Cleaner::new(boot.space_bytes),
        compaction: Compaction::new(boot.compaction),
        claims: RefCell::new(old.claims),
        recovery_start: Cell::new(JournalPos::default()),
        group_done: Notify::new(),
        maintenance: Notify::new(),
        layout_generation: boot.plan.layout.generation,
        settled: boot.plan.settled && !presumed,
        old_segments: RefCell::new(old.unwritten),
        producer_ids: RefCell::new(0..0),
        receiving: Rc::default(),
        greeting: Cell::new(0),
        sends_memory,
        cold_memory,
        watchers: RefCell::default(),
        stalled: RefCell::default(),
        connections: RefCell::default(),
        next_connection: Cell::new(1),
        stopping: Cell::new(false),
        stop: Notify::new(),
    });
    let topics: Vec<TopicId> = shard
        .metadata
        .borrow()
        .topics()
        .map(|topic| topic.id)
        .collect();
    for topic in topics {
        shard.open_partitions(topic);
    }
    let opening = Opening {
        messages: boot.messages,
        taken,
        old_segments: old.foreign,
    };
    Ok((shard, opening))
}

/// What sends may pin, and what reads of old data may hold.
fn fetch_memory(cache_bytes: usize) -> (Rc<Budget>, Rc<Budget>) {
    let half = cache_bytes / FETCH_PIN_CACHE_DIVISOR / 2;
    // One at a time exceeds it by a response, and then both together have their share.
    let cold = half.saturating_sub(FETCH_RESPONSE_BYTES_MAX);
    (Budget::new(half), Budget::new(cold))
}

/// A log with the chains of these sections, in the epochs that the metadata says.
fn open_chains(boot: &ShardBoot, sections: Vec<ChainSection>) -> Result<ShardLog> {
    let mut log = ShardLog::default();
    for section in sections {
        let chain = boot.plan.metadata.chain(section.chain);
        let info =
            chain.with_context(|| format!("chain {} is not in the metadata", section.chain))?;
        log.open_chain(section, info.epoch)?;
    }
    Ok(log)
}

/// Folds what was read back, and gives whether anything was presumed lost.
fn fold(
    log: &mut ShardLog,
    boot: &ShardBoot,
    input: &ShardInput,
    moved: &[MovedBatch],
) -> Result<bool> {
    let folded_to = boot::folded_to(log);
    for frame in &input.frames {
        let folded = log.fold(frame).with_context(|| {
            format!(
                "chain {} does not fit together at {}",
                frame.chain, frame.block
            )
        })?;
        if let Folded::Applied {
            lost: Some((first, count)),
            ..
        } = folded
        {
            warn!(
                chain = frame.chain.get(),
                first = first.get(),
                count,
                "frames are lost"
            );
        }
    }
    for (tp, extent) in moved {
        if let Some(chain) = boot.plan.metadata.chain_of(*tp) {
            log.restore_moved(*tp, chain, extent)?;
        }
    }
    drop_unknown_topics(log, &boot.plan);
    let found = (&input.frames[..], &input.unknown[..]);
    Ok(boot::account_for_losses(
        log, &boot.plan, boot.id, &folded_to, found,
    ))
}

fn drop_unknown_topics(log: &mut ShardLog, plan: &BootPlan) {
    let gone: BTreeSet<TopicId> = log
        .partitions()
        .map(|partition| partition.tp.topic)
        .filter(|topic| plan.metadata.topic(*topic).is_none())
        .collect();
    for topic in gone {
        log.drop_topic(topic);
    }
}

/// Puts the extents that no run covers into memory.
fn rebuild_index(
    index: &ShardIndex,
    log: &ShardLog,
    plan: &BootPlan,
    frames: &[FrameSummary],
    mut moved: Vec<MovedBatch>,
) {
    let is_covered =
        |frame: &&FrameSummary| frame.block.start() < plan.index_covered(frame.block.journal);
    let uncovered = frames.iter().filter(|frame| !is_covered(frame));
    let of_frames = uncovered.flat_map(|frame| frame.rows.iter().copied());
    let is_live = |(tp, extent): &MovedBatch| {
        let partition = log.partition(*tp);
        partition.is_some_and(|partition| extent.end_offset > partition.log_start)
    };
    let insert = |(tp, extent)| index.insert(tp, extent);
    if moved.is_empty() {
        return of_frames.filter(is_live).for_each(insert);
    }
    // Memory takes the extents of a partition in the order of their offsets.
    moved.extend(of_frames);
    moved.sort_by_key(|(tp, extent)| (*tp, extent.base_offset));
    moved.into_iter().filter(is_live).for_each(insert);
}

/// Segments that exist at start.
struct OldSegments {
    /// Those that other shards look after: this shard may have a claim on them.
    foreign: Vec<SegmentKey>,
    /// Those of journals that nobody writes any more and that this shard looks after.
    unwritten: Vec<SegmentKey>,
    /// Those of all journals but its own.
    elsewhere: BTreeSet<SegmentKey>,
    /// What others may want of those that this shard looks after.
    claims: Claims,
}

impl OldSegments {
    async fn list(boot: &ShardBoot, agent: &FileAgent) -> Result<OldSegments> {
        let shards = boot.node.shards;
        let (mut kept, mut foreign) = (Vec::new(), Vec::new());
        for journal in boot.plan.checkpoints.keys() {
            let dir = journal_dir(&boot.journals, *journal);
            agent.create_dir(&dir).await?;
            let listed = agent.list(&dir).await?;
            let segments = listed.iter().filter_map(|entry| segment_of(&entry.name));
            let keys = segments.map(|segment: SegmentSeq| (*journal, segment));
            if journal.get() % shards == boot.id.get() {
                kept.extend(keys);
            } else {
                foreign.extend(keys);
            }
        }
        let others: BTreeSet<ShardId> = (0..shards)
            .map(ShardId::new)
            .filter(|shard| *shard != boot.id)
            .collect();
        // Were there more shards again, a retired journal would be read from its checkpoint on, or
        // from the one before if that is damaged then, and what comes after would be linked to its
        // last segment: that much of it stays.
        let is_read_again = |key: &SegmentKey| {
            let from = boot.plan.kept_from.get(&key.0);
            from.is_none_or(|from| key.1 >= from.segment)
        };
        let unwritten = kept
            .iter()
            .copied()
            .filter(|key| key.0.get() >= shards && !is_read_again(key))
            .collect();
        let own = JournalId::new(boot.id.get());
        let all = kept.iter().chain(&foreign).copied();
        let elsewhere = all.filter(|key| key.0 != own).collect();
        Ok(OldSegments {
            foreign,
            unwritten,
            elsewhere,
            claims: Claims::new(kept.into_iter(), &others),
        })
    }
}

/// Makes the epochs of this start durable and, after a new deal of chains, the whole state, so that
/// older journals need not be read again.
async fn settle(shard: &Rc<Shard>, taken: &mut Taken) -> Result<()> {
    let chains: Vec<ChainId> = shard.log.borrow().chains().collect();
    let promises = chains.into_iter().filter_map(|chain| {
        let epoch = shard.log.borrow().epoch(chain)?;
        let body = bytes::Bytes::new();
        Some(shard.append_record(RecordKind::Promise, (chain, epoch), body))
    });
    try_join_all(promises).await?;
    if !shard.settled {
        shard.merge_inherited().await?;
        shard.write_run().await?;
        // Two, because one can be damaged: then this deal would not be complete any more, and of
        // the one before it the other shards may have no checkpoint left.
        for _ in 0..2 {
            let taken = shard.checkpoint(taken).await;
            taken.context("cannot write the first checkpoint")?;
        }
    }
    Ok(())
}

async fn serve_messages(shard: &Rc<Shard>, first: ShardMessage, messages: &Receiver<ShardMessage>) {
    let mut next = Some(first);
    while let Some(message) = next {
        match message {
            ShardMessage::Adopt {
                socket,
                hello,
                correlation,
            } => {
                if let Some(conn) = adopt(socket) {
                    let shard_in_task = Rc::clone(shard);
                    shard.tasks.spawn(Queue::Network, async move {
                        listener::welcome(&shard_in_task, conn, hello, correlation).await;
                    });
                }
            }
            ShardMessage::Accept { socket } => {
                if let Some(conn) = adopt(socket) {
                    listener::accepted(shard, conn);
                }
            }
            ShardMessage::Apply { command, applied } => {
                shard.apply_command(&command);
                let _ = applied.send(()).await;
            }
            ShardMessage::Released { from, segments } => {
                shard.claims.borrow_mut().release(from, &segments);
            }
            ShardMessage::Serve => {}
            ShardMessage::Stop => return,
            #[cfg(test)]
            ShardMessage::Test(act) => act(),
        }
        next = messages.recv().await;
    }
}

/// A connection from elsewhere; none, and its client sees it closed, if there is no room for it.
fn adopt(socket: Socket) -> Option<Conn> {
    let adopted = Conn::from_socket(socket);
    adopted
        .inspect_err(|error| warn!(%error, "cannot take a connection over"))
        .ok()
}

/// Commits what was admitted, answers it, and ends everything, also after a start that failed.
async fn stop(shard: &Rc<Shard>, committer: Task<()>) -> Result<()> {
    shard.begin_stop();
    shard.stop_committing();
    if clock::timeout(DRAIN_TIMEOUT, committer).await.is_err() {
        warn!(
            shard = shard.id.get(),
            "some requests were not finished in time"
        );
    }
    shard.drain_outboxes().await;
    shard.close_connections();
    if clock::timeout(DRAIN_TIMEOUT, shard.tasks.wait())
        .await
        .is_err()
    {
        warn!(
            shard = shard.id.get(),
            running = shard.tasks.running(),
            "tasks were cut off"
        );
    }
    shard.journal.close().await?;
    Ok(())
}

impl Shard {
    fn begin_stop(&self) {
        self.stopping.set(true);
        self.stop.notify();
        self.maintenance.notify();
    }

    /// Waits until clients have taken what is queued for them, for a moment at most.
    async fn drain_outboxes(&self) {
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        let drained = async {
            for connection in connections {
                connection.drained_to(0).await;
            }
        };
        let _ = clock::timeout(std::time::Duration::from_secs(1), drained).await;
    }

    fn close_connections(&self) {
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            connection.close();
        }
    }
}
