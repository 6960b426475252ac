//! Reads a journal once more while it is in use, for batches that the index has lost.
//!
//! The scanner that recovers a journal reads it here, too, so that the same blocks count. Nobody
//! may free a segment meanwhile. Changes nothing on disk. Runs on the shard's executor, in its
//! maintenance.

use std::io;
use std::path::Path;

use catena_core::block::BlockView;
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::limits::SCAN_CORRUPT_RANGES_MAX;
use catena_core::scan::{CorruptRange, Damage, JournalScan, ScanInput};

use super::recovery;
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

/// What of it cannot be read.
#[derive(Debug, Default)]
pub struct Unread {
    /// Whether the header of a segment is among it, or more than can be told one by one.
    pub is_unclear: bool,
    /// Blocks whose heads are damaged.
    pub blocks: Vec<CorruptRange>,
}

/// Visits the blocks that count, in journal order, until `stops` says so.
///
/// # Errors
/// Those of the file system, and of a disk that is away.
pub async fn visit(
    agent: &FileAgent,
    wanted: &Wanted<'_>,
    stops: impl Fn() -> bool,
    visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
) -> io::Result<Unread> {
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
    recovery::run(&mut scan, &opened.source, goes_on, visit).await?;
    let is_of_heads = |range: &&CorruptRange| match range.what {
        Damage::Head(_) | Damage::Read => true,
        // A segment without a header was freed, or is told by itself.
        Damage::Body(_) | Damage::SegmentMissing { .. } => false,
    };
    Ok(Unread {
        is_unclear: opened.lacks_headers(last) || scan.corrupt().len() >= SCAN_CORRUPT_RANGES_MAX,
        blocks: scan.corrupt().iter().filter(is_of_heads).cloned().collect(),
    })
}
