//! Sends records: one produce request per call and broker, any number of them on their way.
//!
//! A call is encoded at once into the buffer of its connection, so requests go out in the order
//! of the calls, and those that come together leave together. Nothing is sent twice: a call whose
//! connection is lost fails, and the next one looks for the leaders anew.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, spawn_local};

use super::super::{Message, Producer};
use super::cluster::{Cluster, Layout};
use super::wire::{Outcome, Wire, check, decode, encode, lost, read_frame};

/// How long the leader may wait for the other replicas.
const PRODUCE_TIME_MAX_MS: i32 = 30_000;

/// Encoded bytes a connection has not taken yet above which a call waits.
const UNSENT_BYTES_MAX: usize = 8 << 20;

/// More than the head of a batch and what a record has besides its key and value.
const RECORD_OVERHEAD_BYTES: usize = 96;

/// Errors of a broker that does not lead the partition any more.
const MOVED: [ResponseError; 2] = [
    ResponseError::NotLeaderOrFollower,
    ResponseError::UnknownTopicOrPartition,
];

const ENCODING: RecordEncodeOptions = RecordEncodeOptions {
    version: 2,
    compression: Compression::None,
};

/// Sends to the leaders of a topic's partitions, over a connection each.
#[derive(Debug)]
pub(crate) struct KafkaProducer {
    cluster: Cluster,
    acks: i16,
    layout: Layout,
    /// Whether the layout must be asked for again.
    is_stale: bool,
    pipes: HashMap<i32, Pipe>,
}

impl KafkaProducer {
    /// Connects to all leaders.
    pub(super) async fn connect(cluster: Cluster, acks: i16) -> Outcome<Self> {
        let layout = cluster.find().await?;
        let mut producer = Self {
            cluster,
            acks,
            layout,
            is_stale: false,
            pipes: HashMap::new(),
        };
        let leaders = producer.layout.leaders.clone().ok_or("no such topic")?;
        for leader in leaders {
            producer.open(leader).await?;
        }
        Ok(producer)
    }

    /// Makes sure of a connection to a leader.
    async fn open(&mut self, leader: i32) -> Outcome<()> {
        if !self.pipes.contains_key(&leader) {
            let wire = self.layout.connect(leader).await?;
            self.pipes.insert(leader, Pipe::new(wire)?);
        }
        Ok(())
    }

    /// Looks for the leaders again if something speaks against what is known of them. Other
    /// connections go on: what is on its way there may well be acknowledged.
    async fn refresh(&mut self) -> Outcome<()> {
        self.is_stale |= self
            .pipes
            .values()
            .any(|pipe| pipe.shared.is_doubtful.take());
        if self.is_stale {
            self.pipes.retain(|_, pipe| pipe.shared.is_open());
            self.layout = self.cluster.find().await?;
            self.is_stale = !self.layout.is_led();
        }
        Ok(())
    }

    async fn send(&mut self, parts: BTreeMap<u32, Vec<Record>>) -> Outcome<Acked> {
        self.refresh().await?;
        let mut requests = Vec::<(i32, Vec<PartitionProduceData>)>::with_capacity(1);
        for (partition, records) in parts {
            let leader = self.layout.leader(partition)?;
            let part = encode_part(partition, &records)?;
            match requests.iter_mut().find(|(other, _)| *other == leader) {
                Some((_, parts)) => parts.push(part),
                None => requests.push((leader, vec![part])),
            }
        }
        let mut answers = Vec::with_capacity(requests.len());
        for (leader, parts) in requests {
            let opened = self.open(leader).await;
            self.is_stale |= opened.is_err();
            opened?;
            let topic = TopicProduceData::default()
                .with_name(self.cluster.topic().clone())
                .with_partition_data(parts);
            let request = ProduceRequest::default()
                .with_acks(self.acks)
                .with_timeout_ms(PRODUCE_TIME_MAX_MS)
                .with_topic_data(vec![topic]);
            let pipe = self.pipes.get_mut(&leader).expect("it was just opened");
            answers.extend(pipe.send(&request).await?);
        }
        Ok(Acked(answers))
    }
}

impl Producer for KafkaProducer {
    type Ack = Acked;

    async fn send_one(&mut self, message: Message) -> Result<Acked, String> {
        self.send_many(std::iter::once(message)).await
    }

    async fn send_many(
        &mut self,
        messages: impl Iterator<Item = Message>,
    ) -> Result<Acked, String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_ms = now.ok().and_then(|now| i64::try_from(now.as_millis()).ok());
        let now_ms = now_ms.ok_or("the clock is before 1970")?;
        let mut parts = BTreeMap::<_, Vec<Record>>::new();
        for message in messages {
            let part = parts.entry(message.partition).or_default();
            let index = i32::try_from(part.len()).map_err(|_| "too many records in a call")?;
            part.push(record(message, index, now_ms));
        }
        self.send(parts).await
    }
}

/// The acknowledgements of a call, one from each broker it went to.
#[derive(Debug)]
pub(crate) struct Acked(Vec<oneshot::Receiver<Outcome<()>>>);

impl Future for Acked {
    type Output = Result<(), String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(answer) = self.0.last_mut() {
            let outcome = ready!(Pin::new(answer).poll(context));
            outcome.unwrap_or_else(|_| Err("the call was given up".to_owned()))?;
            self.0.pop();
        }
        Poll::Ready(Ok(()))
    }
}

