//! A shard: one executor pinned to one core, with its journal, its chains, their partitions and its
//! connections. Nothing on the data path is shared with another shard.
//!
//! This file holds the state and the small questions that its parts ask each other; each part has
//! a file of its own. Everything here runs on the shard's executor, in one thread, so the cells are
//! borrowed for a moment and never across an await.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use catena_core::block::PlacedRow;
use catena_core::entry::FrameKind;
use catena_core::ids::{BlockLocation, JournalId, JournalPos, Lsn, SegmentSeq};
use catena_core::index::Extent;
use catena_core::limits::SEGMENT_HEADER_BYTES;
use catena_core::log::{DroppedPartition, ProduceRefusal, ShardLog};
use catena_core::metadata::MetadataState;
use catena_core::planted::{self, Bug};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{ChainId, Durability, NodeId, Offset, ShardId, TopicId, TopicPartition};
use catena_protocol::messages::FetchItem;
use rustc_hash::FxHashMap;
use tracing::error;

use crate::cache::BlockCache;
use crate::journal::Journal;
use crate::metrics::ShardMetrics;
use crate::runtime::channel::{Notify, Sender};
use crate::runtime::executor::{Progress, TaskTracker};
use crate::runtime::file::FileAgent;

pub mod access;
pub mod assembler;
pub mod budget;
pub mod checkpointer;
pub mod claims;
pub mod cleaner;
pub mod committer;
pub mod compaction;
pub mod connection;
pub mod fetch;
pub mod files;
pub mod inbox;
pub mod index;
pub mod listener;
pub mod maintenance;
pub mod message;
pub mod offsets;
pub mod outbox;
pub mod pins;
pub mod produce;
pub mod reader;
pub mod requests;
pub mod response;
pub mod retention;
pub mod start;
pub mod topics;

use budget::Budget;
use claims::Claims;
use cleaner::Cleaner;
use committer::Committer;
use compaction::Compaction;
use connection::Connection;
use fetch::FetchSession;
use inbox::Receiving;
use index::ShardIndex;
use message::{ControlRequest, ShardMessage};
use pins::Pins;
use reader::{BlockReader, ReadError};

/// What every shard of a node knows of the node.
#[derive(Debug, Clone)]
pub struct NodeIdentity {
    /// The store's identity.
    pub store_uuid: [u8; 16],
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// This node.
    pub node: NodeId,
    /// Host that clients are told to connect to.
    pub advertised_host: String,
    /// Port that clients are told to connect to.
    pub advertised_port: u16,
    /// Number of shards.
    pub shards: u16,
}

/// One shard.
pub struct Shard {
    /// Its number.
    pub id: ShardId,
    /// The node it belongs to.
    pub node: Arc<NodeIdentity>,
    /// Chains and partitions.
    pub log: RefCell<ShardLog>,
    /// Where batches lie.
    pub index: ShardIndex,
    /// Blocks in memory.
    pub cache: Rc<RefCell<BlockCache>>,
    /// Reads blocks that are not.
    pub reader: Rc<BlockReader>,
    /// The journal it writes.
    pub journal: Rc<Journal>,
    /// Group commit.
    pub committer: Committer,
    /// Topics, as of the last command that the control plane sent.
    pub metadata: RefCell<MetadataState>,
    /// Counters.
    pub metrics: Arc<ShardMetrics>,
    /// Beats of its executor.
    pub progress: Arc<Progress>,
    /// Tasks that a stop waits for.
    pub tasks: TaskTracker,
    /// Where commands on topics go.
    pub control: Sender<ControlRequest>,
    /// The other shards, by number; the own place is there too.
    pub mesh: Vec<Sender<ShardMessage>>,
    /// Blocking file work.
    pub agent: Rc<FileAgent>,
    /// Dropped partitions whose space is still counted as wanted.
    pub dropped: RefCell<BTreeMap<TopicPartition, DroppedPartition>>,
    /// Segments that the kept checkpoints name.
    pub pins: RefCell<Pins>,
    /// Empties segments that hold little.
    pub cleaner: Cleaner,
    /// Drops records of compacted topics that newer ones supersede.
    pub compaction: Compaction,
    /// Segments that other shards may still read.
    pub claims: RefCell<Claims>,
    /// Everything of the journal before this is in the log's state and the index in memory.
    pub noted_to: Cell<JournalPos>,
    /// Where recovery would start: the newest durable checkpoint's position.
    pub recovery_start: Cell<JournalPos>,
    /// The segment that this start began with.
    pub first_segment: SegmentSeq,
    /// Notified after each group.
    pub group_done: Notify,
    /// Calls for background work.
    pub maintenance: Notify,
    /// Generation of the deal of chains to shards.
    pub layout_generation: u64,
    /// Whether every shard had a checkpoint of this layout when the broker started.
    pub settled: bool,
    /// Segments of journals of an earlier layout that this shard looks after.
    pub old_segments: RefCell<Vec<index::SegmentKey>>,
    /// Producer ids that this shard may give out.
    pub producer_ids: RefCell<std::ops::Range<u64>>,
    /// What its connections receive into.
    pub receiving: Rc<Receiving>,
    /// Connections that have not said `Hello` yet.
    pub greeting: Cell<usize>,
    /// What outboxes pin.
    sends_memory: Rc<Budget>,
    /// What is read of old data for responses that are being put together.
    cold_memory: Rc<Budget>,
    watchers: RefCell<FxHashMap<TopicPartition, Vec<Rc<FetchSession>>>>,
    stalled: RefCell<Vec<Rc<Connection>>>,
    connections: RefCell<FxHashMap<u64, Rc<Connection>>>,
    next_connection: Cell<u64>,
    stopping: Cell<bool>,
    stop: Notify,
}

