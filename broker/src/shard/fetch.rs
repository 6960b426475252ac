//! Fetch sessions: what a client wants is said once; requests then only ask for more.
//!
//! A session keeps the position of each partition it is interested in. A commit puts a partition on
//! the session's ready list, at most once; a request takes from the list until it has enough or its
//! wait is over. The response is a small header and slices of blocks: no byte of a batch is copied,
//! except that neighbouring slices under 4 KiB are gathered, which is faster.
//!
//! Runs on the shard's executor, one task per session.

mod read;
mod ready;
mod session;

use std::rc::Rc;
use std::time::Duration;

use catena_core::limits::BLOCK_BYTES_MAX;
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{CorrelationId, SessionId};
use catena_protocol::limits::FETCH_INTERESTS_MAX;
use catena_protocol::messages::{FetchItem, FetchRequest};

pub use session::FetchSession;

use super::Shard;
use super::connection::Connection;
use super::response::Response;
use crate::limits::{
    FETCH_REQUESTS_PER_SESSION_MAX, FETCH_RESPONSE_BYTES_MAX, FETCH_SESSIONS_PER_CONNECTION_MAX,
};
use crate::runtime::clock;
use crate::runtime::executor::{self, Queue};
use read::{Unreadable, Wanted};
use session::{Position, Waiting};

/// Handles a fetch request: makes or changes its session and queues the request there.
pub fn request(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    correlation: CorrelationId,
    request: &FetchRequest,
) {
    shard.metrics.fetch_requests.add(1);
    if request.close {
        return close(shard, connection, correlation, request.session);
    }
    let Some(session) = session(shard, connection, request.session) else {
        let message = format!("at most {FETCH_SESSIONS_PER_CONNECTION_MAX} sessions a connection");
        return connection.send_error(correlation, ErrorCode::TooManySessions, 0, &message);
    };
    if session.waiting_requests() >= FETCH_REQUESTS_PER_SESSION_MAX {
        let message =
            format!("at most {FETCH_REQUESTS_PER_SESSION_MAX} requests of a session may wait");
        return connection.send_error(correlation, ErrorCode::Overloaded, 0, &message);
    }
    if !session.takes(request) {
        let message = format!("at most {FETCH_INTERESTS_MAX} partitions a session");
        return connection.send_error(correlation, ErrorCode::RequestTooLarge, 0, &message);
    }
    session.remove(&request.remove);
    for tp in &request.remove {
        shard.unwatch(*tp, &session);
    }
    // Whether a partition exists is seen when it is served.
    for added in &request.add {
        session.add(added);
    }
    session.push_request(waiting(correlation, request));
}

fn waiting(correlation: CorrelationId, request: &FetchRequest) -> Waiting {
    let to_usize = |bytes| usize::try_from(bytes).expect("u32 fits usize");
    // One batch is sent whatever the client allows.
    let bytes_max = to_usize(request.max_bytes).clamp(1, FETCH_RESPONSE_BYTES_MAX);
    Waiting {
        correlation,
        bytes_min: to_usize(request.min_bytes).clamp(1, bytes_max),
        bytes_max,
        deadline_us: clock::now_us() + u64::from(request.max_wait_ms) * 1000,
    }
}

/// Ends a session. What waits in it is answered first.
fn close(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    correlation: CorrelationId,
    session: SessionId,
) {
    let Some(session) = connection.sessions.borrow_mut().remove(&session) else {
        return Response::empty(session).send(shard, connection, correlation);
    };
    session.push_request(Waiting {
        correlation,
        bytes_min: 1,
        bytes_max: 1,
        deadline_us: 0,
    });
    session.close();
}

fn session(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    id: SessionId,
) -> Option<Rc<FetchSession>> {
    let mut sessions = connection.sessions.borrow_mut();
    if let Some(session) = sessions.get(&id) {
        return Some(Rc::clone(session));
    }
    if sessions.len() >= FETCH_SESSIONS_PER_CONNECTION_MAX {
        return None;
    }
    let session = Rc::new(FetchSession::new(id));
    sessions.insert(id, Rc::clone(&session));
    let task = serve(Rc::clone(shard), Rc::clone(connection), Rc::clone(&session));
    shard.tasks.spawn(Queue::Network, task);
    Some(session)
}

async fn serve(shard: Rc<Shard>, connection: Rc<Connection>, session: Rc<FetchSession>) {
    shard.metrics.fetch_sessions.add(1);
    while !session.is_closed() && !connection.is_closed() {
        let Some(waiting) = session.next_request() else {
            session.wake.notified().await;
            continue;
        };
        let response = gather(&shard, &connection, &session, &waiting).await;
        response.send(&shard, &connection, waiting.correlation);
        shard.relieve_pins();
        executor::yield_if_needed().await;
    }
    while let Some(waiting) = session.next_request() {
        Response::empty(session.id()).send(&shard, &connection, waiting.correlation);
    }
    for tp in session.clear() {
        shard.unwatch(tp, &session);
    }
    shard.metrics.fetch_sessions.sub(1);
}

