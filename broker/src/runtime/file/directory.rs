//! Directories whose names survive a power cut. Blocks: for helper threads, and for the start.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use catena_core::planted::{self, Bug};

use super::in_context;

/// Readable for the broker's user and group only: it holds the messages.
const DIRECTORY_MODE: u32 = 0o750;

/// Creates a directory and its missing parents, and makes the name of each durable.
///
/// # Errors
/// What the operating system says; the message names the operation and the path.
///
/// ```
/// use catena_broker::runtime::file::create_dir_durably;
///
/// let above = tempfile::tempdir()?;
/// create_dir_durably(&above.path().join("data/journals"))?;
/// assert!(above.path().join("data/journals").is_dir());
/// # std::io::Result::Ok(())
/// ```
pub fn create_dir_durably(path: &Path) -> io::Result<()> {
    create_levels(path, &mut sync)
}

fn create_levels(path: &Path, sync: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut above = Some(path);
    while let Some(directory) = above.filter(|directory| !directory.is_dir()) {
        missing.push(directory);
        above = Some(parent(directory));
    }
    for directory in missing.iter().rev() {
        // Recursive: somebody else may make it at the same time.
        let mut builder = DirBuilder::new();
        let made = builder
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory);
        made.map_err(|error| in_context("create directory", directory, &error))?;
        sync(parent(directory))?;
    }
    if !missing.is_empty() {
        return Ok(());
    }
    // A process that was killed may have made it and not come to flush it.
    match sync(parent(path)) {
        // It lies in a directory that only its maker may read, and whose business its name is.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Makes the name of a file or directory durable.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    sync(parent(path))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the operating system says; the message names the operation and the path.
pub fn sync(path: &Path) -> io::Result<()> {
    if planted::is(Bug::MissingDirectoryFlush) {
        return Ok(());
    }
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| in_context("flush", path, &error))
}

fn parent(path: &Path) -> &Path {
    let above = path.parent().unwrap_or(path);
    if above.as_os_str().is_empty() {
        Path::new(".")
    } else {
        above
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_name_of_each_level_is_flushed_where_it_stands() {
        let above = tempfile::tempdir().expect("a temporary directory");
        let above = above.path();
        let flushed_for = |path: &Path| {
            let mut flushed: Vec<PathBuf> = Vec::new();
            let mut sync = |path: &Path| {
                flushed.push(path.to_owned());
                Ok(())
            };
            create_levels(path, &mut sync).expect("it can be made");
            flushed
        };
        let path = above.join("a/b/c");
        assert_eq!(
            flushed_for(&path),
            [above.to_owned(), above.join("a"), above.join("a/b")]
        );
        assert_eq!(
            flushed_for(&path),
            [above.join("a/b")],
            "also if it is there"
        );
    }

    #[test]
    fn a_directory_in_one_that_may_not_be_read_can_be_used() {
        let above = tempfile::tempdir().expect("a temporary directory");
        let refused = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
        let there = above.path();
        assert!(create_levels(there, &mut { refused }).is_ok());
        let new = there.join("new");
        assert!(
            create_levels(&new, &mut { refused }).is_err(),
            "its name is not durable"
        );
    }
}