impl Shard {
    /// Why writes are refused altogether, if they are.
    pub fn refuse_writes(&self) -> Option<(ErrorCode, u64)> {
        if self.stopping.get() {
            Some((ErrorCode::ShuttingDown, 0))
        } else if self.journal.is_latched() {
            Some((ErrorCode::StoreFailed, 0))
        } else {
            None
        }
    }

    /// Why `bytes` more are refused for want of space, if they are.
    pub fn refuse_for_space(&self, bytes: usize) -> Option<(ErrorCode, u64)> {
        let pending = self.committer.assembler.borrow().pending_bytes();
        (!self.journal.has_room(pending, bytes)).then_some((ErrorCode::StorageFull, 0))
    }

    /// What a client is told of a partition that is not on this shard.
    pub fn not_here(&self, tp: TopicPartition) -> (ErrorCode, u64) {
        let metadata = self.metadata.borrow();
        match metadata.chain_of(tp).map(|chain| self.owner_of(chain)) {
            Some(owner) if owner != self.id => {
                let node = u64::from(self.node.node.get());
                (ErrorCode::NotOwner, node << 32 | u64::from(owner.get()))
            }
            None if metadata.topic(tp.topic).is_none() => (ErrorCode::TopicNotFound, 0),
            Some(_) | None => (ErrorCode::UnknownPartition, 0),
        }
    }

    /// The shard that owns a chain.
    pub fn owner_of(&self, chain: ChainId) -> ShardId {
        owner_of(chain, self.node.shards)
    }

    /// The weakest class that a topic takes, and whether each of its records needs a key.
    pub fn produce_rules(&self, topic: TopicId) -> Option<(Durability, bool)> {
        let metadata = self.metadata.borrow();
        let config = &metadata.topic(topic)?.config;
        Some((config.min_durability, config.cleanup.compacts()))
    }

    /// What a client is told of a refused batch.
    pub fn explain(&self, tp: TopicPartition, refusal: &ProduceRefusal) -> (ErrorCode, u64) {
        match refusal {
            ProduceRefusal::UnknownPartition { .. } => self.not_here(tp),
            other => other.answer(),
        }
    }

    /// Whether a topic exists. The partitions of one that was deleted are here a little longer.
    pub fn has_topic(&self, topic: TopicId) -> bool {
        self.metadata.borrow().topic(topic).is_some()
    }

    /// The item of a fetch response for a partition at an offset; an error item if the session
    /// cannot read there.
    pub fn partition_item(&self, tp: TopicPartition, from: Offset) -> Result<FetchItem, FetchItem> {
        let mut item = FetchItem {
            topic: tp.topic,
            partition: tp.partition,
            fetch_offset: from,
            ..FetchItem::default()
        };
        let log = self.log.borrow();
        let Some(partition) = log.partition(tp).filter(|_| self.has_topic(tp.topic)) else {
            let (error, detail) = self.not_here(tp);
            item.error = error;
            item.high_watermark = Offset::new(detail);
            return Err(item);
        };
        item.high_watermark = partition.high_watermark;
        item.log_start = partition.log_start;
        if from < partition.log_start || from > partition.high_watermark {
            item.error = ErrorCode::OffsetOutOfRange;
            return Err(item);
        }
        Ok(item)
    }

    /// Tells a session of a partition's commits from now on.
    pub fn watch(&self, tp: TopicPartition, session: &Rc<FetchSession>) {
        let mut watchers = self.watchers.borrow_mut();
        let sessions = watchers.entry(tp).or_default();
        if !sessions.iter().any(|known| Rc::ptr_eq(known, session)) {
            sessions.push(Rc::clone(session));
        }
    }

    /// Tells it no more.
    pub fn unwatch(&self, tp: TopicPartition, session: &Rc<FetchSession>) {
        let mut watchers = self.watchers.borrow_mut();
        if let Some(sessions) = watchers.get_mut(&tp) {
            sessions.retain(|known| !Rc::ptr_eq(known, session));
            if sessions.is_empty() {
                watchers.remove(&tp);
            }
        }
    }

