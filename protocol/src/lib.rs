//! The wire and batch formats of Catena: what goes over a connection and what lies on disk.
//!
//! - [`frame`]: the prefix of every request and response.
//! - [`messages`]: one file per api, owned structs or views with `encode` and `decode`.
//! - [`batch`] and [`record`]: the record batch, built by producers, stored and sent unchanged.
//! - [`error`]: the stable error codes and what a client does about each.
//! - [`ids`] and [`limits`]: the quantities and every bound.
//!
//! `docs/PROTOCOL.md` describes the same, byte by byte, for other languages.
//!
//! Invariants: no I/O, no clock, no threads; whatever bytes a decoder is given, it answers with a
//! value or an error and never panics; sizes are bounded before memory is taken for them.
//! All numbers are little-endian.

#![deny(unsafe_code)]

pub mod batch;
mod bytes_at;
pub mod compression;
pub mod error;
pub mod frame;
mod generated;
pub mod ids;
pub mod limits;
pub mod messages;
pub mod record;
