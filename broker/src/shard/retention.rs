//! Retention: moves log starts by size and age, and frees segments that hold nothing any more.
//!
//! A log start moves by a control frame, so that it survives a crash like everything else. Only
//! whole extents go. A segment is freed when no partition, no index run, no recovery and no reader
//! needs it. Runs on the shard's executor, in the background.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use catena_core::entry::FrameKind;
use catena_core::entry::control::DropTopic;
use catena_core::ids::{JournalPos, SegmentSeq};
use catena_core::index::Extent;
use catena_core::index::merge::runs_in_segment;
use catena_core::metadata::Topic;
use catena_core::planted::{self, Bug};
use catena_core::retention::{Policy, TrimPoint, trim_to};
use catena_protocol::ids::{ChainId, Offset, TopicId, TopicPartition};
use futures_util::future::try_join_all;
use tracing::{debug, warn};

use super::Shard;
use super::index::SegmentKey;
use super::reader::ReadError;
use crate::journal::JournalError;
use crate::limits::{FREES_BYTES_MAX, RETENTION_EXTENTS_PER_STEP, TRIMS_AT_ONCE};
use crate::runtime::clock;
use crate::runtime::executor;

/// How often a topic that is being dropped is looked at while its last batches commit.
const GROUP_WAIT: Duration = Duration::from_millis(10);

/// Sealed segments that hold no wanted batch and cannot be freed yet.
#[derive(Debug, Default)]
pub struct Waiting {
    /// Bytes of their files.
    pub bytes: u64,
    /// Those of them that hold a page of an index run in use, the oldest first.
    pub held_by_runs: Vec<SegmentKey>,
}

/// A partition that has more, or older, data than its policy wants.
struct Candidate {
    tp: TopicPartition,
    policy: Policy,
    log_start: Offset,
}

/// A trim that was decided on.
struct PlannedTrim {
    tp: TopicPartition,
    chain: ChainId,
    point: TrimPoint,
    /// The extents that go.
    dropped: Vec<Extent>,
}

impl Shard {
    /// Applies the topics' policies once.
    pub async fn apply_retention(self: &Rc<Self>) -> Result<(), JournalError> {
        let now_ms = clock::wall_ms();
        for candidates in self.retention_candidates(now_ms).chunks(TRIMS_AT_ONCE) {
            let mut trims = Vec::new();
            for candidate in candidates {
                match self.find_trim(candidate, now_ms).await {
                    Ok(found) => trims.extend(found),
                    Err(error) => {
                        self.report_read_error(candidate.tp, candidate.log_start, &error);
                    }
                }
                executor::yield_if_needed().await;
            }
            // Their frames share a group: one after the other, thousands of partitions would keep
            // everything else of the maintenance waiting for minutes.
            try_join_all(trims.into_iter().map(|trim| self.apply_trim(trim))).await?;
        }
        Ok(())
    }

    /// Drops the partitions of a topic that was deleted, and what their segments held of them.
    pub async fn drop_topic(self: &Rc<Self>, topic: TopicId) -> Result<(), JournalError> {
        self.log.borrow_mut().close_topic(topic);
        while !self.log.borrow().is_drained(topic) {
            if self.journal.failure().is_some() {
                return Ok(());
            }
            let group = clock::timeout(GROUP_WAIT, self.group_done.notified());
            let _ = group.await;
        }
        let chains = self.log.borrow().chains_of_topic(topic);
        for chain in chains {
            let body = Bytes::copy_from_slice(&DropTopic { topic }.encode());
            self.append_control(chain, FrameKind::DropTopic, body)
                .await?;
        }
        Ok(())
    }

    /// Takes the extents of dropped partitions out of the count of wanted bytes. Only once that
    /// count is complete: what was not counted must not be taken out.
    pub async fn discount_dropped(self: &Rc<Self>) {
        if !self.index.live.borrow().is_complete() {
            return;
        }
        let dropped = self.dropped.borrow().clone();
        for partition in dropped.into_values() {
            let (start, end) = (partition.log_start, partition.high_watermark);
            if let Err(error) = self.discount_range(partition.tp, start, end).await {
                warn!(
                    partition = %partition.tp,
                    %error,
                    "a dropped partition's space stays counted until the next start"
                );
            }
            self.index.mem.borrow_mut().forget(partition.tp);
            self.dropped.borrow_mut().remove(&partition.tp);
        }
    }

