//! The names of topics, read from the metadata journal of the same data directory.
//!
//! Best effort: names only help people, so whatever cannot be read is left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use catena_core::entry::{EntryView, FrameKind};
use catena_core::ids::{JournalId, Lsn};
use catena_core::metadata::{Command, MetadataState};
use catena_protocol::ids::TopicId;

use super::files::{JournalFiles, StoreFiles};
use super::{checkpoints, verify, walk};

/// Topic names by id; deleted topics keep theirs.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<TopicId, String>);

impl Names {
    /// Reads the newest snapshot and what was committed after it.
    pub(crate) fn read(store: &StoreFiles) -> Self {
        let journal = store
            .journals
            .iter()
            .find(|journal| journal.id == JournalId::METADATA);
        journal.and_then(Self::from_journal).unwrap_or_default()
    }

    fn from_journal(journal: &JournalFiles) -> Option<Self> {
        let (mut state, folded) = newest_snapshot(journal).unwrap_or_default();
        let mut names = Self::default();
        names.add(&state);
        let segments = walk::open(journal).ok()?;
        let ledger = verify::read_ledger(journal).ok()?.newest;
        walk::scan(journal.id, &segments.good, ledger, &mut |_, view| {
            for entry in view.entries() {
                let EntryView::Frame(frame, body) = entry else {
                    continue;
                };
                if frame.kind != FrameKind::Metadata || frame.lsn <= folded {
                    continue;
                }
                if let Ok(command) = Command::decode(body) {
                    state.apply(&command);
                    names.add(&state);
                }
            }
        });
        Some(names)
    }

    fn add(&mut self, state: &MetadataState) {
        for topic in state.topics() {
            self.0.entry(topic.id).or_insert_with(|| topic.name.clone());
        }
    }

    pub(crate) fn get(&self, topic: TopicId) -> Option<&str> {
        self.0.get(&topic).map(String::as_str)
    }
}

/// A snapshot of metadata that cannot be read.
#[derive(Debug)]
pub(crate) struct BadSnapshot {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

/// The snapshots of metadata beside the checkpoints that cannot be read; none elsewhere.
pub(crate) fn bad_snapshots(journal: &JournalFiles) -> anyhow::Result<Vec<BadSnapshot>> {
    let mut bad = Vec::new();
    for (sequence, path) in &journal.snapshots {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        if let Err(error) = MetadataState::decode(&bytes) {
            bad.push(BadSnapshot {
                sequence: *sequence,
                path: path.clone(),
                why: error.to_string(),
            });
        }
    }
    Ok(bad)
}

/// The newest readable snapshot, and the LSN up to which it holds.
fn newest_snapshot(journal: &JournalFiles) -> Option<(MetadataState, Lsn)> {
    let checkpoints = checkpoints::read(journal).ok()?;
    checkpoints.into_iter().rev().find_map(|checkpoint| {
        let decoded = checkpoint.decoded.ok()?;
        let snapshot = |(sequence, _): &&(u64, PathBuf)| *sequence == decoded.sequence;
        let (_, path) = journal.snapshots.iter().find(snapshot)?;
        let state = MetadataState::decode(&fs::read(path).ok()?).ok()?;
        Some((state, decoded.chains.first()?.lsn))
    })
}
