//! Runs the tiers against brokers with a planted bug: each has to be found, within some tries.
//!
//! Invariant: only what the bug itself can cause counts as found. A broker that does not start,
//! clients that are stuck and errors of the host are no proof that a tier sees the bug.

use super::Evidence;
use crate::cuts::{self, Point, Report, Session};
use crate::disk_faults::{self, Failure, NOT_LATCHED};
use crate::history::checker::Kind;
use crate::machine::Build;

/// How a bug is looked for.
enum Search {
    /// Power cuts under load.
    Cuts,
    /// A cut, and then enough for a few segments.
    Rolls,
    /// A flush that fails and loses the data.
    FlushErrorWithLoss,
    /// A bit that rots.
    Rot,
}

/// A bug, how it is looked for, and the anomalies that it can cause.
type Planted = (&'static str, Search, &'static [Kind]);

/// What was acknowledged is not there, or another record is in its place.
const LOSS: &[Kind] = &[Kind::LostWrite, Kind::Unseen, Kind::InconsistentOffsets];

/// What was read is not there, or another record is in its place.
const EARLY_READS: &[Kind] = &[
    Kind::ReadAboveCommit,
    Kind::InconsistentOffsets,
    Kind::HighWatermarkRegression,
    Kind::NonMonotonicPoll,
];

/// What was acknowledged is not found, though later records are.
const HOLES: &[Kind] = &[
    Kind::LostWrite,
    Kind::Unseen,
    Kind::OffsetGap,
    Kind::PollSkip,
];

/// The bugs that power cuts, disk faults and the checker are meant to find.
const BUGS: [Planted; 7] = [
    ("ack-before-flush", Search::Cuts, LOSS),
    ("missing-directory-flush", Search::Cuts, LOSS),
    ("duplicate-on-reconnect", Search::Cuts, &[Kind::Duplicate]),
    ("high-watermark-off-by-one", Search::Cuts, EARLY_READS),
    ("index-off-by-one-at-roll", Search::Rolls, HOLES),
    ("retry-failed-flush", Search::FlushErrorWithLoss, LOSS),
    ("truncate-at-bad-block", Search::Rot, LOSS),
];

const TRIES_MAX: u32 = 6;
const CUTS_PER_TRY: u64 = 10;

/// Values are 7 KiB on average, segments 4 MiB.
const ROLLS_ACKNOWLEDGED: u64 = 2_000;

/// Looks for each bug.
pub(super) async fn find(seed: u64, evidence: &mut Evidence) {
    for (bug, search, kinds) in BUGS {
        let mut found = None;
        for attempt in 1..=TRIES_MAX {
            let report = search_for(bug, &search, seed.wrapping_add(u64::from(attempt))).await;
            if is_found(&report, kinds) {
                found = Some(attempt);
                break;
            }
        }
        eprintln!("planted {bug}: found at try {found:?}");
        evidence.planted.insert(bug.to_owned(), found);
    }
}

/// Whether there is such an anomaly, or the broker writes on after a failed flush.
fn is_found(report: &Result<Report, String>, kinds: &[Kind]) -> bool {
    match report {
        Ok(report) => {
            let mut anomalies = report.anomalies.iter();
            anomalies.any(|anomaly| kinds.contains(&anomaly.kind))
        }
        Err(error) => error.starts_with(NOT_LATCHED),
    }
}

async fn search_for(bug: &str, search: &Search, seed: u64) -> Result<Report, String> {
    let build = Build {
        bug: Some(bug.to_owned()),
        ..Build::new(seed)
    };
    match search {
        Search::Cuts => {
            let point = Point::Random;
            cuts::run(&Session::new(build, CUTS_PER_TRY, point)).await
        }
        Search::Rolls => {
            let session = Session {
                acknowledged_last: ROLLS_ACKNOWLEDGED,
                ..Session::new(build, 1, Point::Random)
            };
            cuts::run(&session).await
        }
        Search::FlushErrorWithLoss => disk_faults::run(Failure::FlushErrorWithLoss, &build).await,
        Search::Rot => disk_faults::run_rot(&build).await,
    }
}
