//! The segment files of one journal: prepared ahead, sealed, freed, recycled, counted.
//!
//! A segment is written with zeros before it is used, so that appends never change file metadata;
//! a freed segment becomes a spare and is used again without that cost. Some are kept ready once
//! the active one is a quarter full. When the store's budget or the disk is used up the set says
//! [`SegmentSet::out_of_space`], keeps trying, and says otherwise by itself as soon as a segment
//! could be made again. A flush of the directory that fails is another matter: names may be lost,
//! and a later flush would not say which, so the journal is latched.
//!
//! Invariants: a file named with a segment number is in the directory, durably, before the segment
//! is written to; a freed segment's file is renamed before anything of it is overwritten. Runs on
//! the journal's executor; the file agent's thread does the blocking work.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use catena_core::ids::SegmentSeq;
use catena_core::limits::BLOCK_ALIGN;
use catena_core::segment::SegmentHeader;
use tracing::{info, warn};

use super::latch::Latch;
use super::{JournalConfig, JournalTail};
use crate::limits::SEGMENT_SPACE_DIVISOR;
use crate::metrics::ShardMetrics;
use crate::runtime::channel::Notify;
use crate::runtime::clock;
use crate::runtime::executor::{self, Queue, Task};
use crate::runtime::file::{self, FileAgent, LogFile};

/// Segments ready for use that producers may not touch once space has run out: one for the cleaner,
/// one for trims and index runs. A journal that prepares no more than that reserves fewer: it takes
/// one beyond the reserve to notice that space has run out.
pub const RESERVED_SEGMENTS: usize = 2;
/// Spare files kept for recycling at the most.
const SPARES_MAX: usize = 16;
/// How long to wait before trying again to make a segment when space has run out.
const SPACE_RETRY: Duration = Duration::from_millis(500);

/// A segment that is full, or that an earlier run of the broker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedSegment {
    /// Its number.
    pub segment: SegmentSeq,
    /// Size of its file, in bytes.
    pub file_bytes: u32,
    /// End of its last block.
    pub end: u32,
}

/// A segment that can be written to at once.
pub struct PreparedSegment {
    /// The number it was made for.
    pub segment: SegmentSeq,
    /// Size of its file, in bytes.
    pub bytes: u32,
    /// The open file.
    pub file: Rc<LogFile>,
}

/// What became of a segment that holds nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreeOutcome {
    /// Kept as a spare for recycling.
    Recycled,
    /// Removed from the disk.
    Removed,
}

struct Spare {
    path: PathBuf,
    bytes: u32,
}

struct Files {
    sealed: BTreeMap<SegmentSeq, SealedSegment>,
    prepared: VecDeque<PreparedSegment>,
    spares: Vec<Spare>,
    next_segment: SegmentSeq,
    next_spare: u32,
    total_bytes: u64,
    /// A segment whose file was made but could not be opened yet.
    made: Option<(SegmentSeq, u32)>,
}

impl Files {
    fn spare_bytes(&self) -> u64 {
        self.spares.iter().map(|spare| u64::from(spare.bytes)).sum()
    }

    fn prepared_bytes(&self) -> u64 {
        self.prepared.iter().map(|p| u64::from(p.bytes)).sum()
    }
}

/// The files of one journal.
pub struct SegmentSet {
    config: JournalConfig,
    agent: Rc<FileAgent>,
    files: RefCell<Files>,
    latch: Latch,
    out_of_space: Cell<bool>,
    /// Why the last segment could not be made.
    failure: RefCell<Option<io::Error>>,
    /// Segments are to be kept ready from now on.
    ahead_wanted: Cell<bool>,
    /// Somebody waits for a segment.
    wanted_now: Cell<bool>,
    stopping: Cell<bool>,
    work: Notify,
    ready: Notify,
    preparer: RefCell<Option<Task<()>>>,
    metrics: Arc<ShardMetrics>,
}

