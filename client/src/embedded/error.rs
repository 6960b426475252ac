//! Why an embedded broker did not start, or does not run.

use std::fmt;

use catena_broker::server::Refusal;

use crate::error::ConfigError;

/// Why an embedded broker did not start, or does not run.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host refuses what [`Storage::Dir`](super::Storage::Dir) needs: `io_uring`, lockable
    /// memory or direct I/O. [`Storage::Memory`](super::Storage::Memory) needs none of them.
    #[error("{reason}; Storage::Memory does without it")]
    HostRefused {
        /// What is refused, and what to do about it.
        reason: String,
    },
    /// The directory cannot be used: another broker has it, or it is something else or damaged.
    #[error("{reason}")]
    DirectoryRefused {
        /// What is wrong with it.
        reason: String,
    },
    /// Anything else: a port that is taken, a disk that failed.
    #[error("{reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
}

impl EmbeddedError {
    /// Of a failure, with all of its causes in words, and of what it says about the host.
    pub(super) fn new(refusal: Option<Refusal>, failure: &dyn fmt::Display) -> Self {
        let reason = format!("{failure:#}");
        match refusal {
            Some(Refusal::Host) => Self::HostRefused { reason },
            Some(Refusal::DataDirectory) => Self::DirectoryRefused { reason },
            None => Self::Failed { reason },
        }
    }
}
