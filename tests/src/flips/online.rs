//! Tries flips with a real broker and a real client: it starts on a damaged copy of the store or
//! refuses to with a message, serves what is intact and nothing else, gives no offset out twice;
//! and after `catena journal repair` it serves everything.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use catena_client::{Client, ConsumeError, Record};
use catena_core::block::parse_block;
use catena_core::entry::EntryView;
use catena_core::ids::JournalId;
use catena_core::segment::SegmentHeader;

use super::places::{Kind, Place};
use super::store::{Built, TOPICS, copy, settings};
use crate::broker::{Broker, Readiness};
use crate::programs;
use crate::reading;
use crate::wait::{LIMIT, comes_true, within_limit};

/// A partition by topic name and number.
type Partition = (String, u32);

/// What a client found.
#[derive(Clone, Debug, Default)]
struct Found {
    /// Log start and high watermark.
    ends: BTreeMap<Partition, Range<u64>>,
    values: BTreeMap<(Partition, u64), Vec<u8>>,
    /// Ranges that were answered with an error.
    corrupt: Vec<(Partition, Range<u64>)>,
    /// Partitions that the client was not served any further.
    stopped: Vec<(Partition, String)>,
}

/// What became of a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The broker said so in its log, or answered an error where it had to.
    Noticed,
    /// Nothing was said, and everything was served.
    Whole,
}

/// A store, and what a client reads of it without damage.
pub struct Online {
    store: PathBuf,
    names: BTreeMap<u32, String>,
    intact: Found,
    /// Starts that the broker refused.
    pub refused_starts: u64,
}

impl Online {
    /// Takes an intact store.
    ///
    /// # Panics
    /// If the broker does not serve it.
    pub async fn new(store: &Path, _built: &Built) -> Self {
        let mut broker = broker_on(store, None);
        broker.start_again();
        let client = broker.client().await;
        let topics = client.admin().list_topics().await.expect("the topics");
        let names = topics.into_iter().map(|topic| (topic.id.0, topic.name));
        let names = names.collect();
        let intact = read_all(&client).await;
        assert!(intact.corrupt.is_empty() && intact.stopped.is_empty());
        assert!(intact.values.len() > 1_000, "there is much to lose");
        broker.stop();
        assert!(!warns(&broker.log()), "{}", broker.log());
        Self {
            store: store.to_owned(),
            names,
            intact,
            refused_starts: 0,
        }
    }

    /// Starts a broker on a copy with a flipped bit, reads and writes everything; and again after
    /// a repair, if one is possible.
    ///
    /// # Errors
    /// What was wrong.
    ///
    /// # Panics
    /// If the test itself fails.
    pub async fn try_place(&mut self, place: &Place) -> Result<Verdict, String> {
        let mut broker = broker_on(&self.store, Some(place));
        broker.launch();
        let verdict = match broker.readiness(LIMIT) {
            Readiness::Ready => self.check_served(&mut broker, place).await?,
            Readiness::Failed => {
                broker.exited();
                self.refused_starts += 1;
                may_refuse(place, &broker.log())?
            }
            Readiness::Starting => return Err("the broker does not come up".to_owned()),
        };
        if place.kind != Kind::BatchBody {
            self.check_repaired(place).await?;
        }
        Ok(verdict)
    }

    async fn check_served(&self, broker: &mut Broker, place: &Place) -> Result<Verdict, String> {
        let client = broker.client().await;
        let found = read_all(&client).await;
        let allowed = self.offsets_at(place);
        self.compare(place, &found, &allowed)?;
        for (partition, offset) in append(&client).await {
            let end = self.intact.ends[&partition].end;
            if offset < end {
                return Err(format!("{partition:?}: offset {offset} is given out again"));
            }
        }
        drop(client);
        // A thread of its own writes the log, and a kill loses the lines that wait.
        let unnamed = || {
            let log = broker.log();
            let mut corrupt = found.corrupt.iter();
            corrupt.find(|((_, number), _)| !complains_of(&log, *number))
        };
        comes_true(|| unnamed().is_none()).await;
        if let Some((partition, range)) = unnamed() {
            let log = broker.log();
            return Err(format!(
                "the log does not name {partition:?} {range:?}: {log}"
            ));
        }
        broker.kill();
        let log = broker.log();
        let is_whole = found.corrupt.is_empty() && found.stopped.is_empty();
        Ok(if is_whole && !warns(&log) {
            Verdict::Whole
        } else {
            Verdict::Noticed
        })
    }

