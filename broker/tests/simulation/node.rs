//! The node under test: the real control plane and shards, started in a simulation.
//!
//! What the program does on threads (`catena_broker::server`) is done here by tasks of one domain,
//! so that a crash ends them together. The lock and the identity file of a data directory are left
//! out: they are written once, before anything else.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use catena_broker::boot::{BootPlan, ShardInput};
use catena_broker::control::{self, ControlBoot};
use catena_broker::limits::SHARD_MESSAGES_MAX;
use catena_broker::metrics::ShardMetrics;
use catena_broker::runtime::channel::{self, Notify, Receiver, Sender};
use catena_broker::runtime::executor::{self, Queue};
use catena_broker::runtime::simulated::{self, Death, Domain};
use catena_broker::shard::NodeIdentity;
use catena_broker::shard::message::{ControlRequest, ShardMessage};
use catena_broker::shard::start::{self, ShardBoot};
use catena_broker::status::NodeStatus;
use catena_core::compaction::CompactionPolicy;
use catena_core::recover::ScannedFrames;
use catena_protocol::ids::{NodeId, ShardId};
use futures_util::future::{Either, select};

/// Where the node listens.
pub(crate) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 9092);

/// Where its journals are.
pub(crate) const JOURNALS: &str = "/data/journals";

/// Compaction does not wait for much to come: runs are short.
const COMPACTION_LAG_MAX_MS: u64 = 100;

/// How long tombstones stay: some go before the last read, and no reader is so slow that it misses
/// one of which it saw the older value.
pub(crate) const TOMBSTONE_MS: u64 = 3_000;

/// How a node is configured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeOptions {
    pub(crate) shards: u16,
    pub(crate) segment_bytes: u32,
    pub(crate) space_bytes: u64,
    pub(crate) cache_bytes: usize,
}

/// A node that is running, or was.
pub(crate) struct Node {
    domain: Domain,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    is_ready: Cell<bool>,
    /// Tasks that have ended, with what they failed with.
    ended: RefCell<Vec<(String, Option<String>)>>,
    changed: Notify,
    shards: RefCell<Vec<Sender<ShardMessage>>>,
    control: RefCell<Option<Sender<ControlRequest>>>,
    status: RefCell<Option<Arc<NodeStatus>>>,
}

impl State {
    fn note_end(&self, name: &str, result: Result<()>) {
        let failure = result.err().map(|error| format!("{error:#}"));
        self.ended.borrow_mut().push((name.to_owned(), failure));
        self.changed.notify();
    }

    fn failure(&self) -> Option<String> {
        let ended = self.ended.borrow();
        let failed = ended
            .iter()
            .find_map(|(name, why)| why.as_ref().map(|why| format!("{name}: {why}")));
        failed.or_else(|| ended.first().map(|(name, _)| format!("{name} ended")))
    }
}

impl Node {
    /// Starts a node in a domain of its own.
    pub(crate) fn start(options: NodeOptions, incarnation: u32) -> Node {
        let domain = Domain(incarnation);
        let state = Rc::new(State::default());
        let in_task = Rc::clone(&state);
        simulated::spawn_in(domain, async move {
            let result = run(options, &in_task).await;
            if result.is_err() {
                in_task.note_end("start", result);
            }
        })
        .detach();
        Node { domain, state }
    }

    /// Waits until it serves; the reason if it does not come up.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        loop {
            if let Some(failure) = self.state.failure() {
                return Err(failure);
            }
            if self.state.is_ready.get() {
                return Ok(());
            }
            self.state.changed.notified().await;
        }
    }

    /// Waits until one of its tasks ends by itself, which none does.
    pub(crate) async fn ended(&self) -> String {
        loop {
            if let Some(failure) = self.state.failure() {
                return failure;
            }
            self.state.changed.notified().await;
        }
    }

    /// Stops it in an orderly way.
    pub(crate) async fn stop(&self) {
        let shards = self.state.shards.borrow().clone();
        for shard in &shards {
            // One that has ended needs no telling.
            let _ = shard.send(ShardMessage::Stop).await;
        }
        self.ends(shards.len()).await;
        let control = self.state.control.borrow().clone();
        if let Some(control) = control {
            let _ = control.send(ControlRequest::Stop).await;
            self.ends(shards.len() + 1).await;
        }
    }

    async fn ends(&self, count: usize) {
        while self.state.ended.borrow().len() < count {
            self.state.changed.notified().await;
        }
    }

    /// How often it said that something stored is damaged or gone.
    pub(crate) fn damaged(&self) -> u64 {
        self.sum(|metrics| metrics.fetch_damaged.get())
    }

    /// The sum of a metric over all shards.
    pub(crate) fn sum(&self, of: impl Fn(&ShardMetrics) -> u64) -> u64 {
        let status = self.state.status.borrow();
        let shards = status.iter().flat_map(|status| status.shards());
        shards.map(|shard| of(shard.metrics())).sum()
    }

    /// Ends it at once.
    pub(crate) fn kill(self, death: Death) {
        simulated::kill(self.domain, death);
    }
}

