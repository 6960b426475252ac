//! Retention: moves log starts by size and age, and frees segments that hold nothing any more.
//!
//! A log start moves by a control frame, so that it survives a crash like everything else. Only
//! whole extents go. A segment is freed when no partition, no index run, no recovery and no reader
//! needs it. Runs on the shard's executor, in the background.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use catena_core::entry::FrameKind;
use catena_core::entry::control::DropTopic;
use catena_core::ids::JournalPos;
use catena_core::index::Extent;
use catena_core::log::DroppedPartition;
use catena_core::metadata::MetadataState;
use catena_core::retention::{Policy, trim_to};
use catena_protocol::ids::{Offset, TopicId, TopicPartition};
use tracing::{debug, warn};

use super::Shard;
use super::index::SegmentKey;
use super::reader::ReadError;
use crate::journal::JournalError;
use crate::limits::RETENTION_EXTENTS_PER_STEP;
use crate::runtime::clock;
use crate::runtime::executor;

/// How often a topic that is being dropped is looked at while its last batches commit.
const GROUP_WAIT: Duration = Duration::from_millis(10);

/// A partition that has more, or older, data than its policy wants.
struct Candidate {
    tp: TopicPartition,
    policy: Policy,
    log_start: Offset,
}

impl Shard {
    /// Applies the topics' policies once.
    pub async fn apply_retention(self: &Rc<Self>) -> Result<(), JournalError> {
        let now_ms = clock::wall_ms();
        for candidate in self.retention_candidates(now_ms) {
            if let Err(error) = self.trim_partition(&candidate, now_ms).await? {
                self.report_read_error(candidate.tp, candidate.log_start, &error);
            }
            executor::yield_if_needed().await;
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

    /// Takes the extents of dropped partitions out of the count of live bytes.
    pub async fn discount_dropped(self: &Rc<Self>, dropped: Vec<DroppedPartition>) {
        for partition in dropped {
            let counted =
                self.discount_range(partition.tp, partition.log_start, partition.high_watermark);
            if let Err(error) = counted.await {
                warn!(
                    partition = %partition.tp,
                    %error,
                    "a dropped partition's space stays counted until the next start"
                );
            }
            self.index.mem.borrow_mut().forget(partition.tp);
        }
    }

    /// Frees the sealed segments of this journal that nobody needs.
    pub async fn free_segments(self: &Rc<Self>) {
        if !self.index.live_known.get() {
            return;
        }
        let wanted = self.index.wanted_segments();
        let journal = self.journal.id();
        self.free_old_journals(&wanted).await;
        for sealed in self.journal.segments().sealed() {
            let end = JournalPos {
                segment: sealed.segment,
                offset: sealed.end,
            };
            let needed = wanted.contains(&(journal, sealed.segment))
                || end > self.recovery_start.get()
                || self.reader.files.leased(journal, sealed.segment)
                || self.claims.borrow().is_claimed((journal, sealed.segment));
            if needed {
                continue;
            }
            self.reader.files.forget(journal, sealed.segment);
            self.cache
                .borrow_mut()
                .forget_segment(journal, sealed.segment);
            match self.journal.segments().free(sealed.segment).await {
                Ok(outcome) => {
                    debug!(
                        journal = journal.get(),
                        segment = sealed.segment.get(),
                        ?outcome,
                        "segment freed"
                    );
                }
                Err(error) => {
                    warn!(
                        journal = journal.get(),
                        segment = sealed.segment.get(),
                        %error,
                        "segment not freed"
                    );
                }
            }
        }
    }

    /// Removes the segments of journals that no shard writes any more, once nobody needs them.
    async fn free_old_journals(&self, wanted: &BTreeSet<SegmentKey>) {
        let mut kept = self.old_segments.borrow().clone();
        let mut removed = BTreeSet::new();
        for key in &kept {
            let needed = wanted.contains(key)
                || self.reader.files.leased(key.0, key.1)
                || self.claims.borrow().is_claimed(*key);
            if needed {
                continue;
            }
            self.reader.files.forget(key.0, key.1);
            self.cache.borrow_mut().forget_segment(key.0, key.1);
            let path = self.reader.files.path(key.0, key.1);
            match self.agent.remove(&path).await {
                Ok(()) => {
                    removed.insert(*key);
                }
                Err(error) => warn!(path = %path.display(), %error, "segment not removed"),
            }
        }
        kept.retain(|key| !removed.contains(key));
        *self.old_segments.borrow_mut() = kept;
    }

    fn retention_candidates(&self, now_ms: i64) -> Vec<Candidate> {
        let log = self.log.borrow();
        let metadata = self.metadata.borrow();
        let candidates = log.partitions().filter_map(|partition| {
            let policy = policy_of(&metadata, partition.tp.topic)?;
            policy.may_trim(now_ms, partition).then_some(Candidate {
                tp: partition.tp,
                policy,
                log_start: partition.log_start,
            })
        });
        candidates.collect()
    }

    async fn trim_partition(
        self: &Rc<Self>,
        candidate: &Candidate,
        now_ms: i64,
    ) -> Result<Result<(), ReadError>, JournalError> {
        let tp = candidate.tp;
        let extents = match self
            .extents_from(tp, candidate.log_start, RETENTION_EXTENTS_PER_STEP)
            .await
        {
            Ok(extents) => extents,
            Err(error) => return Ok(Err(error)),
        };
        let Some(chain) = self
            .log
            .borrow()
            .partition(tp)
            .map(|partition| partition.chain)
        else {
            return Ok(Ok(()));
        };
        let trim = {
            let log = self.log.borrow();
            log.partition(tp)
                .and_then(|state| trim_to(candidate.policy, now_ms, state, &extents))
        };
        let Some(trim) = trim else { return Ok(Ok(())) };
        let body = Bytes::copy_from_slice(&trim.frame(tp).encode());
        self.append_control(chain, FrameKind::Trim, body).await?;
        let dropped = |extent: &&Extent| extent.end_offset <= trim.log_start;
        extents
            .iter()
            .take_while(dropped)
            .for_each(|extent| self.index.discount(extent));
        self.index.mem.borrow_mut().trim(tp, trim.log_start);
        debug!(
            partition = %tp,
            log_start = trim.log_start.get(),
            bytes = trim.dropped_bytes,
            "trimmed by retention"
        );
        Ok(Ok(()))
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

fn policy_of(metadata: &MetadataState, topic: TopicId) -> Option<Policy> {
    let config = &metadata.topic(topic)?.config;
    Some(Policy {
        bytes: config.retention_bytes,
        age_ms: config.retention_ms,
    })
}