    /// Nothing wrong is read, and only what the flip hit is missing.
    fn compare(
        &self,
        place: &Place,
        found: &Found,
        allowed: &[(Partition, Range<u64>)],
    ) -> Result<(), String> {
        for (key, value) in &found.values {
            // Below the log start there may be more than before: retention runs when it likes.
            if self
                .intact
                .values
                .get(key)
                .is_some_and(|intact| intact != value)
            {
                return Err(format!("wrong bytes at {key:?}"));
            }
        }
        for (partition, offset) in self.intact.values.keys() {
            let key = (partition.clone(), *offset);
            if found.values.contains_key(&key) || *offset < found.ends[partition].start {
                continue;
            }
            let is_hit = allowed
                .iter()
                .any(|(of, range)| of == partition && range.contains(offset));
            let waits = found.stopped.iter().any(|(of, _)| of == partition)
                && place.kind == Kind::RecordBody;
            if !is_hit && !waits {
                return Err(format!(
                    "{key:?} is intact and not served: {:?} {:?}",
                    found.corrupt, found.stopped
                ));
            }
        }
        Ok(())
    }

    /// The offsets that a flip makes unreadable: of a body, those of its batch; else of the block.
    fn offsets_at(&self, place: &Place) -> Vec<(Partition, Range<u64>)> {
        let Some(block) = place.block else {
            return Vec::new();
        };
        let bytes = fs::read(self.store.join(&place.file)).expect("an intact segment");
        let header = SegmentHeader::decode(&bytes[..4096]).expect("an intact header");
        let start = usize::try_from(block.offset).expect("u32 fits usize");
        let parsed = parse_block(&bytes[start..], header.salt, block.segment, block.offset);
        let view = parsed.expect("an intact block");
        let mut hit = Vec::new();
        for entry in view.entries() {
            let (at, rows) = match entry {
                EntryView::Batches(frame, rows) => (frame.offset_in_block, rows),
                EntryView::Relocation(record, rows) => (record.offset_in_block, rows),
                _ => continue,
            };
            for batch in rows.batches() {
                let body_at = u64::from(block.offset + at + 48);
                let from = body_at + u64::from(batch.offset_in_body);
                let is_here = (from..from + batch.bytes.len() as u64).contains(&place.at);
                if place.kind == Kind::BatchBody && !is_here {
                    continue;
                }
                if let Some(name) = self.names.get(&batch.tp.topic.0) {
                    let partition = (name.clone(), batch.tp.partition.0);
                    hit.push((
                        partition,
                        batch.header.base_offset.0..batch.header.next_offset().0,
                    ));
                }
            }
        }
        hit
    }

    /// `catena journal repair --yes` gives everything back.
    async fn check_repaired(&self, place: &Place) -> Result<(), String> {
        let mut broker = broker_on(&self.store, Some(place));
        let mut repair = Command::new(programs::catena());
        let args: [&OsStr; 3] = ["journal".as_ref(), "repair".as_ref(), "--yes".as_ref()];
        let output = repair.args(args).arg(broker.data_dir()).output();
        let output = output.expect("catena can be run");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let listed = String::from_utf8_lossy(&output.stdout).into_owned();
            return Err(format!("not repaired: {said} {listed}"));
        }
        broker.launch();
        if broker.readiness(LIMIT) != Readiness::Ready {
            return Err(format!("no start after a repair: {}", broker.log()));
        }
        let client = broker.client().await;
        let found = read_all(&client).await;
        drop(client);
        broker.kill();
        self.compare(place, &found, &[])
            .map_err(|why| format!("after a repair: {why}"))
    }
}