impl SegmentSet {
    /// Takes stock of the directory (made if missing). Files that were prepared but never started
    /// become spares.
    pub async fn open(
        config: &JournalConfig,
        tail: &JournalTail,
        agent: Rc<FileAgent>,
        metrics: Arc<ShardMetrics>,
    ) -> io::Result<Rc<SegmentSet>> {
        let sealed: BTreeMap<_, _> = tail.sealed.iter().map(|s| (s.segment, *s)).collect();
        let next = tail.highest_segment.map_or(1, |last| last.get() + 1);
        let mut files = Files {
            total_bytes: sealed.values().map(|s| u64::from(s.file_bytes)).sum(),
            sealed,
            prepared: VecDeque::new(),
            spares: Vec::new(),
            next_segment: SegmentSeq::new(next),
            next_spare: 0,
            made: None,
        };
        agent.create_dir(&config.dir).await?;
        collect_spares(config, tail, &agent, &mut files).await?;
        metrics.segments_active.set(1);
        let set = Rc::new(SegmentSet {
            config: config.clone(),
            agent,
            files: RefCell::new(files),
            latch: Latch::new(config.id, Arc::clone(&metrics)),
            out_of_space: Cell::new(false),
            failure: RefCell::new(None),
            ahead_wanted: Cell::new(false),
            wanted_now: Cell::new(false),
            stopping: Cell::new(false),
            work: Notify::new(),
            ready: Notify::new(),
            preparer: RefCell::new(None),
            metrics,
        });
        let background = executor::spawn(Queue::Background, prepare_loop(Rc::clone(&set)));
        *set.preparer.borrow_mut() = Some(background);
        set.publish();
        Ok(set)
    }

    /// The path of a segment of this journal.
    pub fn path(&self, segment: SegmentSeq) -> PathBuf {
        segment_path(&self.config.dir, segment)
    }

    /// The helper thread for directory work.
    pub fn agent(&self) -> &Rc<FileAgent> {
        &self.agent
    }

    /// The latch of the journal.
    pub(super) fn latch(&self) -> &Latch {
        &self.latch
    }

    /// Whether no further segment can be made for now.
    pub fn out_of_space(&self) -> bool {
        self.out_of_space.get()
    }

    /// Bytes that producers may still fill beyond the active segment: in prepared segments, in
    /// spares, and in segments that the budget still allows; less the reserve.
    pub fn room_bytes(&self) -> u64 {
        self.room_beyond(self.reserved())
    }

    /// As [`SegmentSet::room_bytes`], for the cleaner: one segment stays in reserve.
    pub fn cleaning_room(&self) -> u64 {
        self.room_beyond(1)
    }

    /// Bytes of all segments that hold anything.
    pub fn used_bytes(&self) -> u64 {
        let files = self.files.borrow();
        let unused = files.spare_bytes() + files.prepared_bytes();
        files.total_bytes.saturating_sub(unused)
    }

    fn room_beyond(&self, reserved: usize) -> u64 {
        let files = self.files.borrow();
        let makeable = if self.out_of_space.get() {
            0
        } else {
            let budget = self.config.space_bytes;
            files.spare_bytes() + budget.saturating_sub(files.total_bytes)
        };
        let unmade = u64::from(self.wanted_bytes(files.total_bytes));
        let sizes = files.prepared.iter().rev().map(|p| u64::from(p.bytes));
        let reserve: u64 = sizes.chain(std::iter::repeat(unmade)).take(reserved).sum();
        (files.prepared_bytes() + makeable).saturating_sub(reserve)
    }

    fn reserved(&self) -> usize {
        RESERVED_SEGMENTS.min(self.config.prepared_target.saturating_sub(1).max(1))
    }

    /// Starts keeping segments ready.
    pub fn prepare_ahead(&self) {
        if !self.ahead_wanted.replace(true) {
            self.work.notify();
        }
    }