    /// Whether a segment holds something this shard wants, or a kept checkpoint names it.
    pub fn wants_segment(&self, segment: SegmentKey) -> bool {
        self.index.live.borrow().wants(segment)
            || self.index.runs.borrow().segments().contains(&segment)
            || self.pins.borrow().contains(segment)
    }

    /// Frees the sealed segments of this journal that nobody needs, and tells what waits for a
    /// checkpoint or an index run only.
    pub async fn free_segments(self: &Rc<Self>) -> Waiting {
        let mut waiting = Waiting::default();
        if !self.index.live.borrow().is_complete() {
            return waiting;
        }
        let journal = self.journal.id();
        self.free_old_journals().await;
        for sealed in self.journal.segments().sealed() {
            let key = (journal, sealed.segment);
            let in_use = self.index.live.borrow().wants(key)
                || (self.reader.files().leased(journal, sealed.segment)
                    && !planted::is(Bug::FreeWithoutLease))
                || self.claims.borrow().is_claimed(key);
            if in_use {
                continue;
            }
            let end = JournalPos::new(sealed.segment, sealed.end);
            let holds_run = self.index.runs.borrow().segments().contains(&key);
            let is_pinned =
                self.pins.borrow().contains(key) && !planted::is(Bug::FreeWithoutCheckpoint);
            let is_named = holds_run || is_pinned;
            if is_named || end > self.recovery_start.get() {
                waiting.bytes += u64::from(sealed.file_bytes);
                if holds_run {
                    waiting.held_by_runs.push(key);
                }
                continue;
            }
            self.free_segment(sealed.segment).await;
        }
        waiting
    }

    /// Whether the bytes that only wait for a checkpoint are worth one now.
    pub fn frees_are_urgent(&self, waiting_bytes: u64) -> bool {
        self.journal.segments().out_of_space()
            || waiting_bytes >= FREES_BYTES_MAX.min(self.journal.space_bytes() / 4)
    }

    /// Writes the live extents of the runs in a segment anew, elsewhere. A run with a page that
    /// cannot be read stays where it is, and so does the segment; tells whether there is none.
    pub async fn move_runs_out_of(
        self: &Rc<Self>,
        segment: SegmentKey,
    ) -> Result<bool, JournalError> {
        let plan = runs_in_segment(&self.index.runs.borrow(), segment.0, segment.1);
        let mut is_free = true;
        // Each alone: their order stays. The last first: one that is empty then goes away.
        for index in plan.into_iter().rev() {
            if let Err(reason) = self.merge_runs(index..index + 1).await? {
                warn!(
                    journal = segment.0.get(),
                    segment = segment.1.get(),
                    reason,
                    "a segment cannot be freed: an index run in it cannot be moved"
                );
                is_free = false;
            }
        }
        Ok(is_free)
    }

    async fn free_segment(&self, segment: SegmentSeq) {
        let journal = self.journal.id();
        self.reader.files().retire(journal, segment);
        self.cache.borrow_mut().forget_segment(journal, segment);
        match self.journal.segments().free(segment).await {
            Ok(outcome) => {
                debug!(
                    journal = journal.get(),
                    segment = segment.get(),
                    ?outcome,
                    "segment freed"
                );
            }
            Err(error) => {
                warn!(
                    journal = journal.get(),
                    segment = segment.get(),
                    %error,
                    "segment not freed"
                );
            }
        }
        self.reader.files().retired(journal, segment);
    }

    /// Removes the segments of journals that no shard writes any more, once nobody needs them.
    async fn free_old_journals(&self) {
        let mut kept = self.old_segments.borrow().clone();
        let mut removed = BTreeSet::new();
        for key in &kept {
            let needed = self.wants_segment(*key)
                || self.reader.files().leased(key.0, key.1)
                || self.claims.borrow().is_claimed(*key);
            if needed {
                continue;
            }
            self.reader.files().retire(key.0, key.1);
            self.cache.borrow_mut().forget_segment(key.0, key.1);
            let path = self.reader.files().path(key.0, key.1);
            match self.agent.remove(&path).await {
                Ok(()) => {
                    removed.insert(*key);
                }
                Err(error) => {
                    self.journal.segments().latch_if_flush_failed(&error);
                    warn!(path = %path.display(), %error, "segment not removed");
                }
            }
            self.reader.files().retired(key.0, key.1);
        }
        kept.retain(|key| !removed.contains(key));
        *self.old_segments.borrow_mut() = kept;
    }

