//! Reads blocks back: from the cache, or from the disk in chunks that serve all partitions in them.
//!
//! A chunk starts and ends at block boundaries that the asking partition's extents name; gaps below
//! 64 KiB between them are read along. Each chunk is checked once, whole, before it enters the
//! cache. Readers that want the same chunk share one read. While one chunk is consumed the next are
//! on their way.
//!
//! Runs on the shard's executor; cold reads have their own task queue.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use catena_core::block::parse_block;
use catena_core::ids::{BlockLocation, JournalId, SegmentSeq};
use catena_core::index::Extent;
use catena_core::limits::{BLOCK_ALIGN_U32, BLOCK_BYTES_MAX_U32};
use catena_core::one_bit;
use catena_protocol::ids::Offset;

use super::budget::{Budget, Charge};
use super::files::{OpenSegment, SegmentFiles};
use super::outbox::{BlockSlice, ParkedSlice};
use crate::cache::{BlockCache, CachedBytes};
use crate::limits::{READ_AHEAD_CHUNKS, READ_BYTES_IN_FLIGHT_MAX, READ_GAP_BYTES_MAX};
use crate::metrics::ShardMetrics;
use crate::runtime::buffer::Buffer;
use crate::runtime::channel::Notify;
use crate::runtime::executor::{self, Queue};

/// Why a block could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The device or the file system failed.
    #[error("cannot read {place}: {reason}")]
    Io {
        /// Where.
        place: BlockLocation,
        /// The operating system's words.
        reason: String,
    },
    /// What was read is not what was written.
    #[error("{place} is corrupt: {reason}")]
    Corrupt {
        /// Where.
        place: BlockLocation,
        /// What does not fit.
        reason: String,
    },
    /// No block holds these offsets.
    #[error("offsets {from} to {next} are lost")]
    Missing {
        /// The first of them.
        from: Offset,
        /// The offset after them.
        next: Offset,
    },
}

impl ReadError {
    /// The file system's refusal to read a place.
    pub fn io(place: BlockLocation, error: &io::Error) -> ReadError {
        ReadError::Io {
            place,
            reason: error.to_string(),
        }
    }
}

/// A read under way, which others can wait for.
#[derive(Default)]
struct Loading {
    result: RefCell<Option<Result<CachedBytes, ReadError>>>,
    done: Notify,
}

/// Where a chunk starts.
type ChunkStart = (JournalId, SegmentSeq, u32);

/// A run of blocks to read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    journal: JournalId,
    segment: SegmentSeq,
    start: u32,
    bytes: u32,
}

/// Reads blocks for one shard.
pub struct BlockReader {
    /// Segments open for reading.
    pub files: SegmentFiles,
    cache: Rc<RefCell<BlockCache>>,
    loading: RefCell<BTreeMap<ChunkStart, (Chunk, Rc<Loading>)>>,
    in_flight: Rc<Budget>,
    metrics: Arc<ShardMetrics>,
}

impl BlockReader {
    /// A reader over `files` that keeps what it reads in `cache`.
    pub fn new(
        files: SegmentFiles,
        cache: Rc<RefCell<BlockCache>>,
        metrics: Arc<ShardMetrics>,
    ) -> Rc<BlockReader> {
        Rc::new(BlockReader {
            files,
            cache,
            loading: RefCell::default(),
            in_flight: Budget::new(READ_BYTES_IN_FLIGHT_MAX),
            metrics,
        })
    }

