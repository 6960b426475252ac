//! Builds the stores that bits are flipped in: small, and with everything in them.
//!
//! Two shards, three starts (so several segments), topics that are idle, written to in every run,
//! compressed, trimmed and deleted, runs of the index, checkpoints, metadata changes; copied once
//! after `kill -9` and once after a clean stop.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use catena_client::{Client, Codec, Record, TopicConfig};
use catena_core::segment::SegmentHeader;
use tempfile::TempDir;

use super::places::{JournalBytes, journals};
use crate::broker::{Broker, Settings};
use crate::{programs, wait};

/// What is copied at once, or left out.
const CHUNK_BYTES: usize = 64 << 10;

/// Topics that are there at the end, with their number of partitions.
pub const TOPICS: [(&str, u32); 4] = [("idle", 2), ("plain", 4), ("packed", 2), ("trimmed", 1)];

/// How the brokers of the stores are started.
pub fn settings() -> Settings {
    Settings {
        space: "128MiB".to_owned(),
        cache: "16MiB".to_owned(),
        more: vec!["--segment-bytes".to_owned(), "4MiB".to_owned()],
        ..Settings::shards(2)
    }
}

/// Two copies of a store.
pub struct Built {
    _dir: TempDir,
    /// As `kill -9` left it, everything acknowledged noted in the ledger.
    pub killed: PathBuf,
    /// As a clean stop left it.
    pub stopped: PathBuf,
}

/// Builds them.
///
/// # Panics
/// If a broker does not do what it should.
pub async fn build() -> Built {
    let dir = tempfile::Builder::new()
        .prefix("flips-")
        .tempdir_in(programs::scratch_dir())
        .expect("a directory");
    let mut broker = Broker::start_with(settings());
    let client = broker.client().await;
    for (name, partitions) in TOPICS {
        let retention_bytes = (name == "trimmed").then_some(20_000);
        let config = TopicConfig {
            retention_bytes,
            ..TopicConfig::default()
        };
        let admin = client.admin();
        let made = admin.create_topic(name, partitions, config).await;
        made.expect("a topic");
    }
    let admin = client.admin();
    let made = admin.create_topic("gone", 2, TopicConfig::default()).await;
    made.expect("a topic");
    send(&client, "idle", 2, Codec::None, 0..20).await;
    send(&client, "gone", 2, Codec::None, 0..20).await;
    for run in 0..3 {
        let numbers = 100 * run..100 * run + 60;
        send(&client, "plain", 4, Codec::None, numbers.clone()).await;
        send(&client, "packed", 2, Codec::Lz4, numbers.clone()).await;
        send(&client, "trimmed", 1, Codec::Zstd, numbers.clone()).await;
        send(&client, "packed", 2, Codec::Zstd, numbers.clone()).await;
        send(&client, "trimmed", 1, Codec::None, 0..300).await;
        if run == 1 {
            let admin = client.admin();
            let deleted = admin.delete_topic("gone").await;
            deleted.expect("the topic is deleted");
        }
        if run < 2 {
            broker.stop();
            broker.start_again();
        }
    }
    until_noted(&broker.data_dir());
    broker.kill();
    let killed = dir.path().join("killed");
    copy(&broker.data_dir(), &killed);
    broker.start_again();
    let client = broker.client().await;
    send(&client, "plain", 4, Codec::None, 500..520).await;
    broker.stop();
    let stopped = dir.path().join("stopped");
    copy(&broker.data_dir(), &stopped);
    Built {
        _dir: dir,
        killed,
        stopped,
    }
}

/// Sends records to all partitions, several batches of each.
async fn send(
    client: &Client,
    topic: &str,
    partitions: u32,
    codec: Codec,
    numbers: std::ops::Range<u32>,
) {
    let producer = client.producer().compression(codec).build().await;
    let producer = producer.expect("a producer");
    for number in numbers {
        let mut waiting = Vec::new();
        for partition in 0..partitions {
            let value = format!("{topic} {partition} {number} ").repeat(5);
            let record = Record::to(topic)
                .partition(partition)
                .value(value.into_bytes());
            waiting.push(producer.send(record).await.expect("it is taken"));
        }
        if number % 10 == 9 {
            for handle in waiting {
                handle.await.expect("it is acknowledged");
            }
        }
    }
    producer.close().await.expect("all is acknowledged");
}

/// Waits until the flush ledgers know all that was written: from then on no block can be taken for
/// an unfinished one.
///
/// # Panics
/// If that takes too long.
pub fn until_noted(store: &Path) {
    wait::until("the ledgers are up to date", || {
        journals(store).into_iter().all(|id| {
            let journal = JournalBytes::read(store, id);
            let flushed = journal.ledger().map(|slot| slot.flushed);
            let headers = journal.numbered("", ".seg").into_iter();
            let headers = headers.filter_map(|(number, _, bytes)| {
                // A file that was made just now may be empty.
                let header = SegmentHeader::decode(bytes.get(..4096)?).ok()?;
                (u64::from(header.segment.0) == number).then_some(header)
            });
            let headers = headers.collect();
            let end = journal.scan(headers, None, &mut |_, _| {}).end;
            flushed == Some(end)
        })
    });
}

/// Copies a directory and all below it, leaving out what is zero: most of a segment is.
///
/// # Panics
/// If that fails.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("entries have names"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            copy_file(&path, &target).expect("a file is copied");
        }
    }
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let bytes = fs::read(from)?;
    let file = File::create(to)?;
    file.set_len(bytes.len() as u64)?;
    for (number, chunk) in (0u64..).zip(bytes.chunks(CHUNK_BYTES)) {
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all_at(chunk, number * CHUNK_BYTES as u64)?;
        }
    }
    Ok(())
}
