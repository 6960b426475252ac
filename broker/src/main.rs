//! The `catena-broker` program.

use std::process::ExitCode;

mod program;

// A debug build of another target of this package builds this program, too: without a choice from
// `catena-broker-planted` no bug is switched on in it.
#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("a release of catena-broker must not be able to plant bugs");

fn main() -> ExitCode {
    program::main(std::env::vars_os())
}
