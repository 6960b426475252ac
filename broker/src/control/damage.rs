//! Why a node does not start from the metadata that it finds.

use std::path::{Path, PathBuf};

use catena_core::codec::DecodeError;
use catena_core::ids::{JournalId, Lsn};
use catena_core::log::FoldError;
use catena_core::scan::CorruptRange;
use thiserror::Error;

/// Metadata on disk that no node may start from: without it topics would be missing, and what they
/// hold would be taken for garbage. The text is for the operator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MetadataError {
    #[error(
        "the metadata journal is damaged in segment {} from byte {} to {}: {}; a broker does not \
         start without its metadata: `catena journal repair` on the data directory mends one \
         flipped bit, else restore {} from a copy",
        range.segment,
        range.start,
        range.end,
        range.what,
        dir.display()
    )]
    Damaged { dir: PathBuf, range: CorruptRange },
    #[error(
        "{count} commands from number {first} on are missing in the metadata journal, and no \
         snapshot of metadata holds them; restore the directory of journal {} from a copy",
        JournalId::METADATA
    )]
    Missing { first: Lsn, count: u64 },
    #[error(
        "the metadata journal does not fit together: {reason}; restore the directory of journal \
         {} from a copy",
        JournalId::METADATA
    )]
    Unlinked { reason: FoldError },
    #[error(
        "command {number} of the metadata journal is damaged, or newer than this version: \
         {reason}"
    )]
    Command { number: Lsn, reason: DecodeError },
    #[error(
        "{} belongs to another store than store.toml says; restore the one or the other from a \
         copy",
        dir.display()
    )]
    Foreign { dir: PathBuf },
}

impl MetadataError {
    pub(super) fn damaged(dir: &Path, range: &CorruptRange) -> Self {
        Self::Damaged {
            dir: dir.to_owned(),
            range: range.clone(),
        }
    }
}
