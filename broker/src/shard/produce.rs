//! Produce requests: checked when they arrive, admitted when their group has room.
//!
//! Small batches keep the memory they were received in until they are copied, once, into a block.
//! A large request for one chain is received straight into a block of its own. Every batch's CRC is
//! checked here, before admission, and never again on the way to the disk.
//!
//! Runs on the shard's executor.

use std::rc::Rc;

use bytes::Bytes;
use catena_core::block::{self, BatchPlace};
use catena_core::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX};
use catena_core::log::{Admitted, ProduceRefusal};
use catena_protocol::batch::{self, BatchHeader};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{ChainId, CorrelationId, Durability, ProducerId, TopicPartition};
use catena_protocol::messages::{AckItem, ProduceItem, ProduceView};

use super::Shard;
use super::assembler::AdmittedBatch;
use super::committer::{DuplicateAck, WaitingAck};
use super::connection::Connection;
use super::inbox::{Inbox, ReceiveError};
use crate::limits::IN_PLACE_BYTES_MIN;
use crate::runtime::buffer::{self, Buffer};
use crate::runtime::clock;

/// Who asked, and how the answer finds them.
#[derive(Clone)]
pub struct Origin {
    connection: Rc<Connection>,
    correlation: CorrelationId,
    durability: Durability,
    arrived_us: u64,
}

/// A checked batch, by where its bytes are.
struct Checked<B> {
    item: u16,
    tp: TopicPartition,
    header: BatchHeader,
    bytes: B,
}

/// Produce work that waits for admission.
pub enum Pending {
    /// One batch in the memory it was received in.
    Batch(Origin, BatchWork),
    /// A request that lies in its own block.
    InPlace(Origin, Box<BlockWork>),
}

/// See [`Pending::Batch`].
pub struct BatchWork(Checked<Bytes>);

/// See [`Pending::InPlace`].
pub struct BlockWork {
    chain: ChainId,
    buffer: Buffer,
    /// The batches, with their range in the buffer.
    batches: Vec<Checked<(usize, usize)>>,
}

impl Pending {
    /// Payload bytes, for admission.
    pub fn bytes(&self) -> usize {
        match self {
            Pending::Batch(_, work) => work.0.bytes.len(),
            Pending::InPlace(_, work) => work.batches.iter().map(|b| b.bytes.1).sum(),
        }
    }

    /// The partition and producer of each batch.
    pub fn sources(&self) -> impl Iterator<Item = (TopicPartition, ProducerId)> {
        let (one, several) = match self {
            Pending::Batch(_, work) => (Some(work.0.source()), &[][..]),
            Pending::InPlace(_, work) => (None, &work.batches[..]),
        };
        one.into_iter().chain(several.iter().map(Checked::source))
    }
}

impl<B> Checked<B> {
    fn source(&self) -> (TopicPartition, ProducerId) {
        (self.tp, self.header.producer_id)
    }
}

/// Receives the payload of a produce request and queues its batches.
pub async fn receive(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    correlation: CorrelationId,
    view: &ProduceView<'_>,
    payload_bytes: usize,
    inbox: &mut Inbox,
) -> Result<(), ReceiveError> {
    let origin = Origin {
        connection: Rc::clone(connection),
        correlation,
        durability: view.durability(),
        arrived_us: clock::now_us(),
    };
    shard.metrics.produce_requests.add(1);
    connection.charge(payload_bytes);
    if let Some(chain) = in_place_chain(shard, view, payload_bytes)
        && let Some(_charge) = shard.receiving.in_place.try_charge(payload_bytes)
    {
        receive_in_place(shard, origin, chain, view, payload_bytes, inbox).await?;
    } else {
        let payload = inbox.payload(payload_bytes).await?;
        receive_small(shard, &origin, view, payload);
    }
    shard.absorb_soon(inbox.holds_frame());
    Ok(())
}

fn receive_small(shard: &Rc<Shard>, origin: &Origin, view: &ProduceView<'_>, mut payload: Bytes) {
    for (index, item) in view.items().enumerate() {
        let item_index = item_number(index);
        let tp = item.tp();
        let bytes = payload.split_to(item_bytes(&item));
        match check(shard, tp, &bytes, origin.durability) {
            Ok(header) => {
                let work = BatchWork(Checked {
                    item: item_index,
                    tp,
                    header,
                    bytes,
                });
                shard.queue(&origin.connection, Pending::Batch(origin.clone(), work));
            }
            Err(refusal) => refuse(shard, origin, item_index, bytes.len(), refusal),
        }
    }
}

