//! Why a start failed, as far as it makes a difference to who started it.

use std::path::Path;

use anyhow::Error;

use crate::control::MetadataError;
use crate::runtime::executor::RuntimeError;
use crate::runtime::probe::ProbeError;
use crate::startup;
use crate::store::StoreError;

/// What refused a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The data directory: in use, damaged, not one of ours.
    DataDirectory,
    /// The host: no `io_uring`, no direct I/O, too little lockable memory.
    Host,
}

/// What refused a start that ended with this error; `None` for an ordinary failure.
pub fn refusal_of(failure: &Error) -> Option<Refusal> {
    let is_probe = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<ProbeError>()
            || matches!(
                cause.downcast_ref::<RuntimeError>(),
                Some(RuntimeError::Probe(_))
            )
    };
    let is_store = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<StoreError>() || cause.is::<MetadataError>()
    };
    if failure.chain().any(is_store) {
        Some(Refusal::DataDirectory)
    } else if failure.chain().any(is_probe) {
        Some(Refusal::Host)
    } else {
        None
    }
}

/// The cause of a failed start in plain words, where the disk under its directory is the cause.
pub(super) fn explained(failure: Error, dir: &Path) -> Error {
    if refusal_of(&failure).is_none()
        && let Some(found) = startup::diagnose_disk(dir)
    {
        return found.into();
    }
    failure
}

#[cfg(test)]
mod tests {
    use catena_core::ids::Lsn;

    use super::*;

    #[test]
    fn damaged_metadata_is_refused_like_any_other_damage_of_the_directory() {
        let (first, count) = (Lsn::new(7), 2);
        let failure = Error::from(MetadataError::Missing { first, count });
        let refused = refusal_of(&failure.context("control failed"));
        assert_eq!(refused, Some(Refusal::DataDirectory));
        assert_eq!(refusal_of(&anyhow::anyhow!("anything else")), None);
    }
}
