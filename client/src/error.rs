//! One error enum per operation.
//!
//! Invariant: an error says what the caller can act on; for a produce that includes whether the
//! message may have been written. All are cheap to clone, since one failed batch answers many
//! handles.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use catena_protocol::error::ErrorCode;

/// Why a connection could not be made or was lost.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The list of bootstrap addresses is empty or holds an address without a port.
    #[error("'{addresses}' is not a list of HOST:PORT addresses")]
    Address {
        /// The list as given.
        addresses: Arc<str>,
    },
    /// The socket failed or could not be connected.
    #[error("connection to {address}: {source}")]
    Io {
        /// Whom it led to.
        address: Arc<str>,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// The broker closed the connection.
    #[error("{address} closed the connection")]
    Closed {
        /// Whom it led to.
        address: Arc<str>,
    },
    /// The broker did not answer in time.
    #[error("no answer from {address} within {after:?}")]
    TimedOut {
        /// Whom it led to.
        address: Arc<str>,
        /// The time waited.
        after: Duration,
    },
    /// The broker sent something that does not follow the protocol.
    #[error("{address} broke the protocol: {reason}")]
    Protocol {
        /// Whom it led to.
        address: Arc<str>,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// The broker refused the hello.
    #[error("{address} refused the connection: {code} {message}")]
    Refused {
        /// Whom it led to.
        address: Arc<str>,
        /// The broker's reason.
        code: ErrorCode,
        /// The broker's words.
        message: Arc<str>,
    },
    /// The address belongs to another cluster than the one asked for or met first.
    #[error("{address} belongs to cluster {actual}, expected {expected}")]
    WrongCluster {
        /// Whom it led to.
        address: Arc<str>,
        /// The cluster asked for, in hexadecimal.
        expected: Arc<str>,
        /// The cluster met, in hexadecimal.
        actual: Arc<str>,
    },
    /// Metadata names a node whose address it does not give.
    #[error("node {node} has no known address")]
    UnknownNode {
        /// The node's id.
        node: u32,
    },
}

/// Why an admin request, a lookup of offsets or of metadata failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// No broker could be reached. The request was not sent.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The connection was lost after the request was sent.
    #[error("{0}, after the request was sent")]
    Unanswered(ConnectionError),
    /// The broker refused the request.
    #[error("refused: {code} {message}")]
    Refused {
        /// The broker's reason.
        code: ErrorCode,
        /// The broker's words.
        message: Arc<str>,
        /// What the code's detail says, see [`ErrorCode`].
        detail: u64,
    },
    /// There is no such topic.
    #[error("topic '{topic}' does not exist")]
    TopicNotFound {
        /// The topic's name.
        topic: Arc<str>,
    },
    /// The topic has fewer partitions.
    #[error("topic '{topic}' has {}, {partition} is not among them", count_of(*partitions))]
    UnknownPartition {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition asked for.
        partition: u32,
        /// How many the topic has.
        partitions: u32,
    },
    /// The request timeout passed.
    #[error("no success within {after:?}; last failure: {last}")]
    TimedOut {
        /// The time waited.
        after: Duration,
        /// Why the last attempt failed.
        last: Arc<str>,
        /// Whether an attempt got no answer.
        may_have_been_carried_out: bool,
    },
    /// The answer does not follow the protocol.
    #[error("unreadable answer: {reason}")]
    Protocol {
        /// What was wrong.
        reason: Arc<str>,
    },
}

impl RequestError {
    /// The broker's error code, if it was the broker that refused.
    ///
    /// ```
    /// use catena_client::RequestError;
    ///
    /// fn exists_already(error: &RequestError) -> bool {
    ///     error.code() == Some(catena_client::ErrorCode::TopicExists)
    /// }
    /// ```
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::TopicNotFound { .. } => Some(ErrorCode::TopicNotFound),
            Self::UnknownPartition { .. } => Some(ErrorCode::UnknownPartition),
            _ => None,
        }
    }

    /// Whether the request may have been carried out all the same. A refusal tells of the last
    /// attempt only.
    ///
    /// ```
    /// use catena_client::RequestError;
    ///
    /// fn advice(error: &RequestError) -> &str {
    ///     if error.may_have_been_carried_out() { "look first" } else { "try again" }
    /// }
    /// assert_eq!(advice(&RequestError::TopicNotFound { topic: "t".into() }), "try again");
    /// ```
    pub const fn may_have_been_carried_out(&self) -> bool {
        match self {
            Self::Unanswered(_) | Self::Protocol { .. } => true,
            Self::TimedOut {
                may_have_been_carried_out,
                ..
            } => *may_have_been_carried_out,
            Self::Refused { code, .. } => matches!(code, ErrorCode::Internal),
            Self::Connection(_) | Self::TopicNotFound { .. } | Self::UnknownPartition { .. } => {
                false
            }
        }
    }
}

fn count_of(partitions: u32) -> String {
    match partitions {
        1 => "1 partition".to_owned(),
        _ => format!("{partitions} partitions"),
    }
}

