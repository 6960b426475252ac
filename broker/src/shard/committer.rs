//! The group commit of one shard: admission, filling of blocks, the journal, release of acks.
//!
//! Requests wait in the admission queue, which is fair between connections. They are admitted
//! (offsets assigned) and gathered into blocks as long as the next group has room, also while a
//! group is being written, so that the disk does not wait for the processor. When the group is on
//! stable storage, high watermarks move, readers wake and acks go out.
//!
//! Invariants: a durable ack is sent only after the flush of its group; when the journal fails
//! nothing is acknowledged any more. Runs on the shard's executor.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use catena_core::admission::Admission;
use catena_core::entry::{FrameKind, RecordKind};
use catena_core::group::{GroupPolicy, Start};
use catena_core::ids::BlockLocation;
use catena_core::limits::GROUP_BYTES_MAX;
use catena_core::log::ShardLog;
use catena_core::planted::{self, Bug};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{ChainEpoch, ChainId, Offset, TopicPartition};
use catena_protocol::messages::AckItem;
use tracing::error;

use super::Shard;
use super::assembler::{Assembler, FilledBlock};
use super::connection::Connection;
use super::produce::{self, Pending};
use crate::cache::{CachedBytes, Holding};
use crate::journal::{CommittedBlock, JournalError};
use crate::limits::{
    ADMITTED_AT_ONCE_MAX, ADMITTED_TOGETHER_MAX, LEDGER_IDLE, PRODUCE_PENDING_BYTES_MAX,
};
use crate::runtime::channel::{Notify, OneshotReceiver, OneshotSender, oneshot};
use crate::runtime::clock;
use crate::runtime::executor;

/// Where a journal record landed.
#[derive(Debug, Clone, Copy)]
pub struct RecordPlace {
    /// Its block.
    pub block: BlockLocation,
    /// First byte of its entry in the block.
    pub offset_in_block: u32,
    /// Length of the entry.
    pub bytes: u32,
}

/// An ack that waits for the group its batch went into.
pub struct WaitingAck {
    /// Who is told.
    pub connection: Rc<Connection>,
    /// What is told when the group is durable.
    pub ack: AckItem,
    /// Credit to give back.
    pub charged_bytes: usize,
    /// When the request arrived.
    pub arrived_us: u64,
}

/// An ack for a duplicate, which waits until its original is committed.
pub struct DuplicateAck {
    /// The partition of the original.
    pub tp: TopicPartition,
    /// The high watermark that commits the original and all that its producer sent after it.
    pub commit_offset: Offset,
    /// The ack.
    pub waiting: WaitingAck,
}

/// State of the group commit.
pub struct Committer {
    admission: RefCell<Admission<Pending>>,
    pub(super) assembler: RefCell<Assembler>,
    pub(super) waiting: RefCell<Vec<WaitingAck>>,
    pub(super) duplicates: RefCell<Vec<DuplicateAck>>,
    touched: RefCell<Vec<Rc<Connection>>>,
    records: RefCell<BTreeMap<u64, OneshotSender<RecordPlace>>>,
    frames: RefCell<BTreeMap<u64, OneshotSender<()>>>,
    next_ticket: Cell<u64>,
    requests: Cell<u32>,
    stopping: Cell<bool>,
    work: Notify,
    space: Notify,
}

impl Default for Committer {
    fn default() -> Self {
        Committer {
            admission: RefCell::new(Admission::new()),
            assembler: RefCell::default(),
            waiting: RefCell::default(),
            duplicates: RefCell::default(),
            touched: RefCell::default(),
            records: RefCell::default(),
            frames: RefCell::default(),
            next_ticket: Cell::new(0),
            requests: Cell::new(0),
            stopping: Cell::new(false),
            work: Notify::new(),
            space: Notify::new(),
        }
    }
}

impl Committer {
    fn expect_frame(&self) -> (u64, OneshotReceiver<()>) {
        let (sender, receiver) = oneshot();
        let ticket = self.next_ticket();
        self.frames.borrow_mut().insert(ticket, sender);
        (ticket, receiver)
    }

    fn expect_record(&self) -> (u64, OneshotReceiver<RecordPlace>) {
        let (sender, receiver) = oneshot();
        let ticket = self.next_ticket();
        self.records.borrow_mut().insert(ticket, sender);
        (ticket, receiver)
    }

