//! A disk that returns other bytes than were flushed, found at the next start.
//!
//! What lies in the damaged block is lost on a single node, and the broker says so; everything else
//! must be there. Damage is never taken for a torn end.

use std::fs;
use std::path::PathBuf;

use super::{ACKS, JOURNAL};
use crate::clients::{Clients, Load, read_all};
use crate::cuts::Report;
use crate::history::History;
use crate::history::checker::{Anomaly, Kind, check};
use crate::machine::{Build, Machine};

/// Blocks begin at multiples of this, with this; see `docs/FORMAT.md`.
const PAGE_BYTES: usize = 4096;
const BLOCK_MAGIC: &[u8] = b"CtBk";

/// Within a block: the group sequence, which nothing but the checksum guards.
const HEADER_BYTE: u64 = 16;

/// A damaged block may take so many of a hundred records.
const DAMAGED_PERCENT_MAX: u64 = 50;

/// Flips a bit in the head of a block in the middle of the journal while the broker is down.
///
/// # Errors
/// What the host refuses, or what the broker does otherwise than it must, in words.
pub async fn run(build: &Build) -> Result<Report, String> {
    let mut machine = Machine::build(build)?;
    machine.boot()?;
    let load = Load {
        seed: build.seed,
        in_flight: 4,
        ..Load::default()
    };
    let clients = Clients::start(machine.broker().addr(), load).await?;
    if !clients.until_acknowledged(10 * ACKS).await {
        return Err(machine.failure("no send is acknowledged"));
    }
    let target = clients.target().clone();
    let acknowledged = clients.recorder().acknowledged();
    let mut history = clients.finish().await;
    machine.broker_mut().kill();
    let (path, offset) = middle(&machine)?;
    let rotten = machine.disk().rot(&path, offset, 3);
    rotten.map_err(|error| error.to_string())?;
    machine.boot()?;
    let read = tokio::task::spawn_blocking(move || read_all(&target)).await;
    history.finals = read.expect("reading does not panic")?;
    let mut anomalies = check(&history);
    anomalies.extend(too_much(&history));
    if !anomalies.is_empty() {
        eprintln!("{}", machine.failure("the history is wrong"));
    }
    Ok(Report {
        survived: 1,
        acknowledged,
        injected: [("rotten bit", 1)].into(),
        anomalies,
        ..Report::default()
    })
}

/// A file below the root of the disk, and the offset of a byte in the header of a block in the
/// middle of what was written there.
fn middle(machine: &Machine) -> Result<(PathBuf, u64), String> {
    let journal = PathBuf::from("data").join(JOURNAL);
    let listed = fs::read_dir(machine.disk().path().join(&journal));
    let mut segments: Vec<_> = listed
        .map_err(|error| error.to_string())?
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().ends_with(".seg"))
        .collect();
    segments.sort();
    let first = segments.first().ok_or("there is no segment")?;
    let path = journal.join(first);
    let bytes = fs::read(machine.disk().path().join(&path)).map_err(|error| error.to_string())?;
    let pages = (0_u64..).step_by(PAGE_BYTES).zip(bytes.chunks(PAGE_BYTES));
    let blocks = pages.filter(|(_, page)| page.starts_with(BLOCK_MAGIC));
    let starts: Vec<u64> = blocks.map(|(offset, _)| offset).collect();
    let start = starts.get(starts.len() / 2).ok_or("nothing was written")?;
    Ok((path, start + HEADER_BYTE))
}

/// Damage that takes more than what lies near it.
fn too_much(history: &History) -> Option<Anomaly> {
    let damaged = history.finals.values().flat_map(|read| &read.damaged);
    let damaged: u64 = damaged.map(|range| range.end - range.start).sum();
    let all: u64 = history
        .finals
        .values()
        .map(|read| read.high_watermark)
        .sum();
    (damaged * 100 > all * DAMAGED_PERCENT_MAX).then(|| Anomaly {
        kind: Kind::LostWrite,
        detail: format!("one flipped bit damages {damaged} of {all} records"),
    })
}
