//! Reads what a fetch session wants of one partition: slices of blocks, in offset order.
//!
//! Invariant: what is returned has no hole in it, and only its first batch may begin below what was
//! asked for. An offset that no block holds, or whose block is damaged, ends what is returned; if
//! nothing was read before it, it is an error that names the next offset that may be readable. A
//! damaged body takes its own batch with it and no other. Runs on the shard's executor, in the
//! session's task.

use std::rc::Rc;

use catena_core::ids::BlockLocation;
use catena_core::index::Extent;
use catena_protocol::batch::{BATCH_HEADER_BYTES, BatchHeader, split, verify_body, verify_header};
use catena_protocol::ids::Offset;

use super::session::{FetchSession, Position};
use crate::cache::CachedBytes;
use crate::limits::FETCH_EXTENTS_AHEAD;
use crate::shard::Shard;
use crate::shard::files::OpenSegment;
use crate::shard::outbox::BlockSlice;
use crate::shard::reader::ReadError;

/// What was read of a partition.
pub(super) struct PartitionRead {
    pub(super) slices: Vec<BlockSlice>,
    /// The offset after the slices.
    pub(super) next: Offset,
}

/// Why nothing could be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// What is stored there is damaged or gone; the next offset that may be readable.
    Lost { cause: ReadError, next: Offset },
    /// It could not be read now, which says nothing about what is stored.
    Failed(ReadError),
}

impl Unreadable {
    fn new(cause: ReadError, next: Offset) -> Unreadable {
        match cause {
            ReadError::Io { .. } | ReadError::Rebuilding { .. } => Unreadable::Failed(cause),
            ReadError::Corrupt { .. } | ReadError::Unindexed { .. } | ReadError::Missing { .. } => {
                Unreadable::Lost { cause, next }
            }
        }
    }
}

/// How much is wanted of a partition.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Records below are committed.
    pub(super) high_watermark: Offset,
    /// At most so many bytes, but at least one batch.
    pub(super) bytes_max: usize,
}

