//! Fetch sessions: what a client wants is said once; requests then only ask for more.
//!
//! A session keeps the position of each partition it is interested in. A commit puts a partition on
//! the session's ready list, at most once; a request takes from the list until it has enough or its
//! wait is over. The response is a small header and slices of blocks: no byte of a batch is copied,
//! except that neighbouring slices under 4 KiB are gathered, which is faster.
//!
//! Runs on the shard's executor, one task per session.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use catena_core::index::Extent;
use catena_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{CorrelationId, Offset, SessionId, TopicPartition};
use catena_protocol::messages::{FetchItem, FetchRequest};
use rustc_hash::FxHashMap;

use super::Shard;
use super::connection::Connection;
use super::outbox::BlockSlice;
use super::reader::ReadError;
use super::response::Response;
use crate::cache::CachedBytes;
use crate::limits::{
    FETCH_EXTENTS_AHEAD, FETCH_QUEUED_BYTES_MAX, FETCH_REQUESTS_PER_SESSION_MAX,
    FETCH_RESPONSE_BYTES_MAX, FETCH_SESSIONS_PER_CONNECTION_MAX,
};
use crate::runtime::channel::Notify;
use crate::runtime::clock;
use crate::runtime::executor::{self, Queue};

/// What a session knows of one partition.
struct Interest {
    offset: Offset,
    bytes_max: u32,
    queued: bool,
    ahead: VecDeque<Extent>,
}

struct Waiting {
    correlation: CorrelationId,
    bytes_min: usize,
    bytes_max: usize,
    deadline_us: u64,
}

/// One session of one connection.
pub struct FetchSession {
    id: SessionId,
    interests: RefCell<FxHashMap<TopicPartition, Interest>>,
    ready: RefCell<VecDeque<TopicPartition>>,
    requests: RefCell<VecDeque<Waiting>>,
    wake: Notify,
    closed: Cell<bool>,
}

/// Handles a fetch request: makes or changes its session and queues the request there.
pub fn request(
    shard: &Rc<Shard>,
    connection: &Rc<Connection>,
    correlation: CorrelationId,
    request: &FetchRequest,
) {
    shard.metrics.fetch_requests.add(1);
    if request.close {
        if let Some(session) = connection.sessions.borrow_mut().remove(&request.session) {
            session.close();
        }
        Response::empty(request.session).send(shard, connection, correlation);
        return;
    }
    let Some(session) = session(shard, connection, request.session) else {
        let message = format!("at most {FETCH_SESSIONS_PER_CONNECTION_MAX} sessions a connection");
        return connection.send_error(correlation, ErrorCode::TooManySessions, 0, &message);
    };
    if session.requests.borrow().len() >= FETCH_REQUESTS_PER_SESSION_MAX {
        let message =
            format!("at most {FETCH_REQUESTS_PER_SESSION_MAX} requests of a session may wait");
        return connection.send_error(correlation, ErrorCode::Overloaded, 0, &message);
    }
    for tp in &request.remove {
        session.interests.borrow_mut().remove(tp);
        shard.unwatch(*tp, &session);
    }
    for added in &request.add {
        session.interests.borrow_mut().insert(
            added.tp(),
            Interest {
                offset: added.offset,
                bytes_max: added.max_bytes,
                queued: false,
                ahead: VecDeque::new(),
            },
        );
        shard.watch(added.tp(), &session);
        session.mark_ready(added.tp());
    }
    let wait_us = u64::from(request.max_wait_ms) * 1000;
    session.requests.borrow_mut().push_back(Waiting {
        correlation,
        bytes_min: usize::try_from(request.min_bytes).expect("u32 fits usize"),
        bytes_max: usize::try_from(request.max_bytes)
            .expect("u32 fits usize")
            .min(FETCH_RESPONSE_BYTES_MAX),
        deadline_us: clock::now_us() + wait_us,
    });
    session.wake.notify();
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
    let session = Rc::new(FetchSession {
        id,
        interests: RefCell::default(),
        ready: RefCell::default(),
        requests: RefCell::default(),
        wake: Notify::new(),
        closed: Cell::new(false),
    });
    sessions.insert(id, Rc::clone(&session));
    let task = serve(Rc::clone(shard), Rc::clone(connection), Rc::clone(&session));
    shard.tasks.spawn(Queue::Network, task);
    Some(session)
}