    fn next_ticket(&self) -> u64 {
        self.requests.set(self.requests.get() + 1);
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        ticket
    }
}

impl Shard {
    /// Queues produce work of a connection; [`Shard::absorb`] admits it.
    pub fn queue(&self, connection: &Connection, pending: Pending) {
        let bytes = pending.bytes();
        self.committer
            .admission
            .borrow_mut()
            .push(connection.id, bytes, pending);
    }

    /// Appends a control frame to a chain and returns when it is committed.
    pub async fn append_control(
        self: &Rc<Self>,
        chain: ChainId,
        kind: FrameKind,
        body: Bytes,
    ) -> Result<(), JournalError> {
        let (ticket, receiver) = self.committer.expect_frame();
        self.assemble(|assembler, log| assembler.add_control(ticket, chain, kind, body, log));
        self.committer.work.notify();
        self.outcome(receiver).await
    }

    /// Appends a record that is local to this journal; returns its place when it is durable.
    pub async fn append_record(
        self: &Rc<Self>,
        kind: RecordKind,
        chain: (ChainId, ChainEpoch),
        body: Bytes,
    ) -> Result<RecordPlace, JournalError> {
        let (ticket, receiver) = self.committer.expect_record();
        self.assemble(|assembler, log| assembler.add_record(ticket, kind, chain, body, log));
        self.committer.work.notify();
        self.outcome(receiver).await
    }

    /// Appends batches that the cleaner moves; returns their place when it is durable.
    pub async fn append_relocation(
        self: &Rc<Self>,
        row_count: u16,
        body: Bytes,
    ) -> Result<RecordPlace, JournalError> {
        let (ticket, receiver) = self.committer.expect_record();
        self.assemble(|assembler, log| assembler.add_relocation(ticket, row_count, body, log));
        self.committer.work.notify();
        self.outcome(receiver).await
    }

    fn assemble(&self, add: impl FnOnce(&mut Assembler, &mut ShardLog)) {
        add(
            &mut self.committer.assembler.borrow_mut(),
            &mut self.log.borrow_mut(),
        );
    }

    async fn outcome<T>(&self, receiver: OneshotReceiver<T>) -> Result<T, JournalError> {
        receiver.await.ok_or_else(|| JournalError::Latched {
            journal: self.journal.id(),
            reason: self
                .journal
                .failure()
                .unwrap_or_else(|| "the shard is stopping".to_owned()),
        })
    }

    /// Bytes that wait for admission or for their group.
    pub fn pending_produce_bytes(&self) -> usize {
        self.committer.admission.borrow().bytes()
            + self.committer.assembler.borrow().pending_bytes()
    }

    /// Waits until the shard takes more produce bytes.
    pub async fn produce_room(&self) {
        while self.pending_produce_bytes() > PRODUCE_PENDING_BYTES_MAX
            && !self.committer.stopping.get()
        {
            self.committer.space.notified().await;
            // One wake-up lets one waiter through; each lets the next one look.
            if self.committer.stopping.get()
                || self.pending_produce_bytes() <= PRODUCE_PENDING_BYTES_MAX
            {
                self.committer.space.notify();
            }
        }
    }

    /// Admits what waits, or leaves it to be admitted together with that of the request behind it,
    /// if that is here already.
    pub fn absorb_soon(self: &Rc<Self>, next_is_here: bool) {
        if next_is_here && self.committer.admission.borrow().len() < ADMITTED_TOGETHER_MAX {
            // Should the next one not be for the log, or its connection have to wait. Refusals do
            // not: nothing else may come that sends them.
            self.flush_acks();
            self.committer.work.notify();
        } else {
            self.absorb();
        }
    }

    /// Admits what waits, as long as the next group has room, and not more than may be done in one
    /// go; the commit loop sees to the rest. Returns the bytes that it took from the queue.
    pub fn absorb(self: &Rc<Self>) -> usize {
        let mut taken_bytes = 0;
        for _ in 0..ADMITTED_AT_ONCE_MAX / ADMITTED_TOGETHER_MAX {
            let together = self.take_pending();
            if together.is_empty() {
                break;
            }
            let sources = together.iter().flat_map(Pending::sources);
            self.log.borrow().fetch_ahead(sources);
            let requests = &self.committer.requests;
            let taken = u32::try_from(together.len()).expect("a small number");
            requests.set(requests.get() + taken);
            for pending in together {
                taken_bytes += pending.bytes();
                produce::admit(self, pending);
            }
        }
        self.flush_acks();
        if self.committer.assembler.borrow().pending_bytes() == 0 {
            // All were refused, or had been written before: there is no group.
            self.committer.requests.set(0);
        }
        if self.pending_produce_bytes() > 0 {
            self.committer.work.notify();
        }
        taken_bytes
    }

