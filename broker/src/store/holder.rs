//! Who has a data directory open, as far as that can be said.
//!
//! The lock file names the broker that took the lock last. It may have been killed since, and its
//! pid given to another process, while the lock is held by somebody who writes no pid: `catena
//! journal verify` and `repair`. So a pid is believed only of a living broker.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;

use crate::limits::TEXT_FILE_BYTES_MAX;

/// What the kernel calls the process of the server program; a name is cut to 15 bytes.
const PROGRAM: &str = "catena-broker";

/// Who has a data directory open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Own,
    /// A server program with this pid.
    Broker(u32),
    /// Anybody else: a program with a broker in it, or the command line tool.
    Unknown,
}

impl Holder {
    /// The holder that a lock file names.
    pub(super) fn named_in(lock_file: &mut File) -> Holder {
        let mut text = String::new();
        // It may be somebody else's file: what cannot be read names nobody.
        let read = lock_file
            .take(TEXT_FILE_BYTES_MAX)
            .read_to_string(&mut text);
        match text.trim().parse() {
            Ok(pid) if read.is_ok() => Holder::of_pid(pid),
            _ => Holder::Unknown,
        }
    }

    fn of_pid(pid: u32) -> Holder {
        if pid == std::process::id() {
            return Holder::Own;
        }
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        if name.is_ok_and(|name| name.starts_with(PROGRAM)) {
            Holder::Broker(pid)
        } else {
            Holder::Unknown
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Own => f.write_str("another broker in this process"),
            Holder::Broker(pid) => write!(f, "process {pid}"),
            Holder::Unknown => {
                f.write_str("another process (a broker, or `catena journal verify` or `repair`)")
            }
        }
    }
}
