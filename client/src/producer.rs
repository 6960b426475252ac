//! The producer: hands records to the brokers that own their partitions, in order and once.
//!
//! `accumulate`: callers fill batches themselves ([`partition`]); `send`: one task per connection
//! takes what is due ([`lane`]); `decide`: sequences, order and retries are a state machine
//! without I/O ([`flow`]). Invariant: every record accepted gets exactly one result, within the
//! delivery timeout; memory for records stays inside the budget.

mod builder;
mod completion;
mod flow;
pub(crate) mod lane;
mod lanes;
mod partition;
mod partitioner;
mod record;
mod shared;
mod tasks;
mod topics;

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use catena_protocol::batch::{BATCH_HEADER_BYTES, PushError};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Durability, ProducerEpoch, ProducerId};
use catena_protocol::messages::InitProducerRequest;
use catena_protocol::record::Record as WireRecord;
use rustc_hash::FxHashMap;
use tokio::sync::OnceCell;

pub use builder::ProducerBuilder;
pub use completion::{BatchHandle, BatchMetadata, DeliveryHandle, RecordMetadata};
pub use partitioner::{Partitioner, partition_of_key};
pub use record::{Header, Record};

use crate::client::core::Core;
use crate::error::{BuildError, ProduceError, RequestError};
use crate::metadata::TopicMetadata;
use partition::{AppendError, PartitionQueue};
use shared::{ProducerConfig, Shared};
use topics::{ProducerTopic, Queues};

/// Sends records. Cheap to clone; clones share batches, memory and order.
///
/// Records of one partition and durability class are written in the order of the calls to
/// [`send`](Self::send), each once (idempotence is on by default), also when attempts fail and
/// are repeated.
///
/// When the last clone is dropped, what was handed in is still delivered in the background, as
/// long as the tokio runtime lives; [`close`](Self::close) waits for it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use catena_client::{Client, Record};
///
/// let client = Client::connect("localhost:9640").await?;
/// let producer = client.producer().build().await?;
/// let record = Record::to("orders").key("customer-17").value("one coffee");
/// let metadata = producer.send_and_wait(record).await?;
/// println!("partition {} offset {:?}", metadata.partition, metadata.offset);
/// producer.close().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Arc<Core>,
    shared: Arc<Shared>,
    queues: Queues,
    topics: RwLock<FxHashMap<Arc<str>, Arc<ProducerTopic>>>,
    /// Producer ids of the classes durable and received.
    identities: [OnceCell<(ProducerId, ProducerEpoch)>; 2],
}

impl Drop for Inner {
    fn drop(&mut self) {
        tasks::close(&self.shared);
    }
}

