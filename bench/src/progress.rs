//! A line of progress on standard error, only when that is a terminal.

use std::io::{IsTerminal, Write, stderr};

/// One line, rewritten in place.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    /// Shows nothing unless standard error is a terminal.
    pub(crate) fn new() -> Self {
        Self {
            shown: stderr().is_terminal(),
        }
    }

    /// Replaces the line. A terminal that has gone away must not fail a run.
    pub(crate) fn show(&self, text: &str) {
        if self.shown {
            let mut out = stderr().lock();
            let _ = write!(out, "\r\x1b[K{text}");
            let _ = out.flush();
        }
    }
}

impl Progress {
    /// Leaves a line behind: on a terminal instead of the line of progress.
    pub(crate) fn note(&self, text: &str) {
        self.show("");
        eprintln!("{text}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.show("");
    }
}
