//! The checkpoint files of a journal: whether they are readable, and what they cover.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use catena_core::checkpoint::ShardCheckpoint;
use catena_core::ids::{JournalId, JournalPos};
use serde_json::json;

use super::describe::Line;
use super::files::JournalFiles;
use crate::quantity::Bytes;

/// One checkpoint file.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    name: String,
    bytes: usize,
    pub(crate) decoded: Result<ShardCheckpoint, String>,
}

/// Reads all checkpoints of a journal, oldest first.
pub(crate) fn read(journal: &JournalFiles) -> anyhow::Result<Vec<Checkpoint>> {
    let mut found = Vec::new();
    for (sequence, path) in &journal.checkpoints {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        found.push(Checkpoint {
            sequence: *sequence,
            path: path.clone(),
            name: format!("checkpoint-{sequence:010}"),
            bytes: bytes.len(),
            decoded: decode(journal.id, *sequence, &bytes),
        });
    }
    Ok(found)
}

fn decode(journal: JournalId, sequence: u64, bytes: &[u8]) -> Result<ShardCheckpoint, String> {
    let checkpoint = ShardCheckpoint::decode(bytes).map_err(|error| error.to_string())?;
    if checkpoint.sequence != sequence {
        return Err(format!(
            "says that it is checkpoint {}",
            checkpoint.sequence
        ));
    }
    if checkpoint.journal != journal {
        return Err(format!("belongs to journal {}", checkpoint.journal));
    }
    Ok(checkpoint)
}

/// What is wrong with checkpoints, in words; none if they are good.
pub(crate) fn problems(checkpoints: &[Checkpoint]) -> impl Iterator<Item = String> {
    checkpoints
        .iter()
        .filter_map(|Checkpoint { name, decoded, .. }| {
            decoded.as_ref().err().map(|why| format!("{name}: {why}"))
        })
}

/// Where the newest readable checkpoint lets recovery start; the very beginning without one.
pub(crate) fn newest_scan_from(checkpoints: &[Checkpoint]) -> JournalPos {
    let mut readable = checkpoints
        .iter()
        .filter_map(|checkpoint| checkpoint.decoded.as_ref().ok());
    readable
        .next_back()
        .map_or_else(JournalPos::default, |checkpoint| checkpoint.scan_from)
}

/// The line of a dump.
pub(crate) fn describe(checkpoint: &Checkpoint) -> Line {
    let Checkpoint {
        name,
        bytes,
        decoded,
        ..
    } = checkpoint;
    let size = Bytes(*bytes as u64);
    match decoded {
        Ok(checkpoint) => Line {
            text: format!(
                "{name}  {size}  scan from {}  {} chains  {} index runs",
                checkpoint.scan_from,
                checkpoint.chains.len(),
                checkpoint.runs.len()
            ),
            json: json!({
                "kind": "checkpoint",
                "sequence": checkpoint.sequence,
                "bytes": bytes,
                "scan_from_segment": checkpoint.scan_from.segment.0,
                "scan_from_offset": checkpoint.scan_from.offset,
                "chains": checkpoint.chains.len(),
                "runs": checkpoint.runs.len(),
            }),
        },
        Err(why) => Line {
            text: format!("{name}  {size}  unreadable: {why}"),
            json: json!({ "kind": "checkpoint", "name": name, "bytes": bytes, "error": why }),
        },
    }
}
