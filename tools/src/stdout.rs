//! Answers on standard output. Unlike `println!`, a reader that has gone away is an error here and
//! not a panic; see [`crate::exit`] for what becomes of it.

use std::fmt::Display;
use std::io::{self, Write as _};

use anyhow::Context as _;

/// Writes an answer as it is.
pub(crate) fn print(text: impl Display) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{text}")
        .and_then(|()| out.flush())
        .context("write to standard output")
}

/// Writes an answer and a newline.
pub(crate) fn print_line(text: impl Display) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))
}
