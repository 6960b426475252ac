//! Receives records: one fetch at a time and broker, for all partitions it leads.
//!
//! The next fetch is on its way while what the last one brought is handed over. Every partition
//! has an offset from which all is still to be handed over; after any error all brokers are asked
//! anew from there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::records::RecordBatchDecoder;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::background::{Batch, Owned};
use super::cluster::Cluster;
use super::wire::{Outcome, Wire, check};
use crate::args::StartAt;

/// How long a broker holds a fetch that finds nothing.
const FETCH_WAIT_MS: i32 = 500;

/// Most bytes a fetch asks of a partition.
const PARTITION_BYTES_MAX: i32 = 4 << 20;

/// Most bytes a fetch asks for.
const FETCH_BYTES_MAX: i32 = 32 << 20;

/// Between an error and the next try.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of a batch's base offset and length, which the length does not count.
const BATCH_PREFIX_BYTES: usize = 12;

/// Where the difference of a batch's last offset to its base offset lies.
const LAST_OFFSET_DELTA_AT: usize = 23;

/// Bytes of a batch before its records.
const BATCH_HEAD_BYTES: usize = 61;

/// Where to go on, by partition.
type Offsets = Rc<RefCell<BTreeMap<u32, i64>>>;

/// Receives from `offsets` on until nobody takes it any more.
pub(super) async fn receive(
    cluster: Cluster,
    offsets: BTreeMap<u32, i64>,
    batches: mpsc::Sender<Batch>,
) {
    let offsets = Rc::new(RefCell::new(offsets));
    let mut told = None;
    loop {
        let before = offsets.borrow().clone();
        let Err(kind) = receive_until_error(&cluster, &offsets, &batches).await else {
            return;
        };
        // A broker that stays away is told of once.
        let is_news = *offsets.borrow() != before || told.as_ref() != Some(&kind);
        if is_news && batches.send(Err(kind.clone())).await.is_err() {
            return;
        }
        told = Some(kind);
        sleep(RETRY_INTERVAL).await;
    }
}

/// Receives from all leaders; the first error, or the end, ends it for all.
async fn receive_until_error(
    cluster: &Cluster,
    offsets: &Offsets,
    batches: &mpsc::Sender<Batch>,
) -> Outcome<()> {
    let layout = cluster.find().await?;
    let wanted = offsets.borrow().keys().copied().collect::<Vec<_>>();
    let mut parts = JoinSet::new();
    for (leader, partitions) in layout.by_leader(wanted)? {
        let fetcher = Fetcher {
            cluster: cluster.clone(),
            wire: layout.connect(leader).await?,
            partitions,
            offsets: offsets.clone(),
            batches: batches.clone(),
        };
        parts.spawn_local(fetcher.run());
    }
    match parts.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(_)) => Err("the receiving task failed".to_owned()),
        None => Err("no partitions to receive from".to_owned()),
    }
}

/// Fetches from one broker.
struct Fetcher {
    cluster: Cluster,
    wire: Wire,
    partitions: Vec<u32>,
    offsets: Offsets,
    batches: mpsc::Sender<Batch>,
}

impl Fetcher {
    async fn run(mut self) -> Outcome<()> {
        let mut next = self.offsets.borrow().clone();
        let request = self.request(&next);
        let mut sent = self.wire.send(&request).await?;
        loop {
            let answer = self.wire.receive(sent).await?;
            check(answer.error_code)?;
            let fetched = self.fetched(answer).await?;
            for (partition, _, records) in &fetched {
                if let Some(end) = end_of(records) {
                    next.insert(*partition, end);
                }
            }
            let request = self.request(&next);
            sent = self.wire.send(&request).await?;
            for (partition, from, records) in fetched {
                if self.hand_over(partition, from, records).await?.is_none() {
                    return Ok(());
                }
                self.offsets
                    .borrow_mut()
                    .insert(partition, next[&partition]);
            }
        }
    }

