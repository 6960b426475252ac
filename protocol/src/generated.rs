//! The code that `flatc` makes out of `schema/`. Checked in; the compiler is no part of a build.
//!
//! To make it anew, or to check that it is what the schema gives, see `schema/codegen`. The file
//! `generated/STAMP` holds checksums of schema and code, which a test compares.

#[allow(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    unused,
    unreachable_pub,
    mismatched_lifetime_syntaxes,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::host_endian_bytes
)]
#[rustfmt::skip]
mod catena_generated;

pub(crate) use catena_generated::catena::wire;
