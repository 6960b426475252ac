//! Turns the client's errors into failures with an exit code and a hint.
//!
//! One place for all commands, so that the same cause always ends in the same code.

use catena_client::{
    BuildError, ConnectionError, ConsumeError, ErrorCode, ProduceError, RequestError,
};

use crate::exit::{Exit, Failure};

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Connection(error) => error.into(),
            BuildError::Request(error) => error.into(),
            other => Self::new(Exit::Usage, other.to_string()),
        }
    }
}

impl From<ConnectionError> for Failure {
    fn from(error: ConnectionError) -> Self {
        let exit = match &error {
            ConnectionError::Address { .. } => Exit::Usage,
            ConnectionError::Refused { code, .. } => exit_of(*code),
            ConnectionError::Protocol { .. } | ConnectionError::WrongCluster { .. } => Exit::Failed,
            _ => Exit::Unavailable,
        };
        let failure = Self::new(exit, error.to_string());
        match exit {
            Exit::Usage => failure.hint("write for example --broker 127.0.0.1:9640"),
            Exit::Unavailable => failure.hint("is the broker running, and is --broker right?"),
            _ => failure,
        }
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        match error {
            RequestError::Connection(error) => error.into(),
            RequestError::Refused { code, message, .. } => {
                let text = if message.is_empty() {
                    code.hint()
                } else {
                    &message
                };
                with_hint(Self::new(exit_of(code), text), code)
            }
            RequestError::TopicNotFound { .. } => {
                with_hint(Self::new(Exit::NotFound, message), ErrorCode::TopicNotFound)
            }
            RequestError::UnknownPartition { .. } => Self::new(Exit::NotFound, message),
            RequestError::TimedOut { .. } => Self::new(Exit::Unavailable, message)
                .hint("is the broker running, and is --broker right? a change may have been made"),
            _ => Self::new(Exit::Failed, message),
        }
    }
}

impl From<ProduceError> for Failure {
    fn from(error: ProduceError) -> Self {
        let message = error.to_string();
        match error {
            ProduceError::Lookup(error) => error.into(),
            ProduceError::Refused { code, .. } => {
                with_hint(Self::new(exit_of(code), message), code)
            }
            ProduceError::RecordTooLarge { .. } => {
                Self::new(Exit::Usage, message).hint("split the line")
            }
            ProduceError::TimedOut { .. } | ProduceError::OutcomeUnknown { .. } => {
                Self::new(Exit::Unavailable, message)
                    .hint("is the broker healthy? a longer --timeout waits longer")
            }
            _ => Self::new(Exit::Failed, message),
        }
    }
}

impl From<ConsumeError> for Failure {
    fn from(error: ConsumeError) -> Self {
        let message = error.to_string();
        match error {
            ConsumeError::Lookup(error) => error.into(),
            ConsumeError::Refused { code, .. } => {
                with_hint(Self::new(exit_of(code), message), code)
            }
            ConsumeError::OffsetOutOfRange { .. } => {
                Self::new(Exit::NotFound, message).hint("`catena offsets TOPIC` shows the range")
            }
            ConsumeError::DataCorrupt { .. } => Self::new(Exit::Corrupt, message)
                .hint("`catena journal verify` on the broker's data names the damage"),
            _ => Self::new(Exit::Failed, message),
        }
    }
}

/// The exit code for what the broker answered.
fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::TopicNotFound | ErrorCode::UnknownPartition | ErrorCode::OffsetOutOfRange => {
            Exit::NotFound
        }
        ErrorCode::InvalidTopicName
        | ErrorCode::InvalidPartitionCount
        | ErrorCode::InvalidConfig
        | ErrorCode::DurabilityTooWeak
        | ErrorCode::BatchTooLarge => Exit::Usage,
        ErrorCode::DataCorrupt => Exit::Corrupt,
        code if code.is_retriable() => Exit::Unavailable,
        _ => Exit::Failed,
    }
}

/// What the user can do; the code's own sentence where there is nothing better.
fn with_hint(failure: Failure, code: ErrorCode) -> Failure {
    let hint = match code {
        ErrorCode::TopicNotFound => "`catena topic list` shows the topics there are",
        ErrorCode::TopicExists => "add --if-not-exists to accept the topic as it is",
        ErrorCode::DurabilityTooWeak => "use stronger --acks, or alter the topic's minimum",
        other => other.hint(),
    };
    if failure.message.contains(hint) {
        failure
    } else {
        failure.hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_exit_and_the_common_ones_a_fitting_one() {
        for (code, exit) in [
            (ErrorCode::TopicNotFound, Exit::NotFound),
            (ErrorCode::TopicExists, Exit::Failed),
            (ErrorCode::InvalidTopicName, Exit::Usage),
            (ErrorCode::Overloaded, Exit::Unavailable),
            (ErrorCode::StorageFull, Exit::Unavailable),
            (ErrorCode::DataCorrupt, Exit::Corrupt),
            (ErrorCode::NotAuthorized, Exit::Failed),
        ] {
            assert_eq!(exit_of(code), exit, "{code}");
        }
    }

    #[test]
    fn a_missing_topic_ends_in_not_found_with_a_way_on() {
        let failure = Failure::from(RequestError::TopicNotFound { topic: "t".into() });
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.hint.is_some_and(|hint| hint.contains("topic list")));
    }
}
