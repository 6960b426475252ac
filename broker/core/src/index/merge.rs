//! Merging index runs: which runs, and the merge itself, one page per run in memory at a time.
//!
//! Batches that were moved are named by a later run than the one that named their old place. The
//! later extent covers whole extents of the earlier run, which therefore do not count any more.
//!
//! Invariant: the output holds every live extent that counts once, in order. Sans-IO: the merger
//! says which page it needs and is given its bytes; any thread.

use std::collections::VecDeque;
use std::ops::Range;

use catena_protocol::ids::{Offset, TopicPartition};
use thiserror::Error;

use super::Extent;
use super::run::{BuiltPage, RunBuilder, RunDirectory, RunKey, RunPage, offsets_between};
use crate::codec::DecodeError;
use crate::ids::{JournalId, SegmentSeq};
use crate::limits::{RUN_MERGE_FAN_IN, RUN_TIER_BYTES_MIN};

/// Chooses the runs to merge, size-tiered: runs whose sizes lie within a factor of the fan-in form
/// a tier, and a full fan-in of a tier is merged, the lowest tier first, its oldest runs first.
///
/// Returns a range of `runs`, or `None` when no tier is full. What is merged are neighbours, lower
/// tiers between them included, because the order of runs says which extents count. So a journal
/// holds at most fan-in minus one runs per tier, and each extent is rewritten once per tier.
pub fn merge_plan(runs: &[RunDirectory]) -> Option<Range<usize>> {
    let tiers: Vec<usize> = runs.iter().map(|run| tier_of(run.bytes)).collect();
    let highest = tiers.iter().copied().max()?;
    (0..=highest).find_map(|tier| full_stretch(&tiers, tier))
}

/// The first stretch with a full fan-in of `tier` and no higher tier in it.
fn full_stretch(tiers: &[usize], tier: usize) -> Option<Range<usize>> {
    let mut start = 0;
    let mut of_tier = 0;
    for (index, found) in tiers.iter().enumerate() {
        if *found > tier {
            of_tier = 0;
        } else if *found == tier {
            start = if of_tier == 0 { index } else { start };
            of_tier += 1;
            if of_tier == RUN_MERGE_FAN_IN {
                return Some(start..index + 1);
            }
        }
    }
    None
}

/// The runs that have a page in `segment`, as indexes into `runs`: merging them (or rewriting the
/// only one) frees the segment of its pages.
pub fn runs_in_segment(
    runs: &[RunDirectory],
    journal: JournalId,
    segment: SegmentSeq,
) -> Vec<usize> {
    let in_segment = |run: &RunDirectory| {
        run.pages
            .iter()
            .any(|page| page.place.block.journal == journal && page.place.block.segment == segment)
    };
    (0..runs.len())
        .filter(|index| in_segment(&runs[*index]))
        .collect()
}

fn tier_of(bytes: u64) -> usize {
    let fan_in = u64::try_from(RUN_MERGE_FAN_IN).expect("a small number");
    let mut tier = 0;
    let mut limit = RUN_TIER_BYTES_MIN;
    while bytes > limit {
        limit = limit.saturating_mul(fan_in);
        tier += 1;
    }
    tier
}

/// What a merge wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeStep {
    /// Read page `page` of input `run` and pass it to [`RunMerger::supply`].
    NeedPage {
        /// Index of the input, in the order given to [`RunMerger::new`].
        run: usize,
        /// Index of the page in that input's directory.
        page: usize,
    },
    /// A page of the output, to be written in order.
    Page(BuiltPage),
    /// Everything is merged.
    Done,
}

/// What [`RunMerger::poll_extent`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtentStep {
    /// As [`MergeStep::NeedPage`].
    NeedPage {
        /// Index of the input, in the order given to [`RunMerger::new`].
        run: usize,
        /// Index of the page in that input's directory.
        page: usize,
    },
    /// The next live extent, in order.
    Extent(TopicPartition, Extent),
    /// There are no more.
    Done,
}

