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
use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use catena_core::ids::{JournalId, JournalPos, SegmentSeq};
use catena_core::index::merge::{ExtentStep, MergeError, RunMerger, merge_plan};
use catena_core::index::run::{PageEntry, PagePlace, RunDirectory, RunPage};
use catena_core::index::{Extent, MemIndex};
use catena_protocol::ids::{Offset, TopicPartition};
use tracing::warn;

use super::Shard;
use super::reader::ReadError;
use crate::journal::JournalError;
use crate::limits::{INDEX_JOURNAL_BYTES_MAX, INDEX_MEMORY_BYTES_MAX};
use crate::runtime::executor;

mod decoded;
mod live;
mod overlay;
mod rebuild;
mod runs;
mod writing;

pub use live::{LiveBytes, LiveCount};
pub use runs::Runs;
pub use writing::RunWriter;

use decoded::DecodedPages;
use overlay::{Found, Hidden, keep_what_follows, overlay};
use rebuild::Rebuild;

/// A segment of some journal of the store.
pub type SegmentKey = (JournalId, SegmentSeq);

/// State of the index.
#[derive(Default)]
pub struct ShardIndex {
    /// Extents that are in no run yet.
    pub mem: RefCell<MemIndex>,
    /// The runs that lookups need.
    pub runs: RefCell<Runs>,
    /// Everything of this journal before this position is in runs.
    pub covered: Cell<JournalPos>,
    /// How much of each segment is still wanted.
    pub live: RefCell<LiveCount>,
    /// Segments of other journals that were there at start: runs of an earlier deal of chains may
    /// name some that were freed.
    elsewhere: BTreeSet<SegmentKey>,
    decoded: RefCell<DecodedPages>,
    rebuild: Cell<Rebuild>,
    run_at_bytes: Cell<u64>,
}

impl ShardIndex {
    /// An empty index on a shard that found these segments of other journals.
    pub fn new(elsewhere: BTreeSet<SegmentKey>) -> ShardIndex {
        ShardIndex {
            elsewhere,
            ..ShardIndex::default()
        }
    }

    /// Adds a committed extent.
    pub fn insert(&self, tp: TopicPartition, extent: Extent) {
        self.mem.borrow_mut().insert(tp, extent);
        self.count(&extent);
    }

    /// Counts an extent's bytes as wanted.
    pub fn count(&self, extent: &Extent) {
        self.live.borrow_mut().add(extent);
    }

    /// Counts an extent's bytes as no longer wanted.
    pub fn discount(&self, extent: &Extent) {
        self.live.borrow_mut().remove(extent);
    }
}

