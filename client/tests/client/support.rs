//! A broker in the test's process: the protocol's rules over plain vectors, and a script of
//! faults. Each connection is a task; the log is behind one lock.

mod connection;
mod log;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use catena_client::{Client, ClientBuilder, Record};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{ChainId, PartitionId, TopicPartition};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub(crate) use log::Log;

pub(crate) const SHARDS: u16 = 2;
pub(crate) const CHAINS: u32 = 4;
pub(crate) const CLUSTER: [u8; 16] = [7; 16];

/// What is not done by then never will be: above all time limits of the clients.
const HANG: Duration = Duration::from_secs(120);

/// What happens to one batch of a produce request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ProduceFault {
    Refuse(ErrorCode, u64),
    /// The connection ends before the batch is looked at.
    DropBefore,
    /// The connection ends after the batch was written.
    DropAfter,
    /// No ack, ever.
    Swallow,
}

/// What happens to one partition of a fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FetchFault {
    Refuse(ErrorCode, u64),
    /// The connection ends.
    Drop,
    /// A byte of the first batch is changed.
    Corrupt,
}

type ProduceScript = Box<dyn FnMut(usize) -> Option<ProduceFault> + Send>;
type FetchScript = Box<dyn FnMut(TopicPartition, u64) -> Option<FetchFault> + Send>;

/// What the tests look at and change.
pub(crate) struct State {
    pub(crate) log: Log,
    pub(crate) port: u16,
    /// Who owns a chain, if not `chain % SHARDS`.
    pub(crate) moved: Vec<(ChainId, u16)>,
    pub(crate) hellos: Vec<Option<u16>>,
    /// Connections that asked for a shard and are still served.
    pub(crate) open_with_shard: usize,
    pub(crate) produce_requests: usize,
    pub(crate) batches: usize,
    pub(crate) fetch_bytes_sent: usize,
    pub(crate) metadata_requests: usize,
    /// Connections end when they bring a change of topics, before it is made.
    pub(crate) drops_changes: bool,
    pub(crate) on_produce: Option<ProduceScript>,
    pub(crate) on_fetch: Option<FetchScript>,
    /// A fetch request's changes count from its turn on, not from its arrival; both are allowed.
    pub(crate) applies_changes_late: bool,
    /// What requests for a topic that is gone are answered by.
    pub(crate) code_of_unknown_ids: ErrorCode,
    /// No ack leaves while this is set.
    pub(crate) is_stalled: bool,
}

impl State {
    pub(crate) fn chain_of(partition: PartitionId) -> ChainId {
        ChainId(1 + partition.0 % CHAINS)
    }

    pub(crate) fn owner(&self, chain: ChainId) -> u16 {
        let moved = self.moved.iter().rev().find(|(moved, _)| *moved == chain);
        moved.map_or_else(
            || u16::try_from(chain.0 % u32::from(SHARDS)).expect("small"),
            |m| m.1,
        )
    }
}

pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something was appended, or a stall ended.
    changed: Notify,
    /// Ends every connection that is open.
    disconnect: Notify,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no test panics while it looks at the broker")
    }
}

/// The broker; ends when dropped.
pub(crate) struct Broker {
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.listener.abort();
        self.shared.disconnect.notify_waiters();
    }
}

impl Broker {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let state = State {
            log: Log::default(),
            port,
            moved: Vec::new(),
            hellos: Vec::new(),
            open_with_shard: 0,
            produce_requests: 0,
            batches: 0,
            fetch_bytes_sent: 0,
            metadata_requests: 0,
            drops_changes: false,
            on_produce: None,
            on_fetch: None,
            applies_changes_late: false,
            code_of_unknown_ids: ErrorCode::TopicNotFound,
            is_stalled: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
            disconnect: Notify::new(),
        });
        let listener = tokio::spawn(accept(listener, shared.clone()));
        Self { shared, listener }
    }

    /// A broker with a topic `t`, and a client of it.
    pub(crate) async fn with_topic(partitions: u32) -> (Self, Client) {
        let broker = Self::start().await;
        broker
            .lock()
            .log
            .create("t", partitions)
            .expect("a new topic");
        let client = broker.client().await;
        (broker, client)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.lock().port)
    }

    /// A client with time limits that a test reaches only on purpose, with shorter ones.
    pub(crate) fn builder() -> ClientBuilder {
        Client::builder()
            .request_timeout(Duration::from_secs(30))
            .connect_timeout(Duration::from_secs(30))
    }

    pub(crate) async fn client(&self) -> Client {
        Self::builder()
            .connect(&self.address())
            .await
            .expect("the broker is up")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Decides over each batch, given how many came before it.
    pub(crate) fn on_produce(
        &self,
        script: impl FnMut(usize) -> Option<ProduceFault> + Send + 'static,
    ) {
        self.lock().on_produce = Some(Box::new(script));
    }

    pub(crate) fn on_fetch(
        &self,
        script: impl FnMut(TopicPartition, u64) -> Option<FetchFault> + Send + 'static,
    ) {
        self.lock().on_fetch = Some(Box::new(script));
    }

    /// Holds all acks back, or lets them go.
    pub(crate) fn stall(&self, is_stalled: bool) {
        self.lock().is_stalled = is_stalled;
        self.shared.changed.notify_waiters();
    }

    pub(crate) fn disconnect_all(&self) {
        self.shared.disconnect.notify_waiters();
    }

    /// Waits until the condition holds.
    pub(crate) async fn until(&self, mut holds: impl FnMut(&State) -> bool) {
        let wait = async {
            while !holds(&self.lock()) {
                tokio::task::yield_now().await;
            }
        };
        let in_time = tokio::time::timeout(HANG, wait).await;
        in_time.expect("the condition holds in time");
    }

    /// The values in a partition, in order.
    pub(crate) fn values(&self, partition: u32) -> Vec<String> {
        self.lock().log.values("t", partition)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let disconnect = shared.disconnect.notified();
            tokio::select! {
                // A test's client may end a connection at any point.
                _ = connection::serve(stream, &shared) => {}
                () = disconnect => {}
            }
        });
    }
}

pub(crate) fn record(value: impl Into<String>) -> Record {
    Record::to("t").value(value.into())
}

/// Fails a test that hangs.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future)
        .await
        .expect("done in time")
}
