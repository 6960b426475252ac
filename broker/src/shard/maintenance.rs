//! The shard's background work, one thing after the other: index runs, checkpoints, retention,
//! freeing segments, cleaning, compaction by key. Runs on the shard's executor in the background
//! queue.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use catena_protocol::ids::ShardId;
use tracing::{error, warn};

use super::Shard;
use super::checkpointer::{self, Taken};
use super::index::SegmentKey;
use super::message::ShardMessage;
use super::retention::Waiting;
use crate::journal::JournalError;
use crate::limits::PRODUCER_ROWS_BYTES_MAX;
use crate::runtime::clock;

/// How long it rests when nothing calls for it.
const REST: Duration = Duration::from_secs(1);

/// How long retention rests while there is space, and expiry always: each time they look at
/// everything there is, and what they drop costs a frame however little that is.
const DROPS_REST_US: u64 = 1_000_000;

/// Retention rests for at least this many times as long as it took: with tens of thousands of
/// partitions in which all is old soon, it would do nothing but look up what to drop.
const DROPS_REST_FACTOR: u64 = 8;

/// But never for longer: one slow disk is no reason to keep old records for long.
const DROPS_REST_MAX_US: u64 = 10_000_000;

/// It comes sooner once this part of the space was written: a small store fills in no time.
const DROPS_SPACE_DIVISOR: u64 = 64;

/// What one round leaves to the next.
struct Rounds {
    taken: Taken,
    /// Segments of other journals that this shard still wants.
    claimed: Vec<SegmentKey>,
    /// When retention is due again.
    drops_at_us: u64,
    /// What had been written when it was applied last.
    dropped_at_bytes: u64,
    /// When the expiry of producers is due again.
    expires_at_us: u64,
}

/// Works until the shard stops or its journal fails.
pub async fn run(shard: Rc<Shard>, taken: Taken, old_segments: Vec<SegmentKey>) {
    if let Err(error) = shard.count_live().await {
        shard.give_rebuild_up();
        error!(
            shard = shard.id.get(),
            %error,
            "the index runs contradict each other; no segment is freed until the next start"
        );
    }
    let mut rounds = Rounds {
        taken,
        claimed: old_segments,
        drops_at_us: 0,
        dropped_at_bytes: 0,
        expires_at_us: 0,
    };
    while !shard.is_stopping() && !shard.journal.is_latched() {
        let progress = rounds.step(&shard).await;
        shard.publish_gauges();
        if !progress {
            let _ = clock::timeout(REST, shard.maintenance.notified()).await;
        }
    }
    // Nobody is left to do it.
    shard.give_rebuild_up();
    if !shard.journal.is_latched() {
        let taken = &mut rounds.taken;
        let last = shard.checkpoint(taken).await;
        note(&shard, "the last checkpoint", last);
        checkpointer::remove_old(&shard.journal, taken.sequence).await;
    }
}

impl Rounds {
    /// One round. Each part goes on although another failed: what frees space must not wait for
    /// what needs it. Tells whether to go on at once.
    async fn step(&mut self, shard: &Rc<Shard>) -> bool {
        // Before anything is freed, moved or merged.
        shard.rebuild_index_if_due().await;
        // Before any merge, which forgets the extents that are to be discounted.
        shard.discount_dropped().await;
        note(shard, "the index", shard.maintain_index().await);
        let taken = &mut self.taken;
        note(shard, "a checkpoint", shard.checkpoint_if_due(taken).await);
        if self.drops_are_due(shard) {
            let began_us = clock::now_us();
            self.dropped_at_bytes = shard.journal.written_bytes();
            note(shard, "retention", shard.apply_retention().await);
            let ended_us = clock::now_us();
            let took_us = ended_us.saturating_sub(began_us);
            let rest_us = took_us.saturating_mul(DROPS_REST_FACTOR);
            self.drops_at_us = ended_us + rest_us.clamp(DROPS_REST_US, DROPS_REST_MAX_US);
        }
        if clock::now_us() >= self.expires_at_us {
            note(shard, "producer expiry", shard.expire_producers().await);
            self.expires_at_us = clock::now_us() + DROPS_REST_US;
        }
        release_claims(shard, &self.taken, &mut self.claimed).await;
        let freed_before = shard.metrics.segments_freed.get();
        let waiting = shard.free_segments().await;
        if waiting.bytes > 0 && shard.frees_are_urgent(waiting.bytes) {
            let made = make_space(shard, &mut self.taken, &waiting).await;
            note(shard, "making space", made);
            shard.free_segments().await;
        }
        let cleaned = shard.clean().await;
        let has_cleaned = goes_on(shard, &mut self.taken, "cleaning", cleaned).await;
        let compacted = shard.compact().await;
        let has_compacted = goes_on(shard, &mut self.taken, "compaction", compacted).await;
        has_cleaned || has_compacted || shard.metrics.segments_freed.get() > freed_before
    }