    /// Asks for all partitions, each time another one first: an answer that is full has nothing
    /// of the last ones.
    fn request(&mut self, next: &BTreeMap<u32, i64>) -> FetchRequest {
        self.partitions.rotate_left(1);
        let wanted = self.partitions.iter().map(|partition| {
            FetchPartition::default()
                .with_partition(i32::try_from(*partition).expect("the broker numbered it"))
                .with_fetch_offset(next[partition])
                .with_partition_max_bytes(PARTITION_BYTES_MAX)
        });
        let topic = FetchTopic::default()
            .with_topic(self.cluster.topic().clone())
            .with_partitions(wanted.collect());
        FetchRequest::default()
            .with_max_wait_ms(FETCH_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(FETCH_BYTES_MAX)
            .with_topics(vec![topic])
    }

    /// What an answer brought: partition, the offset it was asked from, and whole batches.
    async fn fetched(&self, answer: FetchResponse) -> Outcome<Vec<(u32, i64, Bytes)>> {
        let mut fetched = Vec::new();
        for part in answer
            .responses
            .into_iter()
            .flat_map(|topic| topic.partitions)
        {
            let partition = u32::try_from(part.partition_index).map_err(|_| UNREADABLE)?;
            if part.error_code == ResponseError::OffsetOutOfRange.code() {
                self.go_to_earliest(partition).await?;
            }
            check(part.error_code)?;
            let from = *self.offsets.borrow().get(&partition).ok_or(UNREADABLE)?;
            let records = whole_batches(&part.records.unwrap_or_default());
            if !records.is_empty() {
                fetched.push((partition, from, records));
            }
        }
        Ok(fetched)
    }

    /// The next try begins at the first record that retention has left.
    async fn go_to_earliest(&self, partition: u32) -> Outcome<()> {
        let earliest = self.cluster.offsets([partition], StartAt::Earliest).await?;
        self.offsets.borrow_mut().extend(earliest);
        Ok(())
    }

    /// Hands over what batches hold from an offset on; `None` if nobody takes it any more.
    async fn hand_over(
        &self,
        partition: u32,
        from: i64,
        mut batches: Bytes,
    ) -> Outcome<Option<()>> {
        let mut taken = Vec::new();
        while batches.has_remaining() {
            let set = RecordBatchDecoder::decode(&mut batches).map_err(|_| "unreadable records")?;
            // A broker sends whole batches, so the first may begin before the offset.
            let wanted = set
                .records
                .into_iter()
                .filter(|r| r.offset >= from && !r.control);
            taken.extend(wanted.map(|record| Owned {
                partition,
                key_bytes: record.key.map_or(0, |key| key.len()),
                value: record.value.unwrap_or_default(),
            }));
        }
        Ok(self.batches.send(Ok(taken)).await.ok())
    }
}

const UNREADABLE: &str = "unreadable answer";

/// Where the batch at the beginning of `bytes` ends, if all of it is there.
fn batch_end(bytes: &[u8]) -> Option<usize> {
    let length = bytes
        .get(BATCH_PREFIX_BYTES - 4..)?
        .first_chunk()
        .copied()?;
    let end = BATCH_PREFIX_BYTES + usize::try_from(i32::from_be_bytes(length)).ok()?;
    (BATCH_HEAD_BYTES..=bytes.len())
        .contains(&end)
        .then_some(end)
}

/// Leaves out the last batch if it was cut off: brokers send as many bytes as were asked for.
fn whole_batches(records: &Bytes) -> Bytes {
    let mut end = 0;
    while let Some(bytes) = batch_end(&records[end..]) {
        end += bytes;
    }
    records.slice(..end)
}

/// The offset after the last of whole batches.
fn end_of(batches: &[u8]) -> Option<i64> {
    let mut rest = batches;
    let mut end = None;
    while let Some(bytes) = batch_end(rest) {
        let base = i64::from_be_bytes(*rest.first_chunk()?);
        let delta = i32::from_be_bytes(*rest.get(LAST_OFFSET_DELTA_AT..)?.first_chunk()?);
        end = Some(base + i64::from(delta) + 1);
        rest = &rest[bytes..];
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch that is nothing but its head.
    fn batch(base_offset: i64, records: i32) -> Vec<u8> {
        let mut bytes = vec![0; BATCH_HEAD_BYTES];
        let length = i32::try_from(BATCH_HEAD_BYTES - BATCH_PREFIX_BYTES).expect("small");
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[23..27].copy_from_slice(&(records - 1).to_be_bytes());
        bytes
    }

    #[test]
    fn a_batch_that_was_cut_off_is_left_for_the_next_fetch() {
        let whole = [batch(7, 3), batch(10, 5)].concat();
        for cut in [0, 1, 11, 12, 40, BATCH_HEAD_BYTES - 1] {
            let with_rest = [&whole[..], &batch(15, 1)[..cut]].concat();
            let batches = whole_batches(&with_rest.into());
            assert_eq!(batches, whole);
            assert_eq!(end_of(&batches), Some(15));
        }
        assert_eq!(end_of(&whole_batches(&Bytes::new())), None);
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_batches() {
        for length in [-1, 0, 48, i32::MAX] {
            let mut bytes = batch(0, 1);
            bytes[8..12].copy_from_slice(&i32::to_be_bytes(length));
            assert!(whole_batches(&bytes.into()).is_empty());
        }
    }
}
