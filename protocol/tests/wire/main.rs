//! The wire format as others see it: golden bytes, round trips, and foreign bytes.

mod any_bytes;
mod document;
mod golden;
mod round_trip;
mod samples;
