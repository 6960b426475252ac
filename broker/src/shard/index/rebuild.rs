//! Builds pages of the index anew that cannot be read.
//!
//! What a page named is still in the journal, so the journal is read again for the batches that
//! nothing else names: the newest copy of each. All runs are then written as one, with those
//! batches in their place, what is wanted of each segment is counted again, and the lost pages are
//! out of use. Until then readers of what only such a page can name are told to try again, and no
//! segment is freed.
//!
//! Batches in blocks that cannot be read either are lost, and their segment is freed with the rest
//! of it; but those are named again that a repair of the block can bring back.
//!
//! Invariants: which pages are lost is decided once, and every pass leaves out exactly those; the
//! runs and the count change in one step, when the new run is durable. Runs on the shard's
//! executor, in its maintenance, alone with the runs and the segments.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use catena_core::block::BlockView;
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::index::Extent;
use catena_core::index::gaps::{Gaps, join};
use catena_core::index::merge::{ExtentStep, MergeError, RunMerger};
use catena_core::index::run::{PageEntry, RunDirectory, RunPage};
use catena_core::recover::{MovedBatch, batches_in};
use catena_protocol::batch::split;
use catena_protocol::ids::{Offset, TopicPartition};
use tracing::{info, warn};

use super::{LiveCount, RunWriter};
use crate::journal::JournalError;
use crate::journal::reread::{self, Wanted};
use crate::limits::INDEX_REBUILD_STRETCHES_MAX;
use crate::runtime::executor;
use crate::shard::Shard;
use crate::shard::reader::ReadError;

/// Whether pages that cannot be read may be built anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Rebuild {
    /// No page is known to be lost.
    #[default]
    NotNeeded,
    /// One is.
    Due,
    /// It could not be done.
    GivenUp,
}

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("more than {INDEX_REBUILD_STRETCHES_MAX} stretches of batches may belong there")]
    TooMuch,
    #[error(transparent)]
    Merge(#[from] MergeError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The disk is away, or a file: that may be over the next time.
    #[error("not now: {0}")]
    NotNow(String),
    #[error("the shard stops")]
    Stopping,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::NotNow(error.to_string())
    }
}

/// All runs, and the pages of them that are lost.
struct Runs {
    runs: Vec<RunDirectory>,
    lost: BTreeSet<(usize, usize)>,
}

impl Runs {
    fn lost_pages(&self) -> impl Iterator<Item = &PageEntry> {
        self.lost
            .iter()
            .map(|(run, page)| &self.runs[*run].pages[*page])
    }
}

impl Shard {
    /// Whether what a lost page named may be found again: whoever asks for it should come back.
    pub(super) fn expects_rebuild(&self) -> bool {
        if self.journal.is_latched() {
            // Nothing can be written any more.
            return false;
        }
        if self.index.rebuild.get() == Rebuild::NotNeeded {
            self.index.rebuild.set(Rebuild::Due);
            self.maintenance.notify();
        }
        self.index.rebuild.get() == Rebuild::Due
    }

    /// Says that what is lost stays so until the next start.
    pub fn give_rebuild_up(&self) {
        self.index.rebuild.set(Rebuild::GivenUp);
    }

    /// Builds the pages anew that cannot be read, if any are known; says in the log if it cannot.
    pub async fn rebuild_index_if_due(self: &Rc<Self>) {
        if self.index.rebuild.get() != Rebuild::Due || !self.index.live.borrow().is_complete() {
            return;
        }
        let shard = self.id.get();
        match self.rebuild_index().await {
            Ok(pages) => {
                self.index.rebuild.set(Rebuild::NotNeeded);
                self.metrics.index_pages_rebuilt.add(pages);
                self.cleaner.forget_stuck();
            }
            Err(Refusal::Stopping) => {}
            Err(reason @ Refusal::NotNow(_)) => {
                warn!(shard, %reason, "lost pages of the index are built anew later");
            }
            Err(reason) => {
                self.give_rebuild_up();
                warn!(
                    shard,
                    %reason,
                    "lost pages of the index cannot be built anew: what only they name is answered \
                     as damaged"
                );
            }
        }
    }

    /// Gives how many pages were lost.
    async fn rebuild_index(self: &Rc<Self>) -> Result<u64, Refusal> {
        // So that the count, at the end, has little in memory to add.
        self.write_run().await?;
        let runs = self.find_lost().await?;
        let pages = u64::try_from(runs.lost.len()).expect("usize fits u64");
        if pages == 0 && !self.index.live.borrow().has_unread() {
            return Ok(pages);
        }
        let mut found = Vec::new();
        if pages > 0 {
            let mut gaps = self.gaps_of(&runs).await?;
            found = self.find_batches(&runs, &gaps).await?;
            found = self.fill(&mut gaps, &found).await?;
            self.report_missing(pages, &gaps, &found);
        }
        self.write_around(&runs, &found).await?;
        Ok(pages)
    }

