//! How the program ends: exit codes that scripts can rely on, and errors with a hint.
//!
//! Invariant: every failure that a user can cause or mend ends in a [`Failure`] with the code that
//! says which kind it is; anything else ends with code 1.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// Shown under `--help`; the numbers are stable.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed for a reason not listed here
  2  wrong usage: unknown option, malformed value, input that cannot be read or sent
  3  not found: topic, partition, or directory
  4  the broker is unavailable or did not answer in time; the same command may work later
  5  stored data is corrupt";

/// Why the program ends. The discriminants are the exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Unavailable = 4,
    Corrupt = 5,
}

/// An error with its exit code and what the user can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Reports an error on stderr and gives the exit code for it. A closed output is no error: the
/// reader, `head` for example, has what it wanted.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    let failure = error.downcast_ref::<Failure>();
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_deref()) {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(failure.map_or(Exit::Failed, |failure| failure.exit) as u8)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io_errors = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    io_errors
        .map(io::Error::kind)
        .any(|kind| kind == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_failure_keeps_its_code_under_added_context() {
        let failure = Failure::new(Exit::NotFound, "topic t not found").hint("catena topic list");
        let error = Err::<(), _>(failure).context("offsets").unwrap_err();
        assert_eq!(report(&error), ExitCode::from(3));
        assert_eq!(report(&anyhow::anyhow!("anything else")), ExitCode::from(1));
    }

    #[test]
    fn a_closed_output_is_success() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        let error = anyhow::Error::from(closed).context("write to stdout");
        assert_eq!(report(&error), ExitCode::SUCCESS);
    }
}
