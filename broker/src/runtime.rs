//! The runtime: executors, tasks, clock, buffers, files, connections, channels.
//!
//! This module is the only place with `unsafe`. Everything above it sees concrete types with plain
//! `std` signatures, which a simulation provides in its own way.
//!
//! Invariant: a value made on an executor's thread (a task, a buffer, a file, a connection) stays
//! on that thread. What crosses threads is `Send` by construction: channels, file descriptors and
//! [`executor::Progress`].

#![allow(unsafe_code)]

pub mod buffer;
pub mod channel;
pub mod clock;
pub mod executor;
pub mod file;
pub mod memory;
pub mod net;
pub mod probe;
pub mod random;
mod reactor;
mod ring;
#[cfg(feature = "simulation")]
pub mod simulated;
mod timers;

#[cfg(test)]
pub(crate) mod testing;