    /// The block of the first of `extents`; the others say what to read along and ahead.
    pub async fn block(
        self: &Rc<Self>,
        extents: impl Iterator<Item = Extent> + Clone,
    ) -> Result<CachedBytes, ReadError> {
        let place = extents
            .clone()
            .next()
            .expect("a reader asks for at least one extent")
            .block;
        let mut chunks = plan_chunks(extents, 1 + READ_AHEAD_CHUNKS).into_iter();
        let first = chunks.next().expect("the first extent starts a chunk");
        let cached = self.cached(place);
        // Before what is read ahead, so that it is not what has to wait.
        let loading = cached.is_none().then(|| self.load(first));
        for chunk in chunks.filter(|chunk| !self.is_cached(*chunk)) {
            self.load_ahead(chunk);
        }
        match (cached, loading) {
            // The first chunk counts as here although its later blocks may not be: the read that
            // brought this one brought them, too.
            (Some(bytes), _) => Ok(bytes),
            (None, loading) => {
                self.metrics.cache_misses.add(1);
                let loading = loading.expect("a block that is not cached is being read");
                self.loaded(place, first, &loading).await
            }
        }
    }

    /// The block, if it is in memory.
    pub fn cached(&self, place: BlockLocation) -> Option<CachedBytes> {
        let cached = self.cache.borrow_mut().get(place);
        if cached.is_some() {
            self.metrics.cache_hits.add(1);
        }
        cached
    }

    async fn loaded(
        &self,
        place: BlockLocation,
        chunk: Chunk,
        loading: &Loading,
    ) -> Result<CachedBytes, ReadError> {
        loop {
            let result = loading.result.borrow().clone();
            match result {
                None => loading.done.notified().await,
                Some(Ok(whole)) => {
                    loading.done.notify();
                    let skip = to_usize(place.offset - chunk.start);
                    return Ok(whole.slice(skip, to_usize(place.bytes)));
                }
                Some(Err(error)) => {
                    loading.done.notify();
                    // What is damaged may be a neighbour that was only read along.
                    let alone = Chunk::of(place);
                    if chunk == alone {
                        return Err(error);
                    }
                    return self.read_charged(alone, None).await;
                }
            }
        }
    }

    /// One block outside of any sequence (an index page).
    pub async fn single(self: &Rc<Self>, place: BlockLocation) -> Result<CachedBytes, ReadError> {
        let extent = Extent {
            base_offset: Offset::new(0),
            end_offset: Offset::new(0),
            block: place,
            offset_in_block: 0,
            bytes: place.bytes,
            max_timestamp_ms: 0,
        };
        self.block(std::iter::once(extent)).await
    }

    /// A block whose heads are good, whatever is wrong with the bodies of its batches; the caller
    /// checks those it wants. Never cached.
    pub async fn block_with_good_heads(
        &self,
        place: BlockLocation,
    ) -> Result<(CachedBytes, Rc<OpenSegment>), ReadError> {
        let (buffer, segment) = self.unchecked(place).await?;
        let header = &segment.header;
        parse_block(&buffer, header.salt, header.segment, place.offset)
            .map_err(|error| corrupt(place, &error))?;
        let whole = CachedBytes {
            buffer: Rc::new(buffer),
            start: 0,
            bytes: to_usize(place.bytes),
        };
        Ok((whole, segment))
    }

