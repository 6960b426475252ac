//! One shard's journal: the append-only sequence of segments that it alone writes.
//!
//! The journal turns groups of blocks into durable bytes: it gives each block its place, writes the
//! blocks of a group at once, flushes once and only then returns. It prepares segments ahead of
//! time ([`segments`]) and remembers how far it flushed ([`Journal::note_idle`]).
//!
//! Invariants: one group is in flight at a time (the committer awaits [`Journal::commit`]); a flush
//! is never issued beside the writes that it covers; after any failed or short write or flush, of
//! a directory too, the journal is latched and nothing is written again. Runs on the executor that
//! owns it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use catena_core::block::{BlockSeal, seal_block};
use catena_core::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};
use catena_core::ledger::LedgerSlot;
use catena_core::limits::{
    BLOCK_ALIGN, BLOCK_BYTES_MAX_U32, DSYNC_BYTES_MAX, GROUP_BYTES_MAX, SEGMENT_HEADER_BYTES,
};
use catena_core::planted::{self, Bug};
use catena_core::segment::{PreviousSegment, SegmentHeader};
use futures_util::future::try_join_all;

use crate::metrics::ShardMetrics;
use crate::runtime::buffer::{self, Buffer};
use crate::runtime::clock;
use crate::runtime::file::{FileAgent, LogFile};
use crate::runtime::random;

mod damage;
mod latch;
pub mod recovery;
pub mod reread;
pub mod segments;
mod source;

pub use segments::{FreeOutcome, SegmentSet};

/// What a journal is told when it is opened.
#[derive(Clone)]
pub struct JournalConfig {
    /// Its number; the directory's name and part of every position.
    pub id: JournalId,
    /// The directory that holds its segments.
    pub dir: PathBuf,
    /// The store that it belongs to.
    pub store: [u8; 16],
    /// Size of the first segment, in bytes.
    pub segment_bytes_min: u32,
    /// Size that segments grow to, in bytes.
    pub segment_bytes_max: u32,
    /// How many bytes of segments the journal may keep, spares included.
    pub space_bytes: u64,
    /// How many segments to keep ready once the active one is in use.
    pub prepared_target: usize,
}

impl JournalConfig {
    fn error(&self, context: &'static str, error: &std::io::Error) -> JournalError {
        JournalError::Io {
            journal: self.id,
            context,
            reason: error.to_string(),
        }
    }
}

/// Where recovery found the end of a journal.
#[derive(Debug, Clone, Default)]
pub struct JournalTail {
    /// The last segment that was started, with its end; none on a fresh journal.
    pub previous: Option<PreviousSegment>,
    /// Every started segment: number, size of the file, end of its blocks.
    pub sealed: Vec<segments::SealedSegment>,
    /// The highest number of any segment that was started, damaged ones included.
    pub highest_segment: Option<SegmentSeq>,
    /// Group sequence to go on with.
    pub next_group_seq: u64,
}

/// A block that is filled but has no place yet.
pub struct OpenBlock {
    /// Its memory; the capacity is the used bytes rounded up to 4 KiB.
    pub buffer: Buffer,
    /// Bytes used, block header included.
    pub used: usize,
    /// Entries in it.
    pub entries: u32,
}

/// A block that is on stable storage.
pub struct CommittedBlock {
    /// Where it lies.
    pub location: BlockLocation,
    /// Its bytes, for the tail of the cache.
    pub buffer: Rc<Buffer>,
}

/// Why the journal did not take a group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// A write or a flush failed earlier or just now; nothing is written any more.
    #[error("journal {journal} is latched after an I/O failure: {reason}")]
    Latched {
        /// Which journal.
        journal: JournalId,
        /// The first failure, in words.
        reason: String,
    },
    /// No segment could be made ready.
    #[error("journal {journal} has no segment to write to: {reason}")]
    NoSegment {
        /// Which journal.
        journal: JournalId,
        /// What stood in the way.
        reason: String,
    },
    /// Opening or reading back failed.
    #[error("journal {journal}: {context}: {reason}")]
    Io {
        /// Which journal.
        journal: JournalId,
        /// What was being done.
        context: &'static str,
        /// The operating system's words.
        reason: String,
    },
}