fn record(message: Message, index: i32, now_ms: i64) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset: index.into(),
        // Only records whose numbers go on become one batch.
        sequence: NO_SEQUENCE.wrapping_add(index),
        timestamp: now_ms,
        key: message.key,
        value: Some(message.value),
        headers: kafka_protocol::indexmap::IndexMap::new(),
    }
}

/// The records of one partition as one batch.
fn encode_part(partition: u32, records: &[Record]) -> Outcome<PartitionProduceData> {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let sizes = records
        .iter()
        .map(|record| length(&record.key) + length(&record.value));
    let room = sizes.map(|size| size + RECORD_OVERHEAD_BYTES).sum();
    let mut batch = BytesMut::with_capacity(room);
    RecordBatchEncoder::encode(&mut batch, records, &ENCODING)
        .map_err(|_| "cannot encode the records")?;
    Ok(PartitionProduceData::default()
        .with_index(i32::try_from(partition).map_err(|_| "no such partition")?)
        .with_records(Some(batch.freeze())))
}

/// A connection with requests on their way.
#[derive(Debug)]
struct Pipe {
    shared: Rc<Shared>,
    version: i16,
    next_id: i32,
    tasks: [JoinHandle<()>; 2],
}

/// What a pipe shares with the tasks that write and read.
#[derive(Debug, Default)]
struct Shared {
    unsent: RefCell<BytesMut>,
    /// Requests without an answer, oldest first.
    waiting: RefCell<VecDeque<(i32, oneshot::Sender<Outcome<()>>)>>,
    has_unsent: Notify,
    has_room: Notify,
    /// Why the connection is of no use any more.
    end: RefCell<Option<String>>,
    /// Whether the broker may not lead the partitions any more.
    is_doubtful: Cell<bool>,
}

impl Pipe {
    fn new(wire: Wire) -> Outcome<Self> {
        let version = wire.versions().of::<ProduceRequest>()?;
        let shared = Rc::new(Shared::default());
        let (read, write) = wire.into_stream().into_split();
        let tasks = [
            spawn_local(write_requests(shared.clone(), write)),
            spawn_local(read_answers(shared.clone(), read, version)),
        ];
        Ok(Self {
            shared,
            version,
            next_id: 0,
            tasks,
        })
    }

    /// Puts a request on its way; a broker does not answer one that asks for no acknowledgement.
    async fn send(
        &mut self,
        request: &ProduceRequest,
    ) -> Outcome<Option<oneshot::Receiver<Outcome<()>>>> {
        while self.shared.unsent.borrow().len() > UNSENT_BYTES_MAX && self.shared.is_open() {
            self.shared.has_room.notified().await;
        }
        if let Some(end) = self.shared.end.borrow().clone() {
            return Err(end);
        }
        let id = self.next_id;
        encode(
            request,
            self.version,
            id,
            &mut self.shared.unsent.borrow_mut(),
        )?;
        self.next_id = id.wrapping_add(1);
        self.shared.has_unsent.notify_one();
        if request.acks == 0 {
            return Ok(None);
        }
        let (sender, answer) = oneshot::channel();
        self.shared.waiting.borrow_mut().push_back((id, sender));
        Ok(Some(answer))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.close("the connection was given up");
    }
}

impl Shared {
    fn is_open(&self) -> bool {
        self.end.borrow().is_none()
    }

    /// Fails what waits and what comes.
    fn close(&self, kind: &str) {
        self.end.borrow_mut().get_or_insert_with(|| kind.to_owned());
        self.is_doubtful.set(true);
        self.has_room.notify_one();
        for (_, waiting) in self.waiting.take() {
            let _ = waiting.send(Err(kind.to_owned()));
        }
    }
}

async fn write_requests(shared: Rc<Shared>, mut write: OwnedWriteHalf) {
    loop {
        let unsent = shared.unsent.borrow_mut().split();
        if unsent.is_empty() {
            shared.has_unsent.notified().await;
            continue;
        }
        if let Err(error) = write.write_all(&unsent).await {
            return shared.close(&lost(&error));
        }
        shared.has_room.notify_one();
    }
}

async fn read_answers(shared: Rc<Shared>, mut read: OwnedReadHalf, version: i16) {
    let mut incoming = BytesMut::new();
    loop {
        let frame = match read_frame(&mut read, &mut incoming).await {
            Ok(frame) => frame,
            Err(kind) => return shared.close(&kind),
        };
        let Some((id, waiting)) = shared.waiting.borrow_mut().pop_front() else {
            return shared.close("an answer nobody waits for");
        };
        let answer = match decode::<ProduceRequest>(frame, version, id) {
            Ok(answer) => answer,
            Err(kind) => {
                let _ = waiting.send(Err(kind.clone()));
                return shared.close(&kind);
            }
        };
        if parts_of(&answer).any(|part| MOVED.iter().any(|moved| moved.code() == part.error_code)) {
            shared.is_doubtful.set(true);
        }
        let outcome = parts_of(&answer).try_for_each(|part| check(part.error_code));
        // Who does not wait any more does not want to know.
        let _ = waiting.send(outcome);
    }
}

fn parts_of(answer: &ProduceResponse) -> impl Iterator<Item = &PartitionProduceResponse> {
    answer
        .responses
        .iter()
        .flat_map(|topic| &topic.partition_responses)
}
