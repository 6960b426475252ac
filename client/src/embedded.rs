//! A broker inside this process: the whole engine of the server, without a server.
//!
//! [`EmbeddedBroker`] is an in-process queue for tests and event buses ([`Storage::Memory`]), a
//! queue in local files ([`Storage::Dir`]), or a queue whose consumers come over TCP
//! ([`Listen::Tcp`]). Producers, consumers and admin calls are those of any [`Client`], and what is
//! acknowledged is on stable storage first, where there is one.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use catena_client::embedded::{EmbeddedBroker, Storage};
//! use catena_client::{Record, TopicConfig};
//!
//! let broker = EmbeddedBroker::builder().storage(Storage::Memory).start().await?;
//! let client = broker.client().await?;
//! client.admin().create_topic("events", 1, TopicConfig::default()).await?;
//!
//! let producer = client.producer().build().await?;
//! producer.send_and_wait(Record::to("events").value("started")).await?;
//! let mut consumer = client.consumer().topic("events").build().await?;
//! assert_eq!(consumer.next_batch().await?.records()?[0].value.as_deref(), Some(&b"started"[..]));
//! broker.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The process stays its owner's: an embedded broker pins no threads, handles no signals, sets no
//! logger and no limit of the process, and ends neither it nor itself; what fails can be asked for
//! with [`EmbeddedBroker::failure`]. It runs on threads of its own, three for the smallest. Any
//! number of them can run side by side.

mod builder;
mod error;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use catena_broker::admin::AdminServer;
use catena_broker::server::{Broker, InProcess};
use tokio::net::UnixStream;

pub use builder::EmbeddedBrokerBuilder;
pub use error::EmbeddedError;

use crate::client::{Client, ClientBuilder};
use crate::connection::stream::connect_in_process;
use crate::error::BuildError;
use crate::locking::lock;

/// Where an embedded broker keeps its data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// In memory, for as long as the broker runs. Works where `io_uring` is forbidden, as in
    /// containers with a default seccomp profile.
    #[default]
    Memory,
    /// In this directory, made and formatted if it does not exist, on a local disk with direct
    /// I/O. The same format as a server's; one broker at a time. A relative path counts from the
    /// process's current directory at the start. Needs `io_uring`.
    Dir(PathBuf),
}

/// Who reaches an embedded broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Listen {
    /// Only this process, through [`EmbeddedBroker::client`].
    #[default]
    None,
    /// Everyone who can connect to this address as well. Port 0 picks a free one.
    Tcp(SocketAddr),
}

/// A broker that runs inside this process.
///
/// Dropping it stops it as [`shutdown`](Self::shutdown) does and blocks the thread meanwhile,
/// usually for milliseconds.
pub struct EmbeddedBroker {
    addr: Option<SocketAddr>,
    in_process: InProcess,
    /// Ends before the broker that it tells about.
    admin: Option<AdminServer>,
    broker: Mutex<Broker>,
}

impl EmbeddedBroker {
    /// Settings of a broker: in memory and for this process only, unless told otherwise.
    pub fn builder() -> EmbeddedBrokerBuilder {
        EmbeddedBrokerBuilder::default()
    }

    /// A client with default settings, connected inside the process wherever the broker listens.
    ///
    /// # Errors
    /// If the broker does not answer within the request timeout.
    ///
    /// # Cancel safety
    /// Dropping the call closes what it opened.
    pub async fn client(&self) -> Result<Client, BuildError> {
        self.client_with(Client::builder()).await
    }

    /// A client with these settings, connected inside the process.
    ///
    /// # Errors
    /// As [`client`](Self::client), and if a setting is out of range.
    ///
    /// # Cancel safety
    /// Dropping the call closes what it opened.
    pub async fn client_with(&self, settings: ClientBuilder) -> Result<Client, BuildError> {
        settings.connect_in_process(self.in_process.clone()).await
    }

    /// A connection inside the process for who speaks the wire protocol without this crate. The
    /// first request on it is a hello.
    ///
    /// # Errors
    /// `ConnectionRefused` when its first shard has ended; what the operating system says when the
    /// process has no descriptors left.
    ///
    /// # Cancel safety
    /// Dropping the call closes the connection.
    pub async fn raw_connection(&self) -> io::Result<UnixStream> {
        connect_in_process(&self.in_process).await
    }

    /// Where it listens, with the real port; `None` with [`Listen::None`].
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Where it serves metrics and health, if that was asked for.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(AdminServer::addr)
    }

    /// What is wrong with it, if anything is: one of its threads has ended, a journal has failed
    /// and takes no writes, or a shard makes no progress. Nobody is told by itself: ask now and
    /// then, or have a supervisor ask `/healthz` at [`admin_addr`](Self::admin_addr).
    ///
    /// A shard without progress may come back; of the rest it does not recover by itself. Shut it
    /// down and start it anew. What a thread that panicked held is not all given back until the
    /// process ends: with [`Storage::Dir`] a ring, and up to two idle helper threads.
    pub fn failure(&self) -> Option<EmbeddedError> {
        let mut broker = lock(&self.broker);
        if let Some(failure) = broker.failure() {
            return Some(EmbeddedError::new(None, failure));
        }
        let problems = broker.status().problems();
        (!problems.is_empty()).then(|| EmbeddedError::new(None, &problems.join("; ")))
    }

    /// Commits and answers what was accepted, writes checkpoints, closes all connections and ends
    /// all threads. Usually milliseconds, seconds at the most.
    ///
    /// # Errors
    /// If any part of the broker failed, now or before. It has ended all the same.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Once polled it goes on to its end in the background.
    pub async fn shutdown(self) -> Result<(), EmbeddedError> {
        let stopped = tokio::task::spawn_blocking(move || {
            drop(self.admin);
            let broker = self.broker.into_inner();
            let broker = broker.unwrap_or_else(std::sync::PoisonError::into_inner);
            broker.stop()
        });
        match stopped.await {
            Ok(stopped) => stopped.map_err(|failure| EmbeddedError::new(None, &failure)),
            Err(interrupted) => Err(EmbeddedError::new(None, &interrupted)),
        }
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBroker")
            .field("local_addr", &self.addr)
            .finish_non_exhaustive()
    }
}