    /// A copy of a block whose heads are good, or were before one bit flipped. Not for readers.
    pub async fn block_with_corrected_heads(
        &self,
        place: BlockLocation,
    ) -> Result<Vec<u8>, ReadError> {
        let (buffer, segment) = self.unchecked(place).await?;
        let mut bytes = buffer.to_vec();
        let header = &segment.header;
        one_bit::correct_block(&mut bytes, header.salt, header.segment, place.offset);
        match parse_block(&bytes, header.salt, header.segment, place.offset) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(corrupt(place, &error)),
        }
    }

    async fn unchecked(
        &self,
        place: BlockLocation,
    ) -> Result<(Buffer, Rc<OpenSegment>), ReadError> {
        let io = |error: io::Error| ReadError::io(place, &error);
        let (journal, segment) = place.segment_key();
        let segment = self.files.open(journal, segment).await.map_err(io)?;
        let (offset, bytes) = (u64::from(place.offset), to_usize(place.bytes));
        let buffer = segment.file.read(offset, bytes).await.map_err(io)?;
        if buffer.len() < bytes {
            return Err(corrupt(place, &"the file ends before it"));
        }
        Ok((buffer, segment))
    }

    /// Reads a parked slice again, whole.
    pub async fn read_back(&self, parked: &ParkedSlice) -> io::Result<Vec<BlockSlice>> {
        let start = parked.offset - parked.offset % BLOCK_ALIGN_U32;
        let skip = to_usize(parked.offset - start);
        let wanted = (skip + parked.bytes).next_multiple_of(to_usize(BLOCK_ALIGN_U32));
        let first = wanted.min(to_usize(BLOCK_BYTES_MAX_U32));
        let buffer = Rc::new(parked.segment.file.read(u64::from(start), first).await?);
        let here = (first - skip).min(parked.bytes);
        let mut slices = vec![BlockSlice {
            bytes: CachedBytes {
                buffer,
                start: skip,
                bytes: here,
            },
            segment: Rc::clone(&parked.segment),
            offset: parked.offset,
        }];
        if here < parked.bytes {
            // A slice of up to 1 MiB that starts inside a page touches one page more.
            let at = u64::from(start) + u64::try_from(first).expect("usize fits u64");
            let buffer = Rc::new(parked.segment.file.read(at, wanted - first).await?);
            slices.push(BlockSlice {
                bytes: CachedBytes {
                    buffer,
                    start: 0,
                    bytes: parked.bytes - here,
                },
                segment: Rc::clone(&parked.segment),
                offset: parked.offset + u32::try_from(here).expect("a slice is below 1 MiB"),
            });
        }
        Ok(slices)
    }

    fn is_cached(&self, chunk: Chunk) -> bool {
        let first_page = BlockLocation {
            journal: chunk.journal,
            segment: chunk.segment,
            offset: chunk.start,
            bytes: BLOCK_ALIGN_U32,
        };
        self.cache.borrow_mut().get(first_page).is_some()
    }

    /// Starts a read, or joins the one that covers it.
    fn load(self: &Rc<Self>, chunk: Chunk) -> Rc<Loading> {
        let running = self.running(chunk);
        running.unwrap_or_else(|| self.start(chunk, None))
    }

    /// Starts a read unless it is under way or too much is being read already.
    fn load_ahead(self: &Rc<Self>, chunk: Chunk) {
        if self.running(chunk).is_none()
            && let Some(charge) = self.in_flight.try_charge(to_usize(chunk.bytes))
        {
            self.start(chunk, Some(charge));
        }
    }

    fn running(&self, chunk: Chunk) -> Option<Rc<Loading>> {
        let loading = self.loading.borrow();
        let (running, loading) = loading.get(&chunk.key())?;
        (running.bytes >= chunk.bytes).then(|| Rc::clone(loading))
    }

    fn start(self: &Rc<Self>, chunk: Chunk, charge: Option<Charge>) -> Rc<Loading> {
        let key = chunk.key();
        let loading = Rc::new(Loading::default());
        self.loading
            .borrow_mut()
            .insert(key, (chunk, Rc::clone(&loading)));
        let (reader, result) = (Rc::clone(self), Rc::clone(&loading));
        let read = async move {
            let read = reader.read_charged(chunk, charge).await;
            let mut running = reader.loading.borrow_mut();
            if running
                .get(&key)
                .is_some_and(|(_, current)| Rc::ptr_eq(current, &result))
            {
                running.remove(&key);
            }
            drop(running);
            *result.result.borrow_mut() = Some(read);
            result.done.notify();
        };
        executor::spawn(Queue::Cold, read).detach();
        loading
    }

    /// Reads within the budget for reads in flight, waiting for it if need be.
    async fn read_charged(
        &self,
        chunk: Chunk,
        charge: Option<Charge>,
    ) -> Result<CachedBytes, ReadError> {
        let mut charge = charge.unwrap_or_else(|| self.in_flight.charge());
        charge.grow_to(to_usize(chunk.bytes)).await;
        let read = self.read_chunk(chunk).await;
        drop(charge);
        read
    }

    async fn read_chunk(&self, chunk: Chunk) -> Result<CachedBytes, ReadError> {
        let place = chunk.place();
        let io = |error: io::Error| ReadError::io(place, &error);
        let segment = self
            .files
            .open(chunk.journal, chunk.segment)
            .await
            .map_err(io)?;
        let bytes = to_usize(chunk.bytes);
        let buffer = segment
            .file
            .read(u64::from(chunk.start), bytes)
            .await
            .map_err(io)?;
        self.metrics.fetch_cold_reads.add(1);
        self.metrics.fetch_cold_bytes.add(u64::from(chunk.bytes));
        let buffer = Rc::new(buffer);
        check_chunk(&segment, chunk, &buffer).await?;
        self.cache.borrow_mut().insert(
            chunk.journal,
            chunk.segment,
            chunk.start,
            Rc::clone(&buffer),
            chunk.bytes,
        );
        Ok(CachedBytes {
            buffer,
            start: 0,
            bytes,
        })
    }
}

