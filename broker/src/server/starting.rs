//! The start of a node: the control plane first, then every shard, each step when all are ready
//! for it.
//!
//! Invariant: when a start fails, no thread of it is left. Runs on the thread that starts the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use catena_core::recover::ScannedFrames;
use catena_protocol::ids::ShardId;

use super::NodeOptions;
use super::home::Home;
use crate::boot::{BootPlan, ShardInput};
use crate::control::{self, ControlBoot};
use crate::limits::{SEGMENT_BYTES_INITIAL, SEGMENT_BYTES_MIN, SHARD_MESSAGES_MAX};
use crate::runtime::channel::{self, Receiver, Sender};
use crate::runtime::executor::{self, ExecutorConfig, RuntimeError};
use crate::shard::NodeIdentity;
use crate::shard::message::{ControlRequest, ShardMessage};
use crate::shard::start::{self, ShardBoot};
use crate::status::NodeStatus;

/// How often the starting thread looks whether a shard has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

pub(super) type Thread = JoinHandle<Result<Result<()>, RuntimeError>>;

/// The threads of a node that serves.
pub(super) struct Started {
    pub(super) control: Sender<ControlRequest>,
    pub(super) control_thread: Thread,
    pub(super) shards: Vec<Sender<ShardMessage>>,
    pub(super) threads: Vec<(String, Thread)>,
}

/// What all threads of a node are made from.
pub(super) struct Plan<'a> {
    pub(super) options: &'a NodeOptions,
    pub(super) home: &'a Home,
    pub(super) listen: Option<SocketAddr>,
    pub(super) node: Arc<NodeIdentity>,
    pub(super) status: Arc<NodeStatus>,
}

/// Starts everything; returns when it serves.
pub(super) fn start(plan: Plan<'_>) -> Result<Started> {
    let control = start_control(&plan)?;
    let mut starting = Starting {
        plan,
        control,
        threads: Vec::new(),
    };
    match starting.shards() {
        Ok(shards) => Ok(Started {
            control: starting.control.requests,
            control_thread: starting.control.thread,
            shards,
            threads: starting.threads,
        }),
        Err(error) => {
            starting.abandon();
            Err(error)
        }
    }
}

struct Control {
    requests: Sender<ControlRequest>,
    shards: Sender<Vec<Sender<ShardMessage>>>,
    plan: Arc<BootPlan>,
    thread: Thread,
}

struct Starting<'a> {
    plan: Plan<'a>,
    control: Control,
    threads: Vec<(String, Thread)>,
}

impl Starting<'_> {
    /// Starts every shard, deals what they read, and waits until they serve.
    fn shards(&mut self) -> Result<Vec<Sender<ShardMessage>>> {
        let (mesh, receivers): (Vec<_>, Vec<_>) = (0..self.plan.options.cores.len())
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
            let own = (messages, receive_input);
            let boot = self.boot(id, mesh, own, scanned.clone(), ready.clone());
            // Nobody waits for a shard that panicked.
            let guard = boot.messages.closer();
            let run = move || start::run(boot);
            let thread = executor::start_guarded(self.executor(index), guard, run)?;
            self.threads.push((format!("catena-{index}"), thread));
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
            .map_err(|_| anyhow!("the control plane ended before the shards served"))
    }

    fn executor(&self, index: usize) -> ExecutorConfig {
        let Plan { options, home, .. } = &self.plan;
        ExecutorConfig {
            files: home.files.clone(),
            free_buffer_bytes_max: options.free_buffer_bytes,
            progress: Arc::clone(self.plan.status.shards()[index].progress()),
            files_lock: home.lock(),
            ..ExecutorConfig::shard(format!("catena-{index}"), options.cores[index])
        }
    }

    fn boot(
        &self,
        id: ShardId,
        mesh: &[Sender<ShardMessage>],
        (messages, input): (Receiver<ShardMessage>, Receiver<ShardInput>),
        scanned: Sender<ScannedFrames>,
        ready: Sender<ShardId>,
    ) -> ShardBoot {
        let Plan { options, home, .. } = &self.plan;
        let shares = u64::try_from(options.cores.len()).expect("usize fits u64");
        let most = u32::try_from(options.segment_bytes).unwrap_or(u32::MAX);
        let space_bytes = options.space_bytes / shares;
        let least = SEGMENT_BYTES_INITIAL
            .min(space_bytes / 16)
            .max(SEGMENT_BYTES_MIN);
        let least = u32::try_from(least.next_power_of_two())
            .expect("at most 16 MiB")
            .min(most);
        let status = &self.plan.status.shards()[usize::from(id.get())];
        ShardBoot {
            id,
            node: Arc::clone(&self.plan.node),
            journals: home.journals.clone(),
            plan: Arc::clone(&self.control.plan),
            listen: self.plan.listen,
            segment_bytes: (least, most),
            space_bytes,
            cache_bytes: usize::try_from(options.cache_bytes / shares).unwrap_or(usize::MAX),
            compaction: options.compaction,
            metrics: Arc::clone(status.metrics()),
            progress: Arc::clone(status.progress()),
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

    /// Why the start failed: the error of the first thread that ended, or that is about to.
    fn failure(&mut self) -> anyhow::Error {
        let mut threads = self.threads.iter();
        let Some(ended) = threads.position(|(_, thread)| thread.is_finished()) else {
            // It has let go of its channels.
            thread::sleep(LOOK_INTERVAL);
            return self.failure();
        };
        let (name, thread) = self.threads.swap_remove(ended);
        join(&name, thread)
            .err()
            .unwrap_or_else(|| anyhow!("{name} ended before it served"))
    }

    /// Waits for the end of the threads of a start that failed. The shards were told.
    fn abandon(self) {
        let Control {
            requests,
            shards,
            thread,
            ..
        } = self.control;
        for (name, thread) in self.threads {
            // What they say follows from the failure that is reported.
            let _ = join(&name, thread);
        }
        // The control plane waits for the shards that it is to tell of changes.
        drop((requests, shards));
        let _ = join("control", thread);
    }
}

fn start_control(plan: &Plan<'_>) -> Result<Control> {
    let (requests, receive_requests) = channel::bounded(SHARD_MESSAGES_MAX);
    let (shards, receive_shards) = channel::bounded(1);
    let (boot_plan, receive_plan) = channel::bounded(1);
    let of_control = plan
        .status
        .shards()
        .last()
        .expect("the control plane has a status");
    let config = ExecutorConfig {
        files: plan.home.files.clone(),
        free_buffer_bytes_max: plan.options.free_buffer_bytes,
        progress: Arc::clone(of_control.progress()),
        files_lock: plan.home.lock(),
        ..ExecutorConfig::system("catena-control")
    };
    let boot = ControlBoot {
        journals: plan.home.journals.clone(),
        node: Arc::clone(&plan.node),
        metrics: Arc::clone(of_control.metrics()),
        plan: boot_plan,
        shards: receive_shards,
        requests: receive_requests,
    };
    let guard = boot.requests.closer();
    let thread = executor::start_guarded(config, guard, move || control::run(boot))?;
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

/// Waits for a thread; its failure is the error.
pub(super) fn join(name: &str, thread: Thread) -> Result<()> {
    match thread.join() {
        Ok(Ok(ended)) => ended.with_context(|| format!("{name} failed")),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(anyhow!("{name} panicked outside of its executor")),
    }
}
