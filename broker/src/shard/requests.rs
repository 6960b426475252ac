//! Parses the requests of one connection and hands each to the part that answers it.
//!
//! A request that cannot be understood gets an error and leaves the connection usable, as long as
//! the frame itself is sound. Runs on the shard's executor, in the connection's reader task.

use std::rc::Rc;

use catena_protocol::error::{DecodeError, ErrorCode};
use catena_protocol::frame::{Api, FramePrefix, PROTOCOL_VERSION};
use catena_protocol::ids::CorrelationId;
use catena_protocol::messages::{
    AlterTopicRequest, CreateTopicRequest, DeleteTopicRequest, DescribeTopicRequest, FetchRequest,
    InitProducerRequest, ListOffsetsRequest, MetadataRequest, ProduceView,
};

use super::access::{Operation, authorize};
use super::connection::Connection;
use super::inbox::{Inbox, ReceiveError};
use super::{Shard, fetch, offsets, produce, topics};
use crate::limits::OUTBOX_BYTES_MAX;
use crate::runtime::executor;

/// Serves requests until the connection ends.
pub async fn read_loop(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    mut inbox: Inbox,
) -> Result<(), ReceiveError> {
    while !connection.is_closed() {
        let prefix = match inbox.prefix().await {
            Err(ReceiveError::Closed) => return Ok(()),
            // A consumer waits in its sessions.
            Err(ReceiveError::Idle(_)) if !connection.sessions.borrow().is_empty() => continue,
            prefix => prefix?,
        };
        let header = match inbox.header(&prefix).await {
            Err(error @ ReceiveError::Malformed(_)) => {
                shard.metrics.frames_malformed.add(1);
                return Err(error);
            }
            header => header?,
        };
        let payload_bytes = usize::try_from(prefix.payload_bytes()).expect("u32 fits usize");
        if prefix.is_response() {
            let message = "a client sends requests";
            refuse(
                connection,
                prefix.correlation,
                ErrorCode::UnknownApi,
                message,
            );
            inbox.discard(payload_bytes).await?;
        } else if Api::from_wire(prefix.api) == Some(Api::Produce)
            && prefix.version == PROTOCOL_VERSION
        {
            produce_request(
                shard,
                connection,
                &prefix,
                &header,
                payload_bytes,
                &mut inbox,
            )
            .await?;
        } else {
            inbox.discard(payload_bytes).await?;
            other_request(shard, connection, &prefix, &header);
            connection.credit().await;
        }
        connection.drained_to(OUTBOX_BYTES_MAX).await;
        executor::yield_if_needed().await;
    }
    Ok(())
}

async fn produce_request(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    prefix: &FramePrefix,
    header: &[u8],
    payload_bytes: usize,
    inbox: &mut Inbox,
) -> Result<(), ReceiveError> {
    let view = match ProduceView::decode(header, prefix.payload_bytes()) {
        Ok(view) if authorize(&connection.principal, Operation::Produce) => view,
        decoded => {
            inbox.discard(payload_bytes).await?;
            match decoded {
                Ok(_) => refuse(connection, prefix.correlation, ErrorCode::NotAuthorized, ""),
                Err(error) => malformed(shard, connection, prefix.correlation, &error),
            }
            return Ok(());
        }
    };
    let correlation = prefix.correlation;
    produce::receive(shard, connection, correlation, &view, payload_bytes, inbox).await?;
    connection.credit().await;
    shard.produce_room().await;
    Ok(())
}

fn other_request(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    prefix: &FramePrefix,
    header: &[u8],
) {
    let correlation = prefix.correlation;
    let Some(api) = Api::from_wire(prefix.api) else {
        let message = format!("api {} is not known", prefix.api);
        return refuse(connection, correlation, ErrorCode::UnknownApi, &message);
    };
    if prefix.version != PROTOCOL_VERSION {
        let message = format!("version {} of {api:?} is not known", prefix.version);
        return refuse(
            connection,
            correlation,
            ErrorCode::UnsupportedVersion,
            &message,
        );
    }
    if !authorize(&connection.principal, Operation::of(api)) {
        return refuse(connection, correlation, ErrorCode::NotAuthorized, "");
    }
    if let Err(error) = dispatch(shard, connection, correlation, api, header) {
        malformed(shard, connection, correlation, &error);
    }
}

fn dispatch(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    correlation: CorrelationId,
    api: Api,
    header: &[u8],
) -> Result<(), DecodeError> {
    let to = topics::ReplyTo::new(connection, correlation);
    match api {
        Api::Metadata => topics::metadata(shard, &to, &MetadataRequest::decode(header)?),
        Api::CreateTopic => topics::create(shard, to, CreateTopicRequest::decode(header)?),
        Api::DeleteTopic => topics::delete(shard, to, DeleteTopicRequest::decode(header)?),
        Api::AlterTopic => topics::alter(shard, to, AlterTopicRequest::decode(header)?),
        Api::DescribeTopic => topics::describe(shard, &to, &DescribeTopicRequest::decode(header)?),
        Api::InitProducer => {
            InitProducerRequest::decode(header)?;
            topics::init_producer(shard, to);
        }
        Api::ListOffsets => offsets::list(shard, to, ListOffsetsRequest::decode(header)?),
        Api::Fetch => fetch::request(
            shard,
            connection,
            correlation,
            &FetchRequest::decode(header)?,
        ),
        Api::Hello => refuse(
            connection,
            correlation,
            ErrorCode::MalformedRequest,
            "Hello comes once, first",
        ),
        Api::Error | Api::Produce => {
            refuse(
                connection,
                correlation,
                ErrorCode::UnknownApi,
                "not a request",
            );
        }
    }
    Ok(())
}

fn malformed(
    shard: &Shard,
    connection: &Connection,
    correlation: CorrelationId,
    error: &DecodeError,
) {
    shard.metrics.frames_malformed.add(1);
    refuse(
        connection,
        correlation,
        ErrorCode::MalformedRequest,
        &error.to_string(),
    );
}

fn refuse(connection: &Connection, correlation: CorrelationId, code: ErrorCode, message: &str) {
    let message = if message.is_empty() {
        code.hint()
    } else {
        message
    };
    connection.send_error(correlation, code, 0, message);
}
