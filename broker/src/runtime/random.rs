//! Randomness: the operating system's, or a seeded sequence for simulation and tests.
//!
//! The seed belongs to the thread, so each executor of a simulation has its own sequence.

use std::cell::Cell;

thread_local! {
    static SEEDED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes [`u64()`] on this thread return one fixed sequence from now on.
pub fn seed(seed: u64) {
    SEEDED.set(Some(seed));
}

/// 64 random bits.
///
/// # Panics
/// If the kernel refuses `getrandom`, which it cannot after boot.
pub fn u64() -> u64 {
    match SEEDED.get() {
        Some(state) => {
            // SplitMix64 (Steele, Lea, Flood 2014): equidistributed, any seed is good.
            let state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            SEEDED.set(Some(state));
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        }
        None => from_kernel(),
    }
}

fn from_kernel() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the pointer and length describe `bytes`, which outlives the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Requests of up to 256 bytes are never cut short or interrupted.
    assert_eq!(
        got,
        8,
        "getrandom failed: {}",
        std::io::Error::last_os_error()
    );
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_seed_fixes_the_sequence_of_its_thread() {
        let sequence = |seed| {
            std::thread::spawn(move || {
                super::seed(seed);
                [super::u64(), super::u64(), super::u64()]
            })
            .join()
            .expect("the thread only counts")
        };
        assert_eq!(sequence(7), sequence(7));
        assert_ne!(sequence(7), sequence(8));
    }

    #[test]
    fn unseeded_values_differ() {
        assert_ne!(super::u64(), super::u64());
    }
}