struct Active {
    header: SegmentHeader,
    file: Rc<LogFile>,
    /// The header's page, until the first group of the segment carries it to disk.
    unwritten_header: Option<Rc<Buffer>>,
    write_offset: u32,
    last_block_crc: u32,
}

/// A journal that is open for appending.
pub struct Journal {
    config: JournalConfig,
    segments: Rc<SegmentSet>,
    active: RefCell<Active>,
    ledger: LogFile,
    ledger_sequence: Cell<u64>,
    ledger_covers: Cell<JournalPos>,
    flushed: Cell<JournalPos>,
    group_seq: Cell<u64>,
    written_bytes: Cell<u64>,
    /// Bytes of blocks that [`Journal::commit`] was given and has not placed yet.
    unplaced_bytes: Cell<usize>,
    metrics: Arc<ShardMetrics>,
}

impl Journal {
    /// Opens the journal after `tail`: a fresh segment records where the old one ends, and both are
    /// flushed before this returns, so that whatever was recovered is on stable storage.
    pub async fn open(
        config: JournalConfig,
        tail: JournalTail,
        agent: Rc<FileAgent>,
        metrics: Arc<ShardMetrics>,
    ) -> Result<Rc<Journal>, JournalError> {
        let opened = SegmentSet::open(&config, &tail, agent, Arc::clone(&metrics)).await;
        let segments = opened.map_err(|error| config.error("open", &error))?;
        let journal = Self::open_in(Rc::clone(&segments), config, &tail, metrics).await;
        if journal.is_err() {
            // Its task would keep it, and with it the helper threads, for good.
            segments.stop().await;
        }
        journal
    }

