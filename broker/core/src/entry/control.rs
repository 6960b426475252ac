//! Bodies of the control frames and journal records that the core itself understands. Fixed
//! layouts; a body of another length is refused.
//!
//! ```text
//! Trim             0 topic u32 | 4 partition u32 | 8 log_start u64 | 16 dropped_bytes u64
//!                  24 first_timestamp_ms i64
//! DropTopic        0 topic u32 | 4 reserved u32
//! ProducerExpiry   n x { 0 topic u32 | 4 partition u32 | 8 producer u64 }
//! Truncate         0 keep_lsn u64
//! ```

use catena_protocol::ids::{Offset, PartitionId, ProducerId, TopicId, TopicPartition};

use crate::ids::Lsn;
use crate::layout::{i64_at, put_i64, put_u32, put_u64, u32_at, u64_at};

const TRIM_BYTES: usize = 32;
const DROP_TOPIC_BYTES: usize = 8;
const EXPIRY_ROW_BYTES: usize = 16;
const TRUNCATE_BYTES: usize = 8;

/// A control body has a length that its kind cannot have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("control body of {found} bytes, expected {expected} or a multiple")]
pub struct ControlBodyError {
    pub found: usize,
    pub expected: usize,
}

fn check_length(body: &[u8], expected: usize) -> Result<(), ControlBodyError> {
    if body.len() == expected {
        return Ok(());
    }
    Err(ControlBodyError {
        found: body.len(),
        expected,
    })
}

fn put_tp(out: &mut [u8], tp: TopicPartition) {
    put_u32(out, 0, tp.topic.0);
    put_u32(out, 4, tp.partition.0);
}

fn tp_at(body: &[u8]) -> TopicPartition {
    TopicPartition {
        topic: TopicId(u32_at(body, 0)),
        partition: PartitionId(u32_at(body, 4)),
    }
}

/// `log_start` of a partition moves up to here. What the batches below it held cannot be known
/// from the frames that are left, so the frame says it too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trim {
    pub tp: TopicPartition,
    pub log_start: Offset,
    /// Bytes of the batches below the new log start that were above the old one.
    pub dropped_bytes: u64,
    /// The latest record timestamp in the first extent that stays, in milliseconds since 1970;
    /// `i64::MIN` when none stays.
    pub first_timestamp_ms: i64,
}

impl Trim {
    /// The frame's body.
    pub fn encode(&self) -> [u8; TRIM_BYTES] {
        let mut out = [0; TRIM_BYTES];
        put_tp(&mut out, self.tp);
        put_u64(&mut out, 8, self.log_start.0);
        put_u64(&mut out, 16, self.dropped_bytes);
        put_i64(&mut out, 24, self.first_timestamp_ms);
        out
    }

    /// Reads the frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, ControlBodyError> {
        check_length(body, TRIM_BYTES)?;
        Ok(Self {
            tp: tp_at(body),
            log_start: Offset(u64_at(body, 8)),
            dropped_bytes: u64_at(body, 16),
            first_timestamp_ms: i64_at(body, 24),
        })
    }
}

/// Every partition of the topic that lives in the frame's chain is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropTopic {
    pub topic: TopicId,
}

impl DropTopic {
    /// The frame's body.
    pub fn encode(&self) -> [u8; DROP_TOPIC_BYTES] {
        let mut out = [0; DROP_TOPIC_BYTES];
        put_u32(&mut out, 0, self.topic.0);
        out
    }

    /// Reads the frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, ControlBodyError> {
        check_length(body, DROP_TOPIC_BYTES)?;
        Ok(Self {
            topic: TopicId(u32_at(body, 0)),
        })
    }
}

/// Producers whose state is forgotten, each in one partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProducerExpiry {
    pub rows: Vec<(TopicPartition, ProducerId)>,
}

impl ProducerExpiry {
    /// The frame's body.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; self.rows.len() * EXPIRY_ROW_BYTES];
        for (row, (tp, producer)) in out.chunks_exact_mut(EXPIRY_ROW_BYTES).zip(&self.rows) {
            put_tp(row, *tp);
            put_u64(row, 8, producer.0);
        }
        out
    }

    /// Reads the frame's body.
    pub fn decode(body: &[u8]) -> Result<Self, ControlBodyError> {
        if !body.len().is_multiple_of(EXPIRY_ROW_BYTES) {
            return Err(ControlBodyError {
                found: body.len(),
                expected: EXPIRY_ROW_BYTES,
            });
        }
        let row = |row: &[u8]| (tp_at(row), ProducerId(u64_at(row, 8)));
        Ok(Self {
            rows: body.chunks_exact(EXPIRY_ROW_BYTES).map(row).collect(),
        })
    }
}

/// Frames of the record's chain above `keep` are void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncate {
    pub keep: Lsn,
}

impl Truncate {
    /// The record's body.
    pub fn encode(&self) -> [u8; TRUNCATE_BYTES] {
        let mut out = [0; TRUNCATE_BYTES];
        put_u64(&mut out, 0, self.keep.0);
        out
    }

    /// Reads the record's body.
    pub fn decode(body: &[u8]) -> Result<Self, ControlBodyError> {
        check_length(body, TRUNCATE_BYTES)?;
        Ok(Self {
            keep: Lsn(u64_at(body, 0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bodies_have_golden_bytes() {
        let tp = TopicPartition {
            topic: TopicId(7),
            partition: PartitionId(9),
        };
        let trim = Trim {
            tp,
            log_start: Offset(0x0102_0304_0506_0708),
            dropped_bytes: 0x0203,
            first_timestamp_ms: -2,
        };
        let bytes = trim.encode();
        assert_eq!(
            bytes[..16],
            [7, 0, 0, 0, 9, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1]
        );
        assert_eq!(bytes[16..24], [3, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[24..], [0xfe, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(Trim::decode(&trim.encode()), Ok(trim));
        let drop = DropTopic {
            topic: TopicId(258),
        };
        assert_eq!(drop.encode(), [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(DropTopic::decode(&drop.encode()), Ok(drop));
        let truncate = Truncate { keep: Lsn(5) };
        assert_eq!(truncate.encode(), [5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Truncate::decode(&truncate.encode()), Ok(truncate));
        let expiry = ProducerExpiry {
            rows: vec![(tp, ProducerId(3)), (tp, ProducerId(4))],
        };
        let bytes = expiry.encode();
        assert_eq!(
            bytes[16..],
            [7, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(ProducerExpiry::decode(&bytes), Ok(expiry));
    }

    #[test]
    fn a_body_of_another_length_is_refused() {
        assert!(Trim::decode(&[0; 31]).is_err());
        assert!(DropTopic::decode(&[0; 9]).is_err());
        assert!(Truncate::decode(&[]).is_err());
        assert!(ProducerExpiry::decode(&[0; 17]).is_err());
        assert_eq!(ProducerExpiry::decode(&[]), Ok(ProducerExpiry::default()));
    }
}
