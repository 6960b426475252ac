//! The two background tasks of a producer: one keeps its timers and delivery timeouts, one finds
//! connections for partitions.
//!
//! Invariant: both end once the producer is closed (or dropped) and no batch waits for its
//! result; until then whatever was handed in is still delivered.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use catena_protocol::error::ErrorCode;

use super::lanes;
use super::partition::PartitionQueue;
use super::shared::Shared;
use crate::backoff::{Backoff, seed};
use crate::client::core::Core;

/// Starts both tasks.
pub(crate) fn spawn(core: &Arc<Core>, shared: &Arc<Shared>) {
    tokio::spawn(keep_time(shared.clone()));
    tokio::spawn(find_routes(core.clone(), shared.clone()));
}

/// Tells both tasks to end when they can.
pub(crate) fn close(shared: &Shared) {
    shared.is_closed.store(true, Ordering::Release);
    shared.timers_changed.notify_one();
    shared.unrouted_changed.notify_one();
}

async fn keep_time(shared: Arc<Shared>) {
    let period = shared.config.delivery_timeout / 50;
    let period = period.clamp(Duration::from_millis(5), Duration::from_millis(250));
    let mut next_sweep = Instant::now() + period;
    loop {
        let now = Instant::now();
        let next_timer = loop {
            match shared.pop_timer(now) {
                Ok(queue) => queue.wake(now),
                Err(next) => break next,
            }
        };
        if now >= next_sweep {
            let mut active = shared.take_active();
            active.retain(|queue| queue.expire(now));
            shared.put_back_active(active);
            next_sweep = now + period;
        }
        let has_active = shared.has_active();
        if shared.finish_if_done() {
            shared.unrouted_changed.notify_one();
            return;
        }
        let next = match (has_active, next_timer) {
            (true, Some(timer)) => Some(timer.min(next_sweep)),
            (true, None) => Some(next_sweep),
            (false, timer) => timer,
        };
        let changed = shared.timers_changed.notified();
        match next {
            Some(next) => drop(tokio::time::timeout_at(next.into(), changed).await),
            None => changed.await,
        }
    }
}

async fn find_routes(core: Arc<Core>, shared: Arc<Shared>) {
    let mut backoff = Backoff::new(seed());
    loop {
        let queues = shared.take_unrouted();
        if queues.is_empty() {
            if shared.is_finished() {
                return;
            }
            shared.unrouted_changed.notified().await;
            continue;
        }
        let stale = queues
            .iter()
            .filter_map(|queue| queue.stale_generation())
            .max();
        if let Some(generation) = stale
            && let Err(error) = core.metadata.refresh(&core, generation).await
        {
            tracing::warn!(%error, "metadata could not be refreshed");
        }
        let mut is_missing = false;
        for queue in queues {
            is_missing |= !route(&core, queue, &shared);
        }
        if is_missing {
            tokio::time::sleep(backoff.next_pause()).await;
        } else {
            backoff.succeeded();
        }
    }
}

/// Gives a partition its connection, or its end if the topic has none; `false` if neither is
/// known, then it is listed again.
fn route(core: &Arc<Core>, queue: Arc<PartitionQueue>, shared: &Shared) -> bool {
    let now = Instant::now();
    if let Some(endpoint) = core.metadata.owner(queue.place) {
        queue.set_route(lanes::lane(core, &endpoint), now);
        return true;
    }
    match core.metadata.known_topic(&queue.topic) {
        Some(topic) if topic.id == queue.place.topic => {
            shared.want_route(queue);
            false
        }
        _ => {
            queue.fail_all(now, ErrorCode::TopicNotFound);
            true
        }
    }
}
