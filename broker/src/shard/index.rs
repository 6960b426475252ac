//! The partition index of one shard: recent extents in memory, older ones in runs in the journal.
//!
//! Lookups ask memory first and then the runs, a page of each that can hold the offset. A
//! background task writes the in-memory part as a run when it is large or covers much journal, and
//! merges runs so that a lookup stays a few reads. It also counts, per segment, the bytes that are
//! still wanted, which is what frees segments.
//!
//! Invariant: an extent is dropped from memory only when the run that holds it is durable. Runs on
//! the shard's executor.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use catena_core::entry::{ENTRY_HEADER_BYTES, RecordKind};
use catena_core::ids::{JournalId, JournalPos, SegmentSeq};
use catena_core::index::merge::{MergeStep, RunMerger, merge_plan};
use catena_core::index::run::{BuiltPage, PagePlace, RunBuilder, RunDirectory, RunPage};
use catena_core::index::{Extent, MemIndex};
use catena_protocol::ids::{ChainEpoch, ChainId, Offset, TopicPartition};
use futures_util::future::try_join_all;
use tracing::warn;

use super::Shard;
use super::reader::ReadError;
use crate::journal::JournalError;
use crate::limits::{INDEX_JOURNAL_BYTES_MAX, INDEX_MEMORY_BYTES_MAX, INDEX_PAGES_IN_FLIGHT};
use crate::runtime::executor;

/// A page is the body of its record, behind the entry's header.
const ENTRY_HEADER_BYTES_U32: u32 = 48;
const _: () = assert!(ENTRY_HEADER_BYTES == 48);

/// Partitions whose extents are gathered together for a run.
const RUN_PARTITIONS_AT_ONCE: usize = 32;

/// A segment of some journal of the store.
pub type SegmentKey = (JournalId, SegmentSeq);

/// State of the index.
#[derive(Default)]
pub struct ShardIndex {
    /// Extents that are in no run yet.
    pub mem: RefCell<MemIndex>,
    /// The runs that lookups need.
    pub runs: RefCell<Vec<RunDirectory>>,
    /// Everything of this journal before this position is in runs.
    pub covered: Cell<JournalPos>,
    /// Bytes of batches still wanted, per segment.
    pub live: RefCell<BTreeMap<SegmentKey, u64>>,
    /// Whether `live` is complete: the runs found at start have been counted.
    pub live_known: Cell<bool>,
    run_at_bytes: Cell<u64>,
}

impl ShardIndex {
    /// Adds a committed extent.
    pub fn insert(&self, tp: TopicPartition, extent: Extent) {
        self.mem.borrow_mut().insert(tp, extent);
        self.count(&extent);
    }

    /// Counts an extent's bytes as wanted.
    pub fn count(&self, extent: &Extent) {
        let key = (extent.block.journal, extent.block.segment);
        *self.live.borrow_mut().entry(key).or_default() += u64::from(extent.bytes);
    }

    /// Counts an extent's bytes as no longer wanted.
    pub fn discount(&self, extent: &Extent) {
        let key = (extent.block.journal, extent.block.segment);
        let mut live = self.live.borrow_mut();
        if let Some(bytes) = live.get_mut(&key) {
            *bytes = bytes.saturating_sub(u64::from(extent.bytes));
            if *bytes == 0 {
                live.remove(&key);
            }
        }
    }

    /// The segments that hold batches that this shard wants.
    pub fn live_segments(&self) -> BTreeSet<SegmentKey> {
        self.live.borrow().keys().copied().collect()
    }

    /// The segments that hold pages of the runs in use.
    pub fn run_segments(&self) -> BTreeSet<SegmentKey> {
        self.runs
            .borrow()
            .iter()
            .flat_map(RunDirectory::segments)
            .collect()
    }
}

impl Shard {
    /// Up to `max` extents of a partition in offset order, from the one that holds `offset` or, if
    /// that range was lost, the next above it.
    pub async fn extents_from(
        self: &Rc<Self>,
        tp: TopicPartition,
        offset: Offset,
        max: usize,
    ) -> Result<Vec<Extent>, ReadError> {
        let recent: Vec<Extent> = {
            let mem = self.index.mem.borrow();
            mem.floor(tp, offset, max)
        };
        if recent
            .first()
            .is_some_and(|extent| extent.base_offset <= offset)
        {
            return Ok(recent);
        }
        let mut best = recent;
        for candidates in self.pages_of(tp, offset) {
            let found = self.first_hits(tp, offset, max, candidates).await?;
            best = earlier(best, found);
        }
        Ok(best)
    }

