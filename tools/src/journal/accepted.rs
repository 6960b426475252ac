//! Damage that somebody has looked at and accepted: a file beside the segments, written by
//! `catena journal repair --accept-loss` and read by `verify`. A broker does not read it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use catena_core::scan::{CorruptRange, Damage};
use serde::{Deserialize, Serialize};

use super::walk::Segment;

const FILE: &str = "accepted-losses.json";

/// One range that is known to be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) segment: u32,
    /// The last segment, if whole segments are missing.
    pub(crate) through: Option<u32>,
    /// Of the segment's present life: when its file is used again, the loss is gone with it.
    pub(crate) salt: Option<u64>,
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) what: String,
    /// When, in milliseconds since 1970.
    pub(crate) at_ms: u64,
}

impl Accepted {
    pub(crate) fn new(range: &CorruptRange, segments: &[Segment], at_ms: u64) -> Self {
        Self {
            segment: range.segment.0,
            through: through(range),
            salt: salt(range, segments),
            start: range.start,
            end: range.end,
            what: range.what.to_string(),
            at_ms,
        }
    }

    fn covers(&self, range: &CorruptRange, segments: &[Segment]) -> bool {
        self.segment == range.segment.0
            && self.through == through(range)
            && self.salt == salt(range, segments)
            && self.start <= range.start
            && range.end <= self.end
    }
}

fn through(range: &CorruptRange) -> Option<u32> {
    match range.what {
        Damage::SegmentMissing { through } => Some(through.0),
        _ => None,
    }
}

fn salt(range: &CorruptRange, segments: &[Segment]) -> Option<u64> {
    let mut headers = segments.iter().map(|segment| &segment.header);
    let header = headers.find(|header| header.segment == range.segment);
    header.map(|header| header.salt)
}

/// Where the file of a journal's directory is.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// What was accepted in a journal. None if nothing was.
pub(crate) fn read(dir: &Path) -> anyhow::Result<Vec<Accepted>> {
    let path = path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// Whether a range was accepted.
pub(crate) fn is_accepted(
    accepted: &[Accepted],
    range: &CorruptRange,
    segments: &[Segment],
) -> bool {
    accepted.iter().any(|known| known.covers(range, segments))
}
