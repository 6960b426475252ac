//! Load on a broker through the client crate.
//!
//! `threads` runs the load threads and `session` what lies around them; `drive` sends and reaps
//! by `schedule` or bound; `sender` and `receive` are the only files that know the client's
//! producer and consumer.

pub(crate) mod consume;
mod contents;
mod drive;
pub(crate) mod e2e;
mod fit;
mod in_flight;
mod marks;
mod picker;
pub(crate) mod produce;
mod producing;
mod receipts;
mod receive;
mod sender;
mod session;
mod stamp;
mod target;
mod threads;
