//! The `catena-broker` program.

use std::process::ExitCode;

mod program;

#[cfg(all(feature = "planted-bugs", not(debug_assertions)))]
compile_error!("a release of catena-broker must not be able to plant bugs");

fn main() -> ExitCode {
    // A test build of another target of this package builds this program, too.
    if cfg!(feature = "planted-bugs") {
        eprintln!("catena-broker: this build can plant bugs; run catena-broker-planted instead");
        return ExitCode::FAILURE;
    }
    program::main(std::env::vars_os())
}
