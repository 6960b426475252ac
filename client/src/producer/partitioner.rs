//! Which partition a record goes to.
//!
//! Invariant: the choice for a key depends on the key and the partition count alone, on every
//! platform and in every version: `xxh3_64(key, seed 0) % partitions`.

use xxhash_rust::xxh3::xxh3_64;

/// How a record without an explicit partition finds one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Partitioner {
    /// By the hash of the key; without a key as [`Partitioner::Sticky`].
    #[default]
    KeyHash,
    /// Fills one partition's batch, then moves on to the next, whatever the key. Large batches
    /// with little delay.
    Sticky,
}

/// The partition of a key: XXH3 (64 bit, seed 0) of the key, modulo the count of partitions.
///
/// ```
/// use catena_client::partition_of_key;
///
/// assert_eq!(partition_of_key(b"customer-17", 12), partition_of_key(b"customer-17", 12));
/// ```
///
/// # Panics
/// If there are no partitions.
pub fn partition_of_key(key: &[u8], partitions: u32) -> u32 {
    assert!(partitions > 0, "a topic has a partition");
    let partition = xxh3_64(key) % u64::from(partitions);
    u32::try_from(partition).expect("smaller than a u32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_partitions_for_ever() {
        // Changing these numbers breaks the order of every keyed topic.
        let keys: [&[u8]; 4] = [b"", b"a", b"customer-17", b"\xff\x00"];
        let golden = keys.map(|key| (xxh3_64(key), partition_of_key(key, 12)));
        assert_eq!(
            golden[0].0, 0x2d06_8005_38d3_94c2,
            "XXH3 of nothing, from its specification"
        );
        assert_eq!(golden.map(|(_, partition)| partition), [10, 7, 8, 3]);
    }
}
