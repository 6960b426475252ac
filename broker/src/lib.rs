//! Catena's broker: shards, journals, network and the node around them.
//!
//! The rules live in `catena-core`; this crate carries out what they decide.

#![deny(unsafe_code)]

pub mod admin;
pub mod config;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod runtime;
pub mod status;
pub mod store;
pub mod watchdog;