/// Why a message was not, or may not have been, written.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProduceError {
    /// The record does not fit into a batch. It was not sent.
    #[error("record of {bytes} bytes, at most {max} fit into a batch")]
    RecordTooLarge {
        /// Bytes of the record with its overhead.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The record breaks a rule of the format (headers, an empty list). It was not sent.
    #[error("record can not be encoded: {reason}")]
    InvalidRecord {
        /// What was wrong.
        reason: Arc<str>,
    },
    /// The producer was closed before the record was handed in.
    #[error("the producer is closed")]
    Closed,
    /// Topic, partition or producer id could not be looked up. The record was not sent.
    #[error("lookup before sending: {0}")]
    Lookup(#[from] RequestError),
    /// The broker refused the batch for good, or would: what it refuses of the class `none`, to
    /// which it answers nothing, is not sent.
    #[error("topic '{topic}' partition {partition}: {code}{}", maybe(*may_have_been_written))]
    Refused {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The broker's reason.
        code: ErrorCode,
        /// Whether an earlier attempt of this batch got no answer.
        may_have_been_written: bool,
    },
    /// The delivery timeout passed.
    #[error(
        "topic '{topic}' partition {partition}: not acknowledged within {after:?}{}{}",
        because(*refusal),
        maybe(*may_have_been_written)
    )]
    TimedOut {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The delivery timeout.
        after: Duration,
        /// What the broker answered last, if that was to try again later.
        refusal: Option<ErrorCode>,
        /// Whether an attempt of this batch got no answer.
        may_have_been_written: bool,
    },
    /// The producer lost its place in the partition after an attempt without answer; sending
    /// again could have written the batch twice.
    #[error("topic '{topic}' partition {partition}: outcome unknown; may have been written")]
    OutcomeUnknown {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
    },
}

fn because(refusal: Option<ErrorCode>) -> String {
    refusal.map_or_else(String::new, |code| format!("; last answer {code}"))
}

const fn maybe(may_have_been_written: bool) -> &'static str {
    if may_have_been_written {
        "; may have been written"
    } else {
        "; not written"
    }
}

impl ProduceError {
    /// Whether the message may be in the partition all the same. `false` is certain.
    ///
    /// ```
    /// use catena_client::ProduceError;
    ///
    /// // A message that surely was not written can be sent again without writing it twice.
    /// fn is_safe_to_repeat(error: &ProduceError) -> bool {
    ///     !error.may_have_been_written()
    /// }
    /// assert!(is_safe_to_repeat(&ProduceError::Closed));
    /// ```
    pub const fn may_have_been_written(&self) -> bool {
        match self {
            Self::Refused {
                may_have_been_written,
                ..
            }
            | Self::TimedOut {
                may_have_been_written,
                ..
            } => *may_have_been_written,
            Self::OutcomeUnknown { .. } => true,
            Self::RecordTooLarge { .. }
            | Self::InvalidRecord { .. }
            | Self::Closed
            | Self::Lookup(_) => false,
        }
    }
}

/// What a consumer could not deliver. The stream goes on after it unless it says otherwise.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// The position lies outside the partition and the policy is to report that. The partition
    /// stands still until a seek.
    #[error(
        "topic '{topic}' partition {partition}: offset {offset} is outside \
         [{log_start}, {high_watermark}]; seek to go on"
    )]
    OffsetOutOfRange {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The position that was asked for.
        offset: u64,
        /// The first offset there is.
        log_start: u64,
        /// The offset after the last one that readers may see.
        high_watermark: u64,
    },
    /// The broker lost a range to damage. Reading goes on at `next_offset`.
    #[error(
        "topic '{topic}' partition {partition}: offsets [{offset}, {next_offset}) are damaged on \
         the broker"
    )]
    DataCorrupt {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The first offset that can not be read.
        offset: u64,
        /// Where reading goes on.
        next_offset: u64,
    },
    /// A batch arrived damaged. It is fetched again.
    #[error("topic '{topic}' partition {partition}: batch at offset {offset}: {reason}")]
    BatchCorrupt {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The position of the consumer.
        offset: u64,
        /// What was wrong.
        reason: Arc<str>,
    },
    /// The broker refuses to serve the partition. It stands still until a seek.
    #[error("topic '{topic}' partition {partition}: {code}; seek to try again")]
    Refused {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
        /// The broker's reason.
        code: ErrorCode,
    },
    /// Offsets or metadata could not be looked up.
    #[error(transparent)]
    Lookup(#[from] RequestError),
    /// The partition is not assigned to this consumer.
    #[error("topic '{topic}' partition {partition} is not assigned to this consumer")]
    NotAssigned {
        /// The topic's name.
        topic: Arc<str>,
        /// The partition.
        partition: u32,
    },
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {reason}")]
pub struct ConfigError {
    /// The builder's method.
    pub setting: &'static str,
    /// Why the value can not be used.
    pub reason: &'static str,
}

/// Why a client, producer or consumer could not be built.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cluster could not be reached.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The cluster could be reached but did not give what is needed.
    #[error(transparent)]
    Request(#[from] RequestError),
}
