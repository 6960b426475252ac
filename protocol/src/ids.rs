//! The quantities of the protocol, one type each, so that a partition is never taken for a chain.
//!
//! Invariant: a value of these types says what it counts; arithmetic between two of them only
//! happens in a named method. Plain values, any thread.

use std::fmt;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// Wraps a plain number.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The plain number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> $inner {
                value.0
            }
        }
    };
}

quantity!(
    /// A topic. Never reused, also after the topic is deleted. 0 is no topic.
    TopicId(u32)
);
quantity!(
    /// A partition's index in its topic, from 0.
    PartitionId(u32)
);
quantity!(
    /// A chain: the replicated log that holds many partitions. 0 is the metadata chain.
    ChainId(u32)
);
quantity!(
    /// The epoch of a chain; rises by one with each change of its members. In requests 0 means
    /// "any epoch".
    ChainEpoch(u32)
);
quantity!(
    /// A node of the cluster.
    NodeId(u32)
);
quantity!(
    /// A shard (one executor on one core) of a node, from 0.
    ShardId(u16)
);
quantity!(
    /// A record's index in its partition, from 0.
    Offset(u64)
);
quantity!(
    /// An idempotent producer. 0 is a producer that asks for no idempotence.
    ProducerId(u64)
);
quantity!(
    /// The epoch of a producer id; a higher one fences the lower.
    ProducerEpoch(u16)
);
quantity!(
    /// A count of records per (producer, partition), modulo 2^32.
    Sequence(u32)
);
quantity!(
    /// Names a request on its connection; the reply carries the same one.
    CorrelationId(u32)
);
quantity!(
    /// A fetch session of one connection, named by the client.
    SessionId(u32)
);

impl Offset {
    /// The offset `records` further on, or `None` past the end of the number range.
    pub const fn checked_add(self, records: u64) -> Option<Self> {
        match self.0.checked_add(records) {
            Some(offset) => Some(Self(offset)),
            None => None,
        }
    }
}

impl Sequence {
    /// The sequence `records` further on, wrapping after 2^32 - 1.
    #[must_use]
    pub const fn wrapping_add(self, records: u32) -> Self {
        Self(self.0.wrapping_add(records))
    }

    /// How far `self` is ahead of `earlier`, modulo 2^32.
    pub const fn distance_from(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether `self` comes before `other` in serial-number order (RFC 1982): the shorter way
    /// round the circle leads from `self` forward to `other`.
    pub const fn precedes(self, other: Self) -> bool {
        let ahead = other.distance_from(self);
        ahead != 0 && ahead < 1 << 31
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition's index in the topic.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub const fn new(topic: TopicId, partition: PartitionId) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// What an acknowledgement promises. The order is by weakness: `Durable < Received < None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Durability {
    /// Flushed to stable storage on every current member of the chain.
    #[default]
    Durable = 0,
    /// Validated and in the head's memory; may be lost in a crash.
    Received = 1,
    /// No reply at all.
    None = 2,
}

impl Durability {
    /// The class with this number on the wire, if there is one.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Durable),
            1 => Some(Self::Received),
            2 => Some(Self::None),
            _ => None,
        }
    }

    /// The number on the wire.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// The name used in flags, logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Received => "received",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_compare_round_the_circle() {
        assert!(Sequence(1).precedes(Sequence(2)));
        assert!(Sequence(u32::MAX).precedes(Sequence(0)));
        assert!(!Sequence(0).precedes(Sequence(u32::MAX)));
        assert!(!Sequence(7).precedes(Sequence(7)));
        assert_eq!(Sequence(u32::MAX).wrapping_add(3), Sequence(2));
        assert_eq!(Sequence(2).distance_from(Sequence(u32::MAX)), 3);
    }

    #[test]
    fn a_weaker_class_is_greater() {
        assert!(Durability::Durable < Durability::Received);
        assert!(Durability::Received < Durability::None);
        for number in 0..=u8::MAX {
            if let Some(class) = Durability::from_wire(number) {
                assert_eq!(class.to_wire(), number);
            }
        }
    }
}