/// Slices of a partition from a position on. What is returned is worthless if the position is not
/// current any more. A reader that is found to read old data gets what is there: more of it is read
/// when there is room for that.
pub(super) async fn partition(
    shard: &Rc<Shard>,
    session: &FetchSession,
    position: &Position,
    wanted: Wanted,
) -> Result<PartitionRead, Unreadable> {
    let mut slices = Vec::new();
    let mut next = position.offset;
    let mut taken = 0;
    let was_cold = session.is_cold(position);
    while taken < wanted.bytes_max && next < wanted.high_watermark && session.is_current(position) {
        if taken > 0 && !was_cold && session.is_cold(position) {
            break;
        }
        let rest = Wanted {
            bytes_max: wanted.bytes_max - taken,
            ..wanted
        };
        let at = At {
            position,
            offset: next,
            is_first: taken == 0,
        };
        match slice(shard, session, at, rest).await {
            Ok(Some((slice, end))) => {
                taken += slice.bytes.bytes;
                next = end;
                slices.push(slice);
                let first = slices[0].extent.block;
                let is_in_memory = |place| shard.reader.holds(place);
                if session.is_turn_over(position, &first, next, is_in_memory) {
                    break;
                }
            }
            Ok(None) => break,
            // What came before it is sent, and the next read begins with it.
            Err(_) if taken > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(PartitionRead { slices, next })
}

#[derive(Clone, Copy)]
struct At<'a> {
    position: &'a Position,
    offset: Offset,
    /// Whether nothing was read before.
    is_first: bool,
}

/// The next slice and the offset after it; none if no whole batch fits.
async fn slice(
    shard: &Rc<Shard>,
    session: &FetchSession,
    at: At<'_>,
    wanted: Wanted,
) -> Result<Option<(BlockSlice, Offset)>, Unreadable> {
    let mut extent = extent(shard, session, at, wanted.high_watermark).await?;
    let (batches, segment) = loop {
        match read(shard, session, at.position, &extent).await {
            Ok(read) => break read,
            Err(cause) => {
                // A place that was looked up a while ago may have been freed since.
                if let Some(elsewhere) = moved(shard, session, at, &extent).await {
                    extent = elsewhere;
                    continue;
                }
                let read = read_damaged(shard, extent.block, &cause).await;
                let Some(read) = read else {
                    return Err(Unreadable::new(cause, extent.end_offset));
                };
                let (block, segment) = read;
                let batches = block.slice(to_usize(extent.offset_in_block), to_usize(extent.bytes));
                let intact = intact_part(&extent, &batches, at);
                extent = intact.map_err(|next| Unreadable::new(cause, next))?;
                break (batches.slice(0, to_usize(extent.bytes)), segment);
            }
        }
    };
    let cut = cut(&extent, &batches, at.offset, wanted.bytes_max, at.is_first);
    let Some((bytes, start, next)) = cut else {
        if at.is_first {
            let reason = format!("no batch of it holds offset {}", at.offset);
            let place = extent.block;
            let corrupt = ReadError::Corrupt { place, reason };
            return Err(Unreadable::new(corrupt, extent.end_offset));
        }
        return Ok(None);
    };
    let slice = BlockSlice {
        bytes,
        segment,
        tp: at.position.tp,
        extent,
        offset: extent.place().offset + start,
    };
    Ok(Some((slice, next)))
}

/// The batches of an extent, and the lease on its segment.
async fn read(
    shard: &Rc<Shard>,
    session: &FetchSession,
    position: &Position,
    extent: &Extent,
) -> Result<(CachedBytes, Rc<OpenSegment>), ReadError> {
    let batches = batches(shard, session, position, extent).await?;
    let segment = shard.reader.segment(extent.block).await?;
    Ok((batches, segment))
}

/// A block that was found corrupt, if its heads are good and only bodies of batches are not.
async fn read_damaged(
    shard: &Rc<Shard>,
    place: BlockLocation,
    cause: &ReadError,
) -> Option<(CachedBytes, Rc<OpenSegment>)> {
    match cause {
        ReadError::Corrupt { .. } => shard.reader.block_with_good_heads(place).await.ok(),
        ReadError::Io { .. }
        | ReadError::Rebuilding { .. }
        | ReadError::Unindexed { .. }
        | ReadError::Missing { .. } => None,
    }
}

/// The extent up to the first damaged batch at or behind the wanted offset; if that is the very
/// batch that holds it, the offset after that batch.
fn intact_part(extent: &Extent, batches: &CachedBytes, at: At<'_>) -> Result<Extent, Offset> {
    let mut intact = Extent {
        bytes: 0,
        end_offset: extent.base_offset,
        ..*extent
    };
    for found in split(batches.as_slice()) {
        let Ok((header, batch)) = found else { break };
        if header.next_offset() > at.offset {
            let head = batch.first_chunk().expect("split gives whole batches");
            let is_good = verify_header(head, at.position.tp).is_ok() && verify_body(batch).is_ok();
            if !is_good && intact.end_offset <= at.offset {
                return Err(header.next_offset());
            }
            if !is_good {
                break;
            }
        }
        intact.bytes += header.length;
        intact.end_offset = header.next_offset();
    }
    Ok(intact)
}

/// Where the index has the offset now, if that is another place than the one that was tried.
async fn moved(
    shard: &Rc<Shard>,
    session: &FetchSession,
    At {
        position, offset, ..
    }: At<'_>,
    tried: &Extent,
) -> Option<Extent> {
    session.keep_ahead(position, Vec::new());
    let found = shard.extents_from(position.tp, offset, FETCH_EXTENTS_AHEAD);
    let extents = found.await.ok()?;
    let first = extents.first().copied()?;
    let is_elsewhere = first.base_offset <= offset && first.block != tried.block;
    is_elsewhere.then(|| {
        session.keep_ahead(position, extents);
        first
    })
}

/// The extent that holds an offset below the high watermark.
async fn extent(
    shard: &Rc<Shard>,
    session: &FetchSession,
    at: At<'_>,
    high_watermark: Offset,
) -> Result<Extent, Unreadable> {
    let At {
        position, offset, ..
    } = at;
    if let Some(extent) = session.ahead(position, offset) {
        return Ok(extent);
    }
    let tp = position.tp;
    let found = shard.extents_from(tp, offset, FETCH_EXTENTS_AHEAD).await;
    let extents = found.map_err(|error| {
        let next = match &error {
            ReadError::Unindexed { next, .. } => *next,
            _ => None,
        };
        Unreadable::new(error, next.unwrap_or(high_watermark))
    })?;
    match extents.first().copied() {
        Some(first) if first.base_offset <= offset => {
            session.keep_ahead(position, extents);
            Ok(first)
        }
        later => {
            let next = later.map_or(high_watermark, |extent| extent.base_offset);
            let from = offset;
            Err(Unreadable::new(ReadError::Missing { from, next }, next))
        }
    }
}

/// The batches of an extent. Only a reader of old data pays for reading ahead.
async fn batches(
    shard: &Rc<Shard>,
    session: &FetchSession,
    position: &Position,
    extent: &Extent,
) -> Result<CachedBytes, ReadError> {
    if !session.is_cold(position) {
        if let Some(bytes) = shard.reader.cached(extent.place()) {
            return Ok(bytes);
        }
        session.set_cold(position, true);
    }
    // What lies behind was asked for with the first of a block.
    if session.is_again_in(extent.block)
        && let Some(bytes) = shard.reader.cached(extent.place())
    {
        return Ok(bytes);
    }
    let worth = session.worth_reading(position, *extent);
    shard.reader.extent(worth.iter().copied()).await
}

/// The part of an extent from the batch that holds `from`: whole batches, at most `room` bytes
/// (one batch at least if `must`). Gives the bytes, where they start in the extent, and the offset
/// after them. Unless `must`, nothing if that batch begins before: between two looks compaction put
/// it in the place of what was read of it already.
fn cut(
    extent: &Extent,
    whole: &CachedBytes,
    from: Offset,
    room: usize,
    must: bool,
) -> Option<(CachedBytes, u32, Offset)> {
    let len = whole.bytes;
    if from <= extent.base_offset && len <= room {
        return Some((whole.clone(), 0, extent.end_offset));
    }
    let bytes = whole.as_slice();
    let (mut begin, mut end, mut next) = (None, 0, from);
    let mut at = 0;
    while at + BATCH_HEADER_BYTES <= len {
        let header = BatchHeader::decode(&bytes[at..]).ok()?;
        let batch_bytes = to_usize(header.length);
        if header.next_offset() > from {
            if header.base_offset < from && !must {
                return None;
            }
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

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("u32 fits usize")
}
