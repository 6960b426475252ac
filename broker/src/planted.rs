//! The `catena-broker-planted` program: the broker with one bug switched on, for tests that claim
//! to find it.
//!
//! `CATENA_PLANTED_BUG` names the bug; without it the program is the broker.

use std::process::ExitCode;

use catena_core::planted::{self, Bug};

mod program;

const VARIABLE: &str = "CATENA_PLANTED_BUG";

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(VARIABLE) {
        let Some(bug) = Bug::from_name(&name) else {
            let known: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            eprintln!("{VARIABLE}: there is no bug {name:?}; there are {known:?}");
            return ExitCode::FAILURE;
        };
        planted::set(Some(bug));
        eprintln!("catena-broker-planted: planted {name}");
    }
    // The broker refuses variables of its own prefix that it does not know.
    program::main(std::env::vars_os().filter(|(name, _)| name != VARIABLE))
}