/// A broker that was not started, on a copy of the store, damaged if a place is given.
fn broker_on(store: &Path, place: Option<&Place>) -> Broker {
    let broker = Broker::prepare(settings());
    copy(store, &broker.data_dir());
    if let Some(place) = place {
        let path = broker.data_dir().join(&place.file);
        let file = File::options().read(true).write(true).open(path);
        let file = file.expect("the file is there");
        let mut byte = [0];
        file.read_exact_at(&mut byte, place.at)
            .expect("the byte is there");
        let flipped = [byte[0] ^ (1 << place.bit)];
        file.write_all_at(&flipped, place.at)
            .expect("it can be written");
    }
    broker
}

/// What brokers say of hosts: of their set-up, and of executors that got no core in time.
const OF_THE_HOST: [&str; 4] = [
    "catena_broker::startup",
    "an executor stood still",
    "shard stall",
    "held its executor",
];

/// Whether a broker noticed anything, beside what it does not like about the host.
fn warns(log: &str) -> bool {
    let is_of_host = |line: &str| OF_THE_HOST.iter().any(|words| line.contains(words));
    let mut lines = log.lines().filter(|line| !is_of_host(line));
    lines.any(|line| line.contains(" WARN ") || line.contains("ERROR "))
}

/// Whether a broker complained of a partition of that number.
fn complains_of(log: &str, partition: u32) -> bool {
    let number = format!("partition={partition}");
    let mut lines = log.lines();
    lines.any(|line| line.contains(&number) && !line.contains(" INFO "))
}

/// A start may be refused only for what the whole node depends on, and with a plain message.
fn may_refuse(place: &Place, log: &str) -> Result<Verdict, String> {
    let is_metadata = place.journal == Some(JournalId::METADATA);
    let says_why = log.contains("damaged") || log.contains("store format");
    if (is_metadata || place.kind == Kind::Identity) && says_why {
        return Ok(Verdict::Noticed);
    }
    Err(format!("the broker refused to start: {log}"))
}

/// Reads all topics to their ends, over everything that is answered with an error.
async fn read_all(client: &Client) -> Found {
    let mut found = Found::default();
    for (topic, _) in TOPICS {
        for (partition, (start, end)) in reading::ends(client, topic).await {
            let partition = (topic.to_owned(), partition);
            found.ends.insert(partition.clone(), start..end);
            read_partition(client, &partition, start..end, &mut found).await;
        }
    }
    found
}

async fn read_partition(
    client: &Client,
    partition: &Partition,
    range: Range<u64>,
    found: &mut Found,
) {
    let consumer = client
        .consumer()
        .topic(&partition.0)
        .partitions([partition.1]);
    let mut consumer = consumer.build().await.expect("a consumer");
    let mut at = range.start;
    while at < range.end {
        match within_limit("the next batch", consumer.next_batch()).await {
            Ok(batch) => {
                for record in batch.records().expect("readable records") {
                    at = record.offset + 1;
                    let value = record.value.unwrap_or_default().to_vec();
                    found
                        .values
                        .insert((partition.clone(), record.offset), value);
                }
            }
            Err(ConsumeError::DataCorrupt {
                offset,
                next_offset,
                ..
            }) => {
                found.corrupt.push((partition.clone(), offset..next_offset));
                at = next_offset;
            }
            // Retention runs when it likes.
            Err(ConsumeError::OffsetOutOfRange { log_start, .. }) if log_start > at => {
                found.ends.insert(partition.clone(), log_start..range.end);
                let moved = consumer.seek(&partition.0, partition.1, log_start);
                moved.expect("it is assigned");
                at = log_start;
            }
            Err(error) => {
                found.stopped.push((partition.clone(), error.to_string()));
                return;
            }
        }
    }
}

/// Appends a record to each partition and gives its offset.
async fn append(client: &Client) -> Vec<(Partition, u64)> {
    let producer = client.producer().build().await.expect("a producer");
    let mut offsets = Vec::new();
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            let record = Record::to(topic).partition(partition).value(&b"after"[..]);
            let handle = producer.send(record).await.expect("it is taken");
            let told = within_limit("an ack", handle).await.expect("acknowledged");
            offsets.push(((topic.to_owned(), partition), told.offset.expect("durable")));
        }
    }
    offsets
}
