//! The error codes of the protocol: stable numbers, and for each what a client should do.
//!
//! Invariant: a number is never given a second meaning, and one exhaustive match turns a code
//! into a retry rule. Plain values, any thread.

use std::fmt;

/// What a client does with a request that was answered by an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Nothing is wrong: take it as success.
    Success,
    /// Give the error to the caller; the same request would fail again.
    Never,
    /// Send the same request again after a pause that grows.
    Backoff,
    /// Fetch metadata, then send the request to the owner it names.
    RefreshMetadata,
    /// Drain the partition, then resend in order from the lowest unacknowledged sequence.
    Resend,
    /// Bump the producer's epoch (`InitProducer` if it has none left), renumber, resend.
    NewProducerEpoch,
    /// Move the position by the reset policy (earliest, latest, time), or report.
    ResetOffset,
    /// Report, and go on reading at the offset in the error's detail.
    SkipAhead,
    /// Open the fetch session anew.
    ReopenSession,
    /// Close the connection and start again with a hello.
    Reconnect,
}

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $retry:ident, $hint:literal;)*) => {
        /// Why a request failed, or `None`. The numbers are stable.
        ///
        /// ```
        /// use catena_protocol::error::{ErrorCode, Retry};
        ///
        /// let code = ErrorCode::from_wire(20);
        /// assert_eq!(code, ErrorCode::NotOwner);
        /// assert_eq!(code.retry(), Retry::RefreshMetadata);
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code with this number. A number that this version does not know, from a newer
            /// peer, is taken as [`ErrorCode::Internal`].
            pub const fn from_wire(number: u16) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Internal,
                }
            }

            /// The number on the wire.
            pub const fn to_wire(self) -> u16 {
                self as u16
            }

            /// What a client should do.
            pub const fn retry(self) -> Retry {
                match self {
                    $(Self::$name => Retry::$retry,)*
                }
            }

            /// The name, as in the documentation.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// One sentence for a person: what happened or what to do about it.
            pub const fn hint(self) -> &'static str {
                match self {
                    $(Self::$name => $hint,)*
                }
            }
        }
    };
}

error_codes! {
    /// Success.
    #[default]
    None = 0, Success, "success";
    /// The api number is not known to the server.
    UnknownApi = 1, Never, "the server does not know this request; it may be older";
    /// The version is outside what the server speaks.
    UnsupportedVersion = 2, Never, "client and server share no protocol version";
    /// The header or payload does not follow the format.
    MalformedRequest = 3, Never, "the request does not follow the protocol; report a bug";
    /// The frame is larger than the server takes.
    RequestTooLarge = 4, Never, "the request is larger than the server's limit";
    /// The principal may not do this.
    NotAuthorized = 5, Never, "this principal may not do this";
    /// Something came before the hello, or before its reply.
    HelloRequired = 6, Reconnect, "a connection starts with a hello";
    /// The hello names another cluster.
    WrongCluster = 7, Never, "the address belongs to another cluster";
    /// The hello names another node.
    WrongNode = 8, RefreshMetadata, "the address belongs to another node now";
    /// No such topic.
    TopicNotFound = 10, RefreshMetadata, "the topic does not exist";
    /// The topic exists already.
    TopicExists = 11, Never, "a topic of this name exists";
    /// The name breaks the rules for names.
    InvalidTopicName = 12, Never, "a topic name has 1 to 249 of a-z A-Z 0-9 . _ -";
    /// The partition count is 0, too large, or smaller than it was.
    InvalidPartitionCount = 13, Never, "the partition count is out of range or would shrink";
    /// A setting is out of range or unknown.
    InvalidConfig = 14, Never, "a topic setting is out of range";
    /// The topic has no such partition.
    UnknownPartition = 15, RefreshMetadata, "the topic has no such partition";
    /// Another shard owns the partition. Detail: node << 32 | shard.
    NotOwner = 20, RefreshMetadata, "another node or shard owns the partition";
    /// The chain can not commit just now.
    ChainStalled = 21, Backoff, "the chain can not commit at the moment; retry";
    /// The store has no space to take more.
    StorageFull = 22, Backoff, "the store is full; free space, lower retention or retry later";
    /// The store failed and takes nothing more.
    StoreFailed = 23, RefreshMetadata, "the store failed; see the server's log";
    /// The server has more work than its limits allow.
    Overloaded = 24, Backoff, "the server is overloaded; retry";
    /// The server is about to stop.
    ShuttingDown = 25, RefreshMetadata, "the server is shutting down";
    /// The batch is larger than the server takes.
    BatchTooLarge = 30, Never, "the batch is larger than the server's limit; send less in one";
    /// A checksum of the batch does not match.
    BatchCorrupt = 31, Resend, "the batch was damaged on its way";
    /// The sequence leaves a gap. Detail: the expected sequence.
    OutOfOrderSequence = 32, Resend, "an earlier batch of this producer is missing";
    /// Success: the batch had been written before, its offset is no longer known.
    DuplicateOffsetUnknown = 33, Success, "written before; the offset is no longer known";
    /// A newer producer took over this id. Detail: the current epoch.
    FencedProducer = 34, Never, "a newer producer uses this producer id";
    /// The server holds no state of this producer.
    UnknownProducer = 35, NewProducerEpoch, "the server forgot this producer";
    /// Records that were only received were lost. Detail: the last sequence kept.
    SequenceReset = 36, NewProducerEpoch, "messages sent without durability were lost";
    /// The topic asks for a stronger class. Detail: the weakest class it takes.
    DurabilityTooWeak = 37, Never, "the topic demands a stronger durability class";
    /// The batch's header breaks a rule (counts, flags, codec, encoding).
    InvalidBatch = 38, Never, "the batch breaks the format; report a bug";
    /// A record without a key, for a topic that is compacted by key.
    KeyRequired = 39, Never, "the topic is compacted by key; every record needs one";
    /// The offset is before the log start or after the high watermark.
    OffsetOutOfRange = 40, ResetOffset, "the offset is outside what the partition holds";
    /// A range of the partition is damaged. Detail: the next readable offset.
    DataCorrupt = 41, SkipAhead, "stored data is damaged; see the server's log for the range";
    /// The connection has no such fetch session.
    UnknownSession = 42, ReopenSession, "the fetch session is not known on this connection";
    /// The connection has as many fetch sessions as the server allows.
    TooManySessions = 43, Never, "too many fetch sessions on one connection";
    /// A bug in the server, or a code this client does not know.
    Internal = 50, Backoff, "internal error; see the server's log";
}