/// Why a merge cannot go on. The inputs stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MergeError {
    /// A page could not be decoded.
    #[error("page {page} of input {run}: {error}")]
    Page {
        /// Index of the input.
        run: usize,
        /// Index of the page.
        page: usize,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The page is not the one the directory names: a misdirected read or write.
    #[error("page {page} of input {run} spans {found:?}, the directory says {expected:?}")]
    Misplaced {
        /// Index of the input.
        run: usize,
        /// Index of the page.
        page: usize,
        /// First and last key in the directory.
        expected: (RunKey, RunKey),
        /// First and last key in the page.
        found: (RunKey, RunKey),
    },
    /// A page was supplied that was not asked for.
    #[error("input {run} needs no page now")]
    NotNeeded {
        /// Index of the input.
        run: usize,
    },
    /// Two inputs hold extents of which one contains only a part of the other.
    #[error("{tp}: extent at {base_offset} begins before the end {end_offset} of another")]
    Overlap {
        /// The partition.
        tp: TopicPartition,
        /// Where the second extent begins.
        base_offset: Offset,
        /// Where the first ends.
        end_offset: Offset,
    },
}

#[derive(Debug)]
struct Input {
    pages: Vec<(RunKey, RunKey)>,
    /// The page in memory or, when there is none, the page needed next.
    page_index: usize,
    page: Option<RunPage>,
    extent_index: usize,
    /// Key and value at `extent_index`, so that comparing inputs decodes nothing.
    current: Option<(RunKey, Extent)>,
    /// The bounds of pages that were passed over and may reach to what is merged now, in order.
    passed: VecDeque<(RunKey, RunKey)>,
}

impl Input {
    /// Whether a page that was passed over may name any of these offsets. Keys are asked for in
    /// order.
    fn may_have_named(&mut self, tp: TopicPartition, extent: &Extent) -> bool {
        let at = (tp, extent.base_offset);
        while self.passed.front().is_some_and(|(_, last)| *last <= at) {
            self.passed.pop_front();
        }
        self.passed.iter().any(|(first, last)| {
            let named = offsets_between(*first, *last, tp);
            named.start < extent.end_offset && extent.base_offset < named.end
        })
    }

    fn needs_page(&self) -> bool {
        self.page.is_none() && self.page_index < self.pages.len()
    }

    fn key(&self) -> Option<RunKey> {
        self.current.map(|(key, _)| key)
    }

    fn take(&mut self, page: RunPage) {
        self.page = Some(page);
        self.extent_index = 0;
        self.load();
    }

    fn advance(&mut self) {
        self.extent_index += 1;
        self.load();
        if self.current.is_none() {
            self.page = None;
            self.page_index += 1;
        }
    }

    fn load(&mut self) {
        let found = self
            .page
            .as_ref()
            .and_then(|page| page.get(self.extent_index));
        self.current = found.map(|(tp, extent)| ((tp, extent.base_offset), extent));
    }
}

/// Merges runs into one. `live(tp, extent)` says whether an extent is still wanted; it must not be
/// when the partition is gone or starts at or above its end.
///
/// ```
/// use catena_core::index::merge::{MergeStep, RunMerger};
/// use catena_core::index::run::RunDirectory;
///
/// let empty = RunDirectory::default();
/// let mut merger = RunMerger::new(&[&empty], |_, _| true);
/// assert_eq!(merger.poll(), Ok(MergeStep::Done));
/// ```
#[derive(Debug)]
pub struct RunMerger<F> {
    inputs: Vec<Input>,
    live: F,
    builder: RunBuilder,
    last: Option<RunKey>,
}

impl<F: FnMut(TopicPartition, &Extent) -> bool> RunMerger<F> {
    /// Starts a merge of `runs`, the oldest first. Where two hold extents over the same offsets,
    /// the newer run's are kept.
    pub fn new(runs: &[&RunDirectory], live: F) -> Self {
        let input = |run: &&RunDirectory| Input {
            pages: run
                .pages
                .iter()
                .map(|page| (page.first, page.last))
                .collect(),
            page_index: 0,
            page: None,
            extent_index: 0,
            current: None,
            passed: VecDeque::new(),
        };
        let inputs = runs.iter().map(input).collect();
        Self {
            inputs,
            live,
            builder: RunBuilder::default(),
            last: None,
        }
    }

