//! The background task of a consumer: finds the connection for each partition that has none, and
//! looks positions up.
//!
//! Invariant: ends when the consumer is dropped. A partition that can not be read yet is tried
//! again after a growing pause; one whose topic is gone is reported and stands still.

use std::sync::Arc;
use std::time::{Duration, Instant};

use catena_protocol::error::ErrorCode;
use catena_protocol::messages::{ListOffsetsItem, OffsetSpec};

use super::lane::{FetchHandler, FetchLane, give_up_unconnected};
use super::shared::{Mode, ResetPolicy, Shared};
use crate::admin::list_offsets;
use crate::connection::driver::{Driver, Stop};
use crate::connection::handshake::establish;
use crate::connection::places::Found;
use crate::locking::lock;

/// Runs until the consumer is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        if lock(&shared.state).is_closed {
            return;
        }
        let (due, next, stale) = shared.take_unrouted(Instant::now());
        if due.is_empty() {
            let changed = shared.unrouted_changed.notified();
            match next {
                Some(next) => drop(tokio::time::timeout_at(next.into(), changed).await),
                None => changed.await,
            }
            continue;
        }
        if let Some(generation) = stale
            && let Err(error) = shared.core.metadata.refresh(&shared.core, generation).await
        {
            tracing::warn!(%error, "metadata could not be refreshed");
        }
        look_up(&shared, &due).await;
        for index in due {
            route(&shared, index);
        }
    }
}

/// Looks up the positions that are given by time.
async fn look_up(shared: &Arc<Shared>, due: &[usize]) {
    let ResetPolicy::Timestamp(time_ms) = shared.config.reset else {
        return;
    };
    let wanted: Vec<(usize, u64)> = {
        let state = lock(&shared.state);
        let with_generation = due.iter().map(|index| (*index, &state.partitions[*index]));
        let wanted = with_generation.filter(|(_, partition)| partition.needs_lookup);
        wanted
            .map(|(index, partition)| (index, partition.generation))
            .collect()
    };
    if wanted.is_empty() {
        return;
    }
    let item = |(index, _): &(usize, u64)| {
        let place = shared.assigned[*index].place;
        let (topic, partition) = (place.topic, place.partition);
        ListOffsetsItem {
            topic,
            partition,
            spec: OffsetSpec::Time(time_ms),
        }
    };
    match list_offsets(&shared.core, wanted.iter().map(item).collect()).await {
        Ok(found) => {
            let mut state = lock(&shared.state);
            for (index, generation) in wanted {
                let result = found.get(&shared.assigned[index].place);
                let partition = &mut state.partitions[index];
                if let Some(result) = result
                    && partition.generation == generation
                {
                    partition.fetch_position = result.offset.0;
                    partition.needs_lookup = false;
                }
            }
        }
        Err(error) => tracing::warn!(%error, "offsets could not be looked up"),
    }
}

fn route(shared: &Arc<Shared>, index: usize) {
    let assigned = &shared.assigned[index];
    let Some(endpoint) = shared.core.metadata.owner(assigned.place) else {
        if shared.core.metadata.holds(assigned.place.topic) {
            shared.retry(index);
        } else {
            let generation = lock(&shared.state).partitions[index].generation;
            shared.stop(
                index,
                generation,
                shared.refused(index, ErrorCode::TopicNotFound),
            );
        }
        return;
    };
    let lane = match shared.lanes.lane(&endpoint, FetchLane::new) {
        Found::Open(lane) => lane,
        Found::New(lane, pause) => {
            tokio::spawn(run_lane(shared.clone(), lane.clone(), pause));
            lane
        }
    };
    let mut state = lock(&shared.state);
    let partition = &mut state.partitions[index];
    if partition.mode != Mode::Reading {
        return;
    }
    if partition.needs_lookup {
        drop(state);
        shared.retry(index);
        return;
    }
    let (generation, position) = (partition.generation, partition.fetch_position);
    if lane.add(assigned.place, index, generation, position) {
        partition.lane = Some(lane);
    } else {
        drop(state);
        shared.retry(index);
    }
}

async fn run_lane(shared: Arc<Shared>, lane: Arc<FetchLane>, pause: Duration) {
    tokio::time::sleep(pause).await;
    let core = &shared.core;
    let established = match establish(&lane.endpoint, &core.identity).await {
        Ok(established) => established,
        Err(error) => {
            tracing::warn!(%error, "no fetch connection");
            shared.lanes.note(&lane.endpoint, false);
            give_up_unconnected(&lane, &shared);
            return;
        }
    };
    shared.lanes.note(&lane.endpoint, true);
    let timeouts = core.timeouts;
    let handler = FetchHandler::new(lane, shared.clone(), &established.hello);
    let (handler, stop) = Driver::new(established, timeouts, handler).run().await;
    if let Stop::Failed(error) = &stop {
        tracing::warn!(%error, "fetch connection lost");
    }
    handler.give_up();
}