impl ErrorCode {
    /// Whether the request did what it asked for.
    pub const fn is_success(self) -> bool {
        matches!(self.retry(), Retry::Success)
    }

    /// Whether a client may send the request again without the caller's say.
    pub const fn is_retriable(self) -> bool {
        matches!(
            self.retry(),
            Retry::Backoff | Retry::RefreshMetadata | Retry::Resend
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name(), self.to_wire(), self.hint())
    }
}

/// The detail of [`ErrorCode::NotOwner`]: who owns the partition.
pub const fn owner_to_detail(node: crate::ids::NodeId, shard: crate::ids::ShardId) -> u64 {
    (node.0 as u64) << 32 | shard.0 as u64
}

/// Reads the detail of [`ErrorCode::NotOwner`]; `None` if it names no shard.
pub fn owner_from_detail(detail: u64) -> Option<(crate::ids::NodeId, crate::ids::ShardId)> {
    let node = u32::try_from(detail >> 32).ok()?;
    let shard = u16::try_from(detail & 0xffff_ffff).ok()?;
    Some((crate::ids::NodeId(node), crate::ids::ShardId(shard)))
}

/// A header that can not be decoded. The server answers [`ErrorCode::MalformedRequest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the fixed part needs, or more than its counts announce.
    #[error("{what}: {actual} bytes, expected {expected}")]
    Length {
        /// The message.
        what: &'static str,
        /// Bytes found.
        actual: usize,
        /// Bytes that the counts announce.
        expected: usize,
    },
    /// A count or size over its limit.
    #[error("{what} is {actual}, at most {max} allowed")]
    TooMany {
        /// The field.
        what: &'static str,
        /// The value found.
        actual: usize,
        /// The limit.
        max: usize,
    },
    /// A number that names nothing.
    #[error("{what} has no value {value}")]
    UnknownValue {
        /// The field.
        what: &'static str,
        /// The number found.
        value: u64,
    },
    /// A field that must be there is not.
    #[error("{what} is missing")]
    Missing {
        /// The field.
        what: &'static str,
    },
    /// The flatbuffers verifier refused the header.
    #[error("{what}: {reason}")]
    Table {
        /// The message.
        what: &'static str,
        /// The verifier's words.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{NodeId, ShardId};

    #[test]
    fn codes_survive_the_wire_and_are_sorted() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_wire(code.to_wire()), *code);
        }
        assert!(ErrorCode::ALL.is_sorted());
        assert_eq!(ErrorCode::from_wire(9_999), ErrorCode::Internal);
    }

    #[test]
    fn only_two_codes_are_success() {
        let success: Vec<_> = ErrorCode::ALL
            .iter()
            .filter(|code| code.is_success())
            .collect();
        assert_eq!(
            success,
            [&ErrorCode::None, &ErrorCode::DuplicateOffsetUnknown]
        );
    }

    #[test]
    fn the_owner_survives_the_detail() {
        let owner = (NodeId(7), ShardId(513));
        assert_eq!(
            owner_from_detail(owner_to_detail(owner.0, owner.1)),
            Some(owner)
        );
        assert_eq!(owner_from_detail(0x1_0000), None);
    }
}
