//! The record as an application hands it in.

use std::sync::Arc;

use bytes::Bytes;
use catena_protocol::ids::Durability;
use catena_protocol::record as wire;

/// A header of a record. Null (`None`) and empty differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The name; names may repeat.
    pub name: String,
    /// The value.
    pub value: Option<Bytes>,
}

/// A message to send.
///
/// Without a partition the producer's partitioner picks one; without a timestamp the time of the
/// call to send counts. Keys and values are [`Bytes`], so a payload that is sent often is shared,
/// not copied, up to the batch it goes into.
///
/// ```
/// use catena_client::Record;
///
/// let record = Record::to("orders").key("customer-17").value(r#"{"total": 12}"#);
/// assert_eq!(record.topic(), "orders");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: Option<u32>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<Header>,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) durability: Option<Durability>,
}

impl Record {
    /// A record for a topic, with neither key nor value. Cheap if given an `Arc<str>`.
    pub fn to(topic: impl Into<Arc<str>>) -> Self {
        Self {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp_ms: None,
            durability: None,
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Names the partition, from 0; the partitioner is not asked.
    #[must_use]
    pub const fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Adds a header. At most 1,024; a name has at most 32,767 bytes.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header {
            name: name.into(),
            value: Some(value.into()),
        });
        self
    }

    /// Sets the time, in ms since 1970.
    #[must_use]
    pub const fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// Sets the durability class for this record alone. Order is kept among the records of one
    /// class.
    #[must_use]
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Whether it names the partition that `other` names, and the same class.
    pub(crate) fn is_for_the_place_of(&self, other: &Record) -> bool {
        self.partition.is_some()
            && self.partition == other.partition
            && self.durability == other.durability
            && Arc::ptr_eq(&self.topic, &other.topic)
    }

    /// Bytes of memory this record is charged with, its overhead in the batch included.
    pub(crate) fn charge_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 32;
        let bytes = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers: usize = self
            .headers
            .iter()
            .map(|header| header.name.len() + bytes(&header.value) + 8)
            .sum();
        OVERHEAD_BYTES + bytes(&self.key) + bytes(&self.value) + headers
    }

    /// Calls `with` with the record as the batch builder takes it.
    pub(crate) fn with_wire<T>(&self, now_ms: i64, with: impl FnOnce(&wire::Record<'_>) -> T) -> T {
        let record = wire::Record {
            timestamp_ms: self.timestamp_ms.unwrap_or(now_ms),
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &[],
            extensions: &[],
        };
        if self.headers.is_empty() {
            return with(&record);
        }
        let headers: Vec<wire::RecordHeader<'_>> = self
            .headers
            .iter()
            .map(|header| wire::RecordHeader {
                name: &header.name,
                value: header.value.as_deref(),
            })
            .collect();
        with(&wire::Record {
            headers: &headers,
            ..record
        })
    }
}