async fn run(options: NodeOptions, state: &Rc<State>) -> Result<()> {
    let status = NodeStatus::new((0..=options.shards).map(|name| name.to_string()));
    let node = Arc::new(NodeIdentity {
        store_uuid: [7; 16],
        cluster_id: [8; 16],
        node: NodeId(1),
        advertised_host: ADDRESS.ip().to_string(),
        advertised_port: ADDRESS.port(),
        shards: options.shards,
    });
    *state.status.borrow_mut() = Some(Arc::clone(&status));
    let (requests, receive_requests) = channel::bounded(SHARD_MESSAGES_MAX);
    let (shards, receive_shards) = channel::bounded(1);
    let (plan, receive_plan) = channel::bounded(1);
    let of_control = &status.shards()[usize::from(options.shards)];
    let boot = ControlBoot {
        journals: PathBuf::from(JOURNALS),
        node: Arc::clone(&node),
        metrics: Arc::clone(of_control.metrics()),
        plan,
        shards: receive_shards,
        requests: receive_requests,
    };
    *state.control.borrow_mut() = Some(requests.clone());
    spawn(state, "control".to_owned(), control::run(boot));
    let plan = wait_for(state, &receive_plan).await?;
    let mut starting = Starting {
        options,
        state,
        node,
        status,
        plan,
        requests,
    };
    let mesh = starting.shards().await?;
    shards.send(mesh).await.ok().context("control is gone")?;
    state.is_ready.set(true);
    state.changed.notify();
    Ok(())
}

struct Starting<'a> {
    options: NodeOptions,
    state: &'a Rc<State>,
    node: Arc<NodeIdentity>,
    status: Arc<NodeStatus>,
    plan: Arc<BootPlan>,
    requests: Sender<ControlRequest>,
}

impl Starting<'_> {
    async fn shards(&mut self) -> Result<Vec<Sender<ShardMessage>>> {
        let count = usize::from(self.options.shards);
        let (mesh, receivers): (Vec<_>, Vec<_>) = (0..count)
            .map(|_| channel::bounded(SHARD_MESSAGES_MAX))
            .unzip();
        self.state.shards.borrow_mut().clone_from(&mesh);
        let (scanned, all_scanned) = channel::bounded(count);
        let (ready, all_ready) = channel::bounded(count);
        let mut inputs = Vec::new();
        for (id, messages) in (0..self.options.shards).zip(receivers) {
            let (input, receive_input) = channel::bounded(1);
            inputs.push(input);
            let own = (messages, receive_input);
            let boot = self.boot(ShardId(id), &mesh, own, scanned.clone(), ready.clone());
            spawn(self.state, format!("shard {id}"), start::run(boot));
        }
        let mut found = Vec::new();
        for _ in 0..count {
            found.push(wait_for(self.state, &all_scanned).await?);
        }
        for (input, to) in self.plan.deal(found).into_iter().zip(inputs) {
            to.send(input).await.ok().context("a shard is gone")?;
        }
        for _ in 0..count {
            wait_for(self.state, &all_ready).await?;
        }
        for shard in &mesh {
            let told = shard.send(ShardMessage::Serve).await;
            told.ok().context("a shard is gone")?;
        }
        for _ in 0..count {
            wait_for(self.state, &all_ready).await?;
        }
        Ok(mesh)
    }

    fn boot(
        &self,
        id: ShardId,
        mesh: &[Sender<ShardMessage>],
        (messages, input): (Receiver<ShardMessage>, Receiver<ShardInput>),
        scanned: Sender<ScannedFrames>,
        ready: Sender<ShardId>,
    ) -> ShardBoot {
        let status = &self.status.shards()[usize::from(id.get())];
        let segment_bytes = self.options.segment_bytes;
        ShardBoot {
            id,
            node: Arc::clone(&self.node),
            journals: PathBuf::from(JOURNALS),
            plan: Arc::clone(&self.plan),
            listen: Some(ADDRESS),
            segment_bytes: (segment_bytes, segment_bytes),
            space_bytes: self.options.space_bytes,
            cache_bytes: self.options.cache_bytes,
            compaction: CompactionPolicy {
                lag_max_ms: COMPACTION_LAG_MAX_MS,
                tombstone_ms: TOMBSTONE_MS,
                ..CompactionPolicy::default()
            },
            metrics: Arc::clone(status.metrics()),
            progress: Arc::clone(status.progress()),
            control: self.requests.clone(),
            mesh: mesh.to_vec(),
            messages,
            scanned,
            input,
            ready,
        }
    }
}

/// Runs a main future of the node and notes how it ended.
fn spawn(state: &Rc<State>, name: String, main: impl Future<Output = Result<()>> + 'static) {
    let state = Rc::clone(state);
    executor::spawn(Queue::Control, async move {
        let result = main.await;
        state.note_end(&name, result);
    })
    .detach();
}

async fn wait_for<T>(state: &State, from: &Receiver<T>) -> Result<T> {
    let received = std::pin::pin!(from.recv());
    let ended = std::pin::pin!(async {
        while state.ended.borrow().is_empty() {
            state.changed.notified().await;
        }
    });
    match select(received, ended).await {
        Either::Left((Some(value), _)) => Ok(value),
        _ => Err(anyhow!("{}", state.failure().unwrap_or_default())),
    }
}
