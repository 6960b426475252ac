//! Topics, partitions and producer state of the fake broker, with the rules of the protocol.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use catena_protocol::batch::{BatchHeader, BatchReader, Decompressor, stamp, verify_body};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{
    ChainEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TopicId, TopicPartition,
};
use catena_protocol::messages::{OffsetSpec, TopicConfig};

#[derive(Clone)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) partitions: u32,
    pub(crate) config: TopicConfig,
}

#[derive(Default)]
pub(crate) struct Partition {
    pub(crate) batches: Vec<(BatchHeader, Bytes)>,
    pub(crate) log_start: u64,
    pub(crate) producers: HashMap<ProducerId, (ProducerEpoch, Sequence)>,
}

impl Partition {
    pub(crate) fn end(&self) -> u64 {
        self.batches
            .last()
            .map_or(self.log_start, |(header, _)| header.next_offset().0)
    }
}

#[derive(Default)]
pub(crate) struct Log {
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) partitions: BTreeMap<TopicPartition, Partition>,
    pub(crate) version: u64,
    next_topic: u32,
    next_producer: u64,
}

/// A refusal, or (as an error code of success) a repetition.
pub(crate) type Refusal = (ErrorCode, u64);

impl Log {
    pub(crate) fn create(&mut self, name: &str, partitions: u32) -> Result<TopicId, ErrorCode> {
        if self.topics.contains_key(name) {
            return Err(ErrorCode::TopicExists);
        }
        self.next_topic += 1;
        self.version += 1;
        let id = TopicId(self.next_topic);
        let config = TopicConfig::default();
        self.topics.insert(
            name.to_owned(),
            Topic {
                id,
                partitions,
                config,
            },
        );
        Ok(id)
    }

    pub(crate) fn delete(&mut self, name: &str) -> Result<(), ErrorCode> {
        let topic = self.topics.remove(name).ok_or(ErrorCode::TopicNotFound)?;
        self.partitions.retain(|place, _| place.topic != topic.id);
        self.version += 1;
        Ok(())
    }

    pub(crate) fn new_producer(&mut self) -> ProducerId {
        self.next_producer += 1;
        ProducerId(self.next_producer)
    }

    pub(crate) fn place(&self, topic: &str, partition: u32) -> TopicPartition {
        TopicPartition::new(self.topics[topic].id, PartitionId(partition))
    }

    pub(crate) fn exists(&self, place: TopicPartition) -> bool {
        let topic = self.topics.values().find(|topic| topic.id == place.topic);
        topic.is_some_and(|topic| place.partition.0 < topic.partitions)
    }

    pub(crate) fn partition(&mut self, place: TopicPartition) -> &mut Partition {
        self.partitions.entry(place).or_default()
    }

    /// Appends a batch by the rules for idempotent producers; gives its base offset.
    pub(crate) fn append(&mut self, place: TopicPartition, batch: &[u8]) -> Result<u64, Refusal> {
        let header = BatchHeader::decode(batch).map_err(|error| (error.code(), 0))?;
        header.check_produced().map_err(|error| (error.code(), 0))?;
        verify_body(batch).map_err(|error| (error.code(), 0))?;
        let partition = self.partition(place);
        if header.producer_id != ProducerId(0) {
            let state = partition.producers.get(&header.producer_id);
            let expected = match state {
                Some((epoch, _)) if header.producer_epoch < *epoch => {
                    return Err((ErrorCode::FencedProducer, epoch.0.into()));
                }
                Some((epoch, next)) if header.producer_epoch == *epoch => *next,
                _ if header.sequence != Sequence(0) => {
                    return Err((ErrorCode::UnknownProducer, 0));
                }
                _ => Sequence(0),
            };
            if header.sequence.precedes(expected) {
                return Err((ErrorCode::DuplicateOffsetUnknown, 0));
            }
            if header.sequence != expected {
                return Err((ErrorCode::OutOfOrderSequence, expected.0.into()));
            }
            let next = header.next_sequence();
            partition
                .producers
                .insert(header.producer_id, (header.producer_epoch, next));
        }
        let base = partition.end();
        let mut stored = batch.to_vec();
        stamp(&mut stored, Offset(base), 1_000, ChainEpoch(1), place);
        let header = BatchHeader::decode(&stored).expect("it was decoded before");
        partition.batches.push((header, Bytes::from(stored)));
        Ok(base)
    }

    pub(crate) fn offset(&self, place: TopicPartition, spec: OffsetSpec) -> u64 {
        let Some(partition) = self.partitions.get(&place) else {
            return 0;
        };
        match spec {
            OffsetSpec::Earliest => partition.log_start,
            OffsetSpec::Latest => partition.end(),
            OffsetSpec::Time(time_ms) => {
                let mut batches = partition.batches.iter();
                let found = batches.find(|(header, _)| header.max_timestamp_ms() >= time_ms);
                found.map_or(partition.end(), |(header, _)| header.base_offset.0)
            }
        }
    }

    /// Drops everything below an offset that begins a batch.
    pub(crate) fn trim(&mut self, place: TopicPartition, log_start: u64) {
        let partition = self.partition(place);
        partition
            .batches
            .retain(|(header, _)| header.next_offset().0 > log_start);
        partition.log_start = log_start;
    }

    pub(crate) fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        let Some(partition) = self.partitions.get(&self.place(topic, partition)) else {
            return Vec::new();
        };
        let mut values = Vec::new();
        let mut decompressor = Decompressor::default();
        for (_, batch) in &partition.batches {
            let reader = BatchReader::open(batch, &mut decompressor).expect("it was verified");
            for record in reader {
                let value = record.expect("a whole record").value.unwrap_or(b"null");
                values.push(String::from_utf8_lossy(value).into_owned());
            }
        }
        values
    }
}