    /// The first extent of a partition with a record at or after `timestamp_ms`.
    pub async fn extent_at_time(
        self: &Rc<Self>,
        tp: TopicPartition,
        log_start: Offset,
        timestamp_ms: i64,
    ) -> Result<Option<Extent>, ReadError> {
        let mut best = self.index.mem.borrow().floor_time(tp, timestamp_ms);
        let pages: Vec<PagePlace> = {
            let runs = self.index.runs.borrow();
            runs.iter()
                .flat_map(|run| {
                    run.candidates_by_time(tp, timestamp_ms)
                        .map(|page| run.pages[page].place)
                })
                .collect()
        };
        for place in pages {
            let page = self.index_page(place).await?;
            let hit = page
                .extents(tp, log_start)
                .find(|extent| extent.max_timestamp_ms >= timestamp_ms);
            if let Some(hit) = hit
                && best.is_none_or(|extent| hit.base_offset < extent.base_offset)
            {
                best = Some(hit);
            }
        }
        Ok(best)
    }

    /// Writes and merges runs when it is time; called by the shard's maintenance.
    pub async fn maintain_index(self: &Rc<Self>) -> Result<(), JournalError> {
        if self.run_is_due() || self.covers_an_earlier_start() {
            self.write_run().await?;
        }
        loop {
            let plan = merge_plan(&self.index.runs.borrow());
            let Some(plan) = plan else { break };
            if let Err(reason) = self.merge_runs(&plan).await? {
                warn!(
                    shard = self.id.get(),
                    reason, "index runs could not be merged"
                );
                break;
            }
        }
        let runs = u64::try_from(self.index.runs.borrow().len()).expect("usize fits u64");
        self.metrics.index_runs.set(runs);
        Ok(())
    }

    /// Wakes the maintenance when a run of the index is due.
    pub fn call_maintenance(&self) {
        if self.run_is_due() {
            self.maintenance.notify();
        }
    }

    fn run_is_due(&self) -> bool {
        let uncovered = self.journal.written_bytes() - self.index.run_at_bytes.get();
        let (journal_max, journal_min) = self.index_pace();
        uncovered >= journal_max
            || (uncovered >= journal_min
                && self.index.mem.borrow().bytes() >= INDEX_MEMORY_BYTES_MAX)
    }

    /// After how much journal a run is due, and after how little at the earliest. A small store
    /// must not hold much journal that only its index needs.
    fn index_pace(&self) -> (u64, u64) {
        let journal_max = INDEX_JOURNAL_BYTES_MAX.min(self.journal.space_bytes() / 16);
        (journal_max, journal_max / 8)
    }

    /// Whether extents of an earlier run of the broker are in memory only, or are lost from memory
    /// at the next start unless that part of the journal is read again.
    pub fn covers_an_earlier_start(&self) -> bool {
        self.index.covered.get().segment < self.first_segment
    }

    /// Counts the wanted bytes of the runs that were found at start. Segments are freed only after.
    pub async fn count_live(self: &Rc<Self>) -> Result<(), ReadError> {
        let places: Vec<PagePlace> = {
            let runs = self.index.runs.borrow();
            runs.iter()
                .flat_map(|run| run.pages.iter().map(|page| page.place))
                .collect()
        };
        for place in places {
            let page = self.index_page(place).await?;
            for at in 0..page.len() {
                if let Some((tp, extent)) = page.get(at)
                    && self.is_live(tp, extent.end_offset)
                {
                    self.index.count(&extent);
                }
            }
            executor::yield_if_needed().await;
        }
        self.index.live_known.set(true);
        Ok(())
    }

    /// Whether records of the partition below `end` may still be wanted.
    pub fn is_live(&self, tp: TopicPartition, end: Offset) -> bool {
        self.log
            .borrow()
            .partition(tp)
            .is_some_and(|partition| end > partition.log_start)
    }

    /// Writes everything in memory as a run.
    pub async fn write_run(self: &Rc<Self>) -> Result<(), JournalError> {
        let covered = self.noted_to.get();
        self.index.run_at_bytes.set(self.journal.written_bytes());
        self.index.mem.borrow_mut().freeze();
        let partitions = self.index.mem.borrow().frozen_partitions();
        let mut builder = RunBuilder::default();
        let mut writer = PageWriter::new(self);
        for some in partitions.chunks(RUN_PARTITIONS_AT_ONCE) {
            let extents = self.index.mem.borrow().frozen_of(some);
            for (tp, extents) in some.iter().zip(extents) {
                for extent in &extents {
                    if let Some(page) = builder.push(*tp, extent) {
                        writer.push(page).await?;
                    }
                }
            }
            executor::yield_if_needed().await;
        }
        if let Some(page) = builder.finish() {
            writer.push(page).await?;
        }
        let directory = writer.finish().await?;
        if !directory.pages.is_empty() {
            self.index.runs.borrow_mut().push(directory);
        }
        self.index.mem.borrow_mut().thaw_done();
        self.index.covered.set(covered);
        Ok(())
    }

