//! Brokers that load can be put on, each behind the same three traits.
//!
//! The generator decides when a call starts, what it carries and where it goes; a driver only
//! hands it to its client and tells when the broker acknowledged it. So figures of two systems
//! come from the same schedule, the same records and the same histograms.

#[cfg(feature = "peers")]
mod background;
pub(crate) mod catena;
#[cfg(feature = "iggy")]
pub(crate) mod iggy;
#[cfg(feature = "peers")]
pub(crate) mod kafka;
#[cfg(feature = "peers")]
pub(crate) mod nats;
#[cfg(feature = "peers")]
pub(crate) mod redis;

use std::future::Future;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use serde::Serialize;

use crate::args::{StartAt, SystemName};
use crate::workload::Workload;

/// A broker with the topic of one run. Shared by the load threads; producers and consumers are
/// made on the thread that uses them and stay there.
pub(crate) trait System: Clone + Sync + 'static {
    type Producer: Producer;
    type Consumer: Consumer;

    /// Makes sure of the topic, and of the durability class the workload asks for.
    ///
    /// Fails if the broker is known to acknowledge earlier than asked: its figures would be those
    /// of another class.
    async fn prepare(&self, workload: &Workload) -> Result<Prepared>;

    /// Producer `index` of the run, with connections of its own as an application would have.
    async fn producer(&self, workload: &Workload, index: u32) -> Result<Self::Producer>;

    /// A consumer of `partitions`, with connections of its own. Its position is fixed when this
    /// returns: `Latest` gives everything produced afterwards.
    async fn consumer(&self, partitions: Vec<u32>, from: StartAt) -> Result<Self::Consumer>;

    /// Deletes the topic and what it holds.
    async fn remove(&self) -> Result<()>;
}

/// What a run needs to know of a system that is ready for it.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) partitions: u32,
    pub(crate) facts: Facts,
}

/// What a report says of the system that was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Facts {
    /// Name and version as the broker gives it.
    pub(crate) system: String,
    /// When it acknowledged, in words.
    pub(crate) durability: String,
    /// How that was verified; `None` if the broker does not tell.
    pub(crate) verified: Option<String>,
    /// What a call of several records is to this system, where that needs saying.
    pub(crate) batch: Option<String>,
}

/// One record for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Where it goes; with a key, where the key's hash takes it.
    pub(crate) partition: u32,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Bytes,
}

/// Hands calls to a client. Used inside a `LocalSet`, so a driver may spawn local tasks.
pub(crate) trait Producer: 'static {
    /// Completes when all records of the call are acknowledged; the error is its kind, without
    /// what differs from call to call. It must make progress without being polled.
    type Ack: Future<Output = Result<(), String>> + Unpin + 'static;

    /// Sends one record by itself. May wait for the client to have room.
    async fn send_one(&mut self, message: Message) -> Result<Self::Ack, String>;

    /// Sends the records of one call, which are acknowledged together.
    async fn send_many(
        &mut self,
        messages: impl Iterator<Item = Message>,
    ) -> Result<Self::Ack, String>;
}

/// A record as a consumer got it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) partition: u32,
    pub(crate) key_bytes: usize,
    pub(crate) value: &'a [u8],
}

/// Takes records from a client. Used inside a `LocalSet`.
pub(crate) trait Consumer: 'static {
    /// Waits for records and hands each to `take` in the order of its partition; an error is its
    /// kind. Returns after some, so that the runtime sees to its sockets.
    ///
    /// Cancel safe: what was not handed over is handed over by a later call.
    async fn receive(&mut self, take: &mut dyn FnMut(Result<Received<'_>, String>));
}

/// Which broker and topic.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `HOST:PORT`, several separated by commas where the system takes several; for some systems
    /// also an address with a scheme and credentials.
    pub(crate) address: String,
    pub(crate) topic: Arc<str>,
}

/// Something to be done on a system, whichever it is.
pub(crate) trait Job {
    type Output;

    fn run<S: System>(self, system: &S) -> Result<Self::Output>;
}

/// Whether this program was built with a driver for the system called `name`.
pub(crate) fn has_driver(name: SystemName) -> bool {
    match name {
        SystemName::Catena => true,
        SystemName::Nats | SystemName::Redis | SystemName::Kafka => cfg!(feature = "peers"),
        SystemName::Iggy => cfg!(feature = "iggy"),
    }
}

/// Does `job` on the system called `name` at `target`.
pub(crate) fn on<J: Job>(name: SystemName, target: &Target, job: J) -> Result<J::Output> {
    match name {
        SystemName::Catena => job.run(&catena::Catena::new(target)),
        #[cfg(feature = "peers")]
        SystemName::Nats => job.run(&nats::Nats::new(target)),
        #[cfg(feature = "peers")]
        SystemName::Redis => job.run(&redis::Redis::new(target)),
        #[cfg(feature = "peers")]
        SystemName::Kafka => job.run(&kafka::Kafka::new(target)),
        #[cfg(feature = "iggy")]
        SystemName::Iggy => job.run(&iggy::Iggy::new(target)),
        #[cfg(not(feature = "iggy"))]
        _ => anyhow::bail!("this program was built without a driver for that: {NO_DRIVER}"),
    }
}

/// What to do about it.
pub(crate) const NO_DRIVER: &str = "build it with --features peers, for Iggy with --features iggy";
