//! A whole broker: the control plane and the shards, started and stopped together.
//!
//! [`Broker::start`] blocks until every shard accepts connections. The threads it starts are the
//! control executor and one executor per shard; they talk through the channels of
//! [`crate::shard::message`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use catena_protocol::ids::ShardId;

use crate::boot::BootPlan;
use crate::config::Config;
use crate::control::{self, ControlBoot};
use crate::limits::{SEGMENT_BYTES_INITIAL, SEGMENT_BYTES_MIN, SHARD_MESSAGES_MAX};
use crate::port::PortReservation;
use crate::runtime::channel::{self, Receiver, Sender};
use crate::runtime::executor::{self, ExecutorConfig, RuntimeError};
use crate::shard::NodeIdentity;
use crate::shard::message::{ControlRequest, ShardMessage};
use crate::shard::start::{self, ShardBoot};
use crate::status::{NodeStatus, Phase};
use crate::store::Store;

/// How often the starting thread looks whether a shard has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

type Thread = JoinHandle<Result<Result<()>, RuntimeError>>;

/// A running broker.
///
/// Dropping it without [`Broker::stop`] leaves its threads running until the process ends.
pub struct Broker {
    addr: SocketAddr,
    status: Arc<NodeStatus>,
    control: Sender<ControlRequest>,
    shards: Vec<Sender<ShardMessage>>,
    threads: Vec<(String, Thread)>,
    control_thread: Thread,
    _store: Store,
}

impl Broker {
    /// Starts a broker; returns when it accepts connections.
    ///
    /// # Errors
    /// With a message for the operator: what could not be done, and why.
    pub fn start(config: &Config) -> Result<Broker> {
        let store = Store::open(&config.data_dir)?;
        let journals = store.dir.join("journals");
        // Flushed in any case: whoever made it may have been killed before its flush.
        std::fs::create_dir_all(&journals)
            .and_then(|()| std::fs::File::open(&store.dir)?.sync_all())
            .with_context(|| format!("cannot make {}", journals.display()))?;
        let reservation = PortReservation::bind(config.listen)
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let addr = reservation.addr();
        let shard_count = u16::try_from(config.cores.len()).context("too many cores")?;
        let names = (0..shard_count)
            .map(|shard| shard.to_string())
            .chain(["control".to_owned()]);
        let status = NodeStatus::new(names);
        let advertised = config.advertised(addr);
        let node = Arc::new(NodeIdentity {
            store_uuid: store.uuid,
            cluster_id: store.cluster_id,
            node: store.node,
            advertised_host: advertised.host.clone(),
            advertised_port: advertised.port,
            shards: shard_count,
        });
        let control = start_control(&journals, &node, &status)?;
        let mut starting = Starting {
            config,
            addr,
            node,
            status,
            journals,
            control,
            threads: Vec::new(),
        };
        let shards = starting.shards()?;
        starting.status.set_phase(Phase::Ready);
        drop(reservation);
        Ok(Broker {
            addr,
            status: starting.status,
            control: starting.control.requests,
            shards,
            threads: starting.threads,
            control_thread: starting.control.thread,
            _store: store,
        })
    }

    /// Where it listens; the real port if the configured one was 0.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Counters and health.
    pub fn status(&self) -> &Arc<NodeStatus> {
        &self.status
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Whether any of its threads has ended, which none does before a stop.
    pub fn has_ended(&self) -> bool {
        self.control_thread.is_finished() || self.threads.iter().any(|(_, t)| t.is_finished())
    }

    /// Commits what was admitted, answers it, writes checkpoints and ends. Takes seconds at most.
    ///
    /// # Errors
    /// The first failure of any of its threads.
    pub fn stop(self) -> Result<()> {
        self.status.set_phase(Phase::Draining);
        self.status
            .shards()
            .iter()
            .for_each(crate::status::ShardStatus::retire);
        for shard in &self.shards {
            // One that ended by itself is reported below.
            let _ = shard.send_blocking(ShardMessage::Stop);
        }
        let mut first_error = None;
        for (name, thread) in self.threads {
            if let Err(error) = join(&name, thread) {
                first_error.get_or_insert(error);
            }
        }
        let _ = self.control.send_blocking(ControlRequest::Stop);
        if let Err(error) = join("control", self.control_thread) {
            first_error.get_or_insert(error);
        }
        first_error.map_or(Ok(()), Err)
    }
}

struct Control {
    requests: Sender<ControlRequest>,
    shards: Sender<Vec<Sender<ShardMessage>>>,
    plan: Arc<BootPlan>,
    thread: Thread,
}

struct Starting<'a> {
    config: &'a Config,
    addr: SocketAddr,
    node: Arc<NodeIdentity>,
    status: Arc<NodeStatus>,
    journals: PathBuf,
    control: Control,
    threads: Vec<(String, Thread)>,
}