    /// Merges the runs of `plan` into one. The inner error leaves everything as it was.
    pub async fn merge_runs(
        self: &Rc<Self>,
        plan: &[usize],
    ) -> Result<Result<(), String>, JournalError> {
        let shard = Rc::clone(self);
        let mut merger = {
            let runs = self.index.runs.borrow();
            let inputs: Vec<&RunDirectory> = plan.iter().map(|index| &runs[*index]).collect();
            RunMerger::new(&inputs, move |tp, end| shard.is_live(tp, end))
        };
        let mut writer = PageWriter::new(self);
        loop {
            match merger.poll() {
                Err(error) => return Ok(Err(error.to_string())),
                Ok(MergeStep::Done) => break,
                Ok(MergeStep::Page(page)) => writer.push(page).await?,
                Ok(MergeStep::NeedPage { run, page }) => {
                    let place = self.index.runs.borrow()[plan[run]].pages[page].place;
                    let supplied = match self.page_bytes(place).await {
                        Ok(bytes) => merger.supply(run, &bytes).map_err(|e| e.to_string()),
                        Err(error) => Err(error.to_string()),
                    };
                    if let Err(reason) = supplied {
                        return Ok(Err(reason));
                    }
                }
            }
            executor::yield_if_needed().await;
        }
        let merged = writer.finish().await?;
        let mut runs = self.index.runs.borrow_mut();
        for index in plan.iter().rev() {
            runs.remove(*index);
        }
        if !merged.pages.is_empty() {
            let place = plan[0].min(runs.len());
            runs.insert(place, merged);
        }
        Ok(Ok(()))
    }

    fn pages_of(&self, tp: TopicPartition, offset: Offset) -> Vec<Vec<PagePlace>> {
        let runs = self.index.runs.borrow();
        runs.iter()
            .map(|run| {
                run.candidates(tp, offset)
                    .map(|page| run.pages[page].place)
                    .collect()
            })
            .collect()
    }

    async fn first_hits(
        self: &Rc<Self>,
        tp: TopicPartition,
        offset: Offset,
        max: usize,
        pages: Vec<PagePlace>,
    ) -> Result<Vec<Extent>, ReadError> {
        for place in pages {
            let page = self.index_page(place).await?;
            let hits: Vec<Extent> = page.extents(tp, offset).take(max).collect();
            if !hits.is_empty() {
                return Ok(hits);
            }
        }
        Ok(Vec::new())
    }

    async fn index_page(self: &Rc<Self>, place: PagePlace) -> Result<RunPage, ReadError> {
        let bytes = self.page_bytes(place).await?;
        RunPage::decode(&bytes).map_err(|error| ReadError::Corrupt {
            place: place.block,
            reason: error.to_string(),
        })
    }

    async fn page_bytes(self: &Rc<Self>, place: PagePlace) -> Result<Bytes, ReadError> {
        let block = self.reader.single(place.block).await?;
        let start = usize::try_from(place.offset_in_block).expect("u32 fits usize");
        let end = start + usize::try_from(place.bytes).expect("u32 fits usize");
        let corrupt = || ReadError::Corrupt {
            place: place.block,
            reason: "the index page lies outside of its block".to_owned(),
        };
        let bytes = block.as_slice().get(start..end).ok_or_else(corrupt)?;
        Ok(Bytes::copy_from_slice(bytes))
    }
}

/// Of two lists of extents the one that starts earlier, up to where the other begins.
fn earlier(first: Vec<Extent>, second: Vec<Extent>) -> Vec<Extent> {
    let (mut early, late) = match (first.first(), second.first()) {
        (None, _) => return second,
        (_, None) => return first,
        (Some(a), Some(b)) if a.base_offset <= b.base_offset => (first, second),
        _ => (second, first),
    };
    let bound = late[0].base_offset;
    let keep = early
        .partition_point(|extent| extent.base_offset < bound)
        .max(1);
    early.truncate(keep);
    early
}

/// Writes the pages of a run, several at a time, and collects their directory.
struct PageWriter<'a> {
    shard: &'a Rc<Shard>,
    waiting: Vec<BuiltPage>,
    directory: RunDirectory,
}

impl<'a> PageWriter<'a> {
    fn new(shard: &'a Rc<Shard>) -> Self {
        PageWriter {
            shard,
            waiting: Vec::new(),
            directory: RunDirectory::default(),
        }
    }

    async fn push(&mut self, page: BuiltPage) -> Result<(), JournalError> {
        self.waiting.push(page);
        if self.waiting.len() >= INDEX_PAGES_IN_FLIGHT {
            self.write().await
        } else {
            Ok(())
        }
    }

    async fn finish(mut self) -> Result<RunDirectory, JournalError> {
        self.write().await?;
        Ok(self.directory)
    }

    async fn write(&mut self) -> Result<(), JournalError> {
        let pages = std::mem::take(&mut self.waiting);
        let no_chain = (ChainId::new(0), ChainEpoch::new(0));
        let places = try_join_all(pages.iter().map(|page| {
            let body = Bytes::copy_from_slice(&page.bytes);
            self.shard
                .append_record(RecordKind::IndexPage, no_chain, body)
        }))
        .await?;
        for (page, place) in pages.iter().zip(places) {
            let place = PagePlace {
                block: place.block,
                offset_in_block: place.offset_in_block + ENTRY_HEADER_BYTES_U32,
                bytes: u32::try_from(page.bytes.len()).expect("a page is at most 16 KiB"),
            };
            self.directory.push(page.placed(place), page.extents);
        }
        Ok(())
    }
}
