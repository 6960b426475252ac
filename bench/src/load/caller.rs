//! Calls of one producer, whatever the broker: what they carry, where they go, and who sends them.

use catena_client::partition_of_key;

use super::contents::Contents;
use super::drive::{Sender, Sent};
use super::in_flight::Call;
use super::picker::Picker;
use crate::systems::{Message, Producer};
use crate::workload::Workload;

/// Sends the calls of one workload through one producer.
pub(crate) struct Caller<P> {
    producer: P,
    maker: Maker,
    records_per_call: u32,
    is_bulk: bool,
}

/// Makes messages.
struct Maker {
    picker: Picker,
    contents: Contents,
    partitions: u32,
    is_spread: bool,
}

impl<P: Producer> Caller<P> {
    /// The calls of producer number `index` of the run to a topic of `partitions`.
    pub(crate) fn new(
        producer: P,
        workload: &Workload,
        index: u32,
        partitions: u32,
        contents: Contents,
    ) -> Self {
        Self {
            producer,
            maker: Maker {
                picker: Picker::new(workload, index, partitions),
                contents,
                partitions,
                is_spread: workload.spread.is_some(),
            },
            records_per_call: workload.records_per_call(),
            is_bulk: workload.records_per_call() > 1,
        }
    }
}

impl Maker {
    /// A message for the next partition, or for the one its random key belongs to.
    fn next(&mut self) -> Message {
        let partition = self.picker.next();
        self.message(partition)
    }

    fn message(&mut self, partition: Option<u32>) -> Message {
        let value = self.contents.next_value();
        if let Some(partition) = partition {
            return Message {
                partition,
                key: None,
                value,
            };
        }
        let key = self.contents.next_key();
        Message {
            partition: partition_of_key(&key, self.partitions),
            key: Some(key),
            value,
        }
    }
}

fn payload_bytes(message: &Message) -> u64 {
    let bytes = message.value.len() + message.key.as_ref().map_or(0, bytes::Bytes::len);
    u64::try_from(bytes).expect("a length in memory fits 64 bits")
}

impl<P: Producer> Sender for Caller<P> {
    type Ack = P::Ack;

    async fn send(&mut self, intended_ns: u64) -> Sent<P::Ack> {
        let records = self.records_per_call;
        let maker = &mut self.maker;
        maker.contents.begin_call(records, intended_ns);
        let mut bytes = 0;
        let (partition, taken) = if self.is_bulk {
            // Without spread or keys all records of a call share a partition.
            let first = maker.picker.next();
            let messages = (0..records).map(|index| {
                let message = if maker.is_spread && index > 0 {
                    maker.next()
                } else {
                    maker.message(first)
                };
                bytes += payload_bytes(&message);
                message
            });
            let taken = self.producer.send_many(messages).await;
            (first.unwrap_or(0), taken)
        } else {
            let message = maker.next();
            bytes = payload_bytes(&message);
            (message.partition, self.producer.send_one(message).await)
        };
        match taken {
            Ok(ack) => Sent::Taken {
                partition,
                call: Call {
                    ack,
                    intended_ns,
                    records,
                    bytes,
                    first_number: self.maker.contents.first_number(),
                },
            },
            Err(kind) => Sent::Refused { kind, records },
        }
    }
}
