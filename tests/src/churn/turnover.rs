//! A topic that is written all the time and keeps little: its log turns over the store's space many
//! times in a long run, through all lives of the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use catena_client::{Client, OffsetSpec, Producer, Record, TopicConfig};
use tokio::task::JoinHandle;

use super::connect;
use crate::filler::VALUE_BYTES;

const NAME: &str = "turnover";
const RETENTION_BYTES: u64 = 16 << 20;

/// A send with this pause is 4 MiB/s at the most.
const PAUSE: Duration = Duration::from_millis(15);

/// Longer than any outage.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(600);

/// A producer under way.
#[derive(Debug)]
pub(super) struct Turnover {
    addr: String,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    sending: JoinHandle<Result<(), String>>,
}

impl Turnover {
    /// Makes the topic and begins.
    pub(super) async fn start(addr: &str) -> Result<Self, String> {
        let client = connect(addr).await?;
        let config = TopicConfig {
            retention_bytes: Some(RETENTION_BYTES),
            ..TopicConfig::default()
        };
        let made = client.admin().create_topic(NAME, 1, config).await;
        made.map_err(|error| error.to_string())?;
        let producer = client.producer().delivery_timeout(DELIVERY_TIMEOUT);
        let producer = producer.build().await.map_err(|error| error.to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let sending = tokio::spawn(send(
            client,
            producer,
            Arc::clone(&stop),
            Arc::clone(&acknowledged),
        ));
        Ok(Self {
            addr: addr.to_owned(),
            stop,
            acknowledged,
            sending,
        })
    }

    /// Ends it and compares what the broker holds with what it acknowledged. Gives the bytes.
    ///
    /// # Errors
    /// A send that failed, a wrong end of the log, a log that keeps all.
    pub(super) async fn finish(self) -> Result<u64, String> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sending.await;
        sent.map_err(|error| error.to_string())??;
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let client = connect(&self.addr).await?;
        let end = bound(&client, OffsetSpec::Latest).await?;
        if end != acknowledged {
            return Err(format!(
                "{NAME}: {acknowledged} records were acknowledged, the log ends at {end}"
            ));
        }
        let start = bound(&client, OffsetSpec::Earliest).await?;
        // A segment and a batch more than is to be kept, and what came since retention looked.
        if (end - start) * bytes_each() > 4 * RETENTION_BYTES {
            return Err(format!("{NAME}: nothing goes, the log is {start} to {end}"));
        }
        Ok(acknowledged * bytes_each())
    }
}

fn bytes_each() -> u64 {
    u64::try_from(VALUE_BYTES).expect("a small size")
}

async fn bound(client: &Client, spec: OffsetSpec) -> Result<u64, String> {
    let told = client.admin().list_offsets(NAME, spec).await;
    let told = told.map_err(|error| error.to_string())?;
    let first = told.first().ok_or("no partition")?;
    Ok(first.offset)
}

/// One record after the other; each has to come behind the one before.
async fn send(
    // Kept as long as its producer.
    _client: Client,
    producer: Producer,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Result<(), String> {
    let mut next = 0;
    while !stop.load(Ordering::Relaxed) {
        let value = vec![b'x'; VALUE_BYTES];
        let record = Record::to(NAME).partition(0).value(value);
        let written = producer.send_and_wait(record).await;
        let written = written.map_err(|error| format!("{NAME}: {error}"))?;
        if let Some(offset) = written.offset
            && offset != next
        {
            return Err(format!("{NAME}: a record is at {offset} and not at {next}"));
        }
        next += 1;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
