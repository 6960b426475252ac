//! Reads a journal once more while it is in use, for batches that the index has lost.
//!
//! The scanner that recovers a journal reads it here, too, so that the same blocks count. Nobody
//! may free a segment meanwhile. Changes nothing on disk. Runs on the shard's executor, in its
//! maintenance.

use std::io;
use std::path::Path;

use catena_core::block::BlockView;
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::scan::{JournalScan, ScanInput};

use super::{damage, recovery};
use crate::runtime::file::FileAgent;

/// Which segments to read.
pub struct Wanted<'a> {
    /// The directory of the journal.
    pub dir: &'a Path,
    /// The journal.
    pub journal: JournalId,
    /// The last of them; all there are if there is none.
    pub last: Option<SegmentSeq>,
}

/// Visits the blocks that count, in journal order, until `stops` says so; then, with `true`, those
/// that are damaged and whose heads one flipped bit explains: they cannot be served, but once they
/// are repaired they can.
///
/// # Errors
/// Those of the file system, and of a disk that is away.
pub async fn visit(
    agent: &FileAgent,
    wanted: &Wanted<'_>,
    stops: impl Fn() -> bool,
    mut visit: impl FnMut(BlockLocation, &BlockView<'_>, bool),
) -> io::Result<()> {
    let last = wanted.last;
    // Every header, also behind the last: each says where the segment before it ends.
    let first = SegmentSeq::new(0);
    let opened = recovery::open(agent, wanted.dir, wanted.journal, first).await?;
    let mut scan = JournalScan::new(ScanInput {
        journal: wanted.journal,
        segments: opened.headers.clone(),
        ledger: opened.ledger,
        start: None,
    });
    let goes_on = |segment| last.is_none_or(|last| segment <= last) && !stops();
    let mut good = |at: BlockLocation, view: &BlockView<'_>| visit(at, view, false);
    recovery::run(&mut scan, &opened.source, goes_on, &mut good).await?;
    let mut corrected = |at: BlockLocation, view: &BlockView<'_>| visit(at, view, true);
    for range in scan.corrupt() {
        if stops() {
            break;
        }
        let header = recovery::header_of(&opened.headers, range);
        damage::examine(&opened.source, header, range, &mut corrected).await?;
    }
    Ok(())
}
