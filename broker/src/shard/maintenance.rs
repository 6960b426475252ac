//! The shard's background work, one thing after the other: index runs, checkpoints, retention,
//! freeing segments. Runs on the shard's executor in the background queue.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use catena_protocol::ids::ShardId;
use tracing::{error, warn};

use super::Shard;
use super::checkpointer::Taken;
use super::index::SegmentKey;
use super::message::ShardMessage;
use crate::limits::PRODUCER_ROWS_BYTES_MAX;
use crate::runtime::clock;

/// How long it rests when nothing calls for it.
const REST: Duration = Duration::from_secs(1);

/// Works until the shard stops or its journal fails.
pub async fn run(shard: Rc<Shard>, mut taken: Taken, old_segments: Vec<SegmentKey>) {
    if let Err(error) = shard.count_live().await {
        error!(
            shard = shard.id.get(),
            %error,
            "an index page cannot be read; no segment is freed until the next start"
        );
    }
    let mut claimed = old_segments;
    while !shard.is_stopping() && !shard.journal.is_latched() {
        if let Err(error) = step(&shard, &mut taken).await {
            warn!(shard = shard.id.get(), %error, "background work stopped short");
        }
        release_claims(&shard, &taken, &mut claimed).await;
        shard.free_segments().await;
        shard.publish_gauges();
        let _ = clock::timeout(REST, shard.maintenance.notified()).await;
    }
    if !shard.journal.is_latched()
        && let Err(error) = shard.checkpoint(&mut taken).await
    {
        warn!(
            shard = shard.id.get(),
            %error,
            "no checkpoint at the end; the next start reads more"
        );
    }
}

async fn step(shard: &Rc<Shard>, taken: &mut Taken) -> anyhow::Result<()> {
    shard.maintain_index().await?;
    shard.checkpoint_if_due(taken).await?;
    shard.apply_retention().await?;
    shard.expire_producers().await?;
    Ok(())
}

/// Tells the owners of old segments which of them this shard does not want any more. Only what a
/// checkpoint has made durable counts.
async fn release_claims(shard: &Rc<Shard>, taken: &Taken, claimed: &mut Vec<SegmentKey>) {
    if claimed.is_empty() || taken.sequence == 0 || !shard.index.live_known.get() {
        return;
    }
    let wanted = shard.index.wanted_segments();
    let mut released: BTreeMap<ShardId, Vec<SegmentKey>> = BTreeMap::new();
    claimed.retain(|segment| {
        let keep = wanted.contains(segment) || shard.reader.files.leased(segment.0, segment.1);
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
