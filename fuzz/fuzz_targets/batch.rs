//! Hands libfuzzer's bytes to `catena_fuzz::batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::batch(data));
