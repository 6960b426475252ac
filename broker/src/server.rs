//! A whole broker: the control plane and the shards, started and stopped together.
//!
//! [`Broker::start`] blocks until every shard accepts connections. The threads it starts are the
//! control executor and one executor per shard, which talk through the channels of
//! [`crate::shard::message`], and the watchdog that looks after them.
//!
//! Invariant: a broker ends with its value. Nothing here touches what belongs to the process:
//! signals, limits, loggers, its end.

mod home;
mod in_process;
mod options;
mod refusal;
mod starting;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Error, Result, anyhow, ensure};
use tracing::warn;

pub use in_process::InProcess;
pub use options::{NodeOptions, Storage};
pub use refusal::{Refusal, refusal_of};

use self::home::Home;
use self::starting::{Plan, Thread, join};
use crate::config::HostPort;
use crate::limits::SHARDS_MAX;
use crate::port::PortReservation;
use crate::runtime::channel::Sender;
use crate::shard::NodeIdentity;
use crate::shard::message::{ControlRequest, ShardMessage};
use crate::status::{NodeStatus, Phase, ShardStatus};
use crate::watchdog::Watchdog;

/// What clients see in place of a host name when a broker listens nowhere.
const IN_PROCESS_HOST: &str = "in-process";

/// A running broker. Dropping it stops it, and waits for that.
pub struct Broker {
    addr: Option<SocketAddr>,
    status: Arc<NodeStatus>,
    control: Sender<ControlRequest>,
    shards: Vec<Sender<ShardMessage>>,
    threads: Vec<(String, Thread)>,
    control_thread: Option<Thread>,
    /// What the first thread that ended by itself had to say.
    failure: Option<Error>,
    /// Absent until everything else has started.
    watchdog: Option<Watchdog>,
    /// Given up last: until then nobody else may have it, and until helper threads that outlive
    /// their executor have done what they do.
    _home: Home,
}

impl Broker {
    /// Starts a broker; returns when it accepts connections.
    ///
    /// # Errors
    /// With a message for the operator: what could not be done, and why. Nothing of it runs then.
    pub fn start(options: &NodeOptions) -> Result<Broker> {
        Self::start_unexplained(options).map_err(|failure| match &options.storage {
            Storage::Directory(dir) => refusal::explained(failure, dir),
            Storage::Memory => failure,
        })
    }

    fn start_unexplained(options: &NodeOptions) -> Result<Broker> {
        let shards = options.cores.len();
        ensure!(
            (1..=SHARDS_MAX).contains(&shards),
            "a broker has 1 to {SHARDS_MAX} shards, and {shards} were asked for"
        );
        let shards = u16::try_from(shards).expect("at most SHARDS_MAX");
        let home = Home::open(&options.storage)?;
        let reserve =
            |at| PortReservation::bind(at).with_context(|| format!("cannot listen on {at}"));
        let reservation = options.listen.map(reserve).transpose()?;
        let addr = reservation.as_ref().map(PortReservation::addr);
        let names = (0..shards)
            .map(|shard| shard.to_string())
            .chain(["control".to_owned()]);
        let status = NodeStatus::new(names);
        let advertised = advertised(options, addr);
        let node = Arc::new(NodeIdentity {
            store_uuid: home.store_uuid,
            cluster_id: home.cluster_id,
            node: home.node,
            advertised_host: advertised.host,
            advertised_port: advertised.port,
            shards,
        });
        let started = starting::start(Plan {
            options,
            home: &home,
            listen: addr,
            node,
            status: Arc::clone(&status),
        })?;
        let mut broker = Broker {
            addr,
            status: Arc::clone(&status),
            control: started.control,
            shards: started.shards,
            threads: started.threads,
            control_thread: Some(started.control_thread),
            failure: None,
            watchdog: None,
            _home: home,
        };
        // Only now: reading back is one long turn here and there, and no stall.
        let watchdog = Watchdog::start(Arc::clone(&status));
        broker.watchdog = Some(watchdog.context("cannot start the watchdog")?);
        status.set_phase(Phase::Ready);
        Ok(broker)
    }

    /// Where it listens, if it does; the real port if the one asked for was 0.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Connections to it from this process.
    pub fn in_process(&self) -> InProcess {
        InProcess {
            shard: self.shards[0].clone(),
        }
    }

    /// Counters and health.
    pub fn status(&self) -> &Arc<NodeStatus> {
        &self.status
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Why it does not serve as a whole any more: one of its threads has ended, which none does
    /// before a stop. Always the first one found.
    pub fn failure(&mut self) -> Option<&Error> {
        if self.failure.is_none()
            && let Some((name, thread)) = self.take_ended()
        {
            let ended = join(&name, thread).err();
            self.failure = Some(ended.unwrap_or_else(|| anyhow!("{name} ended by itself")));
        }
        self.failure.as_ref()
    }

    /// Commits what was admitted, answers it, writes checkpoints and ends. Takes seconds at most.
    ///
    /// # Errors
    /// The first failure of any of its threads.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn take_ended(&mut self) -> Option<(String, Thread)> {
        if let Some(thread) = self.control_thread.take_if(|thread| thread.is_finished()) {
            return Some(("control".to_owned(), thread));
        }
        let ended = self.threads.iter().position(|(_, t)| t.is_finished())?;
        Some(self.threads.swap_remove(ended))
    }

    fn end(&mut self) -> Result<()> {
        self.status.set_phase(Phase::Draining);
        self.status.shards().iter().for_each(ShardStatus::retire);
        for shard in &self.shards {
            // One that ended by itself is reported below.
            let _ = shard.send_blocking(ShardMessage::Stop);
        }
        let mut first_error = self.failure.take();
        for (name, thread) in self.threads.drain(..) {
            if let Err(error) = join(&name, thread) {
                first_error.get_or_insert(error);
            }
        }
        let _ = self.control.send_blocking(ControlRequest::Stop);
        if let Some(thread) = self.control_thread.take()
            && let Err(error) = join("control", thread)
        {
            first_error.get_or_insert(error);
        }
        self.watchdog.take();
        first_error.map_or(Ok(()), Err)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let is_running = self.control_thread.is_some() || !self.threads.is_empty();
        if is_running && let Err(error) = self.end() {
            warn!("a broker that was dropped had failed: {error:#}");
        }
    }
}

fn advertised(options: &NodeOptions, bound: Option<SocketAddr>) -> HostPort {
    let in_process = || HostPort {
        host: IN_PROCESS_HOST.to_owned(),
        port: 0,
    };
    let advertised = options.advertise.clone();
    advertised.unwrap_or_else(|| bound.map_or_else(in_process, HostPort::from))
}

#[cfg(test)]
mod tests;
