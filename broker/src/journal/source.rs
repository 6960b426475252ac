//! The files of a journal as a start reads them: patiently, and telling what is damaged from what
//! nobody could read.
//!
//! Invariant: that a place cannot be read is said only of one that the medium refuses for good;
//! any other refusal ends the start. Changes nothing on disk. Runs on the executor that will own
//! the journal.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use catena_core::ids::{JournalId, JournalPos, SegmentSeq};
use catena_core::ledger::LedgerSlot;
use catena_core::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX};
use catena_core::one_bit;
use catena_core::scan;
use catena_core::segment::{SegmentError, SegmentHeader};
use tracing::warn;

use super::segments::segment_path;
use super::{damage, recovery};
use crate::patience::{Patience, Refusal};
use crate::runtime::buffer::Buffer;
use crate::runtime::file::{FileAgent, LogFile};

/// What lies where a segment has its header.
pub(super) enum HeaderPage {
    /// Its header.
    Valid(SegmentHeader),
    /// Something else: it was never started, or its header is damaged.
    Other,
    /// The medium refuses it for good.
    Unreadable,
}

/// The files of one journal.
pub(super) struct Source {
    dir: PathBuf,
    journal: JournalId,
    patience: Patience,
    /// The segment that was read last.
    open: RefCell<Option<(SegmentSeq, Rc<LogFile>)>>,
}

impl Source {
    pub(super) async fn open(
        agent: &FileAgent,
        dir: &Path,
        journal: JournalId,
    ) -> io::Result<Source> {
        Ok(Source {
            dir: dir.to_owned(),
            journal,
            patience: Patience::of_start(agent, dir).await?,
            open: RefCell::default(),
        })
    }

    pub(super) const fn journal(&self) -> JournalId {
        self.journal
    }

    /// The newest slot of the flush ledger; none if there is none that can be read.
    pub(super) async fn ledger(&self) -> io::Result<Option<LedgerSlot>> {
        let path = recovery::ledger_path(&self.dir);
        let mut slots = Vec::new();
        // One by one: what is wrong with one page must not take the other with it.
        for at in (0..recovery::LEDGER_BYTES).step_by(BLOCK_ALIGN) {
            let page = async || {
                LogFile::open(&path, false)
                    .await?
                    .read(at, BLOCK_ALIGN)
                    .await
            };
            match self.patience.read(|| path.clone(), page).await {
                Ok(page) => slots.extend(damage::ledger_slot(self.journal, at, &page)),
                Err(Refusal::Failed(error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(None);
                }
                Err(refused) => {
                    let (journal, error) = (self.journal.get(), refused.damage()?);
                    warn!(journal, %error, "cannot read the flush ledger");
                }
            }
        }
        Ok(slots.into_iter().max_by_key(|slot| slot.sequence))
    }

    /// The header of a segment.
    pub(super) async fn header(&self, segment: SegmentSeq) -> io::Result<HeaderPage> {
        let page = async || {
            let page = self.segment(segment).await?.read(0, BLOCK_ALIGN).await?;
            // Without its header nothing in a segment can be checked, so it is not lost to one bit.
            match one_bit::segment_header(&page) {
                // Not damage: a later version wrote it.
                Err(error @ SegmentError::Version { .. }) => Ok(Err(error)),
                Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                Ok(read) => Ok(Ok(read)),
            }
        };
        let (header, flip) = match self.patience.read(|| self.path(segment), page).await {
            Ok(read) => read.map_err(io::Error::other)?,
            Err(Refusal::Wrong(_)) => return Ok(HeaderPage::Other),
            Err(refused) => {
                let (segment, error) = (segment.get(), refused.damage()?);
                warn!(segment, %error, "cannot read a segment's header");
                return Ok(HeaderPage::Unreadable);
            }
        };
        if let Some(flip) = flip {
            warn!(
                journal = self.journal.get(),
                segment = segment.get(),
                byte = flip.at,
                bit = flip.bit,
                "one bit of a segment's header is flipped: `catena journal repair` can write it \
                 back"
            );
        }
        if (header.journal, header.segment) == (self.journal, segment) {
            Ok(HeaderPage::Valid(header))
        } else {
            Ok(HeaderPage::Other)
        }
    }

    /// Whether a segment whose header cannot be read may have been started.
    pub(super) async fn may_be_started(&self, segment: SegmentSeq) -> io::Result<bool> {
        let behind_header = JournalPos::new(segment, recovery::to_u32(BLOCK_ALIGN));
        let page = self.read(behind_header, BLOCK_ALIGN).await?;
        Ok(page.is_none_or(|page| scan::is_started(&page, segment)))
    }

    /// What lies there, with zeros for the pages that cannot be read, less at the end of the file;
    /// none if not even the first page can be read.
    pub(super) async fn read(&self, at: JournalPos, bytes: usize) -> io::Result<Option<Buffer>> {
        let part = async |start: usize, bytes: usize| {
            let file = self.segment(at.segment).await?;
            file.read(u64::from(at.offset) + start as u64, bytes).await
        };
        let path = || self.path(at.segment);
        match self.patience.read_what_is_there(path, bytes, part).await {
            Ok(read) => Ok(Some(read)),
            Err(refused) => {
                let error = refused.damage()?;
                warn!(place = %at, %error, "cannot read a part of the journal");
                Ok(None)
            }
        }
    }

    /// All of a longer range; none if a part of it is not there.
    pub(super) async fn read_range(
        &self,
        mut at: JournalPos,
        bytes: usize,
    ) -> io::Result<Option<Vec<u8>>> {
        let mut held = Vec::with_capacity(bytes);
        while held.len() < bytes {
            let wanted = (bytes - held.len()).min(BLOCK_BYTES_MAX);
            match self.read(at, wanted).await? {
                Some(part) if part.len() == wanted => held.extend_from_slice(&part),
                _ => return Ok(None),
            }
            at.offset += recovery::to_u32(wanted);
        }
        Ok(Some(held))
    }

    fn path(&self, segment: SegmentSeq) -> PathBuf {
        segment_path(&self.dir, segment)
    }

    async fn segment(&self, segment: SegmentSeq) -> io::Result<Rc<LogFile>> {
        if let Some((open, file)) = &*self.open.borrow()
            && *open == segment
        {
            return Ok(Rc::clone(file));
        }
        let file = Rc::new(LogFile::open(self.path(segment), false).await?);
        *self.open.borrow_mut() = Some((segment, Rc::clone(&file)));
        Ok(file)
    }
}