    /// Reads every page, and notes which are lost for good.
    async fn find_lost(self: &Rc<Self>) -> Result<Runs, Refusal> {
        let runs = self.index.runs.borrow().to_vec();
        let mut lost = BTreeSet::new();
        for (number, run) in runs.iter().enumerate() {
            for (page, entry) in run.pages.iter().enumerate() {
                match self.run_page(entry).await {
                    Ok(_) => {}
                    Err(ReadError::Corrupt { .. }) => {
                        lost.insert((number, page));
                    }
                    Err(error) => return Err(Refusal::NotNow(error.to_string())),
                }
                self.go_on().await?;
            }
        }
        Ok(Runs { runs, lost })
    }

    /// A page, if it is the one that the directory names.
    async fn run_page(self: &Rc<Self>, entry: &PageEntry) -> Result<RunPage, ReadError> {
        let place = entry.place.block;
        let corrupt = |reason: String| ReadError::Corrupt { place, reason };
        let bytes = self.page_bytes(entry.place).await?;
        let page = RunPage::decode(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if (page.first(), page.last()) == (entry.first, entry.last) {
            Ok(page)
        } else {
            Err(corrupt("another page lies there".to_owned()))
        }
    }

    async fn go_on(&self) -> Result<(), Refusal> {
        executor::yield_if_needed().await;
        if self.is_stopping() {
            Err(Refusal::Stopping)
        } else {
            Ok(())
        }
    }

    /// The committed offsets that the lost pages may name and nothing else does.
    async fn gaps_of(self: &Rc<Self>, runs: &Runs) -> Result<Gaps, Refusal> {
        let mut gaps = Gaps::default();
        for page in runs.lost_pages() {
            for partition in self.log.borrow().partitions_unsorted() {
                let named = page.offsets_of(partition.tp);
                let end = named.end.min(partition.high_watermark);
                gaps.open(partition.tp, named.start..end);
            }
            self.go_on().await?;
        }
        self.merge_around(runs, async |tp, extent| {
            gaps.close(tp, &extent.offsets());
            Ok(())
        })
        .await?;
        let mem = self.index.mem.borrow();
        let partitions: Vec<TopicPartition> = gaps.partitions().collect();
        for tp in partitions {
            for extent in mem.floor(tp, Offset::new(0), usize::MAX) {
                gaps.close(tp, &extent.offsets());
            }
        }
        Ok(gaps)
    }

    /// Goes through what the other pages name, in order.
    async fn merge_around(
        self: &Rc<Self>,
        runs: &Runs,
        mut each: impl AsyncFnMut(TopicPartition, Extent) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let inputs: Vec<&RunDirectory> = runs.runs.iter().collect();
        let mut merger = RunMerger::new(&inputs, |tp, extent| self.counts(tp, extent));
        loop {
            match merger.poll_extent()? {
                ExtentStep::Done => return Ok(()),
                ExtentStep::Extent(tp, extent) => each(tp, extent).await?,
                ExtentStep::NeedPage { run, page } if runs.lost.contains(&(run, page)) => {
                    merger.pass_over(run)?;
                }
                ExtentStep::NeedPage { run, page } => {
                    let bytes = self.page_bytes(runs.runs[run].pages[page].place).await;
                    // It was there a moment ago.
                    let bytes = bytes.map_err(|error| Refusal::NotNow(error.to_string()))?;
                    let supplied = merger.supply(run, &bytes);
                    supplied.map_err(|error| Refusal::NotNow(error.to_string()))?;
                    self.go_on().await?;
                }
            }
        }
    }

    /// Stretches of batches in the journals that may belong in the gaps, in the order in which they
    /// were written.
    async fn find_batches(
        self: &Rc<Self>,
        runs: &Runs,
        gaps: &Gaps,
    ) -> Result<Vec<MovedBatch>, Refusal> {
        let own = self.journal.id();
        let mut journals: BTreeMap<JournalId, SegmentSeq> = BTreeMap::new();
        for (journal, segment) in &self.index.elsewhere {
            let last = journals.entry(*journal).or_insert(*segment);
            *last = (*last).max(*segment);
        }
        // What a page names was written before it, unless the page is an inherited one.
        let blocks = || runs.lost_pages().map(|page| page.place.block);
        let last = blocks().map(|block| block.segment).max();
        let last = last.filter(|_| blocks().all(|block| block.journal == own));
        journals.remove(&own);
        let others = journals
            .into_iter()
            .map(|(journal, last)| (journal, Some(last)));
        let (mut damaged, mut found) = (Vec::new(), Vec::new());
        for (journal, last) in others.chain([(own, last)]) {
            let dir = self.reader.files().dir(journal);
            let wanted = Wanted {
                dir: &dir,
                journal,
                last,
            };
            let is_full = Cell::new(false);
            let visit = |at: BlockLocation, view: &BlockView<'_>, is_damaged: bool| {
                let to = if is_damaged { &mut damaged } else { &mut found };
                for entry in view.entries() {
                    let stretches = join(batches_in(&entry, at).collect());
                    to.extend(stretches.into_iter().filter(|(tp, extent)| {
                        gaps.overlap(*tp, &extent.offsets()) && self.counts(*tp, extent)
                    }));
                }
                is_full.set(damaged.len() + found.len() > INDEX_REBUILD_STRETCHES_MAX);
            };
            let stops = || self.is_stopping() || is_full.get();
            reread::visit(&self.agent, &wanted, stops, visit).await?;
            self.go_on().await?;
            if is_full.get() {
                return Err(Refusal::TooMuch);
            }
        }
        // The intact copies, wherever they are, before those that are not.
        damaged.append(&mut found);
        Ok(damaged)
    }

