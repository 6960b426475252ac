//! Hands libfuzzer's bytes to `catena_fuzz::block`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::block(data));