impl Starting<'_> {
    /// Starts every shard, deals what they read, and waits until they serve.
    fn shards(&mut self) -> Result<Vec<Sender<ShardMessage>>> {
        let (mesh, receivers): (Vec<_>, Vec<_>) = (0..self.config.cores.len())
            .map(|_| channel::bounded(SHARD_MESSAGES_MAX))
            .unzip();
        let started = self.start_shards(&mesh, receivers);
        if started.is_err() {
            for shard in &mesh {
                // One that has ended already is why the others are stopped.
                let _ = shard.try_send(ShardMessage::Stop);
            }
        }
        started.map(|()| mesh)
    }

    fn start_shards(
        &mut self,
        mesh: &[Sender<ShardMessage>],
        receivers: Vec<Receiver<ShardMessage>>,
    ) -> Result<()> {
        let count = mesh.len();
        let (scanned, all_scanned) = channel::bounded(count);
        let (ready, all_ready) = channel::bounded(count);
        let mut inputs = Vec::with_capacity(count);
        for (index, messages) in receivers.into_iter().enumerate() {
            let (input, receive_input) = channel::bounded(1);
            inputs.push(input);
            let id = ShardId::new(u16::try_from(index).expect("a shard count is a u16"));
            let boot = self.boot(
                id,
                mesh,
                messages,
                scanned.clone(),
                receive_input,
                ready.clone(),
            );
            let name = format!("catena-{index}");
            let core = self.config.pin_cores.then_some(self.config.cores[index]);
            let mut executor = ExecutorConfig::shard(name.clone(), core);
            executor.progress = Arc::clone(self.status.shards()[index].progress());
            let thread = executor::start(executor, move || start::run(boot))?;
            self.threads.push((name, thread));
        }
        drop((scanned, ready));
        let mut frames = Vec::with_capacity(count);
        for _ in 0..count {
            frames.push(self.wait_for(&all_scanned)?);
        }
        for (input, to) in self.control.plan.deal(frames).into_iter().zip(inputs) {
            to.send_blocking(input).map_err(|_| self.failure())?;
        }
        for _ in 0..count {
            self.wait_for(&all_ready)?;
        }
        for shard in mesh {
            shard
                .send_blocking(ShardMessage::Serve)
                .map_err(|_| self.failure())?;
        }
        for _ in 0..count {
            self.wait_for(&all_ready)?;
        }
        self.control
            .shards
            .send_blocking(mesh.to_vec())
            .map_err(|_| self.failure())
    }

    fn boot(
        &self,
        id: ShardId,
        mesh: &[Sender<ShardMessage>],
        messages: Receiver<ShardMessage>,
        scanned: Sender<crate::boot::ScannedFrames>,
        input: Receiver<crate::boot::ShardInput>,
        ready: Sender<ShardId>,
    ) -> ShardBoot {
        let count = self.config.cores.len();
        let shares = u64::try_from(count).expect("usize fits u64");
        let most = u32::try_from(self.config.segment_bytes).unwrap_or(u32::MAX);
        let space_bytes = self.config.space_bytes / shares;
        let least = SEGMENT_BYTES_INITIAL
            .min(space_bytes / 16)
            .max(SEGMENT_BYTES_MIN);
        let least = u32::try_from(least.next_power_of_two())
            .expect("at most 16 MiB")
            .min(most);
        ShardBoot {
            id,
            node: Arc::clone(&self.node),
            journals: self.journals.clone(),
            plan: Arc::clone(&self.control.plan),
            listen: self.addr,
            segment_bytes: (least, most),
            space_bytes,
            cache_bytes: usize::try_from(self.config.cache_bytes / shares).unwrap_or(usize::MAX),
            compaction: self.config.compaction,
            metrics: Arc::clone(self.status.shards()[usize::from(id.get())].metrics()),
            progress: Arc::clone(self.status.shards()[usize::from(id.get())].progress()),
            control: self.control.requests.clone(),
            mesh: mesh.to_vec(),
            messages,
            scanned,
            input,
            ready,
        }
    }

    /// Waits for a shard to come forward, or for any to end instead.
    fn wait_for<T>(&mut self, from: &Receiver<T>) -> Result<T> {
        loop {
            if let Some(told) = from.recv_timeout(LOOK_INTERVAL) {
                return Ok(told);
            }
            if self.threads.iter().any(|(_, thread)| thread.is_finished()) {
                return Err(self.failure());
            }
        }
    }

    /// Why the start failed: the error of the first thread that ended.
    fn failure(&mut self) -> anyhow::Error {
        let ended = self
            .threads
            .iter()
            .position(|(_, thread)| thread.is_finished());
        let (name, thread) = self.threads.swap_remove(ended.unwrap_or(0));
        join(&name, thread)
            .err()
            .unwrap_or_else(|| anyhow!("{name} ended before it served"))
    }
}

fn start_control(
    journals: &std::path::Path,
    node: &Arc<NodeIdentity>,
    status: &Arc<NodeStatus>,
) -> Result<Control> {
    let (requests, receive_requests) = channel::bounded(SHARD_MESSAGES_MAX);
    let (shards, receive_shards) = channel::bounded(1);
    let (plan, receive_plan) = channel::bounded(1);
    let of_control = status
        .shards()
        .last()
        .expect("the control plane has a status");
    let metrics = Arc::clone(of_control.metrics());
    let mut config = ExecutorConfig::system("catena-control");
    config.progress = Arc::clone(of_control.progress());
    let boot = ControlBoot {
        journals: journals.to_owned(),
        node: Arc::clone(node),
        metrics,
        plan,
        shards: receive_shards,
        requests: receive_requests,
    };
    let thread = executor::start(config, move || control::run(boot))?;
    match receive_plan.recv_blocking() {
        Some(plan) => Ok(Control {
            requests,
            shards,
            plan,
            thread,
        }),
        None => Err(join("control", thread)
            .err()
            .unwrap_or_else(|| anyhow!("control ended"))),
    }
}

fn join(name: &str, thread: Thread) -> Result<()> {
    match thread.join() {
        Ok(Ok(ended)) => ended.with_context(|| format!("{name} failed")),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(anyhow!("{name} panicked outside of its executor")),
    }
}
