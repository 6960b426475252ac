//! Writes index runs into the journal, from memory or from runs that are merged.
//!
//! Invariant: a run is named only when all its pages are durable. Runs on the shard's executor, in
//! its maintenance.

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use catena_core::entry::{ENTRY_HEADER_BYTES, RecordKind};
use catena_core::index::Extent;
use catena_core::index::merge::{MergeStep, RunMerger};
use catena_core::index::run::{BuiltPage, PagePlace, RunBuilder, RunDirectory};
use catena_protocol::ids::{ChainEpoch, ChainId, TopicPartition};
use futures_util::future::try_join_all;
use tracing::error;

use crate::journal::JournalError;
use crate::limits::INDEX_PAGES_IN_FLIGHT;
use crate::runtime::executor;
use crate::shard::Shard;
use crate::shard::reader::ReadError;

/// A page is the body of its record, behind the entry's header.
const ENTRY_HEADER_BYTES_U32: u32 = 48;
const _: () = assert!(ENTRY_HEADER_BYTES == 48);

/// Partitions whose extents are gathered together for a run.
const RUN_PARTITIONS_AT_ONCE: usize = 32;

impl Shard {
    /// Writes everything in memory as a run.
    pub async fn write_run(self: &Rc<Self>) -> Result<(), JournalError> {
        if let Some(reason) = self.journal.failure() {
            // An earlier run may have failed half way; its extents stay in memory.
            let journal = self.journal.id();
            return Err(JournalError::Latched { journal, reason });
        }
        let covered = self.noted_to.get();
        self.index.run_at_bytes.set(self.journal.written_bytes());
        self.index.mem.borrow_mut().freeze();
        let partitions = self.index.mem.borrow().frozen_partitions();
        let mut writer = RunWriter::new(self);
        for some in partitions.chunks(RUN_PARTITIONS_AT_ONCE) {
            let extents = self.index.mem.borrow().frozen_of(some);
            for (tp, extents) in some.iter().zip(extents) {
                for extent in &extents {
                    writer.push(*tp, extent).await?;
                }
            }
            executor::yield_if_needed().await;
        }
        let directory = writer.finish().await?;
        self.index.runs.borrow_mut().push(directory);
        self.index.mem.borrow_mut().thaw_done();
        self.index.covered.set(covered);
        Ok(())
    }

    /// Merges all runs that a new deal of chains gave to this shard.
    ///
    /// Several shards may have been given the same ones, and each makes newer runs of its own
    /// partitions only. Unmerged, its copy of what others own would stay as it is now, and the next
    /// deal could not tell that it is out of date.
    pub async fn merge_inherited(self: &Rc<Self>) -> Result<(), JournalError> {
        let all = 0..self.index.runs.borrow().len();
        if let Err(reason) = self.merge_runs(all).await? {
            error!(
                shard = self.id.get(),
                reason,
                "the index runs of an earlier number of shards cannot be merged: do not change the \
                 number of shards again before `catena journal verify` finds nothing"
            );
        }
        Ok(())
    }

    /// Merges runs that follow each other into one. The inner error leaves everything as it was.
    pub async fn merge_runs(
        self: &Rc<Self>,
        plan: Range<usize>,
    ) -> Result<Result<(), String>, JournalError> {
        let shard = Rc::clone(self);
        let mut merger = {
            let runs = self.index.runs.borrow();
            let inputs: Vec<&RunDirectory> = runs[plan.clone()].iter().collect();
            RunMerger::new(&inputs, move |tp, extent| shard.counts(tp, extent))
        };
        let mut writer = PageWriter::new(self);
        loop {
            match merger.poll() {
                Err(error) => return Ok(Err(error.to_string())),
                Ok(MergeStep::Done) => break,
                Ok(MergeStep::Page(page)) => writer.push(page).await?,
                Ok(MergeStep::NeedPage { run, page }) => {
                    let place = self.index.runs.borrow()[plan.start + run].pages[page].place;
                    let (is_lost, supplied) = match self.page_bytes(place).await {
                        Ok(bytes) => {
                            let supplied = merger.supply(run, &bytes);
                            (supplied.is_err(), supplied.map_err(|e| e.to_string()))
                        }
                        Err(error) => {
                            let is_lost = matches!(error, ReadError::Corrupt { .. });
                            (is_lost, Err(error.to_string()))
                        }
                    };
                    if is_lost {
                        // When it is built anew, all runs become one.
                        self.expects_rebuild();
                    }
                    if let Err(reason) = supplied {
                        return Ok(Err(reason));
                    }
                }
            }
            executor::yield_if_needed().await;
        }
        let merged = writer.finish().await?;
        self.index.runs.borrow_mut().replace(plan, merged);
        Ok(Ok(()))
    }
}

/// Writes extents, in order, as the pages of a run.
pub struct RunWriter<'a> {
    builder: RunBuilder,
    pages: PageWriter<'a>,
}

impl<'a> RunWriter<'a> {
    /// A run that is written to the shard's journal.
    pub fn new(shard: &'a Rc<Shard>) -> Self {
        RunWriter {
            builder: RunBuilder::default(),
            pages: PageWriter::new(shard),
        }
    }

    /// Adds the next extent.
    pub async fn push(&mut self, tp: TopicPartition, extent: &Extent) -> Result<(), JournalError> {
        match self.builder.push(tp, extent) {
            Some(page) => self.pages.push(page).await,
            None => Ok(()),
        }
    }

    /// The run, all of it durable.
    pub async fn finish(mut self) -> Result<RunDirectory, JournalError> {
        if let Some(page) = self.builder.finish() {
            self.pages.push(page).await?;
        }
        self.pages.finish().await
    }
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
