//! The newest offset of each key, by hash.
//!
//! Two keys with one hash would be taken for one, and the older record lost. So the hash has 128
//! bits and a secret key that is drawn anew for each pass: nobody can make two such keys on
//! purpose, and by chance it takes 10^18 of them.
//!
//! Invariant: the map never holds more than its limit, and never forgets. Any thread.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use catena_protocol::ids::Offset;
use rustc_hash::FxBuildHasher;
use siphasher::sip128::SipHasher24;
use thiserror::Error;

use crate::limits::COMPACTION_KEYS_MAX;

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash {
    low: u64,
    high: u64,
}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.low);
    }
}

/// Hashes keys with a secret (`SipHash-2-4`, 128 bits).
#[derive(Debug, Clone)]
pub struct KeyHasher {
    seeded: SipHasher24,
}

impl KeyHasher {
    /// A hasher with 128 random bits, drawn by the caller.
    pub fn new(secret: [u64; 2]) -> Self {
        Self {
            seeded: SipHasher24::new_with_keys(secret[0], secret[1]),
        }
    }

    /// The hash of `key`.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let hashed = self.seeded.hash(key);
        KeyHash {
            low: hashed.h1,
            high: hashed.h2,
        }
    }
}

/// The map has no room for another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the map of keys is full")]
pub struct KeysFull;

/// The newest offset of each key of a stretch of a partition. At most
/// [`COMPACTION_KEYS_MAX`] keys.
#[derive(Debug)]
pub struct KeyMap {
    newest: HashMap<KeyHash, Offset, FxBuildHasher>,
    keys_max: usize,
}

impl KeyMap {
    /// An empty map with room for `expected` keys, or as many as a map may have.
    pub fn new(expected: u64) -> Self {
        Self::with_limit(expected, COMPACTION_KEYS_MAX)
    }

    pub(super) fn with_limit(expected: u64, keys_max: usize) -> Self {
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        Self {
            // All at once: to grow it moves what is in it, which takes long.
            newest: HashMap::with_capacity_and_hasher(expected.min(keys_max), FxBuildHasher),
            keys_max,
        }
    }

    /// Notes a record. Offsets of a key may come in any order.
    ///
    /// # Errors
    /// [`KeysFull`] if the key is new and there is no room; nothing changes.
    pub fn note(&mut self, key: KeyHash, offset: Offset) -> Result<(), KeysFull> {
        if let Some(newest) = self.newest.get_mut(&key) {
            *newest = offset.max(*newest);
            return Ok(());
        }
        if self.newest.len() >= self.keys_max {
            return Err(KeysFull);
        }
        self.newest.insert(key, offset);
        Ok(())
    }

    /// The newest offset that was noted for a key.
    pub fn newest(&self, key: KeyHash) -> Option<Offset> {
        self.newest.get(&key).copied()
    }

    /// Keys noted.
    pub fn len(&self) -> usize {
        self.newest.len()
    }

    /// Whether nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }
}
