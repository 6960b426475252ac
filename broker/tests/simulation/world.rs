//! What the clients of one run share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use catena_broker::runtime::channel::Notify;
use catena_broker::runtime::clock;
use catena_broker::runtime::simulated::Rng;
use catena_protocol::ids::TopicId;

use crate::model::SharedModel;

/// A pause before trying again.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// A topic as clients know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    Alive(TopicId),
    /// A client asked for its deletion; whether it is gone is not known, or it is.
    Deleted {
        is_certain: bool,
    },
}

/// Shared by all clients of a run.
pub(crate) struct World {
    pub(crate) model: SharedModel,
    pub(crate) topics: RefCell<BTreeMap<String, Topic>>,
    rng: RefCell<Rng>,
    /// Set when the broker said that its store failed: somebody has to restart it.
    store_failed: Cell<bool>,
    pub(crate) wants_restart: Notify,
    /// Producers that have more to send.
    pub(crate) producers: Cell<usize>,
    pub(crate) producer_done: Notify,
    /// Readers stop once this is set.
    pub(crate) ending: Cell<bool>,
}

impl World {
    pub(crate) fn new(model: SharedModel, rng: Rng) -> Rc<World> {
        Rc::new(World {
            model,
            topics: RefCell::default(),
            rng: RefCell::new(rng),
            store_failed: Cell::new(false),
            wants_restart: Notify::new(),
            producers: Cell::new(0),
            producer_done: Notify::new(),
            ending: Cell::new(false),
        })
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    pub(crate) fn is_deleted(&self, topic: &str) -> bool {
        matches!(self.topics.borrow().get(topic), Some(Topic::Deleted { .. }))
    }

    /// A client saw that the store failed.
    pub(crate) fn note_store_failed(&self) {
        if !self.store_failed.replace(true) {
            self.wants_restart.notify();
        }
    }

    pub(crate) fn take_store_failed(&self) -> bool {
        self.store_failed.take()
    }

    /// Rests a little before the next try.
    pub(crate) async fn pause(&self) {
        let factor = self.draw(|rng| rng.between(1, 8));
        clock::sleep(PAUSE * u32::try_from(factor).expect("at most 8")).await;
    }
}