    async fn open_in(
        segments: Rc<SegmentSet>,
        config: JournalConfig,
        tail: &JournalTail,
        metrics: Arc<ShardMetrics>,
    ) -> Result<Rc<Journal>, JournalError> {
        let id = config.id;
        let io = |context: &'static str| {
            let config = &config;
            move |error: std::io::Error| config.error(context, &error)
        };
        if let Some(previous) = tail.previous {
            let path = segments.path(previous.segment);
            let old = LogFile::open(&path, true)
                .await
                .map_err(io("open the last segment"))?;
            old.flush().await.map_err(io("flush the last segment"))?;
        }
        let (ledger, ledger_sequence) = recovery::open_ledger(segments.agent(), &config.dir, id)
            .await
            .map_err(io("open the ledger"))?;
        let active = start_segment(&config, &segments, tail.previous, false).await?;
        let start = JournalPos {
            segment: active.header.segment,
            offset: active.write_offset,
        };
        let journal = Rc::new(Journal {
            config,
            segments,
            active: RefCell::new(active),
            ledger,
            ledger_sequence: Cell::new(ledger_sequence),
            ledger_covers: Cell::new(JournalPos::default()),
            flushed: Cell::new(start),
            group_seq: Cell::new(tail.next_group_seq),
            written_bytes: Cell::new(0),
            unplaced_bytes: Cell::new(0),
            metrics,
        });
        journal.write_pending_header().await?;
        journal.note_idle().await?;
        Ok(journal)
    }

    /// Which journal this is.
    pub fn id(&self) -> JournalId {
        self.config.id
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.config.dir
    }

    /// Bytes of segments that it may keep.
    pub fn space_bytes(&self) -> u64 {
        self.config.space_bytes
    }

    /// Its segments: preparing, freeing, space.
    pub fn segments(&self) -> &Rc<SegmentSet> {
        &self.segments
    }

    /// Everything before this position is on stable storage.
    pub fn flushed(&self) -> JournalPos {
        self.flushed.get()
    }

    /// Bytes written since the journal was opened.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.get()
    }

    /// Whether nothing is written any more.
    pub fn is_latched(&self) -> bool {
        self.segments.latch().is_closed()
    }

    /// The reason why nothing is written any more, if that is so.
    pub fn failure(&self) -> Option<String> {
        self.segments.latch().reason()
    }

    /// Whether `bytes` more can be written on top of `pending_bytes` that already wait.
    ///
    /// The last prepared segments do not count: they are for the cleaner, trims and index runs,
    /// which are what frees space again.
    pub fn has_room(&self, pending_bytes: usize, bytes: usize) -> bool {
        let active = self.active.borrow();
        let rest = active.header.segment_bytes - active.write_offset;
        let room = u64::from(rest) + self.segments.room_bytes();
        let unplaced = self.unplaced_bytes.get();
        let needed = u64::try_from(unplaced + pending_bytes + bytes).expect("usize fits u64");
        // A block may be left unused at the end of each segment when the next does not fit.
        needed + u64::from(BLOCK_BYTES_MAX_U32) <= room
    }

    /// Bytes that the cleaner may write now: all but what trims, index runs and the like need to
    /// free anything.
    pub fn cleaning_room(&self) -> u64 {
        let active = self.active.borrow();
        let rest = active.header.segment_bytes - active.write_offset;
        u64::from(rest) + self.segments.cleaning_room()
    }

    /// Writes `blocks` in order and flushes; when it returns they are on stable storage.
    ///
    /// Must not be called again before it returned. Not cancellation safe: dropping the future
    /// leaves writes under way, so the owner runs it to its end. Blocks that do not fit the active
    /// segment together go as two groups.
    pub async fn commit(
        &self,
        blocks: Vec<OpenBlock>,
    ) -> Result<Vec<CommittedBlock>, JournalError> {
        self.unplaced_bytes
            .set(blocks.iter().map(|block| padded(block.used)).sum());
        let mut waiting = VecDeque::from(blocks);
        let mut committed = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            self.check_latch()?;
            let group = self.take_group(&mut waiting);
            if group.is_empty() {
                self.roll().await?;
            } else {
                committed.append(&mut self.write_group(group).await?);
            }
        }
        Ok(committed)
    }

    /// Records in the flush ledger how far the journal is flushed. The committer calls it when no
    /// group came for a few milliseconds.
    pub async fn note_idle(&self) -> Result<(), JournalError> {
        self.check_latch()?;
        let flushed = self.flushed.get();
        if flushed == self.ledger_covers.get() || planted::is(Bug::SkipLedger) {
            return Ok(());
        }
        let sequence = self.ledger_sequence.get() + 1;
        let slot = LedgerSlot {
            journal: self.config.id,
            sequence,
            flushed,
            group_seq: self.group_seq.get(),
        };
        let mut page = buffer::allocate(BLOCK_ALIGN);
        page.copy_from_slice(&slot.encode());
        let at = u64::from(sequence % 2 == 1) * 4096;
        let written = self
            .ledger
            .write_dsync(Rc::new(page), BLOCK_ALIGN, at)
            .await;
        self.latching(written, "write the flush ledger")?;
        self.ledger_sequence.set(sequence);
        self.ledger_covers.set(flushed);
        Ok(())
    }

    /// Whether the ledger lags behind what is flushed.
    pub fn ledger_is_behind(&self) -> bool {
        self.flushed.get() != self.ledger_covers.get()
    }

    /// Notes how far it is flushed, unless it has failed, and ends the background work in any case;
    /// after the last group. Who opened a journal closes it, or its helper threads stay.
    pub async fn close(&self) -> Result<(), JournalError> {
        let noted = match self.failure() {
            None => self.note_idle().await,
            Some(_) => Ok(()),
        };
        self.segments.stop().await;
        noted
    }

    /// The flush that the planted bug leaves out of the commit.
    pub(crate) async fn flush_late(&self) -> Result<(), JournalError> {
        let file = self.active_file();
        self.latching(file.flush().await, "flush a group")
    }

    fn flushes_late(&self) -> bool {
        planted::is(Bug::HighWatermarkOffByOne) && self.config.id != JournalId::METADATA
    }

    fn check_latch(&self) -> Result<(), JournalError> {
        self.segments.latch().check()
    }

    fn latching<T>(&self, result: std::io::Result<T>, doing: &str) -> Result<T, JournalError> {
        result.map_err(|error| self.segments.latch().close(format!("{doing}: {error}")))
    }

    /// Takes from the front what fits the active segment and one group.
    fn take_group(&self, waiting: &mut VecDeque<OpenBlock>) -> Vec<OpenBlock> {
        let active = self.active.borrow();
        let rest = active.header.segment_bytes - active.write_offset;
        let room = usize::try_from(rest)
            .expect("u32 fits usize")
            .min(GROUP_BYTES_MAX);
        let mut group = Vec::new();
        let mut taken = 0;
        while let Some(block) = waiting.front() {
            taken += padded(block.used);
            if taken > room {
                break;
            }
            group.extend(waiting.pop_front());
        }
        group
    }

    async fn write_group(
        &self,
        group: Vec<OpenBlock>,
    ) -> Result<Vec<CommittedBlock>, JournalError> {
        let started_us = clock::now_us();
        let (file, header_page, blocks) = self.place_group(group);
        let block_bytes: usize = blocks.iter().map(|b| location_bytes(&b.location)).sum();
        let starts_segment = header_page.is_some();
        let flushes = self.flushes_late() || planted::is(Bug::RetryFailedFlush);
        let single = blocks.len() == 1
            && header_page.is_none()
            && block_bytes <= DSYNC_BYTES_MAX
            && !flushes;
        if single {
            let block = &blocks[0];
            let at = u64::from(block.location.offset);
            let written = file
                .write_dsync(Rc::clone(&block.buffer), block_bytes, at)
                .await;
            self.latching(written, "write a block through")?;
        } else {
            let header_write = header_page.into_iter().map(|page| (page, BLOCK_ALIGN, 0));
            let block_writes = blocks.iter().map(|block| {
                let bytes = location_bytes(&block.location);
                (
                    Rc::clone(&block.buffer),
                    bytes,
                    u64::from(block.location.offset),
                )
            });
            let writes = header_write
                .chain(block_writes)
                .map(|(buffer, bytes, at)| file.write(buffer, bytes, at));
            self.latching(try_join_all(writes).await, "write a group")?;
            if !self.flushes_late() {
                let flushed = match file.flush().await {
                    Err(_) if planted::is(Bug::RetryFailedFlush) => file.flush().await,
                    flushed => flushed,
                };
                self.latching(flushed, "flush a group")?;
            }
        }
        self.note_written(block_bytes, &blocks, started_us);
        if starts_segment {
            // From here on damage to the new header cannot be taken for a segment never started.
            self.note_idle().await?;
        }
        Ok(blocks)
    }

    /// Gives each block its place and seals it. The group's count is known only here.
    fn place_group(
        &self,
        group: Vec<OpenBlock>,
    ) -> (Rc<LogFile>, Option<Rc<Buffer>>, Vec<CommittedBlock>) {
        let mut active = self.active.borrow_mut();
        let count = u16::try_from(group.len()).expect("a group of 16 MiB has at most 4096 blocks");
        let group_seq = self.group_seq.get();
        self.group_seq.set(group_seq + 1);
        let mut placed = Vec::with_capacity(group.len());
        for (index, mut block) in group.into_iter().enumerate() {
            let seal = BlockSeal {
                salt: active.header.salt,
                segment: active.header.segment,
                position: active.write_offset,
                group_seq,
                group_index: u16::try_from(index).expect("an index below a u16 count"),
                group_count: count,
                flushed: self.flushed.get(),
            };
            let sealed = seal_block(&mut block.buffer, &seal, block.used, block.entries);
            let padding = usize::try_from(sealed.length).expect("u32 fits usize") - block.used;
            self.metrics
                .journal_padding_bytes
                .add(u64::try_from(padding).expect("usize fits u64"));
            active.last_block_crc = sealed.crc;
            let location = BlockLocation {
                journal: self.config.id,
                segment: active.header.segment,
                offset: active.write_offset,
                bytes: sealed.length,
            };
            active.write_offset += sealed.length;
            self.unplaced_bytes
                .set(self.unplaced_bytes.get() - padded(block.used));
            placed.push(CommittedBlock {
                location,
                buffer: Rc::new(block.buffer),
            });
        }
        (
            Rc::clone(&active.file),
            active.unwritten_header.take(),
            placed,
        )
    }

    fn note_written(&self, block_bytes: usize, blocks: &[CommittedBlock], started_us: u64) {
        let active = self.active.borrow();
        self.flushed.set(JournalPos {
            segment: active.header.segment,
            offset: active.write_offset,
        });
        let bytes = u64::try_from(block_bytes).expect("usize fits u64");
        self.written_bytes.set(self.written_bytes.get() + bytes);
        self.metrics.journal_groups.add(1);
        self.metrics.journal_flushes.add(1);
        self.metrics
            .journal_blocks
            .add(u64::try_from(blocks.len()).expect("usize fits u64"));
        self.metrics.journal_bytes.add(bytes);
        self.metrics
            .flush_us
            .record(clock::now_us().saturating_sub(started_us));
        if active.write_offset > active.header.segment_bytes / 4 {
            self.segments.prepare_ahead();
        }
    }

    /// Seals the active segment and goes on in the next one.
    async fn roll(&self) -> Result<(), JournalError> {
        let previous = {
            let active = self.active.borrow();
            self.segments
                .seal(&active.header, active.write_offset, Rc::clone(&active.file));
            PreviousSegment {
                segment: active.header.segment,
                end: active.write_offset,
                last_block_crc: active.last_block_crc,
            }
        };
        let next = start_segment(&self.config, &self.segments, Some(previous), true).await?;
        *self.active.borrow_mut() = next;
        Ok(())
    }

    /// Writes and flushes the header of a segment that has no group yet (at open).
    async fn write_pending_header(&self) -> Result<(), JournalError> {
        let (file, page) = {
            let mut active = self.active.borrow_mut();
            (Rc::clone(&active.file), active.unwritten_header.take())
        };
        if let Some(page) = page {
            self.latching(
                file.write(page, BLOCK_ALIGN, 0).await,
                "write a segment header",
            )?;
            self.latching(file.flush().await, "flush a segment header")?;
        }
        Ok(())
    }

    /// Whether it has a segment: being written, or sealed and not freed.
    pub fn holds(&self, segment: SegmentSeq) -> bool {
        self.active_segment() == segment || self.segments.is_sealed(segment)
    }

    /// Segment that is being written, for readers and for retention.
    pub fn active_segment(&self) -> SegmentSeq {
        self.active.borrow().header.segment
    }

    /// The file of the active segment, which the reader's table shares.
    pub fn active_file(&self) -> Rc<LogFile> {
        Rc::clone(&self.active.borrow().file)
    }
}

