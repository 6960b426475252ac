//! What a node stands on: an identity, a place for its journals, and what reaches it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use catena_protocol::ids::NodeId;
use uuid::Uuid;

use super::Storage;
use crate::limits::DRAIN_TIMEOUT;
use crate::runtime::executor::Files;
use crate::runtime::memory::MemoryDisk;
use crate::store::Store;

/// Where the journals are on a disk in memory.
const MEMORY_JOURNALS: &str = "/journals";

/// How often is looked whether helper threads have done what they had to.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// An open storage. Dropping it lets others open it.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) store_uuid: [u8; 16],
    pub(super) cluster_id: [u8; 16],
    pub(super) node: NodeId,
    pub(super) journals: PathBuf,
    pub(super) files: Files,
    store: Option<Store>,
}

impl Home {
    /// Opens a storage that nobody else has open.
    pub(super) fn open(storage: &Storage) -> Result<Home> {
        match storage {
            Storage::Memory => Ok(Home::in_memory()),
            Storage::Directory(dir) => Home::in_directory(dir),
        }
    }

    fn in_memory() -> Home {
        Home {
            store_uuid: Uuid::new_v4().into_bytes(),
            cluster_id: Uuid::new_v4().into_bytes(),
            node: NodeId::new(1),
            journals: PathBuf::from(MEMORY_JOURNALS),
            files: Files::Memory(Arc::new(MemoryDisk::default())),
            store: None,
        }
    }

    fn in_directory(dir: &Path) -> Result<Home> {
        // The program may change its directory while the broker runs.
        let dir = std::path::absolute(dir)
            .with_context(|| format!("cannot tell where {} is", dir.display()))?;
        let store = Store::open(&dir)?;
        let journals = store.dir.join("journals");
        // Flushed in any case: whoever made it may have been killed before its flush.
        std::fs::create_dir_all(&journals)
            .and_then(|()| std::fs::File::open(&store.dir)?.sync_all())
            .with_context(|| format!("cannot make {}", journals.display()))?;
        Ok(Home {
            store_uuid: store.uuid,
            cluster_id: store.cluster_id,
            node: store.node,
            journals,
            files: Files::Host,
            store: Some(store),
        })
    }

    /// The lock on the directory, if there is one.
    pub(super) fn lock(&self) -> Weak<File> {
        self.store.as_ref().map(Store::lock).unwrap_or_default()
    }
}

impl Drop for Home {
    /// Waits for helper threads that outlive their executors, or the next to open the directory
    /// would find it locked. A disk that hangs is not waited for.
    fn drop(&mut self) {
        let Some(store) = &self.store else { return };
        let began = Instant::now();
        while store.is_lock_shared() && began.elapsed() < DRAIN_TIMEOUT {
            thread::sleep(LOOK_INTERVAL);
        }
    }
}
