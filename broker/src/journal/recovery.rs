//! Reads a journal back after a start: carries out what the recovery scanner asks for.
//!
//! Which blocks count, and whether a bad one is torn or corrupt, is decided by
//! [`catena_core::scan`]; this file only reads. It changes nothing on disk. Runs on the executor
//! that will own the journal.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use catena_core::block::BlockView;
use catena_core::entry::EntryView;
use catena_core::ids::{BlockLocation, JournalId, JournalPos, SegmentSeq};
use catena_core::ledger::LedgerSlot;
use catena_core::recover::{FrameSummary, ScannedFrames, moved_batches};
use catena_core::scan::{CorruptRange, JournalScan, ScanInput, ScanOutcome, ScanStep};
use catena_core::segment::SegmentHeader;

use super::segments::{SealedSegment, segment_of};
use super::source::{HeaderPage, Source};
use super::{JournalTail, damage};
use crate::runtime::executor;
use crate::runtime::file::{FileAgent, LogFile};

/// Bytes of the flush ledger: two pages, written in turn.
pub(super) const LEDGER_BYTES: u64 = 8192;

/// What a scan found, apart from the blocks it visited.
#[derive(Debug, Clone)]
pub struct Scanned {
    /// Where to go on.
    pub tail: JournalTail,
    /// What was acknowledged and is damaged.
    pub corrupt: Vec<CorruptRange>,
    /// Bytes read.
    pub bytes: u64,
}

/// The path of a journal's flush ledger.
pub fn ledger_path(dir: &Path) -> PathBuf {
    dir.join("ledger")
}

/// Opens the ledger, made if missing, and tells the sequence of its newest slot.
pub async fn open_ledger(
    agent: &FileAgent,
    dir: &Path,
    journal: JournalId,
) -> io::Result<(LogFile, u64)> {
    let path = ledger_path(dir);
    let newest = Source::open(agent, dir, journal).await?.ledger().await?;
    if newest.is_none() {
        // Missing, never written, or damaged for good: a new file of zeros is no worse.
        if agent
            .list(dir)
            .await?
            .iter()
            .any(|entry| entry.name == "ledger")
        {
            agent.remove(&path).await?;
        }
        agent.create_zeroed(&path, LEDGER_BYTES, None).await?;
    }
    let file = LogFile::open(&path, true).await?;
    Ok((file, newest.map_or(0, |slot| slot.sequence)))
}

/// Scans the journal in `dir` from `start` (from its beginning if there is none) and adds the
/// frames that count to `found`, in journal order, and then those of damaged blocks whose heads
/// one flipped bit explains: they cannot be served, but they are known.
pub async fn scan(
    agent: &Rc<FileAgent>,
    dir: &Path,
    journal: JournalId,
    start: Option<JournalPos>,
    found: &mut ScannedFrames,
) -> io::Result<Scanned> {
    agent.create_dir(dir).await?;
    let first = start.map_or(SegmentSeq::new(0), |at| at.segment);
    let Opened {
        source,
        ledger,
        files,
        headers,
        mut unreadable,
    } = open(agent, dir, journal, first).await?;
    let mut scan = JournalScan::new(ScanInput {
        journal,
        segments: headers.clone(),
        ledger,
        start,
    });
    let mut unknown = None;
    let mut visit = |at: BlockLocation, view: &BlockView<'_>| {
        for entry in view.entries() {
            match &entry {
                EntryView::Unknown(header, _) if header.kind.is_critical() => {
                    unknown.get_or_insert((at, header.kind));
                }
                entry => {
                    found.frames.extend(FrameSummary::from_entry(entry, at));
                    if start.is_none() {
                        found.moved.extend(moved_batches(entry, at));
                    }
                }
            }
        }
    };
    let (outcome, bytes) = run(&mut scan, &source, |_| true, &mut visit).await?;
    let mut outcome = outcome.expect("it was not ended before");
    if let Some((at, kind)) = unknown {
        return Err(io::Error::other(format!(
            "{at} holds an entry of kind {kind:?}, which this version does not know and must not \
             pass over: start the version that wrote it, or a later one"
        )));
    }
    unreadable.retain(|(segment, _)| *segment > outcome.end.segment);
    outcome
        .corrupt
        .extend(damage::behind_the_end(&source, &unreadable).await?);
    damage::report(journal, &outcome);
    let mut visit = |at: BlockLocation, view: &BlockView<'_>| {
        let entries = view.entries();
        let frames = entries.filter_map(|entry| FrameSummary::from_entry(&entry, at));
        found.frames.extend(frames);
    };
    for range in &outcome.corrupt {
        let header = header_of(&headers, range);
        let unknown = damage::examine(&source, header, range, &mut visit).await?;
        found.unknown.extend(unknown);
    }
    Ok(Scanned {
        tail: tail(&outcome, &files, &unreadable),
        corrupt: outcome.corrupt,
        bytes,
    })
}

