//! The files of a data directory, found without a broker.
//!
//! ```text
//! DATA/{LOCK, store.toml}
//! DATA/journals/NNN/{NNNNNNNNNN.seg, spare-NNNN.seg, ledger, checkpoint-NNNNNNNNNN,
//!                   accepted-losses.json}
//! DATA/journals/999/metadata-NNNNNNNNNN
//! ```
//!
//! Nothing here writes. A shared lock is held while files are read, so that no broker starts on
//! them meanwhile; who repairs holds it alone.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use catena_core::ids::{JournalId, SegmentSeq};

use crate::exit::{Exit, Failure};

/// One journal's directory.
#[derive(Debug)]
pub(crate) struct JournalFiles {
    pub(crate) id: JournalId,
    pub(crate) dir: PathBuf,
    /// In order of sequence.
    pub(crate) segments: Vec<(SegmentSeq, PathBuf)>,
    /// In order of sequence.
    pub(crate) checkpoints: Vec<(u64, PathBuf)>,
    /// Of the metadata journal: its state, one beside each checkpoint.
    pub(crate) snapshots: Vec<(u64, PathBuf)>,
    pub(crate) ledger: Option<PathBuf>,
    /// Prepared or recycled segments that hold nothing yet.
    pub(crate) spares: usize,
}

/// What was found under the directory the user named.
#[derive(Debug)]
pub(crate) struct StoreFiles {
    pub(crate) journals: Vec<JournalFiles>,
    /// The store's lock file, if there is one.
    pub(crate) lock: Option<PathBuf>,
    /// The file that says who the store is, if a whole store was named and has one.
    pub(crate) identity: Option<PathBuf>,
}

/// Finds the journals of a data directory, or the one journal whose directory it is.
pub(crate) fn find(dir: &Path) -> anyhow::Result<StoreFiles> {
    let not_found = |what: &str| {
        Failure::new(Exit::NotFound, format!("{}: {what}", dir.display()))
            .hint("name a broker's data directory, or one directory under its journals/")
    };
    if !dir.is_dir() {
        return Err(not_found("no such directory").into());
    }
    let journals_dir = dir.join("journals");
    if !journals_dir.is_dir() {
        let journal = journal(dir)?.ok_or_else(|| not_found("holds no journal"))?;
        let lock = dir.join("../../LOCK");
        return Ok(StoreFiles {
            journals: vec![journal],
            lock: Some(lock).filter(|lock| lock.is_file()),
            identity: None,
        });
    }
    let mut journals = Vec::new();
    for path in entries(&journals_dir)? {
        journals.extend(journal(&path)?);
    }
    journals.sort_by_key(|journal| journal.id);
    let lock = Some(dir.join("LOCK")).filter(|lock| lock.is_file());
    let identity = Some(dir.join("store.toml")).filter(|identity| identity.is_file());
    Ok(StoreFiles {
        journals,
        lock,
        identity,
    })
}

/// A directory with a number for its name is a journal's; anything else is not.
fn journal(dir: &Path) -> anyhow::Result<Option<JournalFiles>> {
    // A path such as `.` has no name of its own.
    let real = dir
        .canonicalize()
        .with_context(|| dir.display().to_string())?;
    let Some(id) = file_name(&real).parse().ok().filter(|_| real.is_dir()) else {
        return Ok(None);
    };
    let mut found = JournalFiles {
        id: JournalId(id),
        dir: dir.to_owned(),
        segments: Vec::new(),
        checkpoints: Vec::new(),
        snapshots: Vec::new(),
        ledger: None,
        spares: 0,
    };
    for path in entries(dir)? {
        let name = file_name(&path);
        if name.starts_with("spare-") {
            found.spares += 1;
        } else if let Some(seq) = name.strip_suffix(".seg").and_then(|seq| seq.parse().ok()) {
            found.segments.push((SegmentSeq(seq), path));
        } else if let Some(seq) = name.strip_prefix("checkpoint-") {
            // Other suffixes are files that a crash left half written, and that nobody reads.
            found
                .checkpoints
                .extend(seq.parse().ok().map(|seq| (seq, path)));
        } else if let Some(seq) = name.strip_prefix("metadata-") {
            found
                .snapshots
                .extend(seq.parse().ok().map(|seq| (seq, path)));
        } else if name == "ledger" {
            found.ledger = Some(path);
        }
    }
    found.segments.sort_unstable();
    found.checkpoints.sort_unstable();
    found.snapshots.sort_unstable();
    Ok(Some(found))
}

fn entries(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let read = || {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()
    };
    read().with_context(|| format!("read {}", dir.display()))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Takes the store's lock alone, as a broker does, and makes it if it is not there.
pub(crate) fn guard_alone(store_dir: &Path) -> anyhow::Result<Guard> {
    let path = store_dir.join("LOCK");
    let opened = File::options().create(true).append(true).open(&path);
    let file = opened.with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Guard { _lock: Some(file) }),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Unavailable,
            "a broker or another command is using this data",
        )
        .hint("stop the broker first")
        .into()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}

/// Keeps brokers away from the files while it lives.
#[derive(Debug)]
pub(crate) struct Guard {
    _lock: Option<File>,
}

/// Whether the files may be read while a broker writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InUse {
    /// What is read may be half written: say so and go on.
    Warn,
    /// The answer would mean nothing.
    Refuse,
}

/// Takes the store's lock, shared with other readers.
pub(crate) fn guard(store: &StoreFiles, in_use: InUse) -> anyhow::Result<Guard> {
    let Some(path) = &store.lock else {
        return Ok(Guard { _lock: None });
    };
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Guard { _lock: Some(file) }),
        Err(TryLockError::WouldBlock) if in_use == InUse::Warn => {
            eprintln!("warning: a broker is using this data; its newest blocks may look torn");
            Ok(Guard { _lock: None })
        }
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Unavailable,
            "a broker is using this data",
        )
        .hint("stop the broker, or verify a snapshot of its directory")
        .into()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}