impl FetchSession {
    /// Notes that a partition has something new. At most one entry per partition waits.
    pub fn mark_ready(&self, tp: TopicPartition) {
        if let Some(interest) = self.interests.borrow_mut().get_mut(&tp)
            && !interest.queued
        {
            interest.queued = true;
            self.ready.borrow_mut().push_back(tp);
            self.wake.notify();
        }
    }

    /// Ends the session's task.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake.notify();
    }

    fn position(&self, tp: TopicPartition) -> Option<(Offset, u32)> {
        self.interests
            .borrow()
            .get(&tp)
            .map(|interest| (interest.offset, interest.bytes_max))
    }

    /// The extents to read next, without waiting, if they are known.
    fn ahead(&self, tp: TopicPartition, offset: Offset) -> Vec<Extent> {
        let mut interests = self.interests.borrow_mut();
        let Some(interest) = interests.get_mut(&tp) else {
            return Vec::new();
        };
        while interest
            .ahead
            .front()
            .is_some_and(|extent| extent.end_offset <= offset)
        {
            interest.ahead.pop_front();
        }
        interest.ahead.iter().copied().collect()
    }

    fn keep_ahead(&self, tp: TopicPartition, extents: &[Extent]) {
        if let Some(interest) = self.interests.borrow_mut().get_mut(&tp) {
            interest.ahead = extents.iter().copied().collect();
        }
    }

    /// Moves on after sending, unless the client moved the position meanwhile.
    fn advance(&self, tp: TopicPartition, from: Offset, to: Offset) -> bool {
        match self.interests.borrow_mut().get_mut(&tp) {
            Some(interest) if interest.offset == from => {
                interest.offset = to;
                true
            }
            _ => false,
        }
    }
}

async fn serve(shard: Rc<Shard>, connection: Rc<Connection>, session: Rc<FetchSession>) {
    shard.metrics.fetch_sessions.add(1);
    while !session.closed.get() && !connection.is_closed() {
        let next = session.requests.borrow_mut().pop_front();
        let Some(waiting) = next else {
            session.wake.notified().await;
            continue;
        };
        room(&connection).await;
        shard.relieve_pins();
        let response = gather(&shard, &connection, &session, &waiting).await;
        response.send(&shard, &connection, waiting.correlation);
        executor::yield_if_needed().await;
    }
    let interests: Vec<TopicPartition> = session.interests.borrow().keys().copied().collect();
    for tp in interests {
        shard.unwatch(tp, &session);
    }
    shard.metrics.fetch_sessions.sub(1);
}

/// Waits until what is queued for the client has shrunk.
async fn room(connection: &Connection) {
    connection.drained_to(FETCH_QUEUED_BYTES_MAX).await;
}

async fn gather(
    shard: &Rc<Shard>,
    connection: &Connection,
    session: &Rc<FetchSession>,
    waiting: &Waiting,
) -> Response {
    let mut response = Response::empty(session.id);
    loop {
        while response.payload_bytes() < waiting.bytes_max && !response.is_full() {
            let next = session.ready.borrow_mut().pop_front();
            let Some(tp) = next else { break };
            let room = waiting.bytes_max - response.payload_bytes();
            serve_partition(shard, session, tp, room, &mut response).await;
        }
        let enough = response.payload_bytes() >= waiting.bytes_min.max(1) || response.has_errors();
        let now_us = clock::now_us();
        if enough || now_us >= waiting.deadline_us || session.closed.get() || connection.is_closed()
        {
            return response;
        }
        let rest = std::time::Duration::from_micros(waiting.deadline_us - now_us);
        let _ = clock::timeout(rest, session.wake.notified()).await;
    }
}

