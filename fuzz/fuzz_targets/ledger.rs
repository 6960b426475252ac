//! Hands libfuzzer's bytes to `catena_fuzz::ledger`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catena_fuzz::ledger(data));
