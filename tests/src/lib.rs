//! What the end-to-end tests share: the real programs, started, killed and restarted, and peers
//! that speak to them.
//!
//! The tests themselves are in `tests/`, one file for each promise. Invariant: a test ends only
//! processes that it started, and leaves nothing behind but what a failed test needs.
//!
//! The programs are those of this workspace, built in the profile of the tests. To test others (an
//! installed release, say), name their directory in `CATENA_TESTS_PROGRAMS`.

#![forbid(unsafe_code)]

pub mod broker;
pub mod churn;
pub mod clients;
pub mod command;
pub mod compacting;
pub mod crowd;
pub mod cuts;
pub mod disk_faults;
pub mod evidence;
pub mod filler;
pub mod flips;
pub mod growth;
pub mod history;
pub mod home;
pub mod hourly;
pub mod idle;
pub mod index_pages;
pub mod load;
pub mod machine;
pub mod metrics;
pub mod peer;
pub mod powerfs;
pub mod process;
pub mod programs;
pub mod reading;
pub mod seeded;
pub mod soak;
pub mod stalls;
pub mod steal;
pub mod wait;
pub mod witness;
