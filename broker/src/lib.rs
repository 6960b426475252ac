//! Catena's broker: shards, journals, network and the node around them.
//!
//! The rules live in `catena-core`; this crate carries out what they decide.

#![deny(unsafe_code)]

pub mod admin;
pub mod boot;
pub mod cache;
pub mod config;
pub mod control;
pub mod journal;
pub mod limits;
pub mod logging;
pub mod metrics;
mod patience;
mod port;
pub mod runtime;
pub mod server;
pub mod shard;
pub mod signals;
pub mod startup;
pub mod status;
pub mod store;
pub mod watchdog;