/// Puts a response together: until it has enough, or its time is over.
async fn gather(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    session: &Rc<FetchSession>,
    waiting: &Waiting,
) -> Response {
    let mut response = Response::empty(session.id());
    let mut gathering = connection.gathering();
    let mut charge = shard.cold_memory.charge();
    loop {
        while session.has_ready()
            && response.payload_bytes() < waiting.bytes_max
            && !response.is_full()
        {
            if !connection.has_fetch_room() {
                if response.payload_bytes() > 0 {
                    return response;
                }
                connection.fetch_room().await;
            }
            let Some(position) = session.next_ready() else {
                break;
            };
            // Charged before it is read, or all sessions of a connection could read at once.
            gathering.set(waiting.bytes_max);
            // What is new is in memory anyway, and its readers do not wait for the disk.
            if session.is_cold(&position) {
                // One batch is sent whatever the client's limit is.
                charge.grow_to(waiting.bytes_max.max(BLOCK_BYTES_MAX)).await;
            }
            let room = waiting.bytes_max - response.payload_bytes();
            serve_partition(shard, session, &position, room, &mut response).await;
            gathering.set(response.payload_bytes());
            charge.shrink_to(response.payload_bytes());
            executor::yield_if_needed().await;
        }
        let has_enough = response.payload_bytes() >= waiting.bytes_min || response.has_errors();
        // Responses that wait for more must leave room for others.
        let is_crowded = response.payload_bytes() > 0
            && (connection.is_fetch_crowded() || shard.cold_memory.is_crowded());
        let now_us = clock::now_us();
        if has_enough
            || is_crowded
            || now_us >= waiting.deadline_us
            || session.is_closed()
            || connection.is_closed()
        {
            return response;
        }
        let rest = Duration::from_micros(waiting.deadline_us - now_us);
        let _ = clock::timeout(rest, session.wake.notified()).await;
    }
}

/// Adds what one partition has to the response, and queues the partition again if more is left.
async fn serve_partition(
    shard: &Rc<Shard>,
    session: &Rc<FetchSession>,
    position: &Position,
    room: usize,
    response: &mut Response,
) {
    let tp = position.tp;
    let item = match shard.partition_item(tp, position.offset) {
        Ok(item) => item,
        Err(item) => return refuse(shard, session, position, item, response),
    };
    if session.begin_watch(position) {
        shard.watch(tp, session);
    }
    let wanted = Wanted {
        high_watermark: item.high_watermark,
        bytes_max: room.min(position.bytes_max),
    };
    let mut read = read::partition(shard, session, position, wanted).await;
    if read.is_err() {
        // A page of the index or a segment can be freed between look-up and read.
        session.keep_ahead(position, Vec::new());
        read = read::partition(shard, session, position, wanted).await;
    }
    match read {
        Ok(read) => {
            if session.advance(position, read.next) {
                response.push(item, read.slices);
                let log = shard.log.borrow();
                let is_behind = log
                    .partition(tp)
                    .is_some_and(|partition| partition.high_watermark > read.next);
                if !is_behind {
                    session.set_cold(position, false);
                } else if read.next > position.offset {
                    session.mark_ready(tp);
                }
            }
        }
        Err(unreadable) => give_up(shard, session, position, &unreadable, response),
    }
}

/// Says why a partition cannot be read there.
fn give_up(
    shard: &Rc<Shard>,
    session: &Rc<FetchSession>,
    position: &Position,
    unreadable: &Unreadable,
    response: &mut Response,
) {
    // It may be gone by right: trimmed, or deleted with its topic.
    let item = shard.partition_item(position.tp, position.offset);
    let item = item.map(|mut item| {
        let (cause, error) = match unreadable {
            Unreadable::Lost { cause, next } => {
                // For this error the field carries where reading can go on.
                item.high_watermark = *next;
                shard.metrics.fetch_damaged.add(1);
                (cause, ErrorCode::DataCorrupt)
            }
            Unreadable::Failed(cause) => (cause, ErrorCode::Internal),
        };
        shard.report_read_error(position.tp, position.offset, cause);
        item.error = error;
        item
    });
    let item = item.unwrap_or_else(|gone| gone);
    refuse(shard, session, position, item, response);
}

/// Ends an interest and says why, unless the client began it anew meanwhile.
fn refuse(
    shard: &Rc<Shard>,
    session: &Rc<FetchSession>,
    position: &Position,
    item: FetchItem,
    response: &mut Response,
) {
    if session.end(position) {
        shard.unwatch(position.tp, session);
        response.push_error(item);
    }
}
