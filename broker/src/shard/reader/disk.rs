//! Reads from segments, patiently: what the medium refuses once may come the next time.
//!
//! A place counts as unreadable, which is damage like any other, once the medium has refused it in
//! as many tries as there are [`READ_PAUSES`] and one more, and gave something else each time: a
//! disk that gives nothing at all is not damaged, it is away. A segment that has such a place gets
//! two tries for each other place, so that one with many does not cost seconds for each.
//!
//! Runs on the shard's executor.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::limits::{BLOCK_ALIGN, BLOCK_ALIGN_U32};
use tracing::warn;

use super::error::{ReadError, corrupt, failed};
use super::to_usize;
use crate::limits::READ_PAUSES;
use crate::runtime::buffer::{self, Buffer};
use crate::runtime::clock;
use crate::runtime::file::{self, LogFile};
use crate::shard::files::{OpenSegment, SegmentFiles};

/// The segments of a store, as a disk gives them.
pub(super) struct Disk {
    /// Segments open for reading.
    pub(super) files: SegmentFiles,
    /// A file that is always there and readable, if anything is.
    probe: PathBuf,
    /// Segments with a place that is known to be unreadable. Their numbers are never used again.
    unreadable: RefCell<BTreeSet<(JournalId, SegmentSeq)>>,
}

/// Bytes of a segment, and its lease.
pub(super) type Read = (Buffer, Rc<OpenSegment>);

impl Disk {
    pub(super) fn new(files: SegmentFiles, probe: PathBuf) -> Disk {
        Disk {
            files,
            probe,
            unreadable: RefCell::default(),
        }
    }

    /// The bytes of a place, in one try.
    pub(super) async fn read(&self, place: BlockLocation) -> Result<Read, ReadError> {
        self.try_read(place)
            .await
            .map_err(|error| refusal(place, &error))
    }

    /// The segment of a place.
    pub(super) async fn segment(&self, place: BlockLocation) -> Result<Rc<OpenSegment>, ReadError> {
        self.patiently(place, async || self.open(place).await).await
    }

    /// The bytes of a place, in as many tries as it may take.
    pub(super) async fn read_patiently(&self, place: BlockLocation) -> Result<Read, ReadError> {
        self.patiently(place, async || self.try_read(place).await)
            .await
    }

    /// The bytes of a place, with zeros for the pages that cannot be read.
    pub(super) async fn read_what_is_there(&self, place: BlockLocation) -> Result<Read, ReadError> {
        let refused = match self.read_patiently(place).await {
            Err(refused @ ReadError::Corrupt { .. }) => refused,
            read => return read,
        };
        let segment = self.segment(place).await?;
        let mut whole = buffer::allocate(to_usize(place.bytes));
        let mut is_any = false;
        for at in (0..place.bytes).step_by(BLOCK_ALIGN) {
            let page = BlockLocation {
                offset: place.offset + at,
                bytes: BLOCK_ALIGN_U32,
                ..place
            };
            if let Ok((bytes, _)) = self.read(page).await {
                let at = to_usize(at);
                whole[at..at + BLOCK_ALIGN].copy_from_slice(&bytes);
                is_any = true;
            } else {
                // Memory of the pool may hold anything.
                let at = to_usize(at);
                whole[at..at + BLOCK_ALIGN].fill(0);
            }
        }
        if is_any {
            Ok((whole, segment))
        } else {
            Err(refused)
        }
    }

    async fn open(&self, place: BlockLocation) -> io::Result<Rc<OpenSegment>> {
        self.files.open(place.journal, place.segment).await
    }

    async fn try_read(&self, place: BlockLocation) -> io::Result<Read> {
        let segment = self.open(place).await?;
        let (offset, bytes) = (u64::from(place.offset), to_usize(place.bytes));
        let buffer = segment.file.read(offset, bytes).await?;
        if buffer.len() < bytes {
            let short = "the file ends before it";
            return Err(io::Error::new(io::ErrorKind::InvalidData, short));
        }
        Ok((buffer, segment))
    }

    async fn patiently<T>(
        &self,
        place: BlockLocation,
        read: impl AsyncFn() -> io::Result<T>,
    ) -> Result<T, ReadError> {
        let key = place.segment_key();
        let tries = if self.unreadable.borrow().contains(&key) {
            1
        } else {
            READ_PAUSES.len()
        };
        let mut pauses = READ_PAUSES[..tries].iter();
        loop {
            let error = match read().await {
                Ok(read) => return Ok(read),
                Err(error) if !file::is_of_medium(&error) => return Err(refusal(place, &error)),
                Err(error) => error,
            };
            if self.is_away().await {
                return Err(failed(place, &error));
            }
            let Some(pause) = pauses.next() else {
                self.unreadable.borrow_mut().insert(key);
                return Err(corrupt(place, &error));
            };
            warn!(%place, %error, "cannot read a part of a segment; trying again");
            clock::sleep(*pause).await;
        }
    }

    /// Whether the disk gives nothing at all.
    async fn is_away(&self) -> bool {
        let probed = async {
            let file = LogFile::open(&self.probe, false).await?;
            for page in [0, BLOCK_ALIGN] {
                let at = u64::try_from(page).expect("a small number");
                if file.read(at, BLOCK_ALIGN).await.is_ok() {
                    return Ok(());
                }
            }
            Err(io::Error::other("no page of it can be read"))
        };
        let probed: io::Result<()> = probed.await;
        if let Err(error) = &probed {
            warn!(path = %self.probe.display(), %error, "the disk does not give anything");
        }
        probed.is_err()
    }
}

/// What an error says of a place.
fn refusal(place: BlockLocation, error: &io::Error) -> ReadError {
    match error.kind() {
        io::ErrorKind::InvalidData => corrupt(place, error),
        _ => failed(place, error),
    }
}