    fn retention_candidates(&self, now_ms: i64) -> Vec<Candidate> {
        let policies: BTreeMap<TopicId, Policy> = {
            let metadata = self.metadata.borrow();
            let limited = metadata.topics().filter_map(|topic| {
                let policy = policy_of(topic);
                policy.is_limited().then_some((topic.id, policy))
            });
            limited.collect()
        };
        if policies.is_empty() {
            return Vec::new();
        }
        let log = self.log.borrow();
        let found = log.partitions_unsorted().filter_map(|partition| {
            let policy = *policies.get(&partition.tp.topic)?;
            let stored = log.as_stored(partition);
            policy.may_trim(now_ms, &stored).then_some(Candidate {
                tp: partition.tp,
                policy,
                log_start: partition.log_start,
            })
        });
        let mut candidates: Vec<Candidate> = found.collect();
        // In the order of the index's pages: neighbours share them.
        candidates.sort_unstable_by_key(|candidate| candidate.tp);
        candidates
    }

    async fn find_trim(
        self: &Rc<Self>,
        candidate: &Candidate,
        now_ms: i64,
    ) -> Result<Option<PlannedTrim>, ReadError> {
        let tp = candidate.tp;
        let mut extents = self
            .extents_from(tp, candidate.log_start, RETENTION_EXTENTS_PER_STEP)
            .await?;
        let log = self.log.borrow();
        let planned = log.partition(tp).and_then(|state| {
            let stored = log.as_stored(state);
            let point = trim_to(candidate.policy, now_ms, &stored, &extents)?;
            let dropped = |extent: &Extent| extent.end_offset <= point.log_start;
            extents.truncate(extents.partition_point(dropped));
            Some(PlannedTrim {
                tp,
                chain: state.chain,
                point,
                dropped: extents,
            })
        });
        Ok(planned)
    }

    async fn apply_trim(self: &Rc<Self>, trim: PlannedTrim) -> Result<(), JournalError> {
        let PlannedTrim {
            tp,
            chain,
            point,
            dropped,
        } = trim;
        let body = Bytes::copy_from_slice(&point.frame(tp).encode());
        self.append_control(chain, FrameKind::Trim, body).await?;
        if self.log_start_of(tp) < Some(point.log_start) {
            // The topic was dropped first, and its whole range is discounted for that.
            return Ok(());
        }
        for extent in &dropped {
            self.index.discount(extent);
        }
        self.index.mem.borrow_mut().trim(tp, point.log_start);
        debug!(
            partition = %tp,
            log_start = point.log_start.get(),
            bytes = point.dropped_bytes,
            "trimmed by retention"
        );
        Ok(())
    }

    /// The log start of a partition, at its end if it was dropped a moment ago.
    fn log_start_of(&self, tp: TopicPartition) -> Option<Offset> {
        let of_dropped = || Some(self.dropped.borrow().get(&tp)?.log_start);
        let log = self.log.borrow();
        let of_partition = log.partition(tp).map(|partition| partition.log_start);
        of_partition.or_else(of_dropped)
    }

    async fn discount_range(
        self: &Rc<Self>,
        tp: TopicPartition,
        mut at: Offset,
        end: Offset,
    ) -> Result<(), ReadError> {
        while at < end {
            let extents = self
                .extents_from(tp, at, RETENTION_EXTENTS_PER_STEP)
                .await?;
            let Some(last) = extents.last() else { break };
            at = last.end_offset;
            for extent in &extents {
                self.index.discount(extent);
            }
            executor::yield_if_needed().await;
        }
        Ok(())
    }
}

fn policy_of(topic: &Topic) -> Policy {
    if !topic.config.cleanup.deletes() {
        return Policy::default();
    }
    Policy {
        bytes: topic.config.retention_bytes,
        age_ms: topic.config.retention_ms,
    }
}
