//! One connection per (node, shard), of those that are kept per shard.
//!
//! Invariant: at most `per_node_max` are open to one node; beyond that a shard's requests go to
//! another shard of the node, which answers for what it owns. One that failed is made again only
//! after a pause that grows. Any thread.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Endpoint;
use crate::backoff::{Backoff, seed};
use crate::locking::lock;

/// A connection, also while it is being made.
pub(crate) trait Lane {
    fn endpoint(&self) -> &Endpoint;

    /// Whether it still takes work.
    fn is_open(&self) -> bool;

    /// Lets it end once it has nothing to write.
    fn finish(&self);
}

#[derive(Debug)]
struct Place<L> {
    lane: Arc<L>,
    backoff: Backoff,
    has_failed: bool,
}

/// The lanes to all shards.
#[derive(Debug)]
pub(crate) struct Places<L: Lane> {
    per_node_max: usize,
    places: Mutex<FxHashMap<Endpoint, Place<L>>>,
}

/// What [`Places::lane`] found.
pub(crate) enum Found<L> {
    Open(Arc<L>),
    /// A new one: the caller has to connect it, after this pause.
    New(Arc<L>, Duration),
}

impl<L: Lane> Places<L> {
    pub(crate) fn new(per_node_max: usize) -> Self {
        Self {
            per_node_max,
            places: Mutex::default(),
        }
    }

    /// The lane for this shard.
    pub(crate) fn lane(&self, endpoint: &Endpoint, make: impl FnOnce(Endpoint) -> L) -> Found<L> {
        let mut places = lock(&self.places);
        if let Some(place) = places.get(endpoint)
            && place.lane.is_open()
        {
            return Found::Open(place.lane.clone());
        }
        let mut same_node: Vec<&Arc<L>> = places
            .values()
            .map(|place| &place.lane)
            .filter(|lane| lane.endpoint().node == endpoint.node && lane.is_open())
            .collect();
        if same_node.len() >= self.per_node_max {
            same_node.sort_by_key(|lane| lane.endpoint().shard);
            let shard = endpoint.shard.map_or(0, |shard| usize::from(shard.0));
            return Found::Open(same_node[shard % same_node.len()].clone());
        }
        let lane = Arc::new(make(endpoint.clone()));
        let place = places.entry(endpoint.clone()).or_insert_with(|| Place {
            lane: lane.clone(),
            backoff: Backoff::new(seed()),
            has_failed: false,
        });
        place.lane = lane.clone();
        let pause = if place.has_failed {
            place.backoff.next_pause()
        } else {
            Duration::ZERO
        };
        Found::New(lane, pause)
    }

    /// Remembers whether the last attempt to connect was a success.
    pub(crate) fn note(&self, endpoint: &Endpoint, is_success: bool) {
        if let Some(place) = lock(&self.places).get_mut(endpoint) {
            place.has_failed = !is_success;
            if is_success {
                place.backoff.succeeded();
            }
        }
    }

    /// Lanes that are open.
    pub(crate) fn open_count(&self) -> usize {
        lock(&self.places)
            .values()
            .filter(|place| place.lane.is_open())
            .count()
    }

    /// Ends all lanes.
    pub(crate) fn finish(&self) {
        for place in lock(&self.places).values() {
            place.lane.finish();
        }
    }
}

impl<L: Lane> Drop for Places<L> {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use catena_protocol::ids::{NodeId, ShardId};
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Fake {
        endpoint: Endpoint,
        is_open: AtomicBool,
    }

    impl Lane for Fake {
        fn endpoint(&self) -> &Endpoint {
            &self.endpoint
        }

        fn is_open(&self) -> bool {
            self.is_open.load(Ordering::Relaxed)
        }

        fn finish(&self) {}
    }

    fn endpoint(node: u32, shard: u16) -> Endpoint {
        let (node, shard) = (Some(NodeId(node)), Some(ShardId(shard)));
        Endpoint {
            address: "a:1".into(),
            node,
            shard,
        }
    }

    fn get(places: &Places<Fake>, node: u32, shard: u16) -> (Arc<Fake>, Option<Duration>) {
        let make = |endpoint| Fake {
            endpoint,
            is_open: AtomicBool::new(true),
        };
        match places.lane(&endpoint(node, shard), make) {
            Found::Open(lane) => (lane, None),
            Found::New(lane, pause) => (lane, Some(pause)),
        }
    }

    #[test]
    fn a_node_gets_no_more_connections_than_allowed() {
        let places = Places::new(2);
        assert!(get(&places, 1, 0).1.is_some());
        assert!(get(&places, 1, 1).1.is_some());
        let (shared, pause) = get(&places, 1, 3);
        assert!(pause.is_none());
        assert_eq!(shared.endpoint.shard, Some(ShardId(1)));
        assert!(get(&places, 2, 0).1.is_some(), "the bound is per node");
        assert_eq!(places.open_count(), 3);
    }

    #[test]
    fn a_lane_that_failed_is_made_again_after_a_pause() {
        let places = Places::new(2);
        let (lane, pause) = get(&places, 1, 0);
        assert_eq!(pause, Some(Duration::ZERO));
        lane.is_open.store(false, Ordering::Relaxed);
        places.note(&endpoint(1, 0), false);
        let (lane, pause) = get(&places, 1, 0);
        assert!(pause.is_some_and(|pause| !pause.is_zero()));
        lane.is_open.store(false, Ordering::Relaxed);
        places.note(&endpoint(1, 0), true);
        assert_eq!(get(&places, 1, 0).1, Some(Duration::ZERO));
    }
}