    /// The next segment to write to; made on the spot if none is ready, also beyond the budget:
    /// whoever asks holds data that was admitted, or what will free space again.
    ///
    /// On a full disk it waits for space, or fails at once if told not to wait.
    pub async fn take_prepared(&self, wait_for_space: bool) -> io::Result<PreparedSegment> {
        loop {
            let taken = self.files.borrow_mut().prepared.pop_front();
            if let Some(prepared) = taken {
                self.wanted_now.set(false);
                self.work.notify();
                self.publish();
                return Ok(prepared);
            }
            if self.stopping.get() {
                return Err(io::Error::other("the journal is stopping"));
            }
            if let Some(reason) = self.latch.reason() {
                return Err(io::Error::other(reason));
            }
            // Told once: after a failure the preparer tries again in its own time.
            if !self.wanted_now.replace(true) {
                self.work.notify();
            }
            self.ready.notified().await;
            let failure = self.failure.borrow_mut().take();
            if let Some(failure) = failure.filter(|_| !wait_for_space) {
                self.wanted_now.set(false);
                return Err(failure);
            }
        }
    }

    /// Whether the segments are ready that producers may not use once space has run out.
    pub fn has_reserve(&self) -> bool {
        self.files.borrow().prepared.len() >= self.reserved()
    }

    /// Notes that the active segment is full.
    pub fn seal(&self, header: &SegmentHeader, end: u32, file: Rc<LogFile>) {
        drop(file);
        let sealed = SealedSegment {
            segment: header.segment,
            file_bytes: header.segment_bytes,
            end,
        };
        self.files
            .borrow_mut()
            .sealed
            .insert(header.segment, sealed);
        self.publish();
    }

    /// Sealed segments, oldest first.
    pub fn sealed(&self) -> Vec<SealedSegment> {
        self.files.borrow().sealed.values().copied().collect()
    }

    /// Whether a segment is sealed and not freed.
    pub fn is_sealed(&self, segment: SegmentSeq) -> bool {
        self.files.borrow().sealed.contains_key(&segment)
    }

    /// Bytes of all files of the journal.
    pub fn total_bytes(&self) -> u64 {
        self.files.borrow().total_bytes
    }

    /// Frees a sealed segment: nothing in it is live, nobody reads it, no recovery needs it.
    pub async fn free(&self, segment: SegmentSeq) -> io::Result<FreeOutcome> {
        let Some(sealed) = self.files.borrow_mut().sealed.remove(&segment) else {
            return Err(io::Error::other(format!(
                "segment {} is not sealed",
                segment.get()
            )));
        };
        let freed = self.free_file(sealed).await;
        if let Err(error) = &freed {
            self.latch_if_flush_failed(error);
            self.files.borrow_mut().sealed.insert(segment, sealed);
        }
        freed
    }

    async fn free_file(&self, sealed: SealedSegment) -> io::Result<FreeOutcome> {
        let path = self.path(sealed.segment);
        let recycle = self.wants_spare(sealed.file_bytes);
        if recycle {
            let spare = self.spare_path();
            self.agent.rename(&path, &spare).await?;
            let mut files = self.files.borrow_mut();
            files.spares.push(Spare {
                path: spare,
                bytes: sealed.file_bytes,
            });
        } else {
            self.agent.remove(&path).await?;
            let mut files = self.files.borrow_mut();
            files.total_bytes -= u64::from(sealed.file_bytes);
        }
        self.metrics.segments_freed.add(1);
        self.publish();
        self.work.notify();
        Ok(if recycle {
            FreeOutcome::Recycled
        } else {
            FreeOutcome::Removed
        })
    }

    /// Latches the journal if a name was changed, of whatever file on its disk, and its directory
    /// could not be flushed; tells whether it did.
    pub fn latch_if_flush_failed(&self, error: &io::Error) -> bool {
        let is_failed_flush = file::is_failed_flush(error);
        if is_failed_flush {
            self.latch.close(format!("change a file's name: {error}"));
        }
        is_failed_flush
    }