impl Chunk {
    fn key(self) -> ChunkStart {
        (self.journal, self.segment, self.start)
    }

    fn place(self) -> BlockLocation {
        BlockLocation {
            journal: self.journal,
            segment: self.segment,
            offset: self.start,
            bytes: self.bytes,
        }
    }

    fn of(block: BlockLocation) -> Chunk {
        Chunk {
            journal: block.journal,
            segment: block.segment,
            start: block.offset,
            bytes: block.bytes,
        }
    }

    /// The chunk that also covers `block`, if that is worth one read.
    fn extended(self, block: BlockLocation) -> Option<Chunk> {
        if (block.journal, block.segment) != (self.journal, self.segment) {
            return None;
        }
        let end = self.start + self.bytes;
        if block.offset + block.bytes <= end && block.offset >= self.start {
            return Some(self);
        }
        let gap = block.offset.checked_sub(end)?;
        let bytes = block.offset + block.bytes - self.start;
        (gap <= READ_GAP_BYTES_MAX && bytes <= BLOCK_BYTES_MAX_U32)
            .then_some(Chunk { bytes, ..self })
    }
}

/// The first `count` chunks that hold the blocks of `extents`.
fn plan_chunks(extents: impl Iterator<Item = Extent>, count: usize) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::with_capacity(count);
    for extent in extents {
        let longer = chunks.last().and_then(|last| last.extended(extent.block));
        if let Some(longer) = longer {
            chunks.pop();
            chunks.push(longer);
        } else if chunks.len() == count {
            break;
        } else {
            chunks.push(Chunk::of(extent.block));
        }
    }
    chunks
}

/// Checks every block of a chunk, heads and bodies, and that they tile it.
async fn check_chunk(
    segment: &OpenSegment,
    chunk: Chunk,
    buffer: &Buffer,
) -> Result<(), ReadError> {
    let mut at = 0;
    let end = to_usize(chunk.bytes);
    while at < end {
        let position = chunk.start + u32::try_from(at).expect("a chunk is at most 1 MiB");
        let corrupt = |reason: String| ReadError::Corrupt {
            place: BlockLocation {
                offset: position,
                ..chunk.place()
            },
            reason,
        };
        let header = &segment.header;
        let view = parse_block(&buffer[at..end], header.salt, header.segment, position)
            .map_err(|error| corrupt(error.to_string()))?;
        view.verify_bodies()
            .map_err(|error| corrupt(error.to_string()))?;
        at += to_usize(view.header().length);
        executor::yield_if_needed().await;
    }
    Ok(())
}

fn corrupt(place: BlockLocation, reason: &dyn std::fmt::Display) -> ReadError {
    let reason = reason.to_string();
    ReadError::Corrupt { place, reason }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("u32 fits usize")
}