impl Producer {
    pub(crate) async fn start(core: Arc<Core>, config: ProducerConfig) -> Result<Self, BuildError> {
        let durability = config.durability;
        let shared = Arc::new(Shared::new(config));
        let inner = Inner {
            core,
            shared,
            queues: Queues::default(),
            topics: RwLock::default(),
            identities: [const { OnceCell::const_new() }; 2],
        };
        inner.identity(durability).await?;
        tasks::spawn(&inner.core, &inner.shared);
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Hands in a record. Waits only while the memory budget is used up (and for metadata, the
    /// first time a topic is used); the returned handle is the future result.
    ///
    /// # Errors
    /// If the record was not accepted: too large, no such topic or partition, producer closed; in
    /// the class `none` also what the topic refuses, as no broker would tell.
    ///
    /// # Cancel safety
    /// A record whose call was dropped before it returned was not accepted.
    pub async fn send(&self, record: Record) -> Result<DeliveryHandle, ProduceError> {
        // A loop of sends that never waits would starve the connections of a current-thread
        // runtime.
        tokio::task::coop::consume_budget().await;
        let inner = &*self.inner;
        let charge_bytes = record.charge_bytes();
        let (topic, class, partition) = inner.place(&record).await?;
        let identity = inner.identity(class).await?;
        inner.reserve(charge_bytes).await?;
        let shared = &inner.shared;
        let Some(queue) = topic.queue(class, partition, &inner.queues, shared, identity) else {
            shared.memory.add_permits(charge_bytes);
            return Err(unknown_partition(&topic, partition).into());
        };
        let append = |wire: &WireRecord<'_>| queue.append(wire, charge_bytes);
        let appended = record.with_wire(now_ms(), append).map_err(|error| {
            shared.memory.add_permits(charge_bytes);
            refused(error)
        })?;
        if appended.has_sealed && record.partition.is_none() {
            topic.move_on(partition);
        }
        Ok(appended.handle)
    }

    /// Hands in a record and waits for its result.
    ///
    /// # Errors
    /// See [`ProduceError`]; [`ProduceError::may_have_been_written`] tells whether the record can
    /// be in the partition all the same.
    ///
    /// # Cancel safety
    /// Dropping the call does not take the record back.
    pub async fn send_and_wait(&self, record: Record) -> Result<RecordMetadata, ProduceError> {
        self.send(record).await?.await
    }

    /// Hands in many records at once, as one batch per topic, partition and class (more only if
    /// the records do not fit into one, see
    /// [`BATCH_BYTES_MAX`](catena_protocol::limits::BATCH_BYTES_MAX)). Records without partition
    /// and key all go to one partition. Waits for memory for all of them.
    ///
    /// ```no_run
    /// # use catena_client::{ProduceError, Producer};
    /// # async fn example(producer: Producer) -> Result<(), ProduceError> {
    /// use catena_client::Record;
    ///
    /// let records = (0..1000).map(|i| Record::to("orders").value(format!("order {i}")));
    /// let handle = producer.send_all(records.collect()).await?;
    /// for batch in handle.await? {
    ///     println!("{} records at {:?}", batch.record_count, batch.base_offset);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the records were not accepted. On [`ProduceError::RecordTooLarge`] and
    /// [`ProduceError::InvalidRecord`] those before the offending one may be sent.
    ///
    /// # Cancel safety
    /// Records of a call that was dropped before it returned were not accepted.
    pub async fn send_all(&self, records: Vec<Record>) -> Result<BatchHandle, ProduceError> {
        tokio::task::coop::consume_budget().await;
        let inner = &*self.inner;
        let mut groups: Vec<(Arc<PartitionQueue>, Runs)> = Vec::new();
        let mut index: FxHashMap<usize, usize> = FxHashMap::default();
        let mut charge_bytes = 0;
        let mut moved = Vec::new();
        // The group of the record before, if one like it needs not be asked for its place.
        let mut like_the_last = None;
        for (number, record) in records.iter().enumerate() {
            charge_bytes += record.charge_bytes();
            if let Some(at) = like_the_last
                && record.is_for_the_place_of(&records[number - 1])
            {
                let (_, group): &mut (_, Runs) = &mut groups[at];
                group.push(number);
                continue;
            }
            let (topic, class, partition) = inner.place(record).await?;
            let identity = inner.identity(class).await?;
            let queue = topic
                .queue(class, partition, &inner.queues, &inner.shared, identity)
                .ok_or_else(|| unknown_partition(&topic, partition))?;
            let at = match groups.last() {
                Some((last, _)) if Arc::ptr_eq(last, queue) => groups.len() - 1,
                _ => {
                    let key = Arc::as_ptr(queue).addr();
                    let at = *index.entry(key).or_insert_with(|| {
                        groups.push((queue.clone(), Runs::default()));
                        groups.len() - 1
                    });
                    if record.partition.is_none() {
                        moved.push((topic, partition));
                    }
                    at
                }
            };
            groups[at].1.push(number);
            // Nobody says later what was wrong with a record of the class `none`.
            like_the_last = (class != Durability::None).then_some(at);
        }
        inner.reserve(charge_bytes).await?;
        let now_ms = now_ms();
        let mut batches = Vec::with_capacity(groups.len());
        let mut result = Ok(());
        let mut charged = 0;
        for (queue, group) in &groups {
            if result.is_ok() {
                let group = group.of(&records);
                result = queue.append_all(group, now_ms, &mut charged, &mut batches);
            }
        }
        inner.shared.memory.add_permits(charge_bytes - charged);
        for (topic, partition) in moved {
            topic.move_on(partition);
        }
        result.map_err(refused)?;
        Ok(BatchHandle::new(batches))
    }

    /// Sends everything handed in before this call without further delay and waits until all of
    /// it has its result (be it an error). Cancel safe.
    ///
    /// ```no_run
    /// # async fn example(producer: catena_client::Producer) {
    /// producer.flush().await;
    /// # }
    /// ```
    pub async fn flush(&self) {
        let queues = self.inner.queues.all();
        let newest: Vec<_> = queues.iter().filter_map(PartitionQueue::flush).collect();
        for completion in newest {
            // The error belongs to the handles.
            drop(DeliveryHandle::new(completion, 0).await);
        }
    }

    /// Flushes, and accepts no further record; also for all clones.
    ///
    /// # Errors
    /// [`ProduceError::Closed`] if the producer was closed already.
    ///
    /// # Cancel safety
    /// The producer is closed whether or not the call is waited for.
    pub async fn close(&self) -> Result<(), ProduceError> {
        let was_closed = self.inner.shared.is_closed();
        tasks::close(&self.inner.shared);
        self.flush().await;
        if was_closed {
            Err(ProduceError::Closed)
        } else {
            Ok(())
        }
    }

    /// Records of the class `received` that were acknowledged and then lost by a broker's crash,
    /// as far as the brokers told this producer.
    pub fn records_lost(&self) -> u64 {
        self.inner.shared.records_lost.load(Ordering::Relaxed)
    }

    /// Bytes of the memory budget that are free now.
    pub fn memory_bytes_free(&self) -> usize {
        self.inner.shared.memory.available_permits()
    }
}

impl Inner {
    /// Where a record goes.
    async fn place(
        &self,
        record: &Record,
    ) -> Result<(Arc<ProducerTopic>, Durability, u32), ProduceError> {
        if self.shared.is_closed() {
            return Err(ProduceError::Closed);
        }
        let mut topic = self.topic(&record.topic).await?;
        let class = record.durability.unwrap_or(self.shared.config.durability);
        let mut refusal = silent_refusal(&topic.metadata, class, record);
        if refusal.is_some() {
            // The topic may have been altered since.
            self.core
                .metadata
                .refresh(&self.core, topic.generation)
                .await?;
            topic = self.topic(&record.topic).await?;
            refusal = silent_refusal(&topic.metadata, class, record);
        }
        let partition = match record.partition {
            None => topic.pick(record, self.shared.config.partitioner),
            Some(partition) => {
                if partition >= topic.metadata.partitions {
                    // It may have been added since.
                    self.core
                        .metadata
                        .refresh(&self.core, topic.generation)
                        .await?;
                    topic = self.topic(&record.topic).await?;
                }
                partition
            }
        };
        match refusal {
            None => Ok((topic, class, partition)),
            Some(code) => Err(ProduceError::Refused {
                topic: topic.metadata.name.clone(),
                partition,
                code,
                may_have_been_written: false,
            }),
        }
    }

    async fn topic(&self, name: &Arc<str>) -> Result<Arc<ProducerTopic>, RequestError> {
        let generation = self.core.metadata.generation();
        if let Some(topic) = self.known_topic(name)
            && topic.generation == generation
        {
            return Ok(topic);
        }
        let metadata = self.core.metadata.topic(&self.core, name).await?;
        let generation = self.core.metadata.generation();
        let mut topics = self
            .topics
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let sticky = match topics.get(name) {
            Some(older) if older.metadata.id == metadata.id => older.sticky(),
            Some(older) => {
                self.queues.forget(older.metadata.id);
                0
            }
            None => 0,
        };
        let topic = Arc::new(ProducerTopic::new(metadata, generation, sticky));
        topics.insert(name.clone(), topic.clone());
        Ok(topic)
    }

    fn known_topic(&self, name: &str) -> Option<Arc<ProducerTopic>> {
        let topics = self
            .topics
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        topics.get(name).cloned()
    }

    /// The producer id of a class. Classes have ids of their own, since a loss in a weaker one
    /// must not leave gaps in the durable one; `none` is not numbered, since nobody would tell of
    /// a gap.
    async fn identity(
        &self,
        class: Durability,
    ) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let cell = match class {
            Durability::Durable => &self.identities[0],
            Durability::Received => &self.identities[1],
            Durability::None => return Ok(NOT_IDEMPOTENT),
        };
        if !self.shared.config.is_idempotent {
            return Ok(NOT_IDEMPOTENT);
        }
        let ask = async || {
            let response = self.core.ask_any(&InitProducerRequest {}, true).await?;
            Ok((response.producer, response.epoch))
        };
        cell.get_or_try_init(ask).await.copied()
    }

    async fn reserve(&self, bytes: usize) -> Result<(), ProduceError> {
        let max = self.shared.config.memory_bytes_max;
        let permits = u32::try_from(bytes).ok().filter(|_| bytes <= max);
        let Some(permits) = permits else {
            return Err(ProduceError::RecordTooLarge { bytes, max });
        };
        let memory = &self.shared.memory;
        let permit = if let Ok(permit) = memory.try_acquire_many(permits) {
            permit
        } else {
            let waited = memory.acquire_many(permits).await;
            waited.expect("the semaphore is never closed")
        };
        permit.forget();
        Ok(())
    }
}

/// Records of a call that go to one place, as ranges of their numbers.
#[derive(Default)]
struct Runs(Vec<Range<usize>>);

impl Runs {
    /// Adds a record behind all that were added.
    fn push(&mut self, number: usize) {
        match self.0.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => self.0.push(number..number + 1),
        }
    }

