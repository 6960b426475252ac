//! A producer under way, and the account of what it was promised.
//!
//! Each record says who it is: the number of its send in its partition. So what is read back can be
//! compared with what was acknowledged: all of it there, at the offset that was told, in order,
//! nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use catena_client::{DeliveryHandle, ProduceError, Producer, Record, RecordMetadata};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::reading::Contents;
use crate::wait;

/// Records whose result is not known yet, at most.
const UNKNOWN_MAX: usize = 2_000;

const SMALL_BYTES_MAX: usize = 320;

/// What was sent, and what the broker answered.
#[derive(Debug, Default)]
pub struct Account {
    value_bytes_max: usize,
    /// Per partition and number of the send: the offset that was told, if any was.
    pub acknowledged: BTreeMap<(u32, u64), Option<u64>>,
    /// The sends that failed; they may have been written or not.
    pub failed: BTreeMap<(u32, u64), ProduceError>,
}

/// A load that runs until it is told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    sending: JoinHandle<()>,
    collecting: JoinHandle<Account>,
}

impl Load {
    /// Sends small records to all partitions of a topic in turn.
    pub fn start(producer: Producer, topic: &'static str, partitions: u32) -> Self {
        Self::start_with(producer, topic, partitions, SMALL_BYTES_MAX)
    }

    /// Sends records of many sizes up to about `value_bytes_max`.
    pub fn start_with(
        producer: Producer,
        topic: &'static str,
        partitions: u32,
        value_bytes_max: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (results, handles) = mpsc::channel(UNKNOWN_MAX);
        let stopping = Arc::clone(&stop);
        let sending = tokio::spawn(async move {
            let mut number = 0;
            while !stopping.load(Ordering::Relaxed) {
                for partition in 0..partitions {
                    let record = Record::to(topic)
                        .partition(partition)
                        .value(value(number, value_bytes_max));
                    let handle = producer.send(record).await.expect("the record is accepted");
                    let sent = results.send((partition, number, handle)).await;
                    sent.expect("results are collected to the end");
                }
                number += 1;
            }
            // Fails only when it was closed before.
            producer.close().await.expect("it is closed here only");
        });
        let collecting = tokio::spawn(collect(handles, Arc::clone(&acknowledged), value_bytes_max));
        Self {
            stop,
            acknowledged,
            sending,
            collecting,
        }
    }

    /// How many records were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more records are acknowledged.
    pub async fn until_acknowledged(&self, more: u64) {
        let wanted = self.acknowledged() + more;
        wait::until_async("records are acknowledged", async || {
            assert!(!self.sending.is_finished(), "the load goes on");
            self.acknowledged() >= wanted
        })
        .await;
    }

    /// Sends no more and waits for the results of what was sent.
    pub async fn finish(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let sent = wait::within_limit("all is sent", self.sending).await;
        sent.expect("sending does not panic");
        let account = wait::within_limit("all have results", self.collecting).await;
        account.expect("collecting does not panic")
    }
}

async fn collect(
    mut handles: mpsc::Receiver<(u32, u64, DeliveryHandle)>,
    acknowledged: Arc<AtomicU64>,
    value_bytes_max: usize,
) -> Account {
    let mut account = Account {
        value_bytes_max,
        ..Account::default()
    };
    while let Some((partition, number, handle)) = handles.recv().await {
        match handle.await {
            Ok(RecordMetadata { offset, .. }) => {
                account.acknowledged.insert((partition, number), offset);
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                account.failed.insert((partition, number), error);
            }
        }
    }
    account
}

/// The value of the send with this number: its size varies, its content is only its own.
fn value(number: u64, bytes_max: usize) -> Vec<u8> {
    let size = usize::try_from(number % 40).expect("below 40");
    let word = format!("{number} ").into_bytes();
    let words = 1 + size * bytes_max / 40 / word.len();
    word.repeat(words)
}

impl Account {
    /// Compares with what the broker holds.
    ///
    /// # Panics
    /// If an acknowledged record is missing, at another offset than was told or not intact, if any
    /// record is there twice, if the order is not that of the sends, or if a record is there that
    /// surely was not written.
    pub fn check(&self, contents: &Contents) {
        let mut found = BTreeMap::new();
        for (partition, records) in contents {
            let mut last = None;
            for record in records {
                let bytes = record.value.as_deref().unwrap_or_default();
                let text = std::str::from_utf8(bytes).expect("texts were sent");
                let digits = text.split(' ').next().unwrap_or_default();
                let number: u64 = digits.parse().expect("a number was sent");
                assert!(
                    bytes == value(number, self.value_bytes_max),
                    "partition {partition}, {number}"
                );
                assert!(
                    last < Some(number),
                    "partition {partition}, offset {}: {number} after {last:?}",
                    record.offset
                );
                last = Some(number);
                found.insert((*partition, number), record.offset);
            }
        }
        for (key, told) in &self.acknowledged {
            let Some(offset) = found.get(key) else {
                panic!("acknowledged, not there: (partition, number) {key:?}, offset {told:?}");
            };
            assert!(
                told.is_none_or(|told| told == *offset),
                "{key:?}: {told:?} is {offset}"
            );
        }
        for (key, error) in &self.failed {
            let is_there = found.contains_key(key);
            assert!(
                !is_there || error.may_have_been_written(),
                "{key:?} is there: {error}"
            );
        }
        let known = self.acknowledged.len() + self.failed.len();
        assert!(found.len() <= known, "nothing that was never sent");
    }
}
