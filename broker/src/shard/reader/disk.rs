//! Reads from segments, patiently: what the medium refuses once may come the next time.
//!
//! What counts as damage, and after how many tries, is said in [`crate::patience`]. Runs on the
//! shard's executor.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use catena_core::ids::BlockLocation;

use super::error::{ReadError, corrupt, failed};
use super::to_usize;
use crate::patience::{Patience, Refusal};
use crate::runtime::buffer::Buffer;
use crate::shard::files::{OpenSegment, SegmentFiles};

/// The segments of a store, as a disk gives them.
pub(super) struct Disk {
    /// Segments open for reading.
    pub(super) files: SegmentFiles,
    patience: Patience,
}

/// Bytes of a segment, and its lease.
pub(super) type Read = (Buffer, Rc<OpenSegment>);

impl Disk {
    /// `probe` is a file that is always there and readable, if anything is.
    pub(super) fn new(files: SegmentFiles, probe: PathBuf) -> Disk {
        Disk {
            files,
            patience: Patience::of_readers(probe),
        }
    }

    /// The bytes of a place, in one try.
    pub(super) async fn read(&self, place: BlockLocation) -> Result<Read, ReadError> {
        self.try_read(place)
            .await
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => corrupt(place, &error),
                _ => failed(place, &error),
            })
    }

    /// The segment of a place.
    pub(super) async fn segment(&self, place: BlockLocation) -> Result<Rc<OpenSegment>, ReadError> {
        let read = self
            .patience
            .read(|| self.path(place), async || self.open(place).await);
        read.await.map_err(|refused| refusal(place, &refused))
    }

    /// The bytes of a place, in as many tries as it may take.
    pub(super) async fn read_patiently(&self, place: BlockLocation) -> Result<Read, ReadError> {
        let read = self
            .patience
            .read(|| self.path(place), async || self.try_read(place).await);
        read.await.map_err(|refused| refusal(place, &refused))
    }

    /// The bytes of a place, with zeros for the pages that cannot be read, but for the first.
    pub(super) async fn read_what_is_there(&self, place: BlockLocation) -> Result<Read, ReadError> {
        let part = async |start: usize, bytes: usize| -> io::Result<Buffer> {
            let to_u32 = |bytes| u32::try_from(bytes).expect("a part of a block");
            let part = BlockLocation {
                offset: place.offset + to_u32(start),
                bytes: to_u32(bytes),
                ..place
            };
            Ok(self.try_read(part).await?.0)
        };
        let path = || self.path(place);
        let read = self
            .patience
            .read_what_is_there(path, to_usize(place.bytes), part);
        let bytes = read.await.map_err(|refused| refusal(place, &refused))?;
        Ok((bytes, self.segment(place).await?))
    }

    fn path(&self, place: BlockLocation) -> PathBuf {
        self.files.path(place.journal, place.segment)
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
}

/// What a refusal says of a place.
fn refusal(place: BlockLocation, refused: &Refusal) -> ReadError {
    match refused {
        Refusal::Failed(error) => failed(place, error),
        Refusal::Unreadable(error) | Refusal::Wrong(error) => corrupt(place, error),
    }
}
