//! Reads a journal's segments from disk and drives the broker's own recovery scan over them, so
//! that torn and corrupt mean here what they mean to a broker that starts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use catena_core::block::BlockView;
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::ledger::LedgerSlot;
use catena_core::one_bit::{self, FlippedBit};
use catena_core::scan::{JournalScan, ScanInput, ScanOutcome, ScanStep};
use catena_core::segment::{SEGMENT_PAGE_BYTES, SegmentHeader};

use super::files::JournalFiles;

/// A segment whose header page is good, or was before one bit of it flipped.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file_bytes: u64,
    pub(crate) path: PathBuf,
    /// The bit of the header page that had to be corrected to read it.
    pub(crate) flipped: Option<FlippedBit>,
    file: File,
}

impl Segment {
    /// The bytes `[start, end)` of the file; None if they cannot be read or are not there.
    pub(crate) fn bytes(&self, start: u32, end: u32) -> Option<Vec<u8>> {
        let wanted = usize::try_from(end.checked_sub(start)?).ok()?;
        let mut bytes = vec![0; wanted];
        let read = read_up_to(&self.file, &mut bytes, start.into()).ok()?;
        (read == wanted).then_some(bytes)
    }
}

/// A segment file that is not what its name says.
#[derive(Debug)]
pub(crate) struct BadSegment {
    pub(crate) segment: SegmentSeq,
    pub(crate) path: PathBuf,
    pub(crate) why: String,
}

/// The segments of a journal, in order of sequence.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    pub(crate) good: Vec<Segment>,
    pub(crate) bad: Vec<BadSegment>,
}

/// Opens every segment and reads its header page.
pub(crate) fn open(journal: &JournalFiles) -> anyhow::Result<Segments> {
    let mut segments = Segments::default();
    for (segment, path) in &journal.segments {
        let opened = open_segment(journal, *segment, path);
        match opened.with_context(|| path.display().to_string())? {
            Ok(good) => segments.good.push(good),
            Err(why) => {
                segments.bad.push(BadSegment {
                    segment: *segment,
                    path: path.clone(),
                    why,
                });
            }
        }
    }
    Ok(segments)
}

/// The outer error ends the program, the inner one is a finding.
fn open_segment(
    journal: &JournalFiles,
    segment: SegmentSeq,
    path: &Path,
) -> io::Result<Result<Segment, String>> {
    let file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    let mut page = [0; SEGMENT_PAGE_BYTES];
    let read = read_up_to(&file, &mut page, 0)?;
    let (header, flipped) = match one_bit::segment_header(&page[..read]) {
        Ok(found) => found,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let why = if header.segment != segment {
        format!("its header says segment {}", header.segment)
    } else if header.journal != journal.id {
        format!("its header says journal {}", header.journal)
    } else if file_bytes < u64::from(header.segment_bytes) {
        format!(
            "{file_bytes} bytes long, its header says {}",
            header.segment_bytes
        )
    } else {
        return Ok(Ok(Segment {
            header,
            file_bytes,
            path: path.to_owned(),
            flipped,
            file,
        }));
    };
    Ok(Err(why))
}

/// Fills as much of the buffer as the file has.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) outcome: ScanOutcome,
    pub(crate) bytes_read: u64,
}

/// Scans all segments, from the oldest on, whatever the checkpoints say.
pub(crate) fn scan(
    journal: JournalId,
    segments: &[Segment],
    ledger: Option<LedgerSlot>,
    visit: &mut dyn FnMut(BlockLocation, &BlockView<'_>),
) -> Scanned {
    let headers: Vec<SegmentHeader> = segments.iter().map(|segment| segment.header).collect();
    let mut scan = JournalScan::new(ScanInput {
        journal,
        segments: headers,
        ledger,
        start: None,
    });
    let mut bytes_read = 0;
    let mut buffer = Vec::new();
    loop {
        let (segment, offset, bytes) = match scan.next() {
            ScanStep::Done(outcome) => {
                return Scanned {
                    outcome,
                    bytes_read,
                };
            }
            ScanStep::Read {
                segment,
                offset,
                bytes,
            } => (segment, offset, bytes),
        };
        buffer.resize(
            usize::try_from(bytes).expect("a read is at most a block"),
            0,
        );
        let source = segments
            .iter()
            .find(|source| source.header.segment == segment);
        let source = source.expect("the scan asks for segments it was given");
        // A sector that cannot be read is damage like any other.
        match read_up_to(&source.file, &mut buffer, offset.into()) {
            Ok(read) => {
                bytes_read += read as u64;
                scan.supply(&buffer[..read], visit);
            }
            Err(_) => scan.read_failed(),
        }
    }
}
