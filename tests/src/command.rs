//! The `catena` program, as a user runs it.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use crate::broker::Broker;
use crate::programs;

/// The program, told where the broker is.
pub fn catena(broker: &Broker) -> Command {
    let mut command = Command::new(programs::catena());
    command.env_clear().stdin(Stdio::null());
    command.args(["--broker", broker.addr()]);
    command
}

/// Runs the program to its end and gives its standard output.
///
/// # Panics
/// If it does not report success.
pub fn run(broker: &Broker, args: &[&OsStr]) -> Vec<u8> {
    let output = catena(broker)
        .args(args)
        .output()
        .expect("catena can be run");
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    output.stdout
}

/// What a program wrote to standard error.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