    /// The next step. A step of at most one output page's work.
    ///
    /// # Errors
    /// [`MergeError::Overlap`]; the merge is then abandoned.
    pub fn poll(&mut self) -> Result<MergeStep, MergeError> {
        loop {
            match self.poll_extent()? {
                ExtentStep::NeedPage { run, page } => {
                    return Ok(MergeStep::NeedPage { run, page });
                }
                ExtentStep::Done => {
                    let last = self.builder.finish();
                    return Ok(last.map_or(MergeStep::Done, MergeStep::Page));
                }
                ExtentStep::Extent(tp, extent) => {
                    if let Some(page) = self.builder.push(tp, &extent) {
                        return Ok(MergeStep::Page(page));
                    }
                }
            }
        }
    }

    /// The next live extent, for who wants to look at them and not to write them.
    ///
    /// # Errors
    /// [`MergeError::Overlap`]; the merge is then abandoned.
    pub fn poll_extent(&mut self) -> Result<ExtentStep, MergeError> {
        loop {
            if let Some(run) = self.inputs.iter().position(Input::needs_page) {
                let page = self.inputs[run].page_index;
                return Ok(ExtentStep::NeedPage { run, page });
            }
            let Some((run, tp, extent)) = self.pop_smallest() else {
                return Ok(ExtentStep::Done);
            };
            let mut later = self.inputs[run + 1..].iter_mut();
            if later.any(|input| input.may_have_named(tp, &extent)) {
                continue;
            }
            if let Some((last_tp, last_end)) = self.last
                && last_tp == tp
                && extent.base_offset < last_end
            {
                if extent.end_offset <= last_end {
                    continue;
                }
                let base_offset = extent.base_offset;
                return Err(MergeError::Overlap {
                    tp,
                    base_offset,
                    end_offset: last_end,
                });
            }
            if !(self.live)(tp, &extent) {
                continue;
            }
            self.last = Some((tp, extent.end_offset));
            return Ok(ExtentStep::Extent(tp, extent));
        }
    }

    /// Goes on without the page that was asked for: its extents are left out, and those of older
    /// inputs over offsets that it may name, for it may say that they were moved or compacted. For
    /// who counts what can be read, or has found its batches elsewhere; any other merge must not
    /// do this.
    ///
    /// # Errors
    /// [`MergeError::NotNeeded`].
    pub fn pass_over(&mut self, run: usize) -> Result<(), MergeError> {
        let waiting = self.inputs.get_mut(run).filter(|input| input.needs_page());
        let input = waiting.ok_or(MergeError::NotNeeded { run })?;
        input.passed.push_back(input.pages[input.page_index]);
        input.page_index += 1;
        Ok(())
    }

    /// Takes the bytes of the page that [`MergeStep::NeedPage`] asked for.
    ///
    /// # Errors
    /// Any [`MergeError`] but `Overlap`; nothing changes and the page is still needed.
    pub fn supply(&mut self, run: usize, bytes: &[u8]) -> Result<(), MergeError> {
        let Some(input) = self.inputs.get_mut(run).filter(|input| input.needs_page()) else {
            return Err(MergeError::NotNeeded { run });
        };
        let page = input.page_index;
        let decoded =
            RunPage::decode(bytes).map_err(|error| MergeError::Page { run, page, error })?;
        let (expected, found) = (input.pages[page], (decoded.first(), decoded.last()));
        if expected != found {
            return Err(MergeError::Misplaced {
                run,
                page,
                expected,
                found,
            });
        }
        input.take(decoded);
        Ok(())
    }

    /// Takes the extent with the smallest key; of equal keys the newest run's, which lets the
    /// older ones be skipped as contained.
    fn pop_smallest(&mut self) -> Option<(usize, TopicPartition, Extent)> {
        let keys = self.inputs.iter().enumerate().rev();
        let (index, _) = keys
            .filter_map(|(index, input)| Some((index, input.key()?)))
            .min_by_key(|(_, key)| *key)?;
        let input = &mut self.inputs[index];
        let smallest = input.current.map(|((tp, _), extent)| (index, tp, extent));
        input.advance();
        smallest
    }
}

#[cfg(test)]
mod tests;
