//! Turns the client's errors into failures with an exit code and a hint.
//!
//! One place for all commands, so that the same cause always ends in the same code.

use catena_client::{
    BuildError, ConnectionError, ConsumeError, ErrorCode, ProduceError, RequestError,
};

use crate::exit::{Exit, Failure};

const NO_BROKER: &str = "is the broker running, and is --broker right?";

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
            Exit::Unavailable => failure.hint(NO_BROKER),
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
            RequestError::Unanswered(_) | RequestError::TimedOut { .. } => {
                Self::new(Exit::Unavailable, message).hint(NO_BROKER)
            }
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
            ConsumeError::OffsetOutOfRange {
                topic,
                partition,
                offset,
                log_start,
                high_watermark,
            } => {
                let place = format!("topic '{topic}' partition {partition}");
                out_of_range(&place, offset, log_start, high_watermark)
            }
            ConsumeError::DataCorrupt { .. } => Self::new(Exit::Corrupt, message)
                .hint("`catena journal verify` on the broker's data names the damage"),
            _ => Self::new(Exit::Failed, message),
        }
    }
}

/// A command failed that changes something: the change may be there all the same.
pub(crate) fn of_change(error: RequestError) -> Failure {
    let is_certain = !error.may_have_been_carried_out();
    let failure = Failure::from(error);
    if is_certain {
        return failure;
    }
    let hint = match &failure.hint {
        Some(hint) => format!("{hint} a change may have been made"),
        None => "a change may have been made".to_owned(),
    };
    failure.hint(hint)
}

/// `place` holds the offsets from `log_start` to below `high_watermark`.
fn out_of_range(place: &str, offset: u64, log_start: u64, high_watermark: u64) -> Failure {
    let held = if log_start < high_watermark {
        format!("it holds {log_start} to {}", high_watermark - 1)
    } else {
        "it is empty".to_owned()
    };
    let message = format!("{place} has no offset {offset}: {held}");
    Failure::new(Exit::NotFound, message).hint(format!(
        "use --from earliest, --from latest, or --from offset:N with N from {log_start} to \
         {high_watermark}, where the next message goes"
    ))
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
        | ErrorCode::KeyRequired
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
        ErrorCode::KeyRequired => "use --key-separator",
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
            (ErrorCode::KeyRequired, Exit::Usage),
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

    #[test]
    fn only_what_was_sent_may_have_changed_something() {
        let address = "a:1";
        let closed = || ConnectionError::Closed {
            address: address.into(),
        };
        let timed_out = |may_have_been_carried_out| RequestError::TimedOut {
            after: std::time::Duration::from_secs(1),
            last: "closed".into(),
            may_have_been_carried_out,
        };
        let cases = [
            (RequestError::Connection(closed()), false),
            (RequestError::Unanswered(closed()), true),
            (timed_out(false), false),
            (timed_out(true), true),
        ];
        for (error, may_be_made) in cases {
            let what = error.to_string();
            let plain = Failure::from(error.clone()).hint.expect("a way on");
            assert!(plain.contains("is the broker running"), "{what}");
            assert!(!plain.contains("may have been made"), "{what}");
            let failure = of_change(error);
            assert_eq!(failure.exit, Exit::Unavailable, "{what}");
            let hint = failure.hint.expect("a way on");
            assert_eq!(hint.ends_with("a change may have been made"), may_be_made);
        }
    }

    #[test]
    fn an_offset_that_is_not_there_ends_in_those_that_are() {
        let error = |log_start, high_watermark| ConsumeError::OffsetOutOfRange {
            topic: "t".into(),
            partition: 1,
            offset: 99,
            log_start,
            high_watermark,
        };
        let failure = Failure::from(error(3, 10));
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(
            failure.message,
            "topic 't' partition 1 has no offset 99: it holds 3 to 9"
        );
        let hint = failure.hint.expect("a way on");
        assert!(hint.contains("offset:N with N from 3 to 10"), "{hint}");
        let empty = Failure::from(error(5, 5)).message;
        assert!(empty.ends_with("has no offset 99: it is empty"), "{empty}");
    }
}
