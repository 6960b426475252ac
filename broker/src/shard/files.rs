//! Segment files open for reading, on one shard.
//!
//! An open segment is its lease: whoever reads from it or means to (a parked response) holds the
//! `Rc`, and a segment is reused only when nobody does. Any journal of the store can be read, also
//! those that an earlier core count wrote. Runs on the shard's executor.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use catena_core::ids::{JournalId, SegmentSeq};
use catena_core::limits::BLOCK_ALIGN;
use catena_core::one_bit;
use catena_core::segment::SegmentHeader;

use crate::journal::segments::segment_path;
use crate::runtime::file::LogFile;

/// Files kept open without a lease.
const IDLE_FILES_MAX: usize = 256;

/// A segment that can be read.
pub struct OpenSegment {
    /// The journal it belongs to.
    pub journal: JournalId,
    /// Its header: the salt is needed to check blocks.
    pub header: SegmentHeader,
    /// The file.
    pub file: LogFile,
}

/// The segments one shard has open.
pub struct SegmentFiles {
    journals: PathBuf,
    open: RefCell<BTreeMap<(JournalId, SegmentSeq), Rc<OpenSegment>>>,
    /// Segments that are being opened, and by how many: as good as leases.
    opening: RefCell<BTreeMap<(JournalId, SegmentSeq), usize>>,
    /// Segments that are being freed: nobody opens them any more.
    retiring: RefCell<BTreeSet<(JournalId, SegmentSeq)>>,
}

/// Keeps a segment leased while it is being opened.
struct Opening<'a> {
    files: &'a SegmentFiles,
    segment: (JournalId, SegmentSeq),
}

impl<'a> Opening<'a> {
    fn new(files: &'a SegmentFiles, segment: (JournalId, SegmentSeq)) -> Opening<'a> {
        *files.opening.borrow_mut().entry(segment).or_default() += 1;
        Opening { files, segment }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut opening = self.files.opening.borrow_mut();
        if let Some(count) = opening.get_mut(&self.segment) {
            *count -= 1;
            if *count == 0 {
                opening.remove(&self.segment);
            }
        }
    }
}

impl SegmentFiles {
    /// Reads segments below `journals`, the store's directory of journals.
    pub fn new(journals: PathBuf) -> SegmentFiles {
        SegmentFiles {
            journals,
            open: RefCell::default(),
            opening: RefCell::default(),
            retiring: RefCell::default(),
        }
    }

    /// Opens a segment, or shares the open one.
    ///
    /// # Errors
    /// `InvalidData` if its header is damaged, `NotFound` if it is being freed; else what the
    /// operating system says.
    pub async fn open(
        &self,
        journal: JournalId,
        segment: SegmentSeq,
    ) -> io::Result<Rc<OpenSegment>> {
        if let Some(open) = self.open.borrow().get(&(journal, segment)) {
            return Ok(Rc::clone(open));
        }
        if self.retiring.borrow().contains(&(journal, segment)) {
            let gone = format!("segment {segment} of journal {journal} is being freed");
            return Err(io::Error::new(io::ErrorKind::NotFound, gone));
        }
        let _opening = Opening::new(self, (journal, segment));
        let path = self.path(journal, segment);
        let file = LogFile::open(&path, false).await?;
        let header = read_header(&file).await?;
        if (header.journal, header.segment) != (journal, segment) {
            let found = format!(
                "{} is segment {} of journal {}",
                path.display(),
                header.segment.get(),
                header.journal.get()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, found));
        }
        let opened = Rc::new(OpenSegment {
            journal,
            header,
            file,
        });
        let mut open = self.open.borrow_mut();
        if open.len() >= IDLE_FILES_MAX {
            open.retain(|_, segment| Rc::strong_count(segment) > 1);
        }
        Ok(Rc::clone(open.entry((journal, segment)).or_insert(opened)))
    }

    /// The path of a segment.
    pub fn path(&self, journal: JournalId, segment: SegmentSeq) -> PathBuf {
        segment_path(&self.dir(journal), segment)
    }

    /// The directory of a journal.
    pub fn dir(&self, journal: JournalId) -> PathBuf {
        journal_dir(&self.journals, journal)
    }

    /// Whether anyone reads from the segment or means to.
    pub fn leased(&self, journal: JournalId, segment: SegmentSeq) -> bool {
        let held = self
            .open
            .borrow()
            .get(&(journal, segment))
            .map(Rc::strong_count);
        held.is_some_and(|count| count > 1)
            || self.opening.borrow().contains_key(&(journal, segment))
    }

    /// Closes a segment that nobody leases and lets nobody open it until it is
    /// [`retired`](Self::retired): its file is about to become another one.
    pub fn retire(&self, journal: JournalId, segment: SegmentSeq) {
        self.retiring.borrow_mut().insert((journal, segment));
        self.open.borrow_mut().remove(&(journal, segment));
    }

    /// The file has another name now, or could not be freed.
    pub fn retired(&self, journal: JournalId, segment: SegmentSeq) {
        self.retiring.borrow_mut().remove(&(journal, segment));
    }
}

async fn read_header(file: &LogFile) -> io::Result<SegmentHeader> {
    let page = file.read(0, BLOCK_ALIGN).await?;
    // Recovery has said so in the log if a bit of it had to be corrected.
    let (header, _) = one_bit::segment_header(&page)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(header)
}

/// The directory of a journal below the store's directory of journals.
pub fn journal_dir(journals: &std::path::Path, journal: JournalId) -> PathBuf {
    journals.join(format!("{:03}", journal.get()))
}

#[cfg(test)]
mod tests;
