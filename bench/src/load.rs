//! Load on a broker.
//!
//! `measure` runs a workload and reports it; `run` has its producers and consumers, `threads` the
//! load threads, `session` what lies around them. `drive` sends and reaps by `schedule` or bound,
//! `caller` makes what is sent, `receiving` takes what arrives. Only `consume`, which takes whole
//! batches as they are, knows a client; everything else knows the traits of `systems`.

mod arrivals;
mod caller;
pub(crate) mod consume;
mod contents;
mod drive;
pub(crate) mod e2e;
mod fit;
mod in_flight;
mod marks;
pub(crate) mod measure;
pub(crate) mod meter;
mod picker;
pub(crate) mod produce;
mod receipts;
mod receiving;
mod run;
pub(crate) mod session;
mod stamp;
mod threads;
pub(crate) mod workload;
