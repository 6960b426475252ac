//! The client against a broker that lives in the test and fails on command.

mod admin;
mod consumer;
mod delivery;
mod faults;
mod support;
mod topic_ids;
