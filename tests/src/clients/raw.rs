//! Clients on plain sockets: they see each answer as it is, and connect again when none comes.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use catena_protocol::batch::{BatchError, BatchReader, Decompressor, split, verify_body};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{Offset, PartitionId};
use catena_protocol::messages::{
    AckItem, FetchInterest, FetchItem, FetchRequest, InitProducerRequest, InitProducerResponse,
};

use super::{Load, Target, value};
use crate::history::recorder::Recorder;
use crate::history::{FinalRead, Fingerprint, Outcome, Poll, Report};
use crate::peer::{Peer, numbered_batch};
use crate::seeded::Seeded;

/// Their numbers in histories.
const PRODUCER: u32 = 2;
const CONSUMER: u32 = 2;

/// The raw producer keeps to one partition, so that both producers meet in it.
const PARTITION: u32 = 0;

const RETRY_INTERVAL: Duration = Duration::from_millis(5);

/// A raw producer gives up after so many attempts since it was asked to stop.
const LAST_ATTEMPTS_MAX: u32 = 4_000;

/// Answers without records, although there should be some, until a final read gives up.
const EMPTY_ANSWERS_MAX: u32 = 25;
const FAILURES_MAX: u32 = 1_000;

const FETCH_BYTES_MAX: u32 = 4 << 20;
const FETCH_WAIT_MS: u32 = 20;

/// Sends one numbered record after the other, each until it has an outcome.
pub(super) fn produce(target: &Target, load: Load, recorder: &Recorder, stop: &AtomicBool) {
    let mut random = Seeded::new(load.seed ^ 0x5eed);
    let mut sender = Sender::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let value = value(PRODUCER, PARTITION, number, &mut random);
        let sent = recorder.sending(PRODUCER, PARTITION, number, &value);
        let mut attempts_left = LAST_ATTEMPTS_MAX;
        while attempts_left > 0 {
            if stop.load(Ordering::Relaxed) {
                attempts_left -= 1;
            }
            match sender.send(target, recorder, &value) {
                Some(outcome) => {
                    recorder.answered(sent, outcome);
                    break;
                }
                None => thread::park_timeout(RETRY_INTERVAL),
            }
        }
        thread::park_timeout(load.pause);
    }
}

/// A connection and a place in a producer's sequence.
#[derive(Default)]
struct Sender {
    peer: Option<Peer>,
    identity: Option<(InitProducerResponse, u32)>,
}

impl Sender {
    /// One attempt; `None` if the same has to be sent again.
    fn send(&mut self, target: &Target, recorder: &Recorder, value: &[u8]) -> Option<Outcome> {
        if let Ok(ack) = self.try_send(target, value) {
            self.judge(ack, recorder)
        } else {
            self.peer = None;
            None
        }
    }

    fn try_send(&mut self, target: &Target, value: &[u8]) -> io::Result<AckItem> {
        let peer = match &mut self.peer {
            Some(peer) => peer,
            none => none.insert(Peer::try_connect(&target.addr)?),
        };
        let (given, sequence) = match &mut self.identity {
            Some(identity) => *identity,
            none => {
                let given = peer.try_ask(&InitProducerRequest {})?;
                let given = given.map_err(|refusal| io::Error::other(refusal.message))?;
                *none.insert((given, 0))
            }
        };
        let batch = numbered_batch(&[value], given.producer, given.epoch, sequence);
        peer.try_produce(target.topic_id, &batch)
    }

    fn judge(&mut self, ack: AckItem, recorder: &Recorder) -> Option<Outcome> {
        match ack.error {
            ErrorCode::TopicNotFound => {
                recorder.hopeless("the topic is gone");
                None
            }
            ErrorCode::None | ErrorCode::DuplicateOffsetUnknown => {
                if let Some((_, sequence)) = &mut self.identity {
                    *sequence += 1;
                }
                let has_offset =
                    ack.error == ErrorCode::None && ack.detail != AckItem::OFFSET_UNKNOWN;
                Some(Outcome::Acknowledged(has_offset.then_some(ack.detail)))
            }
            ErrorCode::OutOfOrderSequence
            | ErrorCode::UnknownProducer
            | ErrorCode::FencedProducer => {
                // An earlier attempt may have been written: it must not be sent under a new id.
                self.identity = None;
                Some(Outcome::Unknown)
            }
            _ => None,
        }
    }
}

/// Asks for whatever comes next in all partitions until it is stopped.
pub(super) fn poll(target: &Target, recorder: &Recorder, stop: &AtomicBool) {
    let mut positions = vec![0; usize::try_from(target.partitions).expect("u32 fits usize")];
    let mut peer = None;
    while !stop.load(Ordering::Relaxed) {
        let asked = recorder.tick();
        let answer = fetch(&mut peer, target, &positions);
        let Ok(answer) = answer else {
            peer = None;
            thread::park_timeout(RETRY_INTERVAL);
            continue;
        };
        for answered in answer {
            let at = &mut positions[answered.index];
            if answered.item.error != ErrorCode::None {
                if answered.item.error == ErrorCode::DataCorrupt {
                    let next = answered.item.high_watermark.0;
                    recorder.reported(Report {
                        consumer: CONSUMER,
                        partition: answered.item.partition.0,
                        offsets: *at..next,
                    });
                    *at = next;
                }
                continue;
            }
            let position = *at;
            if let Some((last, _)) = answered.records.last() {
                *at = last + 1;
            }
            recorder.polled(Poll {
                consumer: CONSUMER,
                partition: answered.item.partition.0,
                position: Some(position),
                asked,
                answered: recorder.tick(),
                high_watermark: Some(answered.item.high_watermark.0),
                records: answered.records,
            });
        }
    }
}