    /// Stops the background work.
    pub async fn stop(&self) {
        self.stopping.set(true);
        self.work.notify();
        self.ready.notify();
        let preparer = self.preparer.borrow_mut().take();
        if let Some(preparer) = preparer {
            preparer.await;
        }
    }

    fn wants_spare(&self, bytes: u32) -> bool {
        let files = self.files.borrow();
        files.total_bytes <= self.config.space_bytes
            && bytes >= self.config.segment_bytes_min
            && files.spares.len() < SPARES_MAX
            && u64::from(bytes) * 2 >= u64::from(self.wanted_bytes(files.total_bytes))
    }

    /// The size that a new segment should have now: it doubles as the journal grows.
    fn wanted_bytes(&self, total: u64) -> u32 {
        let least = u64::from(self.config.segment_bytes_min);
        let most = u64::from(self.config.segment_bytes_max)
            .min(self.config.space_bytes / SEGMENT_SPACE_DIVISOR)
            .max(least);
        // A power of two, so that every size is a whole number of pages.
        let most = 1 << most.ilog2();
        let wanted = (total / 8).next_power_of_two().min(most).max(least);
        u32::try_from(wanted).expect("bounded by the u32 segment maximum")
    }

    fn spare_path(&self) -> PathBuf {
        let mut files = self.files.borrow_mut();
        files.next_spare += 1;
        self.config
            .dir
            .join(format!("spare-{:04}.seg", files.next_spare))
    }

    fn publish(&self) {
        let files = self.files.borrow();
        self.metrics.disk_bytes.set(files.total_bytes);
        let count = u64::try_from(files.sealed.len()).expect("usize fits u64");
        self.metrics.segments_active.set(count + 1);
        self.metrics
            .storage_full
            .set(u64::from(self.out_of_space.get()));
    }

    async fn prepare_one(&self) -> io::Result<()> {
        let made = self.files.borrow_mut().made.take();
        let (segment, bytes) = match made {
            Some(made) => made,
            None => self.make().await?,
        };
        let file = match LogFile::open(&self.path(segment), true).await {
            Ok(file) => Rc::new(file),
            Err(error) => {
                // The file is there; only opening it is to be tried again.
                self.files.borrow_mut().made = Some((segment, bytes));
                return Err(error);
            }
        };
        let prepared = PreparedSegment {
            segment,
            bytes,
            file,
        };
        self.files.borrow_mut().prepared.push_back(prepared);
        self.publish();
        Ok(())
    }

    /// Makes the file of the next segment, from a spare or anew.
    async fn make(&self) -> io::Result<(SegmentSeq, u32)> {
        let segment = self.files.borrow().next_segment;
        let target = self.path(segment);
        let spare = self.files.borrow_mut().spares.pop();
        let bytes = match spare {
            Some(spare) => {
                if let Err(error) = self.agent.rename(&spare.path, &target).await {
                    self.files.borrow_mut().spares.push(spare);
                    return Err(error);
                }
                self.metrics.segments_recycled.add(1);
                spare.bytes
            }
            None => self.create(&target).await?,
        };
        self.files.borrow_mut().next_segment = segment.next();
        Ok((segment, bytes))
    }

    async fn create(&self, target: &Path) -> io::Result<u32> {
        let total = self.files.borrow().total_bytes;
        let bytes = self.wanted_bytes(total);
        if self.exceeds_budget(bytes) && !self.wanted_now.get() {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!(
                    "{total} bytes of segments and {bytes} more would exceed {}",
                    self.config.space_bytes
                ),
            ));
        }
        let size = u64::from(bytes);
        self.agent.create_zeroed(target, size, None).await?;
        self.files.borrow_mut().total_bytes += size;
        self.metrics.segments_created.add(1);
        Ok(bytes)
    }

    fn has_spares(&self) -> bool {
        !self.files.borrow().spares.is_empty()
    }

    fn exceeds_budget(&self, more: u32) -> bool {
        self.files.borrow().total_bytes + u64::from(more) > self.config.space_bytes
    }

    fn wants_more(&self) -> bool {
        let target = if self.ahead_wanted.get() {
            self.config.prepared_target
        } else {
            0
        };
        let target = target.max(usize::from(self.wanted_now.get()));
        self.files.borrow().prepared.len() < target
    }

    fn note_space(&self, full: bool, reason: &str) {
        if self.out_of_space.replace(full) != full {
            if full {
                warn!(
                    journal = self.config.id.get(),
                    reason, "out of space: producers are refused"
                );
            } else {
                info!(
                    journal = self.config.id.get(),
                    "space is back: producers are served again"
                );
            }
            self.publish();
        }
    }
}

