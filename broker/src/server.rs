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
mod prepared;
mod refusal;
mod starting;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow};
use tracing::warn;

pub use in_process::InProcess;
pub use options::{NodeOptions, Storage};
pub use prepared::Prepared;
pub use refusal::{Refusal, refusal_of};

use self::home::Home;
use self::starting::{Thread, join};
use crate::runtime::channel::Sender;
use crate::shard::message::{ControlRequest, ShardMessage};
use crate::status::{NodeStatus, Phase, ShardStatus};
use crate::watchdog::Watchdog;

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
        Self::prepare(options)?.start()
    }

    /// Takes what only one broker can have, before anything is read back, which can take minutes.
    ///
    /// # Errors
    /// As [`start`](Self::start): the directory or the port is taken or cannot be used.
    pub fn prepare(options: &NodeOptions) -> Result<Prepared<'_>> {
        prepared::prepare(options)
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

#[cfg(test)]
mod tests;
