//! A producer of the client crate with its record contents.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::Result;
use catena_client::{
    BatchHandle, Client, DeliveryHandle, ProduceError, Producer, ProducerBuilder, Record,
    partition_of_key,
};
use catena_protocol::compression::Codec as WireCodec;
use catena_protocol::ids::Durability;
use catena_protocol::limits::BATCH_BYTES_MAX;

use super::contents::Contents;
use super::drive::{Sender, Sent};
use super::in_flight::Call;
use super::picker::Picker;
use super::target::Topic;
use crate::args::{Acks, Codec, KeyMode, ShapeArgs};
use crate::limits::{
    KEY_BYTES, PRODUCER_BATCHES_MIN, PRODUCER_BYTES_IN_FLIGHT_MIN, PRODUCER_MEMORY_BYTES_MIN,
    RECORD_OVERHEAD_BYTES_MAX,
};

/// Sends calls of one shape.
pub(crate) struct ClientSender {
    producer: Producer,
    topic: Arc<str>,
    partitions: u32,
    picker: Picker,
    contents: Contents,
    records_per_call: u32,
    bytes_per_call: u64,
    is_bulk: bool,
    is_spread: bool,
}

impl ClientSender {
    /// Builds producer number `index` of the run on `client`'s connections.
    pub(crate) async fn build(
        client: &Client,
        topic: &Topic,
        shape: &ShapeArgs,
        index: u32,
        contents: Contents,
    ) -> Result<Self> {
        let is_bulk = shape.spread.is_some() || shape.batch_records > 1;
        let producer = configure(client, shape).build().await?;
        Ok(Self {
            producer,
            topic: topic.name.clone(),
            partitions: topic.partitions,
            picker: Picker::new(shape, index, topic.partitions),
            contents,
            records_per_call: shape.records_per_call(),
            bytes_per_call: payload_bytes(shape),
            is_bulk,
            is_spread: shape.spread.is_some(),
        })
    }

    fn record(&mut self, partition: Option<u32>) -> Record {
        let record = Record::to(self.topic.clone()).value(self.contents.next_value());
        match partition {
            Some(partition) => record.partition(partition),
            None => record.key(self.contents.next_key()),
        }
    }

    /// One record by itself, and the partition it goes to.
    fn single(&mut self) -> (Record, u32) {
        if let Some(partition) = self.picker.next() {
            return (self.record(Some(partition)), partition);
        }
        let key = self.contents.next_key();
        let partition = partition_of_key(&key, self.partitions);
        let record = Record::to(self.topic.clone())
            .key(key)
            .value(self.contents.next_value());
        (record, partition)
    }

    /// All records of a bulk call, and the first one's partition. Without spread or keys they
    /// share it.
    fn many(&mut self) -> (Vec<Record>, u32) {
        let first = self.picker.next();
        let mut partition = first;
        let records = (0..self.records_per_call)
            .map(|index| {
                if self.is_spread && index > 0 {
                    partition = self.picker.next();
                }
                self.record(partition)
            })
            .collect();
        (records, first.unwrap_or(0))
    }
}

impl Sender for ClientSender {
    type Ack = Ack;

    async fn send(&mut self, intended_ns: u64) -> Sent<Ack> {
        self.contents.begin_call(self.records_per_call, intended_ns);
        let (taken, partition) = if self.is_bulk {
            let (records, partition) = self.many();
            (
                self.producer.send_all(records).await.map(Ack::Bulk),
                partition,
            )
        } else {
            let (record, partition) = self.single();
            (self.producer.send(record).await.map(Ack::Single), partition)
        };
        let records = self.records_per_call;
        match taken {
            Ok(ack) => {
                let first_number = self.contents.first_number();
                let bytes = self.bytes_per_call;
                let call = Call {
                    ack,
                    intended_ns,
                    records,
                    bytes,
                    first_number,
                };
                Sent::Taken { partition, call }
            }
            Err(error) => Sent::Refused {
                kind: kind_of(&error),
                records,
            },
        }
    }
}

/// Settings that leave the pace to the generator: the client holds back only what the shape's
/// own bounds would.
fn configure(client: &Client, shape: &ShapeArgs) -> ProducerBuilder {
    let in_flight = length(u64::from(shape.in_flight));
    let call_bytes = length(payload_bytes(shape) + charged_overhead_bytes(shape));
    let bytes_in_flight = in_flight.saturating_mul(call_bytes);
    let records_max = if shape.client_batching || shape.batch_records > 1 {
        u16::MAX
    } else {
        1
    };
    client
        .producer()
        .durability(durability(shape.acks))
        .compression(codec(shape.compression))
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

/// Keys and values of one call.
fn payload_bytes(shape: &ShapeArgs) -> u64 {
    let key_bytes = match (shape.spread, shape.key_mode) {
        (None, KeyMode::RandomKeys) => KEY_BYTES,
        _ => 0,
    };
    let record_bytes = u64::from(shape.record_bytes) + u64::try_from(key_bytes).unwrap_or(0);
    u64::from(shape.records_per_call()) * record_bytes
}

fn charged_overhead_bytes(shape: &ShapeArgs) -> u64 {
    u64::from(shape.records_per_call()) * RECORD_OVERHEAD_BYTES_MAX
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
