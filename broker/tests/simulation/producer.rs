//! A producer: sends its batches in order and idempotently, whatever happens to the broker.

use std::collections::VecDeque;
use std::rc::Rc;

use catena_broker::runtime::clock;
use catena_protocol::error::ErrorCode;
use catena_protocol::frame::Api;
use catena_protocol::ids::{CorrelationId, Durability, ProducerId, TopicPartition};
use catena_protocol::messages::{
    AckItem, AckView, InitProducerRequest, ProduceItem, encode_produce_header,
};

use crate::model::{Keys, Value};
use crate::payload;
use crate::wire::{CallError, Wire};
use crate::world::World;

/// What a producer is to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) sender: u32,
    pub(crate) topic: String,
    pub(crate) tp: TopicPartition,
    /// The keys of the records; none if they need none.
    pub(crate) keys: Option<Keys>,
    pub(crate) batches: u32,
    pub(crate) records_max: u64,
    pub(crate) record_bytes: (u64, u64),
    pub(crate) in_flight: usize,
    pub(crate) durability: Durability,
    /// One time in so many the connection is given up with requests on the way; 0 for never.
    pub(crate) reconnects: u64,
    /// Longest pause between batches, in microseconds; 0 for none.
    pub(crate) pause_us: u64,
}

struct Batch {
    values: Vec<Value>,
    bytes: Vec<u8>,
    sequence: u32,
    correlation: Option<CorrelationId>,
}

/// What a connection ended with.
enum End {
    /// Everything was sent and acknowledged.
    Done,
    /// Connect again and send what is left.
    Again,
}

struct Producer {
    world: Rc<World>,
    plan: Plan,
    id: Option<ProducerId>,
    next_sequence: u32,
    next_number: u32,
    batches_made: u32,
    unacknowledged: VecDeque<Batch>,
    /// How often in a row the oldest batch was refused as out of order.
    refusals: u32,
}

/// Sends everything that the plan says.
pub(crate) async fn run(world: Rc<World>, plan: Plan) {
    let mut producer = Producer {
        world: Rc::clone(&world),
        plan,
        id: None,
        next_sequence: 0,
        next_number: 0,
        batches_made: 0,
        unacknowledged: VecDeque::new(),
        refusals: 0,
    };
    loop {
        let ended = producer.connection().await;
        match ended {
            Ok(End::Done) => break,
            Ok(End::Again) | Err(CallError::Broken) => world.pause().await,
            Err(CallError::Refused(code)) => {
                if producer.is_gone(code) {
                    break;
                }
                producer.tolerate(code);
                world.pause().await;
            }
        }
    }
    world.producers.set(world.producers.get() - 1);
    world.producer_done.notify();
}

impl Producer {
    /// One connection, from hello to its end.
    async fn connection(&mut self) -> Result<End, CallError> {
        let tp = self.plan.tp;
        let mut wire = Wire::connect_to_owner(&self.plan.topic, tp.partition).await?;
        if self.id.is_none() {
            let given = wire.call(&InitProducerRequest {}).await?;
            self.id = Some(given.producer);
            self.next_sequence = 0;
        }
        for batch in &mut self.unacknowledged {
            batch.correlation = None;
        }
        loop {
            self.make_batches().await;
            if self.unacknowledged.is_empty() {
                return Ok(End::Done);
            }
            self.send(&mut wire).await?;
            if self.plan.durability == Durability::None {
                self.unacknowledged.clear();
                continue;
            }
            let reconnects = self.plan.reconnects;
            if reconnects > 0 && self.world.draw(|rng| rng.chance(1, reconnects)) {
                return Ok(End::Again);
            }
            let frame = wire.receive().await?;
            if Api::from_wire(frame.prefix.api) != Some(Api::Produce) {
                continue;
            }
            let acks = AckView::decode(&frame.header).expect("acks are well formed");
            for ack in acks.items() {
                if let Some(end) = self.acknowledge(&ack)? {
                    return Ok(end);
                }
            }
        }
    }

