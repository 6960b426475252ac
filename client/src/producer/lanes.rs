//! Starts produce connections and runs them. Any thread; each lane has a task of its own.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::lane::{LaneHandler, ProduceLane};
use crate::client::core::Core;
use crate::connection::Endpoint;
use crate::connection::driver::{Driver, Stop};
use crate::connection::handshake::establish;
use crate::connection::places::Found;

/// The lane to this shard, started if there is none. Needs a tokio runtime.
pub(crate) fn lane(core: &Arc<Core>, endpoint: &Endpoint) -> Arc<ProduceLane> {
    match core.produce_lanes.lane(endpoint, ProduceLane::new) {
        Found::Open(lane) => lane,
        Found::New(lane, pause) => {
            tokio::spawn(run(Arc::downgrade(core), lane.clone(), pause));
            lane
        }
    }
}

/// Holds the client only to connect and to note: a lane must not keep its client alive.
async fn run(core: Weak<Core>, lane: Arc<ProduceLane>, pause: Duration) {
    tokio::time::sleep(pause).await;
    let Some((identity, timeouts)) = core
        .upgrade()
        .map(|core| (core.identity.clone(), core.timeouts))
    else {
        lane.close();
        return;
    };
    let established = match establish(&lane.endpoint, &identity).await {
        Ok(established) => established,
        Err(error) => {
            tracing::warn!(%error, "no produce connection");
            give_up(&core, &lane);
            return;
        }
    };
    if let Some(core) = core.upgrade() {
        core.produce_lanes.note(&lane.endpoint, true);
    }
    let timeout_ms = u32::try_from(timeouts.request.as_millis()).unwrap_or(u32::MAX);
    let handler = LaneHandler::new(lane, core, &established.hello, timeout_ms);
    let (handler, stop) = Driver::new(established, timeouts, handler).run().await;
    if let Stop::Failed(error) = &stop {
        tracing::warn!(%error, "produce connection lost");
    }
    handler.give_up(Instant::now());
}

fn give_up(core: &Weak<Core>, lane: &ProduceLane) {
    let mut generation = 0;
    if let Some(core) = core.upgrade() {
        core.produce_lanes.note(&lane.endpoint, false);
        generation = core.metadata.generation();
    }
    let now = Instant::now();
    for queue in lane.close() {
        queue.lost(lane.id(), now, generation);
    }
}
