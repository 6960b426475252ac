//! What an end-to-end record carries in front of its value. Pure.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | run, so that records of other runs in the topic are passed over |
//! | 8..16 | intended send time, nanoseconds on the process's clock |
//! | 16..24 | number of the record among those of its producer |
//! | 24..28 | producer |

use crate::limits::STAMP_BYTES;

/// The stamp of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) run: u64,
    pub(crate) intended_ns: u64,
    pub(crate) number: u64,
    pub(crate) producer: u32,
}

impl Stamp {
    /// Writes the stamp over the first bytes of `value`, which must hold it.
    pub(crate) fn write(&self, value: &mut [u8]) {
        value[0..8].copy_from_slice(&self.run.to_le_bytes());
        value[8..16].copy_from_slice(&self.intended_ns.to_le_bytes());
        value[16..24].copy_from_slice(&self.number.to_le_bytes());
        value[24..28].copy_from_slice(&self.producer.to_le_bytes());
    }

    /// The stamp of `value` if it is of run `run`.
    pub(crate) fn read(value: &[u8], run: u64) -> Option<Self> {
        let bytes: &[u8; STAMP_BYTES] = value.first_chunk()?;
        let word = |at: usize| {
            let bytes = bytes[at..at + 8]
                .first_chunk()
                .expect("a stamp has three words");
            u64::from_le_bytes(*bytes)
        };
        let producer = bytes[24..]
            .first_chunk()
            .expect("four bytes follow the words");
        let stamp = Self {
            run: word(0),
            intended_ns: word(8),
            number: word(16),
            producer: u32::from_le_bytes(*producer),
        };
        (stamp.run == run).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_only_by_its_run() {
        let stamp = Stamp {
            run: 7,
            intended_ns: u64::MAX - 1,
            number: 3,
            producer: 9,
        };
        let mut value = [0xee; 64];
        stamp.write(&mut value);
        assert_eq!(Stamp::read(&value, 7), Some(stamp));
        assert_eq!(Stamp::read(&value, 8), None);
        assert_eq!(Stamp::read(&value[..STAMP_BYTES - 1], 7), None);
        assert!(value[STAMP_BYTES..].iter().all(|byte| *byte == 0xee));
    }
}
