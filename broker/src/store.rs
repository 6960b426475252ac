//! A data directory: its lock, its identity, its format version, its space.
//!
//! Invariant: while a [`Store`] exists, or anybody has its lock, no other process (and no second
//! broker in this one) has the same directory open. Runs on the starting thread, before any shard
//! exists.
//!
//! ```text
//! DATA/LOCK          locked (flock) while it is open; a broker's holds its pid as text until it
//!                    stops, one that was killed leaves it there
//! DATA/store.toml    format, store_uuid, cluster_id, node, created, checksum; written once
//! DATA/journals/     see the journal
//! ```

mod holder;
mod identity;
mod space;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use catena_protocol::ids::NodeId;
use rustix::fs::FlockOperation;
use thiserror::Error;

pub use holder::Holder;
pub use space::{Space, default_space_bytes};

use crate::runtime::file::{create_dir_durably, told_of};
use identity::{IDENTITY_FILE, IDENTITY_TEMPORARY_FILE, Identity};

const LOCK_FILE: &str = "LOCK";

/// Entries that do not make a directory a foreign one: ours from an interrupted format, and what
/// a fresh ext4 file system holds.
const IGNORED_WHEN_FORMATTING: [&str; 3] = [LOCK_FILE, IDENTITY_TEMPORARY_FILE, "lost+found"];

/// The store format this version writes and reads.
pub const STORE_FORMAT: u32 = 1;

/// An open, locked data directory. Dropping it unlocks.
#[derive(Debug)]
pub struct Store {
    /// The data directory.
    pub dir: PathBuf,
    /// Made when the directory was formatted; every file in it carries it.
    pub uuid: [u8; 16],
    /// The cluster this store belongs to.
    pub cluster_id: [u8; 16],
    /// This node's id in the cluster.
    pub node: NodeId,
    /// Holds the lock: closing the descriptor gives it up.
    lock: Arc<File>,
}

/// Why a data directory cannot be used. The text is for the operator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("cannot {action} {}: {reason}{fix}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        /// What the operating system said. In words: as a source it would be said twice.
        reason: String,
        /// What to do about it, to append; empty if that is not known.
        fix: String,
    },
    #[error(
        "the data directory {} is in use by {holder}; stop it, or choose another directory",
        dir.display()
    )]
    Locked { dir: PathBuf, holder: Holder },
    #[error(
        "{} is not a data directory (it has no {IDENTITY_FILE}) and not empty \
         (it holds {found:?}); choose an empty directory, or one that does not exist",
        dir.display()
    )]
    NotEmpty { dir: PathBuf, found: String },
    #[error(
        "the data directory {} has store format {found}, which needs Catena {needs} or newer; \
         this is Catena {}, which reads format {STORE_FORMAT}",
        dir.display(),
        env!("CARGO_PKG_VERSION")
    )]
    UnknownFormat {
        dir: PathBuf,
        found: i64,
        needs: String,
    },
    #[error(
        "{} is damaged: {reason}; a broker does not start without it: `catena journal repair` on \
         its directory mends one flipped bit, else restore it from a copy",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },
}

impl Store {
    /// Opens `dir`, locks it, and formats it first if it is new or empty.
    ///
    /// ```
    /// use catena_broker::store::{Store, StoreError};
    ///
    /// let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path())?;
    /// assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked { .. })));
    ///
    /// let uuid = store.uuid;
    /// drop(store);
    /// assert_eq!(Store::open(dir.path())?.uuid, uuid);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        create_dir_durably(dir).map_err(io_error("create the data directory", dir))?;
        // Before the lock file, so that nothing is left behind in a foreign directory.
        let formatted = is_formatted(dir)?;
        let lock = lock(dir)?;
        // Again under the lock: another broker may have formatted the directory in between.
        let identity = if formatted || is_formatted(dir)? {
            Identity::read(dir)?
        } else {
            Identity::create(dir)?
        };
        Ok(Self {
            dir: dir.to_owned(),
            uuid: identity.store_uuid,
            cluster_id: identity.cluster_id,
            node: identity.node,
            lock: Arc::new(lock),
        })
    }

    /// The lock, for whoever may change the directory a moment longer than the store is open.
    pub(crate) fn lock(&self) -> Weak<File> {
        Arc::downgrade(&self.lock)
    }

    /// Whether anybody has the lock besides.
    pub(crate) fn is_lock_shared(&self) -> bool {
        Arc::strong_count(&self.lock) > 1
    }
}

impl Drop for Store {
    /// Takes the pid out of the lock file, unless a helper thread keeps the lock: what it waits for
    /// might not answer here either.
    fn drop(&mut self) {
        if !self.is_lock_shared() {
            // The pid is only for people.
            let _ = self.lock.set_len(0);
        }
    }
}

fn is_formatted(dir: &Path) -> Result<bool, StoreError> {
    let failed = || io_error("list the data directory", dir);
    let mut foreign = None;
    for entry in fs::read_dir(dir).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        if name == IDENTITY_FILE {
            return Ok(true);
        }
        if !IGNORED_WHEN_FORMATTING
            .iter()
            .any(|ignored| name == *ignored)
        {
            foreign = Some(name.to_string_lossy().into_owned());
        }
    }
    match foreign {
        Some(found) => Err(StoreError::NotEmpty {
            dir: dir.to_owned(),
            found,
        }),
        None => Ok(false),
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_FILE);
    let failed = || io_error("lock", &path);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(StoreError::Locked {
                dir: dir.to_owned(),
                holder: Holder::named_in(&mut file),
            });
        }
        Err(errno) => return Err(failed()(errno.into())),
    }
    // The pid is only for people; the lock itself does not depend on it.
    file.set_len(0).map_err(failed())?;
    file.rewind().map_err(failed())?;
    writeln!(file, "{}", std::process::id()).map_err(failed())?;
    Ok(file)
}

fn io_error<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |error| {
        let (at, reason) = match told_of(&error) {
            // It is named already.
            Some((at, reason)) if at == path => (at, reason.to_owned()),
            Some((at, _)) => (at, error.to_string()),
            None => (path, error.to_string()),
        };
        StoreError::Io {
            action,
            path: path.to_owned(),
            reason,
            fix: fix_of(at, error.kind()),
        }
    }
}

/// What to do about an error at a data directory or one of its files, in words to append; empty if
/// that is not known.
pub(crate) fn fix_of(path: &Path, error: io::ErrorKind) -> String {
    use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied};
    let existing = path
        .ancestors()
        .find(|path| path.symlink_metadata().is_ok());
    let Some(existing) = existing else {
        return String::new();
    };
    let name = existing.display();
    let mut files = [LOCK_FILE, IDENTITY_FILE, IDENTITY_TEMPORARY_FILE].into_iter();
    let is_owned = existing == path || files.any(|file| path.ends_with(file));
    match error {
        AlreadyExists | NotADirectory if existing.is_file() => {
            format!("; {name} is a file, choose another directory")
        }
        PermissionDenied if is_owned => format!("; run as the owner of {name}, or chown it"),
        PermissionDenied => format!(
            "; make {} and chown it to the user that the broker runs as",
            path.display()
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
