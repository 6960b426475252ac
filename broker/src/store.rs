//! A data directory: its lock, its identity, its format version, its space.
//!
//! Invariant: while a [`Store`] exists, or anybody has its lock, no other process (and no second
//! broker in this one) has the same directory open. Runs on the starting thread, before any shard
//! exists.
//!
//! ```text
//! DATA/LOCK          locked (flock) for the life of the process; holds its pid as text
//! DATA/store.toml    format, store_uuid, cluster_id, node, created, checksum; written once
//! DATA/journals/     see the journal
//! ```

mod identity;
mod space;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use catena_protocol::ids::NodeId;
use rustix::fs::FlockOperation;
use thiserror::Error;

pub use space::{Space, default_space_bytes};

use crate::runtime::file::create_dir_durably;
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
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "the data directory {} is in use by {}; stop that broker, or choose another directory",
        dir.display(),
        describe_holder(*holder)
    )]
    Locked { dir: PathBuf, holder: Option<u32> },
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
        "{} is damaged: {reason}; try `catena journal repair` on its directory, or restore it from \
         a backup",
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

fn describe_holder(holder: Option<u32>) -> String {
    match holder {
        None => "another process".to_owned(),
        Some(pid) if pid == std::process::id() => "another broker in this process".to_owned(),
        Some(pid) => format!("process {pid}"),
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
            let mut text = String::new();
            let holder = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(StoreError::Locked {
                dir: dir.to_owned(),
                holder,
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
    move |source| StoreError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