    /// Of what was found, what belongs in the gaps.
    async fn fill(
        self: &Rc<Self>,
        gaps: &mut Gaps,
        found: &[MovedBatch],
    ) -> Result<Vec<MovedBatch>, Refusal> {
        let mut filled = gaps.fill(found);
        // Of a stretch that the cleaner was writing anew when the power went, some batches may have
        // newer copies and others not.
        for (tp, extent) in filled.partly {
            if gaps.overlap(tp, &extent.offsets()) {
                let batches = self.batches_of(tp, &extent).await?;
                filled.wanted.extend(gaps.fill(&batches).wanted);
            }
        }
        filled
            .wanted
            .retain(|(tp, extent)| self.counts(*tp, extent));
        filled
            .wanted
            .sort_by_key(|(tp, extent)| (*tp, extent.base_offset));
        Ok(filled.wanted)
    }

    /// The batches of a stretch, each alone; none of a block that is damaged meanwhile.
    async fn batches_of(
        self: &Rc<Self>,
        tp: TopicPartition,
        extent: &Extent,
    ) -> Result<Vec<MovedBatch>, Refusal> {
        let block = match self.reader.block_with_good_heads(extent.block).await {
            Ok((block, _)) => block,
            Err(ReadError::Corrupt { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(Refusal::NotNow(error.to_string())),
        };
        let start = usize::try_from(extent.offset_in_block).expect("u32 fits usize");
        let bytes = usize::try_from(extent.bytes).expect("u32 fits usize");
        let stretch = block.slice(start, bytes);
        let mut offset_in_block = extent.offset_in_block;
        let mut batches = Vec::new();
        for (header, _) in split(stretch.as_slice()).flatten() {
            let batch = Extent {
                base_offset: header.base_offset,
                end_offset: header.next_offset(),
                offset_in_block,
                bytes: header.length,
                max_timestamp_ms: header.max_timestamp_ms(),
                ..*extent
            };
            offset_in_block += header.length;
            batches.push((tp, batch));
        }
        Ok(batches)
    }

    fn report_missing(&self, pages: u64, gaps: &Gaps, found: &[MovedBatch]) {
        let log = self.log.borrow();
        let missing: usize = gaps
            .partitions()
            .filter_map(|tp| Some(gaps.above(tp, log.partition(tp)?.log_start).len()))
            .sum();
        info!(
            shard = self.id.get(),
            pages,
            found = found.len(),
            missing,
            "lost pages of the index are built anew"
        );
    }

    /// Writes all runs as one, with what was found in the place of the lost pages.
    async fn write_around(
        self: &Rc<Self>,
        runs: &Runs,
        found: &[MovedBatch],
    ) -> Result<(), Refusal> {
        let mut writer = RunWriter::new(self);
        let mut live = LiveCount::default();
        let mut found = found.iter().peekable();
        self.merge_around(runs, async |tp, extent| {
            let is_before = |it: &&MovedBatch| (it.0, it.1.base_offset) < (tp, extent.base_offset);
            while let Some((tp, extent)) = found.next_if(is_before) {
                live.add(extent);
                writer.push(*tp, extent).await?;
            }
            live.add(&extent);
            Ok(writer.push(tp, &extent).await?)
        })
        .await?;
        for (tp, extent) in found {
            live.add(extent);
            writer.push(*tp, extent).await?;
        }
        let run = writer.finish().await?;
        // From here to the end nothing waits: the runs and the count change together.
        self.index
            .runs
            .borrow_mut()
            .replace(0..runs.runs.len(), run);
        self.index.mem.borrow().for_each(|extent| live.add(extent));
        live.complete();
        *self.index.live.borrow_mut() = live;
        Ok(())
    }
}