    async fn make_batches(&mut self) {
        while self.unacknowledged.len() < self.plan.in_flight
            && self.batches_made < self.plan.batches
        {
            let pause_us = self.plan.pause_us;
            if pause_us > 0 {
                let pause_us = self.world.draw(|rng| rng.below(pause_us));
                let pause = std::time::Duration::from_micros(pause_us);
                clock::sleep(pause).await;
            }
            let (low, high) = self.plan.record_bytes;
            let (records, bytes) = self.world.draw(|rng| {
                (
                    rng.between(1, self.plan.records_max),
                    rng.between(low, high),
                )
            });
            let numbers = self.next_number..;
            let values: Vec<Value> = numbers
                .take(usize::try_from(records).expect("a few"))
                .map(|number| Value {
                    sender: self.plan.sender,
                    number,
                })
                .collect();
            let now_us = clock::now_us();
            for value in &values {
                self.world
                    .model
                    .borrow_mut()
                    .sent(self.plan.tp, *value, now_us);
            }
            let bytes = usize::try_from(bytes).expect("below 1 MiB");
            let bytes = payload::batch(&values, bytes, self.plan.keys);
            self.push(values, bytes);
            self.batches_made += 1;
        }
    }

    fn push(&mut self, values: Vec<Value>, bytes: Vec<u8>) {
        let records = u32::try_from(values.len()).expect("a few");
        self.next_number += records;
        let sequence = self.next_sequence;
        self.next_sequence += records;
        self.unacknowledged.push_back(Batch {
            values,
            bytes,
            sequence,
            correlation: None,
        });
    }

    async fn send(&mut self, wire: &mut Wire) -> Result<(), CallError> {
        let id = self.id.expect("asked for before anything is sent");
        for batch in &mut self.unacknowledged {
            if batch.correlation.is_some() {
                continue;
            }
            payload::number(&mut batch.bytes, id, batch.sequence);
            let correlation = wire.correlation();
            batch.correlation = Some(correlation);
            let item = ProduceItem {
                topic: self.plan.tp.topic,
                partition: self.plan.tp.partition,
                batch_bytes: u32::try_from(batch.bytes.len()).expect("below 1 MiB"),
                ..ProduceItem::default()
            };
            let mut frame = Vec::new();
            encode_produce_header(&mut frame, correlation, self.plan.durability, 0, &[item]);
            frame.extend_from_slice(&batch.bytes);
            wire.send(&frame).await?;
        }
        Ok(())
    }

    /// Takes an ack in; says how the connection goes on if it does not.
    fn acknowledge(&mut self, ack: &AckItem) -> Result<Option<End>, CallError> {
        let is_it = |batch: &Batch| batch.correlation == Some(ack.correlation);
        let Some(at) = self.unacknowledged.iter().position(is_it) else {
            return Ok(None);
        };
        if ack.error.is_success() {
            let batch = self.unacknowledged.remove(at).expect("found above");
            self.refusals = 0;
            self.note(ack, &batch);
            return Ok(None);
        }
        match ack.error {
            ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer => {
                // What was sent behind a lost or refused batch; the oldest one has no excuse.
                self.refusals += u32::from(at == 0);
                if self.refusals > 3 {
                    self.renumber(ack.error);
                }
                Ok(Some(End::Again))
            }
            code => Err(CallError::Refused(code)),
        }
    }

    fn note(&self, ack: &AckItem, batch: &Batch) {
        let mut model = self.world.model.borrow_mut();
        let tp = self.plan.tp;
        let is_known = ack.error == ErrorCode::None && ack.detail != AckItem::OFFSET_UNKNOWN;
        if is_known {
            // A duplicate has an offset whatever the class, once its original is committed.
            model.acknowledged(tp, ack.detail, &batch.values);
        } else if self.plan.durability == Durability::Durable {
            model.acknowledged_somewhere(tp, &batch.values);
        }
    }

    /// Gives up what has an unknown outcome and goes on with a new producer id.
    fn renumber(&mut self, code: ErrorCode) {
        let tolerance = self.world.model.borrow().tolerance;
        assert!(
            self.plan.durability != Durability::Durable || tolerance.damage,
            "lost: the oldest batch of {:?} was refused as {code:?}",
            self.plan
        );
        self.unacknowledged.clear();
        self.id = None;
        self.next_sequence = 0;
        self.refusals = 0;
    }

    fn is_gone(&self, code: ErrorCode) -> bool {
        matches!(code, ErrorCode::TopicNotFound | ErrorCode::UnknownPartition)
            && self.world.is_deleted(&self.plan.topic)
    }

    /// Errors that pass; any other ends the run.
    fn tolerate(&self, code: ErrorCode) {
        match code {
            ErrorCode::StoreFailed => self.world.note_store_failed(),
            ErrorCode::StorageFull
            | ErrorCode::Overloaded
            | ErrorCode::ShuttingDown
            | ErrorCode::NotOwner
            | ErrorCode::WrongNode
            | ErrorCode::ChainStalled => {}
            other => panic!("refused: {:?} got {other:?}", self.plan),
        }
    }
}
