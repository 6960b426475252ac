//! The messages, one file per api.
