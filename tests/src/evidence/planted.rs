//! Runs the tiers against brokers with a planted bug: each has to be found, within some tries.

use super::Evidence;
use crate::cuts::{self, Point, Session};
use crate::disk_faults::{self, Failure};
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

/// The bugs that power cuts, disk faults and the checker are meant to find.
const BUGS: [(&str, Search); 7] = [
    ("ack-before-flush", Search::Cuts),
    ("missing-directory-flush", Search::Cuts),
    ("duplicate-on-reconnect", Search::Cuts),
    ("high-watermark-off-by-one", Search::Cuts),
    ("index-off-by-one-at-roll", Search::Rolls),
    ("retry-failed-flush", Search::FlushErrorWithLoss),
    ("truncate-at-bad-block", Search::Rot),
];

const TRIES_MAX: u32 = 6;
const CUTS_PER_TRY: u64 = 10;

/// Values are 7 KiB on average, segments 4 MiB.
const ROLLS_ACKNOWLEDGED: u64 = 2_000;

/// Looks for each bug.
pub(super) async fn find(seed: u64, evidence: &mut Evidence) {
    for (bug, search) in BUGS {
        let mut found = None;
        for attempt in 1..=TRIES_MAX {
            if is_found(bug, &search, seed.wrapping_add(u64::from(attempt))).await {
                found = Some(attempt);
                break;
            }
        }
        eprintln!("planted {bug}: found at try {found:?}");
        evidence.planted.insert(bug.to_owned(), found);
    }
}

/// An anomaly, or a broker that does otherwise than it must.
async fn is_found(bug: &str, search: &Search, seed: u64) -> bool {
    let build = Build {
        bug: Some(bug.to_owned()),
        ..Build::new(seed)
    };
    let report = match search {
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
    };
    report.map_or(true, |report| !report.anomalies.is_empty())
}
