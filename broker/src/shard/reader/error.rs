//! Why a block could not be read. Pure; any thread.

use std::fmt::Display;
use std::io;

use catena_core::ids::BlockLocation;
use catena_protocol::ids::Offset;

/// Why a block could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The device or the file system failed, which says nothing about what is stored.
    #[error("cannot read {place}: {reason}")]
    Io {
        /// Where.
        place: BlockLocation,
        /// The operating system's words.
        reason: String,
    },
    /// What was read is not what was written, or nothing can be read there, time after time.
    #[error("{place} is corrupt: {reason}")]
    Corrupt {
        /// Where.
        place: BlockLocation,
        /// What does not fit.
        reason: String,
    },
    /// The page of the index that would name the block is corrupt.
    #[error("{place}, with a page of the index, is corrupt: {reason}")]
    Unindexed {
        /// Where the page is.
        place: BlockLocation,
        /// What does not fit.
        reason: String,
        /// The next offset that another page names, or that this one cannot; none if there is no
        /// such.
        next: Option<Offset>,
    },
    /// The page of the index that would name the block is corrupt, and is being built anew.
    #[error("{place}, with a page of the index, is corrupt, and the page is built anew: {reason}")]
    Rebuilding {
        /// Where the page is.
        place: BlockLocation,
        /// What does not fit.
        reason: String,
    },
    /// No block holds these offsets.
    #[error("offsets {from} to {next} are lost")]
    Missing {
        /// The first of them.
        from: Offset,
        /// The offset after them.
        next: Offset,
    },
}

/// The file system's refusal to read a place.
pub(super) fn failed(place: BlockLocation, error: &io::Error) -> ReadError {
    let reason = error.to_string();
    ReadError::Io { place, reason }
}

/// A place whose bytes are not what was written.
pub(super) fn corrupt(place: BlockLocation, reason: &dyn Display) -> ReadError {
    let reason = reason.to_string();
    ReadError::Corrupt { place, reason }
}
