//! Hands libfuzzer's bytes to `catena_fuzz::requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::requests(data));