    /// Applies what a durable frame holds: high watermarks, index, waiting readers.
    pub fn apply_committed(self: &Rc<Self>, block: BlockLocation, frame: &assembler::FilledFrame) {
        let (chain, lsn) = (frame.chain, frame.lsn);
        match &frame.control {
            None => self.apply_batches(block, chain, lsn, &frame.placed.rows),
            Some(control) => self.apply_control(chain, lsn, control.kind, &control.body),
        }
    }

    fn apply_batches(&self, block: BlockLocation, chain: ChainId, lsn: Lsn, rows: &[PlacedRow]) {
        self.log.borrow_mut().committed(chain, lsn, rows);
        let watchers = self.watchers.borrow();
        for row in rows {
            let extent = Extent {
                base_offset: row.base_offset,
                end_offset: row.end_offset,
                block,
                offset_in_block: row.offset_in_block,
                bytes: row.bytes,
                max_timestamp_ms: row.max_timestamp_ms,
            };
            let starts_segment = block.offset == SEGMENT_HEADER_BYTES;
            if !(starts_segment && planted::is(Bug::IndexOffByOneAtRoll)) {
                self.index.insert(row.tp, extent);
            }
            if let Some(sessions) = watchers.get(&row.tp) {
                for session in sessions {
                    session.mark_ready(row.tp);
                }
            }
        }
    }

    fn apply_control(&self, chain: ChainId, lsn: Lsn, kind: FrameKind, body: &[u8]) {
        let applied = self
            .log
            .borrow_mut()
            .committed_control(chain, lsn, kind, body);
        let dropped = applied.expect("a control frame that this shard built is well formed");
        if !dropped.is_empty() {
            let watchers = self.watchers.borrow();
            for partition in &dropped {
                let waiting = watchers.get(&partition.tp).into_iter().flatten();
                waiting.for_each(|session| session.mark_ready(partition.tp));
            }
            let by_partition = dropped
                .into_iter()
                .map(|partition| (partition.tp, partition));
            self.dropped.borrow_mut().extend(by_partition);
            self.maintenance.notify();
        }
    }

    /// Notes that a connection's peer takes nothing.
    pub fn note_stalled(&self, connection: &Rc<Connection>) {
        let mut stalled = self.stalled.borrow_mut();
        if !stalled.iter().any(|known| Rc::ptr_eq(known, connection)) {
            stalled.push(Rc::clone(connection));
        }
        drop(stalled);
        self.relieve_pins();
    }

    /// Takes blocks back from stalled connections while more than half of the memory for sends is
    /// used: the rest is for those who read.
    pub fn relieve_pins(&self) {
        if self.sends_memory.is_crowded() {
            let mut stalled = self.stalled.borrow_mut();
            stalled.retain(|connection| connection.is_stalled() && !connection.is_closed());
            for connection in stalled.iter() {
                // Those that were parked before stay listed: more may have been queued for them.
                if !self.sends_memory.is_crowded() {
                    break;
                }
                connection.park();
            }
        }
        self.publish_pinned();
    }

    /// Says in the metrics how much fetches pin.
    pub fn publish_pinned(&self) {
        let pinned = self.sends_memory.used_bytes() + self.cold_memory.used_bytes();
        let pinned = u64::try_from(pinned).expect("usize fits u64");
        self.metrics.pinned_bytes.set(pinned);
    }

    /// Logs and counts data that could not be read, with what is affected.
    pub fn report_read_error(&self, tp: TopicPartition, at: Offset, cause: &ReadError) {
        let topic = self
            .metadata
            .borrow()
            .topic(tp.topic)
            .map(|topic| topic.name.clone());
        error!(
            topic = topic.as_deref().unwrap_or("?"),
            partition = tp.partition.get(),
            offset = at.get(),
            %cause,
            "records cannot be read; the rest is served"
        );
    }

    /// Open connections, those included that have not said `Hello` yet.
    pub fn connection_count(&self) -> usize {
        self.connections.borrow().len() + self.greeting.get()
    }

    /// Takes a connection off the shard's books.
    pub fn forget_connection(&self, connection: &Rc<Connection>) {
        self.drop_pending(connection);
        self.connections.borrow_mut().remove(&connection.id);
        self.stalled
            .borrow_mut()
            .retain(|known| !Rc::ptr_eq(known, connection));
        self.metrics.connections.sub(1);
    }

    /// Whether the shard is going down.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Waits until the shard goes down.
    pub async fn stopped(&self) {
        while !self.stopping.get() {
            self.stop.notified().await;
        }
        self.stop.notify();
    }
}

impl Shard {
    /// The shard that looks after a journal: its own, or one of an earlier layout.
    pub fn keeper_of(&self, journal: JournalId) -> ShardId {
        ShardId::new(journal.get() % self.node.shards)
    }
}

/// Chains are dealt to shards in turn.
pub fn owner_of(chain: ChainId, shards: u16) -> ShardId {
    let turn = chain.get() % u32::from(shards);
    ShardId::new(u16::try_from(turn).expect("below a u16 count"))
}
