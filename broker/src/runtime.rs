//! The runtime facade: executors, tasks, clock, buffers, files, connections, channels.
//!
//! This module is the only place that names glommio and the only place with `unsafe`. Everything
//! above it sees concrete types with plain `std` signatures, so the backend can be replaced
//! without touching a shard. Each workaround for the backend is described where it is made.
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
pub mod net;
pub mod portable;
pub mod probe;
pub mod random;
#[cfg(feature = "simulation")]
pub mod simulated;

#[cfg(test)]
pub(crate) mod testing;
