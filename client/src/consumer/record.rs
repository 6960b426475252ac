//! What a consumer gets: records one by one, or whole batches as they came.
//!
//! Invariant: keys and values share the memory of the response they came in, unless the batch was
//! compressed; a record kept for long keeps that memory.

use std::sync::Arc;

use bytes::Bytes;
use catena_protocol::batch::{
    BatchError, BatchFlags, BatchHeader, Decompressor, RecordView, Records,
};

use crate::producer::Header;

/// A record with its place. Null (`None`) and empty keys and values differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The record's offset in the partition.
    pub offset: u64,
    /// The producer's time, in ms since 1970.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// The headers, in order.
    pub headers: Vec<Header>,
}

/// A batch as the producer built it and the broker stored it; checksums are verified.
///
/// ```no_run
/// # use catena_client::Consumer;
/// # async fn example(mut consumer: Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// let batch = consumer.next_batch().await?;
/// let mut bytes = 0;
/// batch.for_each(|record| bytes += record.value.map_or(0, <[u8]>::len))?;
/// println!("{} records, {bytes} bytes of values", batch.record_count());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RecordBatch {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: u32,
    pub(crate) header: BatchHeader,
    pub(crate) bytes: Bytes,
    /// Records below were not asked for.
    pub(crate) start_offset: u64,
}

impl RecordBatch {
    /// The topic's name.
    pub const fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition.
    pub const fn partition(&self) -> u32 {
        self.partition
    }

    /// The first offset of interest: that of the batch, or the position if that lies inside it.
    pub const fn start_offset(&self) -> u64 {
        self.start_offset
    }

    /// The offset after the batch.
    pub const fn next_offset(&self) -> u64 {
        self.header.next_offset().0
    }

    /// Records in the whole batch, also below [`start_offset`](Self::start_offset).
    pub const fn record_count(&self) -> u16 {
        self.header.record_count
    }

    /// When the broker took the batch, in ms since 1970.
    pub const fn append_time_ms(&self) -> i64 {
        self.header.append_time_ms
    }

    /// The batch, header included, byte for byte as stored.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Calls `visit` with each record from [`start_offset`](Self::start_offset) on, without
    /// copying (a compressed batch is decompressed once).
    ///
    /// # Errors
    /// If the records do not follow the format; those before the error were visited.
    pub fn for_each(&self, mut visit: impl FnMut(RecordView<'_>)) -> Result<(), BatchError> {
        if self.header.flags.contains(BatchFlags::CONTROL) {
            return Ok(());
        }
        let mut decompressor = Decompressor::default();
        let records = decompressor.records(&self.header, &self.bytes)?;
        for record in Records::new(&self.header, records) {
            let record = record?;
            if record.offset.0 >= self.start_offset {
                visit(record);
            }
        }
        Ok(())
    }

    /// The records from [`start_offset`](Self::start_offset) on, sharing the batch's memory.
    ///
    /// # Errors
    /// If the records do not follow the format.
    pub fn records(&self) -> Result<Vec<ConsumerRecord>, BatchError> {
        if self.header.flags.contains(BatchFlags::CONTROL) {
            return Ok(Vec::new());
        }
        let mut out = Vec::with_capacity(self.header.record_count.into());
        let records = Decompressor::default().records_shared(&self.header, &self.bytes)?;
        for record in Records::new(&self.header, &records) {
            let record = record?;
            if record.offset.0 < self.start_offset {
                continue;
            }
            let share = |part: Option<&[u8]>| part.map(|part| records.slice_ref(part));
            let header = |header: catena_protocol::record::RecordHeader<'_>| Header {
                name: header.name.to_owned(),
                value: share(header.value),
            };
            out.push(ConsumerRecord {
                topic: self.topic.clone(),
                partition: self.partition,
                offset: record.offset.0,
                timestamp_ms: record.timestamp_ms,
                key: share(record.key),
                value: share(record.value),
                headers: record.headers.map(header).collect(),
            });
        }
        Ok(out)
    }
}
