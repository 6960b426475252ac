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
use catena_core::limits::BLOCK_ALIGN;
use catena_core::one_bit;
use catena_core::recover::{FrameSummary, moved_batches};
use catena_core::scan::{CorruptRange, JournalScan, ScanInput, ScanOutcome, ScanStep};
use catena_core::segment::{SegmentError, SegmentHeader};
use tracing::warn;

use super::segments::{SealedSegment, segment_of, segment_path};
use super::{JournalTail, damage};
use crate::boot::ScannedFrames;
use crate::runtime::buffer::{self, Buffer};
use crate::runtime::executor;
use crate::runtime::file::{FileAgent, LogFile};

/// Bytes of the flush ledger: two pages, written in turn.
const LEDGER_BYTES: u64 = 8192;

/// How often a part of the journal is read before it counts as unreadable.
const READ_TRIES: u32 = 3;

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
    let newest = read_ledger(dir, journal).await?;
    if newest.is_none() {
        // Missing, or never written: a new file of zeros is the same.
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
    let ledger = read_ledger(dir, journal).await?;
    let first = start.map_or(SegmentSeq::new(0), |at| at.segment);
    let mut files = Vec::new();
    for entry in agent.list(dir).await? {
        if let Some(segment) = segment_of(&entry.name) {
            files.push((
                segment,
                u32::try_from(entry.bytes).map_err(io::Error::other)?,
            ));
        }
    }
    let mut headers = Vec::new();
    for (segment, _) in files.iter().filter(|(segment, _)| *segment >= first) {
        if let Some(header) = read_header(dir, journal, *segment).await? {
            headers.push(header);
        }
    }
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
    let (outcome, bytes) = run(&mut scan, dir, &mut visit).await?;
    if let Some((at, kind)) = unknown {
        return Err(io::Error::other(format!(
            "{at} holds an entry of kind {kind:?}, which this version does not know and must not \
             pass over: start the version that wrote it, or a later one"
        )));
    }
    damage::report(journal, &outcome);
    for range in &outcome.corrupt {
        let header = headers
            .iter()
            .find(|header| header.segment == range.segment);
        damage::examine(dir, journal, header, range, found).await;
    }
    Ok(Scanned {
        tail: tail(&outcome, &files),
        corrupt: outcome.corrupt,
        bytes,
    })
}

fn tail(outcome: &ScanOutcome, files: &[(SegmentSeq, u32)]) -> JournalTail {
    let end = outcome.end;
    let sealed = files
        .iter()
        .filter(|(segment, _)| *segment <= end.segment && !outcome.unlinked.contains(segment))
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
        highest_segment: (end.segment > SegmentSeq::new(0)).then_some(end.segment),
        next_group_seq: outcome.next_group_seq,
    }
}

async fn run(
    scan: &mut JournalScan,
    dir: &Path,
    visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
) -> io::Result<(ScanOutcome, u64)> {
    let mut open: Option<(SegmentSeq, LogFile)> = None;
    let mut bytes_read = 0;
    loop {
        let (segment, offset, bytes) = match scan.next() {
            ScanStep::Done(outcome) => return Ok((outcome, bytes_read)),
            ScanStep::Read {
                segment,
                offset,
                bytes,
            } => (segment, offset, bytes),
        };
        if open.as_ref().is_none_or(|(current, _)| *current != segment) {
            open = Some((
                segment,
                LogFile::open(segment_path(dir, segment), false).await?,
            ));
        }
        let (_, file) = open.as_ref().expect("just opened");
        let wanted = usize::try_from(bytes).expect("u32 fits usize");
        match read_what_is_there(file, offset.into(), wanted).await {
            Ok(data) => {
                scan.supply(&data, visit);
                bytes_read += u64::from(bytes);
            }
            Err(error) => {
                let segment = segment.get();
                warn!(segment, offset, %error, "cannot read a part of the journal");
                scan.read_failed();
            }
        }
        executor::yield_if_needed().await;
    }
}

async fn read_ledger(dir: &Path, journal: JournalId) -> io::Result<Option<LedgerSlot>> {
    let file = match LogFile::open(ledger_path(dir), false).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // One by one: what is wrong with one page must not take the other with it.
    let mut slots = Vec::new();
    for at in (0..LEDGER_BYTES).step_by(BLOCK_ALIGN) {
        match read_patiently(&file, at, BLOCK_ALIGN).await {
            Ok(page) => slots.extend(damage::ledger_slot(journal, at, &page)),
            Err(error) => warn!(journal = journal.get(), %error, "cannot read the flush ledger"),
        }
    }
    file.close().await?;
    Ok(slots.into_iter().max_by_key(|slot| slot.sequence))
}

/// Reads in as many tries as it takes, within reason: what fails once must not count as lost.
pub(super) async fn read_patiently(file: &LogFile, at: u64, bytes: usize) -> io::Result<Buffer> {
    let mut tries = READ_TRIES;
    loop {
        tries -= 1;
        match file.read(at, bytes).await {
            Err(error) if tries > 0 => {
                warn!(%error, at, bytes, "cannot read a part of the journal; trying again");
            }
            read => return read,
        }
    }
}

/// Reads with zeros for the pages that cannot be read, as long as the first one can: then what is
/// lost is a part of a block and not all of it.
async fn read_what_is_there(file: &LogFile, at: u64, bytes: usize) -> io::Result<Buffer> {
    let refused = match read_patiently(file, at, bytes).await {
        Err(refused) if bytes > BLOCK_ALIGN => refused,
        read => return read,
    };
    let mut whole = buffer::allocate(bytes);
    let mut read_bytes = 0;
    for start in (0..bytes).step_by(BLOCK_ALIGN) {
        let page = &mut whole[start..start + BLOCK_ALIGN];
        match file.read(at + start as u64, BLOCK_ALIGN).await {
            Ok(read) if read.len() < BLOCK_ALIGN => break,
            Ok(read) => page.copy_from_slice(&read),
            Err(_) if start == 0 => return Err(refused),
            Err(error) => {
                warn!(%error, start, "cannot read a page of the journal");
                page.fill(0);
            }
        }
        read_bytes = start + BLOCK_ALIGN;
    }
    whole.truncate(read_bytes);
    Ok(whole)
}

/// The header of a segment, if the file holds that segment's.
async fn read_header(
    dir: &Path,
    journal: JournalId,
    segment: SegmentSeq,
) -> io::Result<Option<SegmentHeader>> {
    let file = LogFile::open(segment_path(dir, segment), false).await?;
    let header = match read_patiently(&file, 0, BLOCK_ALIGN).await {
        // Without its header nothing in a segment can be checked, so it is not lost to one bit.
        Ok(page) => match one_bit::segment_header(&page) {
            Ok((header, None)) => Some(header),
            Ok((header, Some(flip))) => {
                warn!(
                    journal = journal.get(),
                    segment = segment.get(),
                    byte = flip.at,
                    bit = flip.bit,
                    "one bit of a segment's header is flipped: `catena journal repair` can write \
                     it back"
                );
                Some(header)
            }
            // Not damage: a later version wrote it.
            Err(error @ SegmentError::Version { .. }) => return Err(io::Error::other(error)),
            Err(_) => None,
        },
        Err(error) => {
            warn!(segment = segment.get(), %error, "cannot read a segment's header");
            None
        }
    };
    file.close().await?;
    Ok(header.filter(|h| (h.journal, h.segment) == (journal, segment)))
}