/// `unreadable` are those of the files behind the end that may hold something: they are kept, and
/// their numbers are not used again.
fn tail(
    outcome: &ScanOutcome,
    files: &[(SegmentSeq, u32)],
    unreadable: &[(SegmentSeq, u32)],
) -> JournalTail {
    let end = outcome.end;
    let highest = unreadable.iter().map(|(segment, _)| *segment).max();
    let highest = highest.unwrap_or_default().max(end.segment);
    let sealed = files
        .iter()
        .filter(|(segment, _)| *segment <= end.segment && !outcome.unlinked.contains(segment))
        .chain(unreadable)
        .map(|&(segment, file_bytes)| SealedSegment {
            segment,
            file_bytes,
            end: if segment == end.segment {
                end.offset
            } else {
                file_bytes
            },
        })
        .collect();
    JournalTail {
        previous: outcome.previous(),
        sealed,
        highest_segment: (highest > SegmentSeq::new(0)).then_some(highest),
        next_group_seq: outcome.next_group_seq,
    }
}

/// The files of a journal.
pub(super) struct Opened {
    pub(super) source: Source,
    /// The newest slot of the flush ledger.
    pub(super) ledger: Option<LedgerSlot>,
    /// All segments, with the size of the file.
    files: Vec<(SegmentSeq, u32)>,
    /// Of those from the first wanted on, the good headers,
    pub(super) headers: Vec<SegmentHeader>,
    /// and those whose header the medium refuses.
    unreadable: Vec<(SegmentSeq, u32)>,
}

/// The header of a range's segment.
pub(super) fn header_of<'a>(
    headers: &'a [SegmentHeader],
    range: &CorruptRange,
) -> Option<&'a SegmentHeader> {
    headers
        .iter()
        .find(|header| header.segment == range.segment)
}

/// Reads the ledger and the headers of the segments from `first` on.
pub(super) async fn open(
    agent: &FileAgent,
    dir: &Path,
    journal: JournalId,
    first: SegmentSeq,
) -> io::Result<Opened> {
    let source = Source::open(agent, dir, journal).await?;
    let mut opened = Opened {
        ledger: source.ledger().await?,
        source,
        files: Vec::new(),
        headers: Vec::new(),
        unreadable: Vec::new(),
    };
    for entry in agent.list(dir).await? {
        if let Some(segment) = segment_of(&entry.name) {
            let bytes = u32::try_from(entry.bytes).map_err(io::Error::other)?;
            opened.files.push((segment, bytes));
        }
    }
    let wanted = opened.files.iter().filter(|(segment, _)| *segment >= first);
    for file in wanted {
        match opened.source.header(file.0).await? {
            HeaderPage::Valid(header) => opened.headers.push(header),
            HeaderPage::Other => {}
            HeaderPage::Unreadable => opened.unreadable.push(*file),
        }
    }
    Ok(opened)
}

/// Carries a scan out; ends without an outcome once `goes_on` says of the segment to read from that
/// it does not.
pub(super) async fn run(
    scan: &mut JournalScan,
    source: &Source,
    goes_on: impl Fn(SegmentSeq) -> bool,
    visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
) -> io::Result<(Option<ScanOutcome>, u64)> {
    let mut bytes_read = 0;
    loop {
        let (at, bytes) = match scan.next() {
            ScanStep::Done(outcome) => return Ok((Some(outcome), bytes_read)),
            ScanStep::Read { segment, .. } if !goes_on(segment) => return Ok((None, bytes_read)),
            ScanStep::Read {
                segment,
                offset,
                bytes,
            } => (JournalPos::new(segment, offset), bytes),
        };
        let wanted = usize::try_from(bytes).expect("u32 fits usize");
        match source.read(at, wanted).await? {
            Some(data) => {
                scan.supply(&data, visit);
                bytes_read += u64::from(bytes);
            }
            None => scan.read_failed(),
        }
        executor::yield_if_needed().await;
    }
}

pub(super) fn to_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a part of a segment")
}
