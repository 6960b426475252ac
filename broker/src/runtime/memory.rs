//! Files in memory, for brokers inside other programs and for tests.
//!
//! An executor whose files lie on a [`MemoryDisk`] needs no `io_uring` and no directory, and so
//! nothing that a container could forbid.

mod disk;
mod file;

pub use disk::MemoryDisk;
pub(in crate::runtime) use file::OpenMemoryFile;

#[cfg(test)]
mod tests;