impl Shard {
    /// Up to `max` extents of a partition in offset order, from the one that holds `offset` or, if
    /// that range was lost, the next above it.
    ///
    /// A page that is corrupt says nothing about offsets that it cannot hold, nor about those that
    /// a later run names. What earlier runs name may have been moved or compacted by its own.
    ///
    /// # Errors
    /// [`ReadError::Io`], and [`ReadError::Unindexed`] or [`ReadError::Rebuilding`] if only a
    /// corrupt page could tell.
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
        let (mut sources, mut hidden, mut unread) = (Vec::new(), Vec::new(), None);
        for candidates in self.pages_of(tp, offset) {
            match self.first_hits(tp, offset, max, candidates).await {
                Ok(found) => sources.push(found),
                Err((page, ReadError::Corrupt { place, reason })) => {
                    let by_page = Hidden::by(&page, tp, offset);
                    by_page.apply(&mut sources, offset);
                    hidden.push(by_page);
                    unread = Some((place, reason));
                }
                Err((_, error)) => return Err(error),
            }
        }
        let more = recent.last().filter(|_| recent.len() == max);
        sources.push(Found {
            more_from: more.map(|last| last.end_offset),
            extents: recent,
        });
        let mut extents = overlay(sources);
        let Some((place, reason)) = unread else {
            return Ok(extents);
        };
        let next = hidden.iter().filter_map(|it| it.next(&extents, offset));
        let next = next.min();
        keep_what_follows(&mut extents, offset);
        if extents.is_empty() && self.expects_rebuild() {
            return Err(ReadError::Rebuilding { place, reason });
        }
        if extents.is_empty() {
            return Err(ReadError::Unindexed {
                place,
                reason,
                next,
            });
        }
        Ok(extents)
    }

    /// The first extent of a partition with a record at or after `timestamp_ms`.
    pub async fn extent_at_time(
        self: &Rc<Self>,
        tp: TopicPartition,
        log_start: Offset,
        timestamp_ms: i64,
    ) -> Result<Option<Extent>, ReadError> {
        let mut from = log_start;
        loop {
            let Some(hit) = self.named_at_time(tp, from, timestamp_ms).await? else {
                return Ok(None);
            };
            // What an earlier run names may have been moved since.
            let at = hit.base_offset.max(from);
            let counting = self.extents_from(tp, at, 1).await?;
            match counting.first() {
                // And what was compacted may have lost the record that it was found for.
                Some(now) if now.max_timestamp_ms < timestamp_ms => from = now.end_offset,
                Some(now) => return Ok(Some(*now)),
                None => return Ok(Some(hit)),
            }
            executor::yield_if_needed().await;
        }
    }

    /// The first extent with such a record from an offset on that memory or any run names, whether
    /// it counts or not.
    async fn named_at_time(
        self: &Rc<Self>,
        tp: TopicPartition,
        from: Offset,
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
            let page = match self.index_page(place).await {
                Err(ReadError::Corrupt { place, reason }) if self.expects_rebuild() => {
                    return Err(ReadError::Rebuilding { place, reason });
                }
                page => page?,
            };
            let hit = page
                .extents(tp, from)
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
            if let Err(reason) = self.merge_runs(plan).await? {
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
    /// A page that cannot be read is counted around.
    ///
    /// # Errors
    /// [`MergeError::Overlap`]: the runs contradict each other, and nothing may be freed.
    pub async fn count_live(self: &Rc<Self>) -> Result<(), MergeError> {
        let runs: Vec<RunDirectory> = self.index.runs.borrow().to_vec();
        let shard = Rc::clone(self);
        let inputs: Vec<&RunDirectory> = runs.iter().collect();
        let mut merger = RunMerger::new(&inputs, move |tp, extent| shard.counts(tp, extent));
        loop {
            match merger.poll_extent()? {
                ExtentStep::Done => break,
                ExtentStep::Extent(_, extent) => self.index.count(&extent),
                ExtentStep::NeedPage { run, page } => {
                    let place = runs[run].pages[page].place;
                    let supplied = match self.page_bytes(place).await {
                        Ok(bytes) => merger.supply(run, &bytes).map_err(|e| e.to_string()),
                        Err(error) => Err(error.to_string()),
                    };
                    if let Err(reason) = supplied {
                        self.note_unreadable_page(place, &reason);
                        merger.pass_over(run)?;
                    }
                    executor::yield_if_needed().await;
                }
            }
        }
        self.index.live.borrow_mut().complete();
        Ok(())
    }

    fn note_unreadable_page(&self, place: PagePlace, reason: &str) {
        let (journal, segment) = place.block.segment_key();
        warn!(
            shard = self.id.get(),
            journal = journal.get(),
            segment = segment.get(),
            reason,
            "an index page cannot be read: it is built anew; until then the segments up to its own \
             are not freed"
        );
        self.metrics.index_pages_unreadable.add(1);
        let mut live = self.index.live.borrow_mut();
        live.note_unreadable(place.block.segment_key());
        self.index.rebuild.set(Rebuild::Due);
    }

    /// Whether an extent of a run is counted as wanted. Those of a dropped partition are until
    /// they have been taken out of the count.
    pub fn counts(&self, tp: TopicPartition, extent: &Extent) -> bool {
        let dropped = self.dropped.borrow();
        let log_start = match self.log.borrow().partition(tp) {
            Some(partition) => Some(partition.log_start),
            None => dropped.get(&tp).map(|partition| partition.log_start),
        };
        log_start.is_some_and(|start| extent.end_offset > start) && self.is_stored(extent)
    }

    /// Whether the segment of an extent is there. An extent of a run may name one that was freed
    /// if another shard moved the batches before the chain was dealt to this one.
    fn is_stored(&self, extent: &Extent) -> bool {
        let (journal, segment) = extent.block.segment_key();
        if journal == self.journal.id() {
            self.journal.holds(segment)
        } else {
            self.index.elsewhere.contains(&(journal, segment))
        }
    }

    fn pages_of(&self, tp: TopicPartition, offset: Offset) -> Vec<Vec<PageEntry>> {
        let runs = self.index.runs.borrow();
        runs.iter()
            .map(|run| run.pages[run.candidates(tp, offset)].to_vec())
            .collect()
    }

    /// What one run has, as far as the first page with any of it reaches; or the page that cannot
    /// be read, and why.
    async fn first_hits(
        self: &Rc<Self>,
        tp: TopicPartition,
        offset: Offset,
        max: usize,
        pages: Vec<PageEntry>,
    ) -> Result<Found, (PageEntry, ReadError)> {
        let mut pages = pages.into_iter();
        while let Some(entry) = pages.next() {
            let page = self.index_page(entry.place).await;
            let page = page.map_err(|error| (entry, error))?;
            let hits: Vec<Extent> = page.extents(tp, offset).take(max).collect();
            if let Some(last) = hits.last().map(|last| last.end_offset) {
                let may_have_more = hits.len() == max || pages.len() > 0;
                let extents = hits.into_iter().filter(|extent| self.is_stored(extent));
                return Ok(Found {
                    extents: extents.collect(),
                    more_from: may_have_more.then_some(last),
                });
            }
        }
        Ok(Found::default())
    }

    async fn index_page(self: &Rc<Self>, place: PagePlace) -> Result<Rc<RunPage>, ReadError> {
        let decoded = self.index.decoded.borrow_mut().get(place);
        if let Some(page) = decoded {
            return Ok(page);
        }
        let bytes = self.page_bytes(place).await?;
        let page = RunPage::decode(&bytes).map_err(|error| ReadError::Corrupt {
            place: place.block,
            reason: error.to_string(),
        })?;
        let page = Rc::new(page);
        self.index
            .decoded
            .borrow_mut()
            .insert(place, Rc::clone(&page));
        Ok(page)
    }

    async fn page_bytes(self: &Rc<Self>, place: PagePlace) -> Result<Bytes, ReadError> {
        let start = usize::try_from(place.offset_in_block).expect("u32 fits usize");
        let end = start + usize::try_from(place.bytes).expect("u32 fits usize");
        let corrupt = || ReadError::Corrupt {
            place: place.block,
            reason: "the index page lies outside of its block".to_owned(),
        };
        let block = match self.reader.single(place.block).await {
            Ok(block) => block,
            // The page has a checksum of its own. With it, records that are intact would be lost
            // to readers because of one bit, which is no record's.
            Err(ReadError::Corrupt { reason, .. }) => {
                warn!(place = %place.block, reason, "a page of the index lies in a damaged block");
                let block = self.reader.block_with_corrected_heads(place.block).await?;
                let page = block.get(start..end).ok_or_else(corrupt)?;
                return Ok(Bytes::copy_from_slice(page));
            }
            Err(error) => return Err(error),
        };
        let bytes = block.as_slice().get(start..end).ok_or_else(corrupt)?;
        Ok(Bytes::copy_from_slice(bytes))
    }
}