/// Reads all partitions from the log start to the high watermark.
///
/// # Errors
/// If the broker does not answer.
pub fn read_all(target: &Target) -> Result<BTreeMap<u32, FinalRead>, String> {
    (0..target.partitions)
        .map(|partition| Ok((partition, read_partition(target, partition)?)))
        .collect()
}

fn read_partition(target: &Target, partition: u32) -> Result<FinalRead, String> {
    let mut reading = Reading::default();
    let (mut peer, mut failures) = (None, 0);
    loop {
        let asked = vec![interest(target, partition, reading.position)];
        match fetch_interests(&mut peer, target, &asked) {
            Ok(answers) => {
                reading.empty += 1;
                for answered in answers {
                    reading.take(answered)?;
                }
                let is_done = reading.is_told && reading.position >= reading.read.high_watermark;
                if is_done || reading.empty > EMPTY_ANSWERS_MAX {
                    return Ok(reading.read);
                }
            }
            Err(error) => {
                peer = None;
                failures += 1;
                if failures > FAILURES_MAX {
                    let position = reading.position;
                    return Err(format!("partition {partition} at {position}: {error}"));
                }
                thread::park_timeout(RETRY_INTERVAL);
            }
        }
    }
}

/// How far a final read has come.
#[derive(Default)]
struct Reading {
    read: FinalRead,
    position: u64,
    is_told: bool,
    /// Answers without anything new, one after the other.
    empty: u32,
}

impl Reading {
    fn take(&mut self, answered: Answered) -> Result<(), String> {
        let item = answered.item;
        match item.error {
            ErrorCode::None => {
                self.is_told = true;
                self.read.high_watermark = item.high_watermark.0;
                self.read.log_start = item.log_start.0;
                if let Some((last, _)) = answered.records.last() {
                    self.position = last + 1;
                    self.empty = 0;
                }
                self.read.records.extend(answered.records);
                Ok(())
            }
            ErrorCode::DataCorrupt if item.high_watermark.0 > self.position => {
                self.read.damaged.push(self.position..item.high_watermark.0);
                self.position = item.high_watermark.0;
                self.empty = 0;
                Ok(())
            }
            other => Err(format!("reading at {}: {other:?}", self.position)),
        }
    }
}

/// What a fetch gave for one partition.
struct Answered {
    /// Which of the positions it is about.
    index: usize,
    item: FetchItem,
    records: Vec<(u64, Fingerprint)>,
}

fn fetch(peer: &mut Option<Peer>, target: &Target, positions: &[u64]) -> io::Result<Vec<Answered>> {
    let interests = (0..target.partitions)
        .zip(positions)
        .map(|(partition, position)| interest(target, partition, *position));
    let interests: Vec<_> = interests.collect();
    fetch_interests(peer, target, &interests)
}

fn interest(target: &Target, partition: u32, position: u64) -> FetchInterest {
    FetchInterest {
        topic: target.topic_id,
        partition: PartitionId(partition),
        offset: Offset(position),
        ..FetchInterest::default()
    }
}

fn fetch_interests(
    peer: &mut Option<Peer>,
    target: &Target,
    interests: &[FetchInterest],
) -> io::Result<Vec<Answered>> {
    let peer = match peer {
        Some(peer) => peer,
        none => none.insert(Peer::try_connect(&target.addr)?),
    };
    let (items, payload) = peer.try_fetch(&FetchRequest {
        max_wait_ms: FETCH_WAIT_MS,
        min_bytes: 1,
        max_bytes: FETCH_BYTES_MAX,
        add: interests.to_vec(),
        ..FetchRequest::default()
    })?;
    let mut rest = payload.as_slice();
    let mut answers = Vec::new();
    for item in items {
        let bytes = usize::try_from(item.bytes).expect("u32 fits usize");
        let Some((own, others)) = rest.split_at_checked(bytes) else {
            return Err(io::Error::other("items are larger than the payload"));
        };
        rest = others;
        let asked = |interest: &FetchInterest| interest.partition == item.partition;
        let Some(index) = interests.iter().position(asked) else {
            return Err(io::Error::other("an item that was not asked for"));
        };
        let at = interests[index].offset.0;
        answers.push(Answered {
            index,
            item,
            records: records_of(own, at),
        });
    }
    Ok(answers)
}

/// Offsets and values from `at` on. What cannot be read is a value that nobody sent.
fn records_of(payload: &[u8], at: u64) -> Vec<(u64, Fingerprint)> {
    let mut records = Vec::new();
    if let Err(error) = read_records(payload, at, &mut records) {
        let next = records.last().map_or(at, |(offset, _)| offset + 1);
        records.push((next, Fingerprint::of(error.to_string().as_bytes())));
    }
    records
}

fn read_records(
    payload: &[u8],
    at: u64,
    records: &mut Vec<(u64, Fingerprint)>,
) -> Result<(), BatchError> {
    for found in split(payload) {
        let (_, bytes) = found?;
        verify_body(bytes)?;
        let mut decompressor = Decompressor::default();
        for record in BatchReader::open(bytes, &mut decompressor)? {
            let record = record?;
            if record.offset.0 >= at {
                let value = record.value.unwrap_or_default();
                records.push((record.offset.0, Fingerprint::of(value)));
            }
        }
    }
    Ok(())
}