async fn receive_in_place(
    shard: &Rc<Shard>,
    origin: Origin,
    chain: ChainId,
    view: &ProduceView<'_>,
    payload_bytes: usize,
    inbox: &mut Inbox,
) -> Result<(), ReceiveError> {
    let start = block::body_offset(view.items().len());
    let mut buffer = buffer::allocate((start + payload_bytes).next_multiple_of(BLOCK_ALIGN));
    inbox
        .receive_into(&mut buffer[start..start + payload_bytes])
        .await?;
    let mut batches = Vec::with_capacity(view.items().len());
    let mut refusals = Vec::new();
    let mut at = start;
    for (index, item) in view.items().enumerate() {
        let range = (at, item_bytes(&item));
        at += item_bytes(&item);
        match check(shard, item.tp(), &buffer[range.0..at], origin.durability) {
            Ok(header) => batches.push(Checked {
                item: item_number(index),
                tp: item.tp(),
                header,
                bytes: range,
            }),
            Err(refusal) => refusals.push((item_number(index), item_bytes(&item), refusal)),
        }
    }
    if refusals.is_empty() {
        let work = BlockWork {
            chain,
            buffer,
            batches,
        };
        let connection = Rc::clone(&origin.connection);
        shard.queue(&connection, Pending::InPlace(origin, Box::new(work)));
        return Ok(());
    }
    for (item, bytes, refusal) in refusals {
        refuse(shard, &origin, item, bytes, refusal);
    }
    for checked in batches {
        let (start, len) = checked.bytes;
        let bytes = Bytes::copy_from_slice(&buffer[start..start + len]);
        let Checked {
            item, tp, header, ..
        } = checked;
        let work = BatchWork(Checked {
            item,
            tp,
            header,
            bytes,
        });
        shard.queue(&origin.connection, Pending::Batch(origin.clone(), work));
    }
    Ok(())
}

/// The chain of a request that is large enough for a block of its own and fits one frame: all
/// partitions in one chain, each once, in order.
fn in_place_chain(shard: &Shard, view: &ProduceView<'_>, payload_bytes: usize) -> Option<ChainId> {
    let block_bytes = block::body_offset(view.items().len()) + payload_bytes;
    if payload_bytes < IN_PLACE_BYTES_MIN || block_bytes > BLOCK_BYTES_MAX {
        return None;
    }
    let log = shard.log.borrow();
    let mut chain = None;
    let mut last = None;
    for item in view.items() {
        let tp = item.tp();
        let here = log.partition(tp)?.chain;
        if *chain.get_or_insert(here) != here
            || last >= Some(tp)
            || !item_bytes(&item).is_multiple_of(8)
        {
            return None;
        }
        last = Some(tp);
    }
    chain
}

/// Why a batch was refused: what the client is told.
type Refused = (ErrorCode, u64);

fn check(
    shard: &Shard,
    tp: TopicPartition,
    bytes: &[u8],
    durability: Durability,
) -> Result<BatchHeader, Refused> {
    if let Some(refusal) = shard.refuse_writes() {
        return Err(refusal);
    }
    let rules = shard.produce_rules(tp.topic);
    if let Some((required, _)) = rules
        && durability > required
    {
        return Err((ErrorCode::DurabilityTooWeak, u64::from(required.to_wire())));
    }
    let header = BatchHeader::decode(bytes).map_err(|error| (error.code(), 0))?;
    if usize::try_from(header.length).ok() != Some(bytes.len()) {
        return Err((ErrorCode::InvalidBatch, 0));
    }
    batch::verify_body(bytes).map_err(|error| (error.code(), 0))?;
    if rules.is_some_and(|(_, needs_keys)| needs_keys) {
        shard.check_keys(&header, bytes).map_err(|code| (code, 0))?;
    }
    Ok(header)
}

fn refuse(shard: &Shard, origin: &Origin, item: u16, bytes: usize, (error, detail): Refused) {
    shard.metrics.produce_errors.add(1);
    origin.connection.release(bytes);
    if origin.durability != Durability::None {
        let ack = AckItem {
            correlation: origin.correlation,
            item,
            error,
            detail,
        };
        shard.ack(&origin.connection, ack);
    }
}

/// Gives admitted work its offsets and puts it into the next group.
pub fn admit(shard: &Rc<Shard>, pending: Pending) {
    match pending {
        Pending::Batch(origin, work) => admit_batch(shard, &origin, work.0),
        Pending::InPlace(origin, work) => admit_block(shard, &origin, *work),
    }
}

fn admit_batch(shard: &Rc<Shard>, origin: &Origin, checked: Checked<Bytes>) {
    let len = checked.bytes.len();
    if let Some(admitted) = assign(shard, origin, &checked, len) {
        let batch = AdmittedBatch {
            chain: admitted.chain,
            place: place(&checked, &admitted, len),
            bytes: checked.bytes,
        };
        let mut log = shard.log.borrow_mut();
        shard.committer.assembler.borrow_mut().add(batch, &mut log);
    }
}

