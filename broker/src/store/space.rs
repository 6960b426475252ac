//! How much a store may use: the free space of its file system and what it already holds.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::limits::SPACE_DEFAULT_PERCENT;

/// Bytes on the file system of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What the file system can still give to this user.
    pub free_bytes: u64,
    /// What the data directory holds now, as allocated blocks.
    pub used_bytes: u64,
}

impl Space {
    /// Looks at `dir`, or, if it does not exist yet, at the nearest directory above that does.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(dir)?;
        let existing = absolute.ancestors().find(|path| path.exists());
        let found = rustix::fs::statvfs(existing.unwrap_or(Path::new("/")))?;
        let free_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        let used_bytes = if absolute.is_dir() {
            allocated_bytes(&absolute)?
        } else {
            0
        };
        Ok(Self {
            free_bytes,
            used_bytes,
        })
    }

    /// The budget by default: [`SPACE_DEFAULT_PERCENT`] of free and used.
    pub fn default_budget_bytes(self) -> u64 {
        self.free_bytes.saturating_add(self.used_bytes) / 100 * SPACE_DEFAULT_PERCENT
    }
}

/// The default space budget of a store in `dir`.
///
/// The budget hardly depends on how full the store is: what it uses counts as available to it.
pub fn default_space_bytes(dir: &Path) -> io::Result<u64> {
    Space::of(dir).map(Space::default_budget_bytes)
}

fn allocated_bytes(dir: &Path) -> io::Result<u64> {
    let mut total: u64 = 0;
    let mut directories = vec![dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // Files may go while they are counted: the holder of the lock may be another broker.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                // st_blocks counts 512-byte units whatever the file system's block size.
                total = total.saturating_add(metadata.blocks().saturating_mul(512));
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_counts_what_the_store_already_holds() {
        let space = Space {
            free_bytes: 1_000_000,
            used_bytes: 3_000_000,
        };
        assert_eq!(space.default_budget_bytes(), 3_400_000);
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_measured_above() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let space = Space::of(&dir.path().join("not/yet")).expect("the file system answers");
        assert_eq!(space.used_bytes, 0);
        assert!(space.free_bytes > 0);
    }

    #[test]
    fn nested_files_are_counted_as_allocated() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let nested = dir.path().join("journals/000");
        fs::create_dir_all(&nested).expect("directories can be made");
        fs::write(nested.join("0000000001.seg"), vec![1; 100_000]).expect("a file can be written");
        // A file system may delay allocation until the file is flushed.
        fs::File::open(nested.join("0000000001.seg"))
            .and_then(|file| file.sync_all())
            .expect("a file can be flushed");
        let space = Space::of(dir.path()).expect("the file system answers");
        assert!(space.used_bytes >= 100_000, "{space:?}");
    }
}