    fn of<'a>(&'a self, records: &'a [Record]) -> impl Iterator<Item = &'a Record> {
        self.0.iter().flat_map(|run| &records[run.clone()])
    }
}

const NOT_IDEMPOTENT: (ProducerId, ProducerEpoch) = (ProducerId(0), ProducerEpoch(0));

/// Why a broker would drop the record without a word: it answers nothing to the class `none`. What
/// it refuses of the other classes it says itself.
fn silent_refusal(topic: &TopicMetadata, class: Durability, record: &Record) -> Option<ErrorCode> {
    if class != Durability::None {
        return None;
    }
    if class > topic.min_durability {
        return Some(ErrorCode::DurabilityTooWeak);
    }
    (topic.needs_keys && record.key.is_none()).then_some(ErrorCode::KeyRequired)
}

fn refused(error: AppendError) -> ProduceError {
    match error {
        AppendError::Finished => ProduceError::Closed,
        AppendError::Push(PushError::TooLarge {
            bytes,
            batch_bytes_max,
        }) => ProduceError::RecordTooLarge {
            bytes,
            max: batch_bytes_max - BATCH_HEADER_BYTES,
        },
        AppendError::Push(error) => ProduceError::InvalidRecord {
            reason: error.to_string().into(),
        },
    }
}

fn unknown_partition(topic: &ProducerTopic, partition: u32) -> RequestError {
    RequestError::UnknownPartition {
        topic: topic.metadata.name.clone(),
        partition,
        partitions: topic.metadata.partitions,
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