/// Keeps segments ready until the journal stops or is latched.
async fn prepare_loop(set: Rc<SegmentSet>) {
    while !set.stopping.get() && !set.latch.is_closed() {
        if !set.wants_more() {
            set.work.notified().await;
            continue;
        }
        match set.prepare_one().await {
            Ok(()) => {
                // One that was made beyond the budget is no sign of space; the next one is.
                if set.has_reserve() && (!set.exceeds_budget(0) || set.has_spares()) {
                    set.note_space(false, "");
                }
                set.ready.notify();
            }
            Err(error) if set.latch_if_flush_failed(&error) => set.ready.notify(),
            Err(error) => {
                set.note_space(true, &error.to_string());
                *set.failure.borrow_mut() = Some(error);
                set.ready.notify();
                let freed = clock::timeout(SPACE_RETRY, set.work.notified());
                let _ = freed.await;
            }
        }
    }
    // Whoever waits for a segment learns why none will come.
    set.ready.notify();
}

/// The path of segment `segment` in the journal's directory.
pub fn segment_path(dir: &Path, segment: SegmentSeq) -> PathBuf {
    dir.join(format!("{:010}.seg", segment.get()))
}

/// The number in a segment file's name.
pub fn segment_of(name: &str) -> Option<SegmentSeq> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() != 10 {
        return None;
    }
    digits.parse().ok().map(SegmentSeq::new)
}

/// Finds spares, and makes spares of segments that were never started, or were started by an
/// opening that a crash undid.
async fn collect_spares(
    config: &JournalConfig,
    tail: &JournalTail,
    agent: &FileAgent,
    files: &mut Files,
) -> io::Result<()> {
    let listed = agent.list(&config.dir).await?;
    let highest = listed
        .iter()
        .filter_map(|f| f.name.strip_prefix("spare-"))
        .filter_map(|rest| {
            rest.strip_suffix(".seg")
                .and_then(|digits| digits.parse::<u32>().ok())
        });
    files.next_spare = highest.max().unwrap_or(0);
    for file in listed {
        // A number beyond every started segment is an unstarted one. One below that counts unless
        // the scan saw that no later header leads to it; a file whose header cannot be read is
        // damaged, counts, and is left alone.
        let unstarted = segment_of(&file.name).is_some_and(|segment| {
            Some(segment) > tail.highest_segment || !files.sealed.contains_key(&segment)
        });
        if !unstarted && !file.name.starts_with("spare-") {
            continue;
        }
        let path = config.dir.join(&file.name);
        let usable = u32::try_from(file.bytes).ok().filter(|bytes| {
            *bytes >= config.segment_bytes_min
                && usize::try_from(*bytes).is_ok_and(|b| b % BLOCK_ALIGN == 0)
        });
        let Some(bytes) = usable.filter(|_| files.spares.len() < SPARES_MAX) else {
            agent.remove(&path).await?;
            continue;
        };
        let spare = if unstarted {
            files.next_spare += 1;
            let spare = config
                .dir
                .join(format!("spare-{:04}.seg", files.next_spare));
            agent.rename(&path, &spare).await?;
            spare
        } else {
            path
        };
        files.total_bytes += u64::from(bytes);
        files.spares.push(Spare { path: spare, bytes });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