    /// Takes some of what waits out of the queue, as far as the next group has room.
    fn take_pending(&self) -> Vec<Pending> {
        let mut group_bytes = self.committer.assembler.borrow().pending_bytes();
        let mut admission = self.committer.admission.borrow_mut();
        let next = || {
            if group_bytes >= GROUP_BYTES_MAX {
                return None;
            }
            let (_, pending) = admission.pop()?;
            group_bytes += pending.bytes();
            Some(pending)
        };
        std::iter::from_fn(next)
            .take(ADMITTED_TOGETHER_MAX)
            .collect()
    }

    /// Admits what waits now, with turns for other tasks in between. What comes meanwhile is left
    /// to them, or a group could be put off for as long as producers send.
    async fn absorb_queued(self: &Rc<Self>) {
        let mut left_bytes = self.committer.admission.borrow().bytes();
        while left_bytes > 0 {
            let taken_bytes = self.absorb();
            if taken_bytes == 0 {
                break;
            }
            left_bytes = left_bytes.saturating_sub(taken_bytes);
            executor::yield_if_needed().await;
        }
    }

    /// Collects an ack into its connection's next ack frame.
    pub fn ack(&self, connection: &Rc<Connection>, ack: AckItem) {
        if connection.push_ack(ack) {
            self.committer
                .touched
                .borrow_mut()
                .push(Rc::clone(connection));
        }
    }

    /// Sends the ack frames of all connections that have any.
    pub fn flush_acks(&self) {
        for connection in self.committer.touched.borrow_mut().drain(..) {
            connection.flush_acks();
        }
    }

    /// Forgets what a closed connection still has waiting for admission.
    pub fn drop_pending(&self, connection: &Connection) {
        self.committer
            .admission
            .borrow_mut()
            .remove_source(connection.id);
    }

    /// Runs the group commit until the shard stops and nothing waits.
    pub async fn commit_loop(self: Rc<Self>) {
        let mut policy = GroupPolicy::new();
        loop {
            self.absorb_queued().await;
            let bytes = self.committer.assembler.borrow().pending_bytes();
            match policy.decide(clock::now_us(), self.committer.requests.get(), bytes, false) {
                Start::Now => {}
                Start::At(at_us) => clock::sleep_until(at_us).await,
                Start::Wait => {
                    if self.committer.stopping.get() {
                        break;
                    }
                    self.idle().await;
                    continue;
                }
            }
            self.absorb_queued().await;
            if self.commit_group(&mut policy).await.is_err() {
                self.refuse_everything();
            }
            executor::yield_if_needed().await;
        }
    }

    /// Lets the commit loop end once nothing waits.
    pub fn stop_committing(&self) {
        self.committer.stopping.set(true);
        self.committer.work.notify();
        self.committer.space.notify();
    }

    async fn idle(&self) {
        let work = &self.committer.work;
        if !self.journal.ledger_is_behind() || self.journal.failure().is_some() {
            work.notified().await;
        } else if clock::timeout(LEDGER_IDLE, work.notified()).await.is_err() {
            // A failure latches the journal, and the next group reports it.
            let _ = self.journal.note_idle().await;
        }
    }

