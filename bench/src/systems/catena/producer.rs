//! A producer of the client crate.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use catena_client::{
    BatchHandle, Client, DeliveryHandle, ProduceError, Producer as ClientProducer, ProducerBuilder,
    Record,
};
use catena_protocol::compression::Codec as WireCodec;
use catena_protocol::ids::Durability;
use catena_protocol::limits::BATCH_BYTES_MAX;

use crate::args::{Acks, Codec};
use crate::limits::{
    PRODUCER_BATCHES_MIN, PRODUCER_BYTES_IN_FLIGHT_MIN, PRODUCER_MEMORY_BYTES_MIN,
    RECORD_OVERHEAD_BYTES_MAX,
};
use crate::systems::{Message, Producer};
use crate::workload::Workload;

/// Sends calls of one workload.
pub(crate) struct CatenaProducer {
    producer: ClientProducer,
    topic: Arc<str>,
}

impl CatenaProducer {
    /// A producer on `client`'s connections.
    pub(super) async fn build(
        client: &Client,
        topic: Arc<str>,
        workload: &Workload,
    ) -> Result<Self> {
        let producer = configure(client, workload).build().await?;
        Ok(Self { producer, topic })
    }
}

/// The client finds the partition of a record with a key by itself.
fn record(topic: &Arc<str>, message: Message) -> Record {
    let record = Record::to(topic.clone()).value(message.value);
    match message.key {
        Some(key) => record.key(key),
        None => record.partition(message.partition),
    }
}

impl Producer for CatenaProducer {
    type Ack = Ack;

    async fn send_one(&mut self, message: Message) -> Result<Ack, String> {
        let taken = self.producer.send(record(&self.topic, message)).await;
        taken.map(Ack::Single).map_err(|error| kind_of(&error))
    }

    async fn send_many(&mut self, messages: impl Iterator<Item = Message>) -> Result<Ack, String> {
        let records: Vec<Record> = messages.map(|each| record(&self.topic, each)).collect();
        let taken = self.producer.send_all(records).await;
        taken.map(Ack::Bulk).map_err(|error| kind_of(&error))
    }
}

/// Settings that leave the pace to the generator: the client holds back only what the workload's
/// own bounds would.
fn configure(client: &Client, workload: &Workload) -> ProducerBuilder {
    let in_flight = length(u64::from(workload.in_flight));
    let call_bytes = length(workload.call_bytes_max() + charged_overhead_bytes(workload));
    let bytes_in_flight = in_flight.saturating_mul(call_bytes);
    let records_max = if workload.client_batching || workload.batch_records > 1 {
        u16::MAX
    } else {
        1
    };
    client
        .producer()
        .durability(durability(workload.acks))
        .compression(codec(workload.compression))
        .batch_bytes_max(BATCH_BYTES_MAX)
        .batch_records_max(records_max)
        .memory_bytes_max(
            bytes_in_flight
                .saturating_mul(2)
                .max(PRODUCER_MEMORY_BYTES_MIN),
        )
        .in_flight_batches_max(in_flight.max(PRODUCER_BATCHES_MIN))
        .in_flight_bytes_max(bytes_in_flight.max(PRODUCER_BYTES_IN_FLIGHT_MIN))
}

fn charged_overhead_bytes(workload: &Workload) -> u64 {
    u64::from(workload.records_per_call()) * RECORD_OVERHEAD_BYTES_MAX
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("u64 fits usize on every machine this runs on")
}

fn durability(acks: Acks) -> Durability {
    match acks {
        Acks::Durable => Durability::Durable,
        Acks::Received => Durability::Received,
        Acks::None => Durability::None,
    }
}

fn codec(codec: Codec) -> WireCodec {
    match codec {
        Codec::None => WireCodec::None,
        Codec::Lz4 => WireCodec::Lz4,
        Codec::Zstd => WireCodec::Zstd,
    }
}

/// The kind of an error, without what differs from record to record.
fn kind_of(error: &ProduceError) -> String {
    let doubt = if error.may_have_been_written() {
        ", may have been written"
    } else {
        ""
    };
    let kind = match error {
        ProduceError::RecordTooLarge { .. } => "record too large".to_owned(),
        ProduceError::InvalidRecord { .. } => "invalid record".to_owned(),
        ProduceError::Closed => "producer closed".to_owned(),
        ProduceError::Lookup(error) => format!("lookup failed: {error}"),
        ProduceError::Refused { code, .. } => format!("refused: {code}"),
        ProduceError::TimedOut { after, .. } => format!("not acknowledged within {after:?}"),
        ProduceError::OutcomeUnknown { .. } => "outcome unknown".to_owned(),
        other => other.to_string(),
    };
    kind + doubt
}

/// The acknowledgement of a call.
#[derive(Debug)]
pub(crate) enum Ack {
    Single(DeliveryHandle),
    Bulk(BatchHandle),
}

impl Future for Ack {
    type Output = Result<(), String>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match self.get_mut() {
            Self::Single(handle) => Pin::new(handle).poll(context).map_ok(|_| ()),
            Self::Bulk(handle) => Pin::new(handle).poll(context).map_ok(|_| ()),
        };
        outcome.map_err(|error| kind_of(&error))
    }
}