async fn start_segment(
    config: &JournalConfig,
    segments: &Rc<SegmentSet>,
    previous: Option<PreviousSegment>,
    wait_for_space: bool,
) -> Result<Active, JournalError> {
    let prepared = segments
        .take_prepared(wait_for_space)
        .await
        .map_err(|error| JournalError::NoSegment {
            journal: config.id,
            reason: error.to_string(),
        })?;
    let header = SegmentHeader {
        store_uuid: config.store,
        journal: config.id,
        segment: prepared.segment,
        salt: random::u64(),
        segment_bytes: prepared.bytes,
        previous,
        created_ms: clock::wall_ms(),
    };
    let mut page = buffer::allocate(BLOCK_ALIGN);
    page.copy_from_slice(&header.encode());
    Ok(Active {
        header,
        file: prepared.file,
        unwritten_header: Some(Rc::new(page)),
        write_offset: SEGMENT_HEADER_BYTES,
        last_block_crc: 0,
    })
}

/// Block length on disk of `used` bytes.
pub fn padded(used: usize) -> usize {
    used.next_multiple_of(BLOCK_ALIGN)
}

fn location_bytes(location: &BlockLocation) -> usize {
    usize::try_from(location.bytes).expect("u32 fits usize")
}

#[cfg(test)]
mod tests;
