//! Whether a broker can start from what is left of its metadata.
//!
//! A broker reads the metadata journal from where its newest good snapshot says, and does not start
//! if anything from there on is damaged, or if it has no snapshot and the journal no beginning.

use std::path::PathBuf;

use catena_core::ids::{JournalId, JournalPos};
use catena_core::scan::{CorruptRange, Damage};

use super::examine::Examined;
use super::files::JournalFiles;

/// The damage of a metadata journal, as a broker that starts sees it.
pub(crate) struct Metadata<'a> {
    examined: &'a Examined,
    /// Where the newest snapshot that can be used lets a broker begin to read.
    snapshot: Option<JournalPos>,
}

impl<'a> Metadata<'a> {
    /// None of any other journal.
    pub(crate) fn of(journal: &JournalFiles, examined: &'a Examined) -> Option<Self> {
        (journal.id == JournalId::METADATA).then(|| Self {
            examined,
            snapshot: newest_snapshot(journal, examined),
        })
    }

    /// Whether damage keeps a broker from starting: no good snapshot is newer.
    pub(crate) fn is_needed(&self, range: &CorruptRange) -> bool {
        let end = match range.what {
            Damage::SegmentMissing { through } => JournalPos::new(through, range.end),
            _ => JournalPos::new(range.segment, range.end),
        };
        end > self.snapshot.unwrap_or_default()
    }

    /// Whether no repair lets a broker start again.
    pub(crate) fn is_lost(&self) -> bool {
        let has_start = self.snapshot.is_some() || self.examined.is_whole();
        let stays =
            |range: &CorruptRange| self.is_needed(range) && !self.examined.is_correctable(range);
        !has_start || self.examined.outcome.corrupt.iter().any(stays)
    }
}

fn newest_snapshot(journal: &JournalFiles, examined: &Examined) -> Option<JournalPos> {
    let is_good = |sequence: u64| {
        let is_there = journal.snapshots.iter().any(|(of, _)| *of == sequence);
        let mut bad = examined.bad_snapshots.iter();
        is_there && !bad.any(|bad| bad.sequence == sequence)
    };
    let readable = examined.checkpoints.iter().rev();
    let mut good = readable
        .filter(|it| is_good(it.sequence))
        .filter_map(|it| it.decoded.as_ref().ok());
    good.next().map(|checkpoint| checkpoint.scan_from)
}

/// What to do about metadata that no repair brings back; none if nothing of it is lost.
pub(crate) fn hint(lost: &[PathBuf]) -> Option<String> {
    if lost.is_empty() {
        return None;
    }
    let paths: Vec<String> = lost.iter().map(|path| path.display().to_string()).collect();
    let paths = paths.join(" and ");
    Some(format!(
        "the broker does not start without its metadata: restore {paths} from a copy"
    ))
}