/// Adds what one partition has to the response, and queues the partition again if more is left.
async fn serve_partition(
    shard: &Rc<Shard>,
    session: &Rc<FetchSession>,
    tp: TopicPartition,
    room: usize,
    response: &mut Response,
) {
    if let Some(interest) = session.interests.borrow_mut().get_mut(&tp) {
        interest.queued = false;
    }
    let Some((from, bytes_max)) = session.position(tp) else {
        return;
    };
    let room = match bytes_max {
        0 => room,
        cap => room.min(usize::try_from(cap).expect("u32 fits usize")),
    };
    let mut item = match shard.partition_item(tp, from) {
        Ok(item) => item,
        Err(item) => {
            session.interests.borrow_mut().remove(&tp);
            shard.unwatch(tp, session);
            response.push_error(item);
            return;
        }
    };
    if from >= item.high_watermark {
        return;
    }
    match read_partition(shard, session, &item, room).await {
        Ok((slices, to)) => {
            if session.advance(tp, from, to) {
                response.push(item, slices);
                let more = shard
                    .log
                    .borrow()
                    .partition(tp)
                    .is_some_and(|p| p.high_watermark > to);
                if more {
                    session.mark_ready(tp);
                }
            }
        }
        Err((error, next)) => {
            shard.report_read_error(tp, from, &error);
            session.interests.borrow_mut().remove(&tp);
            shard.unwatch(tp, session);
            item.error = ErrorCode::DataCorrupt;
            // For this error the field carries where reading can go on.
            item.high_watermark = next;
            response.push_error(item);
        }
    }
}

type PartitionRead = (Vec<BlockSlice>, Offset);

/// Slices of a partition from the item's offset, up to `room` bytes and at least one batch.
/// On failure, the error and the next offset that may be readable.
async fn read_partition(
    shard: &Rc<Shard>,
    session: &FetchSession,
    item: &FetchItem,
    room: usize,
) -> Result<PartitionRead, (ReadError, Offset)> {
    let tp = item.tp();
    let mut at = item.fetch_offset;
    let mut slices = Vec::new();
    let mut taken = 0;
    while taken < room && at < item.high_watermark {
        let mut extents = session.ahead(tp, at);
        if extents.is_empty() {
            extents = match shard.extents_from(tp, at, FETCH_EXTENTS_AHEAD).await {
                Ok(extents) => extents,
                Err(_) if !slices.is_empty() => break,
                Err(error) => return Err((error, item.high_watermark)),
            };
            session.keep_ahead(tp, &extents);
        }
        let Some(extent) = extents.first().copied() else {
            break;
        };
        let block = match shard.reader.block(extents.iter().copied()).await {
            Ok(block) => block,
            Err(_) if !slices.is_empty() => break,
            Err(error) => return Err((error, extent.end_offset)),
        };
        let Ok(segment) = shard
            .reader
            .files
            .open(extent.block.journal, extent.block.segment)
            .await
        else {
            break;
        };
        let Some((bytes, start, next)) = cut(&extent, &block, at, room - taken, taken == 0) else {
            break;
        };
        taken += bytes.bytes;
        at = next;
        slices.push(BlockSlice {
            bytes,
            segment,
            offset: extent.block.offset + extent.offset_in_block + start,
        });
    }
    Ok((slices, at))
}

/// The part of an extent from the batch that holds `from`: whole batches, at most `room` bytes
/// (one batch at least if `must`). Gives the bytes, where they start in the extent, and the offset
/// after them.
fn cut(
    extent: &Extent,
    block: &CachedBytes,
    from: Offset,
    room: usize,
    must: bool,
) -> Option<(CachedBytes, u32, Offset)> {
    let start = usize::try_from(extent.offset_in_block).expect("u32 fits usize");
    let len = usize::try_from(extent.bytes).expect("u32 fits usize");
    let whole = block.slice(start, len);
    if from <= extent.base_offset && len <= room {
        return Some((whole, 0, extent.end_offset));
    }
    let bytes = whole.as_slice();
    let (mut begin, mut end, mut next) = (None, 0, from);
    let mut at = 0;
    while at + BATCH_HEADER_BYTES <= len {
        let header = BatchHeader::decode(&bytes[at..]).ok()?;
        let batch_bytes = usize::try_from(header.length).expect("u32 fits usize");
        if header.next_offset() > from {
            let first = *begin.get_or_insert(at);
            let fits = at + batch_bytes - first <= room || (must && at == first);
            if !fits {
                break;
            }
            end = at + batch_bytes;
            next = header.next_offset();
        }
        at += batch_bytes;
    }
    let begin = begin.filter(|begin| end > *begin)?;
    let skipped = u32::try_from(begin).expect("an extent is below 1 MiB");
    Some((whole.slice(begin, end - begin), skipped, next))
}
