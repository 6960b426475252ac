//! The rules of the broker's storage engine, free of input and output.
//!
//! Every type here is a value or a state machine: events and bytes go in, decisions and bytes come
//! out. Nothing waits, reads a clock, draws a random number or opens a file, so each rule can be
//! tested alone and replayed by seed. The shell that carries decisions out is `catena-broker`.
//!
//! Two halves. The *journal* half defines what lies on disk and how it is read back after a crash:
//! [`entry`], [`block`], [`segment`], [`ledger`], [`scan`], with [`group`] and [`admission`]
//! deciding what is written when. The *log* half is the state those entries fold into.
#![forbid(unsafe_code)]

pub mod admission;
pub mod block;
pub mod checkpoint;
pub mod cleaner;
pub mod codec;
pub mod compaction;
pub mod entry;
pub mod group;
pub mod ids;
pub mod index;
mod layout;
pub mod ledger;
pub mod limits;
pub mod log;
pub mod metadata;
pub mod one_bit;
pub mod partition_map;
pub mod planted;
pub mod producer;
pub mod recover;
pub mod retention;
pub mod scan;
pub mod sealed_text;
pub mod segment;
pub mod slot;