    fn drops_are_due(&self, shard: &Shard) -> bool {
        let much = shard.journal.space_bytes() / DROPS_SPACE_DIVISOR;
        clock::now_us() >= self.drops_at_us
            || shard.journal.written_bytes() - self.dropped_at_bytes >= much
            || shard.journal.segments().out_of_space()
    }
}

/// What became of a piece of cleaning or compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// There is nothing to do.
    Nothing,
    /// Something was done, and there may be more.
    Some,
    /// What there is to do is called for, and lies above the frame floor.
    FloorIsLow,
}

/// Raises the frame floor if a piece of work calls for that; tells whether to go on at once.
async fn goes_on(
    shard: &Rc<Shard>,
    taken: &mut Taken,
    what: &str,
    piece: Result<Piece, JournalError>,
) -> bool {
    let outcome = match piece {
        Ok(Piece::Nothing) => return false,
        Ok(Piece::Some) => return true,
        // Two checkpoints raise it above every segment that is sealed now.
        Ok(Piece::FloorIsLow) => make_space(shard, taken, &Waiting::default()).await,
        Err(error) => Err(error.into()),
    };
    let has_raised = outcome.is_ok();
    note(shard, what, outcome);
    has_raised
}

/// Takes away what keeps segments that hold no wanted batch: index runs in them, and checkpoints
/// that would read them back. Both kept checkpoints must be past them, so it takes two.
async fn make_space(shard: &Rc<Shard>, taken: &mut Taken, waiting: &Waiting) -> anyhow::Result<()> {
    for segment in &waiting.held_by_runs {
        // One at a time: what was moved is written once more.
        if shard.move_runs_out_of(*segment).await? {
            break;
        }
    }
    shard.write_run().await?;
    for _ in 0..2 {
        shard.checkpoint(taken).await?;
    }
    checkpointer::remove_old(&shard.journal, taken.sequence).await;
    Ok(())
}

fn note<E: std::fmt::Display>(shard: &Shard, what: &str, outcome: Result<(), E>) {
    if let Err(error) = outcome {
        warn!(shard = shard.id.get(), what, %error, "background work failed; it is tried again");
    }
}

/// Tells the owners of old segments which of them this shard does not want any more. Only what a
/// checkpoint has made durable counts.
async fn release_claims(shard: &Rc<Shard>, taken: &Taken, claimed: &mut Vec<SegmentKey>) {
    let is_counted = shard.index.live.borrow().is_complete();
    if claimed.is_empty() || taken.sequence == 0 || !is_counted {
        return;
    }
    let mut released: BTreeMap<ShardId, Vec<SegmentKey>> = BTreeMap::new();
    claimed.retain(|segment| {
        let keep =
            shard.wants_segment(*segment) || shard.reader.files().leased(segment.0, segment.1);
        if !keep {
            released
                .entry(shard.keeper_of(segment.0))
                .or_default()
                .push(*segment);
        }
        keep
    });
    for (keeper, segments) in released {
        let message = ShardMessage::Released {
            from: shard.id,
            segments,
        };
        // A shard that is gone frees nothing.
        let _ = shard.mesh[usize::from(keeper.get())].send(message).await;
    }
}

impl Shard {
    /// Drops the state of producers that have been idle for long, or are too many.
    async fn expire_producers(self: &Rc<Self>) -> anyhow::Result<()> {
        let chains: Vec<_> = self.log.borrow().chains().collect();
        let share = PRODUCER_ROWS_BYTES_MAX / chains.len().max(1);
        for chain in chains {
            let expiry = self
                .log
                .borrow_mut()
                .begin_expiry(chain, clock::wall_ms(), share);
            if let Some(expiry) = expiry {
                let kind = catena_core::entry::FrameKind::ProducerExpiry;
                self.append_control(chain, kind, expiry.encode().into())
                    .await?;
            }
        }
        Ok(())
    }

    fn publish_gauges(&self) {
        let count = |n: usize| u64::try_from(n).expect("usize fits u64");
        self.publish_pinned();
        self.metrics
            .live_bytes
            .set(self.index.live.borrow().bytes());
        self.metrics.stall_max_us.set(self.progress.late_max_us());
        let counted = self.metrics.stalls_total.get();
        self.metrics
            .stalls_total
            .add(self.progress.late().saturating_sub(counted));
        let log = self.log.borrow();
        self.metrics.partitions.set(count(log.partition_count()));
        self.metrics.chains.set(count(log.chains().count()));
        self.metrics.producer_rows.set(count(log.producer_rows().0));
        self.metrics
            .cache_bytes
            .set(count(self.cache.borrow().charged_bytes()));
    }
}