fn admit_block(shard: &Rc<Shard>, origin: &Origin, work: BlockWork) {
    let mut admitted = Vec::with_capacity(work.batches.len());
    for checked in &work.batches {
        if let Some(assigned) = assign(shard, origin, checked, checked.bytes.1) {
            admitted.push((place(checked, &assigned, checked.bytes.1), checked.bytes));
        }
    }
    let mut log = shard.log.borrow_mut();
    let mut assembler = shard.committer.assembler.borrow_mut();
    if admitted.len() == work.batches.len() {
        let places: Vec<BatchPlace> = admitted.iter().map(|(place, _)| *place).collect();
        assembler.add_in_place(work.buffer, work.chain, &places, &mut log);
        return;
    }
    for (place, (start, len)) in admitted {
        let bytes = Bytes::copy_from_slice(&work.buffer[start..start + len]);
        assembler.add(
            AdmittedBatch {
                chain: work.chain,
                place,
                bytes,
            },
            &mut log,
        );
    }
}

fn place<B>(checked: &Checked<B>, admitted: &Admitted, bytes: usize) -> BatchPlace {
    BatchPlace {
        tp: checked.tp,
        base_offset: admitted.base_offset,
        append_time_ms: admitted.append_time_ms,
        bytes,
    }
}

/// Asks the log for offsets; acknowledges at once what needs no commit.
fn assign<B>(
    shard: &Rc<Shard>,
    origin: &Origin,
    checked: &Checked<B>,
    bytes: usize,
) -> Option<Admitted> {
    // A producer waits for space, so only where its partition is.
    let full = || {
        let refusal = shard.refuse_for_space(bytes)?;
        let is_here = shard.log.borrow().partition(checked.tp).is_some();
        Some(if is_here {
            refusal
        } else {
            shard.not_here(checked.tp)
        })
    };
    if let Some(refusal) = shard.refuse_writes().or_else(full) {
        refuse(shard, origin, checked.item, bytes, refusal);
        return None;
    }
    let now_ms = clock::wall_ms();
    let outcome = shard
        .log
        .borrow_mut()
        .admit(checked.tp, &checked.header, now_ms);
    match outcome {
        Ok(admitted) => {
            shard.metrics.produce_batches.add(1);
            shard
                .metrics
                .produce_records
                .add(u64::from(checked.header.record_count));
            shard
                .metrics
                .produce_bytes
                .add(u64::try_from(bytes).expect("usize fits u64"));
            acknowledge_later(
                shard,
                origin,
                checked.item,
                admitted.base_offset.get(),
                bytes,
            );
            Some(admitted)
        }
        Err(ProduceRefusal::Duplicate {
            base_offset,
            commit_offset,
        }) => {
            if origin.durability == Durability::None {
                origin.connection.release(bytes);
                return None;
            }
            let (error, detail) = match base_offset {
                Some(offset) => (ErrorCode::None, offset.get()),
                None => (ErrorCode::DuplicateOffsetUnknown, AckItem::OFFSET_UNKNOWN),
            };
            let ack = AckItem {
                correlation: origin.correlation,
                item: checked.item,
                error,
                detail,
            };
            let waiting = waiting(origin, ack, bytes);
            shard.acknowledge_duplicate(DuplicateAck {
                tp: checked.tp,
                commit_offset,
                waiting,
            });
            None
        }
        Err(refusal) => {
            let refused = shard.explain(checked.tp, &refusal);
            refuse(shard, origin, checked.item, bytes, refused);
            None
        }
    }
}

fn waiting(origin: &Origin, ack: AckItem, charged_bytes: usize) -> WaitingAck {
    WaitingAck {
        connection: Rc::clone(&origin.connection),
        ack,
        charged_bytes,
        arrived_us: origin.arrived_us,
    }
}

fn acknowledge_later(shard: &Shard, origin: &Origin, item: u16, offset: u64, bytes: usize) {
    let ack = AckItem {
        correlation: origin.correlation,
        item,
        error: ErrorCode::None,
        detail: if origin.durability == Durability::Durable {
            offset
        } else {
            AckItem::OFFSET_UNKNOWN
        },
    };
    match origin.durability {
        Durability::Durable => {
            shard
                .committer
                .waiting
                .borrow_mut()
                .push(waiting(origin, ack, bytes));
        }
        Durability::Received => {
            origin.connection.release(bytes);
            shard.ack(&origin.connection, ack);
        }
        Durability::None => origin.connection.release(bytes),
    }
}

fn item_bytes(item: &ProduceItem) -> usize {
    usize::try_from(item.batch_bytes).expect("u32 fits usize")
}

fn item_number(index: usize) -> u16 {
    u16::try_from(index).expect("a produce request has at most 65,535 items")
}
