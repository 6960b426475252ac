//! Appending fields to a byte vector: the mirror of [`super::Reader`].

use catena_protocol::ids::TopicPartition;

use crate::ids::{BlockLocation, JournalPos};

/// Appends fields to a byte vector; the mirror of [`Reader`](super::Reader).
pub(crate) trait Put {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    fn put_i64(&mut self, value: i64) {
        self.put(&value.to_le_bytes());
    }

    fn put_varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.put_u8(0x80 | u8::try_from(value & 0x7f).expect("seven bits fit in a byte"));
            value >>= 7;
        }
        self.put_u8(u8::try_from(value).expect("the loop left at most seven bits"));
    }

    fn put_zigzag(&mut self, value: i64) {
        self.put_varint(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn put_string(&mut self, value: &str) {
        let length = u16::try_from(value.len()).expect("limits keep strings below 64 KiB");
        self.put_u16(length);
        self.put(value.as_bytes());
    }

    fn put_flag(&mut self, value: bool) {
        self.put_u8(u8::from(value));
    }

    fn put_optional_u64(&mut self, value: Option<u64>) {
        self.put_flag(value.is_some());
        if let Some(value) = value {
            self.put_u64(value);
        }
    }

    fn put_topic_partition(&mut self, value: TopicPartition) {
        self.put_u32(value.topic.get());
        self.put_u32(value.partition.get());
    }

    fn put_journal_pos(&mut self, value: JournalPos) {
        self.put_u32(value.segment.0);
        self.put_u32(value.offset);
    }

    fn put_block_location(&mut self, value: BlockLocation) {
        self.put_u16(value.journal.0);
        self.put_u32(value.segment.0);
        self.put_u32(value.offset);
        self.put_u32(value.bytes);
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