    async fn commit_group(self: &Rc<Self>, policy: &mut GroupPolicy) -> Result<(), JournalError> {
        let started_us = clock::now_us();
        let filled = {
            let mut log = self.log.borrow_mut();
            self.committer.assembler.borrow_mut().take(&mut log)
        };
        let mut acks = std::mem::take(&mut *self.committer.waiting.borrow_mut());
        let requests = self.committer.requests.replace(0);
        let bytes = filled.iter().map(|f| f.block.used).sum();
        policy.on_group_start(started_us, requests, bytes);
        self.metrics.group_requests.record(u64::from(requests));
        self.committer.space.notify();
        let (blocks, contents): (Vec<_>, Vec<_>) = filled
            .into_iter()
            .map(
                |FilledBlock {
                     block,
                     frames,
                     records,
                 }| (block, (frames, records)),
            )
            .unzip();
        if planted::is(Bug::AckBeforeFlush) {
            self.release_acks(std::mem::take(&mut acks));
        }
        // Meanwhile the readers admit what arrives and fill the blocks of the next group.
        let written = self.journal.commit(blocks).await;
        policy.on_group_end(clock::now_us());
        match written {
            Ok(committed) => {
                for (block, (frames, records)) in committed.into_iter().zip(contents) {
                    self.note_committed(&block, frames, records);
                }
                if planted::is(Bug::HighWatermarkOffByOne) {
                    self.journal.flush_late().await?;
                }
                self.noted_to.set(self.journal.flushed());
                self.release_acks(acks);
                self.group_done.notify();
                self.call_maintenance();
                Ok(())
            }
            Err(failure) => {
                for waiting in acks {
                    self.fail(waiting);
                }
                Err(failure)
            }
        }
    }

    fn note_committed(
        self: &Rc<Self>,
        block: &CommittedBlock,
        frames: Vec<super::assembler::FilledFrame>,
        records: Vec<super::assembler::FilledRecord>,
    ) {
        let at = block.location;
        let is_old = frames.is_empty() && records.iter().all(|record| record.is_relocation);
        if !is_old {
            self.cache.borrow_mut().insert(
                at.journal,
                at.segment,
                at.offset,
                CachedBytes {
                    buffer: Rc::clone(&block.buffer),
                    start: 0,
                    bytes: usize::try_from(at.bytes).expect("u32 fits usize"),
                },
                Holding::Blocks,
            );
        }
        for frame in frames {
            self.apply_committed(at, &frame);
            let ticket = frame.control.as_ref().map(|control| control.ticket);
            let waiting = ticket.and_then(|t| self.committer.frames.borrow_mut().remove(&t));
            if let Some(sender) = waiting {
                let _ = sender.send(());
            }
        }
        for record in records {
            let sender = self.committer.records.borrow_mut().remove(&record.ticket);
            if let Some(sender) = sender {
                let place = RecordPlace {
                    block: at,
                    offset_in_block: record.offset_in_block,
                    bytes: record.bytes,
                };
                let _ = sender.send(place);
            }
        }
    }

    fn release_acks(&self, acks: Vec<WaitingAck>) {
        let now_us = clock::now_us();
        for waiting in acks {
            self.metrics
                .commit_us
                .record(now_us.saturating_sub(waiting.arrived_us));
            self.release(&waiting);
        }
        let waiting = std::mem::take(&mut *self.committer.duplicates.borrow_mut());
        for duplicate in waiting {
            self.acknowledge_duplicate(duplicate);
        }
        self.flush_acks();
    }

    /// Acknowledges a duplicate whose original is committed, or lets it wait for that.
    pub fn acknowledge_duplicate(&self, duplicate: DuplicateAck) {
        if self
            .log
            .borrow()
            .is_committed(duplicate.tp, duplicate.commit_offset)
        {
            self.release(&duplicate.waiting);
        } else {
            self.committer.duplicates.borrow_mut().push(duplicate);
        }
    }

    fn release(&self, waiting: &WaitingAck) {
        waiting.connection.release(waiting.charged_bytes);
        self.ack(&waiting.connection, waiting.ack);
    }

    fn fail(&self, waiting: WaitingAck) {
        let ack = AckItem {
            error: ErrorCode::StoreFailed,
            detail: 0,
            ..waiting.ack
        };
        self.release(&WaitingAck { ack, ..waiting });
    }

    /// The journal is latched: everything that waits, or still comes, gets an error.
    fn refuse_everything(self: &Rc<Self>) {
        error!(
            shard = self.id.get(),
            "the journal failed; the shard takes no writes any more"
        );
        for waiting in std::mem::take(&mut *self.committer.waiting.borrow_mut()) {
            self.fail(waiting);
        }
        for duplicate in std::mem::take(&mut *self.committer.duplicates.borrow_mut()) {
            self.fail(duplicate.waiting);
        }
        self.committer.records.borrow_mut().clear();
        self.committer.frames.borrow_mut().clear();
        let mut log = self.log.borrow_mut();
        self.committer.assembler.borrow_mut().take(&mut log);
        drop(log);
        self.flush_acks();
    }
}
