//! Errors of file work: the operating system's, with the operation and the path in the message.
//!
//! Pure; any thread.

use std::io;
use std::path::{Path, PathBuf};

/// What the kernel says when a medium does not give what is stored there: `EIO`, `ENODATA` (a bad
/// sector), `EILSEQ` (a failed integrity check), and `EBADMSG` and `EUCLEAN` (a damaged file
/// system). Everything else is about the host, the connection to the disk, or the name.
const MEDIUM_ERRORS: [i32; 5] = [
    libc::EIO,
    libc::ENODATA,
    libc::EILSEQ,
    libc::EBADMSG,
    libc::EUCLEAN,
];

/// The name of the operation that makes bytes or names durable.
const FLUSH: &str = "flush";

#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {reason}", path.display())]
struct InContext {
    operation: &'static str,
    path: PathBuf,
    reason: String,
    code: Option<i32>,
}

/// The same kind of error, with the operation and the path in its message.
pub(in crate::runtime) fn in_context(
    operation: &'static str,
    path: &Path,
    error: &io::Error,
) -> io::Error {
    let context = InContext {
        operation,
        path: path.to_owned(),
        reason: error.to_string(),
        code: error.raw_os_error(),
    };
    io::Error::new(error.kind(), context)
}

/// Whether the medium refused to give what is stored, so that another try may fare the same.
pub fn is_of_medium(error: &io::Error) -> bool {
    let code = context(error).map_or(error.raw_os_error(), |context| context.code);
    code.is_some_and(|code| MEDIUM_ERRORS.contains(&code))
}

/// Whether a flush of a file or directory failed: what it covered may be lost, whatever a later
/// flush says.
pub fn is_failed_flush(error: &io::Error) -> bool {
    context(error).is_some_and(|context| context.operation == FLUSH)
}

/// The path that the message of an error names, and what the operating system said of it.
pub fn told_of(error: &io::Error) -> Option<(&Path, &str)> {
    context(error).map(|context| (context.path.as_path(), context.reason.as_str()))
}

fn context(error: &io::Error) -> Option<&InContext> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_what_was_done_and_the_kind_and_cause_stay() {
        let path = Path::new("/data/x");
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let full = in_context("create", path, &full);
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert!(full.to_string().starts_with("create /data/x: No space"));
        let (named, reason) = told_of(&full).expect("both were given");
        assert!(named == path && reason.starts_with("No space"), "{reason}");
        assert!(!is_of_medium(&full) && !is_failed_flush(&full));

        let refused = io::Error::from_raw_os_error(libc::EIO);
        assert!(is_of_medium(&refused));
        assert!(is_of_medium(&in_context("read", path, &refused)));
        assert!(is_failed_flush(&in_context("flush", path, &refused)));
        assert!(!is_failed_flush(&in_context("rename", path, &refused)));
    }
}
