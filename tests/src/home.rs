//! The homes of the broker: a server, or a program that has it inside, in memory or in a directory,
//! with a port or without. One test can run in each of them.
//!
//! Invariant: what a test can ask of a home, all homes answer alike. Where data outlive the broker
//! is the one difference, and [`Home::bounce`] hides it.

use std::path::Path;

use catena_client::embedded::{EmbeddedBroker, Listen, Storage};
use catena_client::{Client, TopicConfig};
use tempfile::TempDir;

use crate::broker::{Broker, Settings};
use crate::peer::Peer;
use crate::{programs, wait};

/// The smallest space that a shard takes: every home has it, so that a test can fill it.
const SPACE_BYTES: u64 = 64 << 20;

/// A kind of home. Each has one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A process of its own.
    Server,
    /// In this process with a directory, connected without a port.
    EmbeddedDir,
    /// In this process with a directory, over TCP.
    EmbeddedDirTcp,
    /// In this process and its memory, connected without a port.
    EmbeddedMemory,
    /// In this process and its memory, over TCP.
    EmbeddedMemoryTcp,
}

/// A running broker somewhere.
#[derive(Debug)]
pub struct Home(Kind);

#[derive(Debug)]
enum Kind {
    Server(Box<Broker>),
    Embedded {
        /// Absent only while it is started again.
        broker: Option<Box<EmbeddedBroker>>,
        dir: Option<TempDir>,
        listen: Listen,
    },
}

impl Home {
    /// Starts a broker without data.
    ///
    /// # Panics
    /// If it does not come up; so does everything below if it does not answer.
    pub async fn start(target: Target) -> Home {
        let on_loopback = Listen::Tcp("127.0.0.1:0".parse().expect("an address"));
        let (has_dir, listen) = match target {
            Target::Server => return Home(Kind::Server(Box::new(server()))),
            Target::EmbeddedDir => (true, Listen::None),
            Target::EmbeddedDirTcp => (true, on_loopback),
            Target::EmbeddedMemory => (false, Listen::None),
            Target::EmbeddedMemoryTcp => (false, on_loopback),
        };
        let dir = has_dir.then(directory);
        let broker = embedded(dir.as_ref().map(TempDir::path), listen).await;
        Home(Kind::Embedded {
            broker: Some(Box::new(broker)),
            dir,
            listen,
        })
    }

    /// A client of the library, connected the way of this home.
    pub async fn client(&self) -> Client {
        let broker = match &self.0 {
            Kind::Server(broker) => return broker.client().await,
            Kind::Embedded { .. } => self.embedded(),
        };
        let client = match broker.local_addr() {
            None => wait::within_limit("a connection", broker.client()).await,
            Some(addr) => {
                let addr = addr.to_string();
                wait::within_limit("a connection", Client::connect(&addr)).await
            }
        };
        client.expect("a client connects")
    }

    /// As [`client`](Self::client); it has made a topic.
    pub async fn client_with(&self, topic: &str, partitions: u32) -> Client {
        let client = self.client().await;
        let config = TopicConfig::default();
        let made = client.admin().create_topic(topic, partitions, config).await;
        made.expect("a topic");
        client
    }

    /// A peer that has said hello.
    pub async fn peer(&self) -> Peer {
        let broker = match &self.0 {
            Kind::Server(broker) => return Peer::connect(broker.addr()),
            Kind::Embedded { .. } => self.embedded(),
        };
        if let Some(addr) = broker.local_addr() {
            return Peer::connect(&addr.to_string());
        }
        let stream = broker.raw_connection().await.expect("a connection");
        let stream = stream.into_std().expect("it leaves the runtime");
        Peer::over(stream.into())
    }

    /// What the broker says is wrong with it.
    pub fn problem(&self) -> Option<String> {
        match &self.0 {
            Kind::Server(broker) => {
                let health = broker.admin_get("/healthz");
                (!health.ends_with("ok\n")).then_some(health)
            }
            Kind::Embedded { .. } => self.embedded().failure().map(|error| error.to_string()),
        }
    }

    /// Where data outlive the broker: ends it in the hardest way there is and starts it again.
    /// Elsewhere nothing. Clients have to be made anew.
    pub async fn bounce(&mut self) {
        match &mut self.0 {
            Kind::Server(broker) => {
                broker.kill();
                broker.start_again();
            }
            Kind::Embedded {
                broker,
                dir: Some(dir),
                listen,
            } => {
                drop(broker.take());
                let started = embedded(Some(dir.path()), *listen).await;
                *broker = Some(Box::new(started));
            }
            Kind::Embedded { dir: None, .. } => {}
        }
    }

    /// A clean stop.
    pub async fn stop(self) {
        match self.0 {
            Kind::Server(mut broker) => broker.stop(),
            Kind::Embedded { broker, .. } => {
                let broker = broker.expect("it runs");
                assert!(broker.failure().is_none(), "{:?}", broker.failure());
                let stopped = wait::within_limit("a stop", broker.shutdown()).await;
                stopped.expect("a clean stop");
            }
        }
    }

    fn embedded(&self) -> &EmbeddedBroker {
        match &self.0 {
            Kind::Embedded { broker, .. } => broker.as_deref().expect("it runs"),
            Kind::Server(_) => unreachable!("asked of embedded brokers only"),
        }
    }
}

fn server() -> Broker {
    Broker::start_with(Settings {
        space: SPACE_BYTES.to_string(),
        ..Settings::default()
    })
}

/// A new directory on a disk that takes direct I/O.
pub fn directory() -> TempDir {
    let builder = &mut tempfile::Builder::new();
    let dir = builder
        .prefix("embedded-")
        .tempdir_in(programs::scratch_dir());
    dir.expect("a directory for the broker")
}

async fn embedded(dir: Option<&Path>, listen: Listen) -> EmbeddedBroker {
    let storage = dir.map_or(Storage::Memory, |dir| Storage::Dir(dir.join("data")));
    let settings = EmbeddedBroker::builder()
        .storage(storage)
        .listen(listen)
        .space_bytes(SPACE_BYTES);
    let started = wait::within_limit("a start", settings.start()).await;
    started.expect("the broker starts")
}
