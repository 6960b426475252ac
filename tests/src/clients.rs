//! Clients that write down what they do, for runs in which the broker comes and goes.
//!
//! Two kinds of each: those of the client library, which users have, and raw ones, which see every
//! answer: a high watermark, an offset, an error. Producers send again until they are told an
//! outcome. Invariant: nothing that a broker does, or fails to do, makes them panic.

mod consuming;
mod producing;
mod raw;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use catena_client::{Client, TopicConfig, TopicId};
use tokio::task::JoinSet;

pub use raw::read_all;

use crate::history::History;
use crate::history::recorder::Recorder;
use crate::seeded::Seeded;
use crate::wait::comes_true;

/// Generous: whoever else uses the machine may pause all of this for a while.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// The numbers of the library's consumers in histories; 2 is the raw one.
const TAILING: u32 = 1;
const CATCHING_UP: u32 = 3;

/// What the clients use.
#[derive(Clone, Debug)]
pub struct Target {
    /// The broker, `HOST:PORT`.
    pub addr: String,
    /// The topic's name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
}

/// How much they do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Decides the values.
    pub seed: u64,
    /// Sends of the library's producer that have no outcome yet, at most.
    pub in_flight: usize,
    /// The delivery timeout of the library's producer.
    pub delivery_timeout: Duration,
    /// How long both producers rest after a send to each of their partitions.
    pub pause: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            seed: 1,
            in_flight: 32,
            delivery_timeout: Duration::from_secs(600),
            pause: Duration::ZERO,
        }
    }
}

/// Running clients.
#[derive(Debug)]
pub struct Clients {
    target: Target,
    recorder: Arc<Recorder>,
    stop_sending: Arc<AtomicBool>,
    stop_reading: Arc<AtomicBool>,
    sending: JoinSet<()>,
    reading: JoinSet<()>,
    raw_sending: JoinHandle<()>,
    raw_reading: JoinHandle<()>,
}

impl Clients {
    /// As [`start_on`](Self::start_on), with the topic `events`.
    ///
    /// # Errors
    /// What the broker refused, in words.
    pub async fn start(addr: &str, load: Load) -> Result<Self, String> {
        Self::start_on(addr, "events", load).await
    }

    /// Makes a topic and starts one client of each kind.
    ///
    /// # Errors
    /// What the broker refused, in words.
    pub async fn start_on(addr: &str, topic: &str, load: Load) -> Result<Self, String> {
        const PARTITIONS: u32 = 2;
        let client = Client::builder().request_timeout(REQUEST_TIMEOUT);
        let client = client.connect(addr).await.map_err(words)?;
        let admin = client.admin();
        let made = admin.create_topic(topic, PARTITIONS, TopicConfig::default());
        let target = Target {
            addr: addr.to_owned(),
            topic: topic.to_owned(),
            topic_id: made.await.map_err(words)?,
            partitions: PARTITIONS,
        };
        let producer = client
            .producer()
            .delivery_timeout(load.delivery_timeout)
            .build()
            .await
            .map_err(words)?;
        let consumer = client.consumer().topic(topic).build().await;
        let consumer = consumer.map_err(words)?;
        let recorder = Arc::new(Recorder::default());
        let stop_sending = Arc::new(AtomicBool::new(false));
        let stop_reading = Arc::new(AtomicBool::new(false));
        let (mut sending, mut reading) = (JoinSet::new(), JoinSet::new());
        sending.spawn(producing::run(
            producer,
            target.clone(),
            load,
            Arc::clone(&recorder),
            Arc::clone(&stop_sending),
        ));
        reading.spawn(consuming::run(
            TAILING,
            consumer,
            Arc::clone(&recorder),
            Arc::clone(&stop_reading),
        ));
        let (to, notes, stop) = (
            target.clone(),
            Arc::clone(&recorder),
            Arc::clone(&stop_sending),
        );
        let raw_sending = thread::spawn(move || raw::produce(&to, load, &notes, &stop));
        let (of, notes, stop) = (
            target.clone(),
            Arc::clone(&recorder),
            Arc::clone(&stop_reading),
        );
        let raw_reading = thread::spawn(move || raw::poll(&of, &notes, &stop));
        Ok(Self {
            target,
            recorder,
            stop_sending,
            stop_reading,
            sending,
            reading,
            raw_sending,
            raw_reading,
        })
    }

    /// Starts one more consumer of the library, which reads from the beginning.
    ///
    /// # Errors
    /// What the broker refused, in words.
    pub async fn read_again(&mut self) -> Result<(), String> {
        let client = Client::builder().request_timeout(REQUEST_TIMEOUT);
        let client = client.connect(&self.target.addr).await.map_err(words)?;
        let consumer = client.consumer().topic(&self.target.topic).build().await;
        self.reading.spawn(consuming::run(
            CATCHING_UP,
            consumer.map_err(words)?,
            Arc::clone(&self.recorder),
            Arc::clone(&self.stop_reading),
        ));
        Ok(())
    }

    /// What they use.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// What they wrote down.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// Waits until `more` sends are acknowledged; `false` if that does not happen.
    pub async fn until_acknowledged(&self, more: u64) -> bool {
        let wanted = self.recorder.acknowledged() + more;
        let is_done = || self.recorder.acknowledged() >= wanted;
        comes_true(|| is_done() || self.recorder.is_hopeless()).await && is_done()
    }

    /// Sends no more, waits for the outcome of what was sent, reads everything, and gives the
    /// whole history. What has no outcome in the end is stuck.
    pub async fn finish(mut self) -> History {
        self.stop_sending.store(true, Ordering::Relaxed);
        let sent = comes_true(|| {
            // Tasks that ended are taken out of the set.
            while self.sending.try_join_next().is_some() {}
            self.sending.is_empty() && self.raw_sending.is_finished()
        });
        let all_answered = sent.await;
        let target = self.target.clone();
        let read = tokio::task::spawn_blocking(move || read_all(&target)).await;
        self.stop_reading.store(true, Ordering::Relaxed);
        let readers_end = comes_true(|| {
            while self.reading.try_join_next().is_some() {}
            self.reading.is_empty() && self.raw_reading.is_finished()
        });
        let readers_ended = readers_end.await;
        let mut history = self.recorder.history();
        if !all_answered {
            history.stuck.push("producers wait for outcomes".to_owned());
        }
        if !readers_ended {
            history.stuck.push("readers wait for an answer".to_owned());
        }
        match read.expect("reading does not panic") {
            Ok(finals) => history.finals = finals,
            Err(error) => history.stuck.push(format!("the final read: {error}")),
        }
        history
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A value that is like no other: who sent it where as what, and bytes up to a size that varies
/// from a few to several hundred thousand.
fn value(producer: u32, partition: u32, number: u64, random: &mut Seeded) -> Vec<u8> {
    let bytes = match random.below(100) {
        0..=89 => 16 + random.below(400),
        90..=97 => (4 << 10) + random.below(36 << 10),
        _ => (130 << 10) + random.below(270 << 10),
    };
    let mut value = format!("{producer}/{partition}/{number}/").into_bytes();
    value.extend(random.bytes(bytes));
    value
}
