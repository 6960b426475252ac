//! Hands libfuzzer's bytes to `catena_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::config(data));
