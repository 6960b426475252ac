//! Reads in as many tries as it takes, within reason: what a disk refuses for a moment is not
//! damaged, and neither is anything on a disk that is away.
//!
//! A place counts as unreadable, which is damage like any other, once the medium has refused it in
//! as many tries as there are [`READ_PAUSES`] and one more, and gave something else each time. A
//! file that has such a place gets two tries for each other place, so that one with many does not
//! cost seconds for each. What was read and is not what was written is looked at twice, at once.
//! Every other error says nothing about what is stored. Runs on any executor.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use catena_core::limits::BLOCK_ALIGN;
use tracing::warn;

use crate::limits::READ_PAUSES;
use crate::runtime::buffer::{self, Buffer};
use crate::runtime::clock;
use crate::runtime::file::{self, FileAgent, LogFile};

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing is known of what is stored there: the disk is away, or the host refuses.
    #[error("{0}")]
    Failed(io::Error),
    /// The medium refuses this place, time after time, and gives others.
    #[error("{0}")]
    Unreadable(io::Error),
    /// What was read, twice, is not what was written.
    #[error("{0}")]
    Wrong(io::Error),
}

impl Refusal {
    /// The damage that this is.
    ///
    /// # Errors
    /// If it says nothing about what is stored, for an operator who starts a broker.
    pub fn damage(self) -> io::Result<io::Error> {
        match self {
            Refusal::Unreadable(error) | Refusal::Wrong(error) => Ok(error),
            Refusal::Failed(error) => {
                let text = format!(
                    "{error}: this says nothing about what is stored, so nothing was changed; see \
                     that the disk answers and the broker may read it, and start again"
                );
                Err(io::Error::new(error.kind(), text))
            }
        }
    }
}

/// Reads one directory's files, or those of a whole disk.
#[derive(Debug)]
pub struct Patience {
    /// Files of which one can be read as long as the disk gives anything.
    probes: Vec<PathBuf>,
    /// Whether a disk that is away is waited for, too.
    waits_for_disk: bool,
    /// Files with a place that is known to be unreadable.
    unreadable: RefCell<BTreeSet<PathBuf>>,
}

impl Patience {
    /// For readers, who come again: one for whom the disk is away is told so at once. `probe` is a
    /// file of two pages that is always there.
    pub fn of_readers(probe: PathBuf) -> Patience {
        Patience {
            probes: vec![probe],
            waits_for_disk: false,
            unreadable: RefCell::default(),
        }
    }

    /// For a start, which comes once, with the journal in `dir`.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub async fn of_start(agent: &FileAgent, dir: &Path) -> io::Result<Patience> {
        let listed = agent.list(dir).await?;
        let files = listed.iter().filter(|entry| !entry.is_directory);
        Ok(Patience {
            probes: files.map(|entry| dir.join(&entry.name)).collect(),
            waits_for_disk: true,
            unreadable: RefCell::default(),
        })
    }

    /// What `read` gives, which reads from the file that `path` names; `InvalidData` of it is what
    /// was read wrongly. Cancel-safe if `read` is.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn read<T>(
        &self,
        path: impl Fn() -> PathBuf,
        read: impl AsyncFn() -> io::Result<T>,
    ) -> Result<T, Refusal> {
        let (mut pauses, mut was_wrong, mut was_away) = (None, false, false);
        loop {
            let error = match read().await {
                Ok(read) => return Ok(read),
                Err(error) if file::is_of_medium(&error) => error,
                Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                    return Err(Refusal::Failed(error));
                }
                Err(error) if was_wrong => return Err(Refusal::Wrong(error)),
                Err(_) => {
                    was_wrong = true;
                    continue;
                }
            };
            was_away |= self.is_away().await;
            if was_away && !self.waits_for_disk {
                return Err(Refusal::Failed(error));
            }
            let pauses = pauses.get_or_insert_with(|| self.pauses(&path()).iter());
            match pauses.next() {
                Some(pause) => {
                    warn!(%error, "cannot read a part of a file; trying again");
                    clock::sleep(*pause).await;
                }
                None if was_away => return Err(Refusal::Failed(error)),
                None => {
                    self.unreadable.borrow_mut().insert(path());
                    return Err(Refusal::Unreadable(error));
                }
            }
        }
    }

    /// As [`read`](Self::read) for `bytes` whole pages, with zeros for those that cannot be read as
    /// long as the first one can: then what is lost is a part of a block and not all of it. `read`
    /// takes the distance from the first, and how many bytes.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn read_what_is_there(
        &self,
        path: impl Fn() -> PathBuf,
        bytes: usize,
        read: impl AsyncFn(usize, usize) -> io::Result<Buffer>,
    ) -> Result<Buffer, Refusal> {
        let refused = match self.read(&path, async || read(0, bytes).await).await {
            Err(refused @ (Refusal::Unreadable(_) | Refusal::Wrong(_))) => refused,
            read => return read,
        };
        let mut whole = buffer::allocate(bytes);
        let mut read_bytes = 0;
        for start in (0..bytes).step_by(BLOCK_ALIGN) {
            let page = &mut whole[start..start + BLOCK_ALIGN];
            match self
                .read(&path, async || read(start, BLOCK_ALIGN).await)
                .await
            {
                Ok(read) if read.len() < BLOCK_ALIGN => break,
                Ok(read) => page.copy_from_slice(&read),
                Err(failed @ Refusal::Failed(_)) => return Err(failed),
                Err(_) if start == 0 => return Err(refused),
                // Memory of the pool may hold anything.
                Err(_) => page.fill(0),
            }
            read_bytes = start + BLOCK_ALIGN;
        }
        whole.truncate(read_bytes);
        Ok(whole)
    }

    fn pauses(&self, path: &Path) -> &'static [std::time::Duration] {
        if self.unreadable.borrow().contains(path) {
            &READ_PAUSES[..1]
        } else {
            &READ_PAUSES
        }
    }

    /// Whether the disk gives nothing at all.
    async fn is_away(&self) -> bool {
        for probe in &self.probes {
            let Ok(file) = LogFile::open(probe, false).await else {
                continue;
            };
            // The place that is asked for may be one of them.
            for page in [0, 4096] {
                let read = file.read(page, BLOCK_ALIGN).await;
                if read.is_ok_and(|bytes| !bytes.is_empty()) {
                    return false;
                }
            }
        }
        let (first, count) = (self.probes.first(), self.probes.len());
        warn!(?first, count, "the disk gives nothing of these files");
        true
    }
}
