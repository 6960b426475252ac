//! Who asks, and whether they may: the one place where every request is authorized.
//!
//! There is no authentication yet, so everybody is [`Principal::Anonymous`] and may do everything.
//! Requests pass through here all the same, so that rules have one place to go.

use catena_protocol::frame::Api;

/// Who is on the other side of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody proved anything.
    Anonymous,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Appends records.
    Produce,
    /// Reads records or offsets.
    Fetch,
    /// Reads metadata.
    Describe,
    /// Changes topics.
    Alter,
}

impl Operation {
    /// The operation of an api.
    pub fn of(api: Api) -> Operation {
        match api {
            Api::Produce | Api::InitProducer => Operation::Produce,
            Api::Fetch | Api::ListOffsets => Operation::Fetch,
            Api::CreateTopic | Api::DeleteTopic | Api::AlterTopic => Operation::Alter,
            Api::Hello | Api::Metadata | Api::DescribeTopic | Api::Error => Operation::Describe,
        }
    }
}

/// Whether `principal` may do `operation`.
pub fn authorize(principal: &Principal, operation: Operation) -> bool {
    match (principal, operation) {
        (
            Principal::Anonymous,
            Operation::Produce | Operation::Fetch | Operation::Describe | Operation::Alter,
        ) => true,
    }
}
