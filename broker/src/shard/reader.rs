//! Reads blocks back: from the cache, or from the disk in chunks that serve all partitions in them.
//!
//! A chunk starts and ends at block boundaries that the asking partition's extents name; gaps below
//! 64 KiB between them are read along. A reader that wants less than two thirds of that reads the
//! pages of its extents only, unless many read there. Each chunk is checked once, whole, before it
//! enters the cache. A reader whose block is in a chunk that is being read waits for that one, and
//! a chunk ends where another begins, so that readers of interleaved partitions do not read the
//! same bytes again. While one chunk is consumed the next are on their way.
//!
//! Invariant: a block is given out only if its heads were checked, and a batch of it only if its
//! body was, here or by who asked for [`BlockReader::block_with_good_heads`]. Runs on the shard's
//! executor; cold reads have their own task queue.

mod chunk;
mod disk;
mod error;
mod visits;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use catena_core::block::{BlockView, parse_block};
use catena_core::ids::BlockLocation;
use catena_core::index::Extent;
use catena_core::one_bit;
use catena_protocol::ids::TopicPartition;

pub use error::ReadError;

use super::budget::{Budget, Charge};
use super::files::{OpenSegment, SegmentFiles};
use super::outbox::{BlockSlice, ParkedSlice};
use crate::cache::{BlockCache, CachedBytes, Holding};
use crate::limits::{READ_AHEAD_CHUNKS, READ_BYTES_IN_FLIGHT_MAX, READ_GAP_BYTES_MAX};
use crate::metrics::ShardMetrics;
use crate::runtime::buffer::Buffer;
use crate::runtime::channel::Notify;
use crate::runtime::clock;
use crate::runtime::executor::{self, Queue};
use chunk::{Chunk, ChunkStart};
use disk::{Disk, Read};
use error::corrupt;
use visits::Visits;

/// A read under way, which others can wait for.
#[derive(Default)]
struct Loading {
    result: RefCell<Option<Result<CachedBytes, ReadError>>>,
    done: Notify,
}

/// A chunk that is being read.
type Running = (Chunk, Rc<Loading>);

/// Reads blocks for one shard.
pub struct BlockReader {
    disk: Disk,
    cache: Rc<RefCell<BlockCache>>,
    loading: RefCell<BTreeMap<ChunkStart, Running>>,
    visits: RefCell<Visits>,
    in_flight: Rc<Budget>,
    metrics: Arc<ShardMetrics>,
}

impl BlockReader {
    /// A reader over `files` that keeps what it reads in `cache`. `probe` is a file of two pages
    /// that can be read as long as the disk gives anything.
    pub fn new(
        files: SegmentFiles,
        probe: PathBuf,
        cache: Rc<RefCell<BlockCache>>,
        metrics: Arc<ShardMetrics>,
    ) -> Rc<BlockReader> {
        Rc::new(BlockReader {
            disk: Disk::new(files, probe),
            cache,
            loading: RefCell::default(),
            visits: RefCell::default(),
            in_flight: Budget::new(READ_BYTES_IN_FLIGHT_MAX),
            metrics,
        })
    }

    /// Segments open for reading.
    pub fn files(&self) -> &SegmentFiles {
        &self.disk.files
    }

    /// The segment of a block, and with it a lease on it.
    pub async fn segment(&self, place: BlockLocation) -> Result<Rc<OpenSegment>, ReadError> {
        self.disk.segment(place).await
    }

    /// The batches of the first of `extents`; the others, of this partition or others, say what to
    /// read along and ahead.
    pub async fn extent(
        self: &Rc<Self>,
        extents: impl Iterator<Item = (TopicPartition, Extent)> + Clone,
    ) -> Result<CachedBytes, ReadError> {
        let (_, first) = extents
            .clone()
            .next()
            .expect("a reader asks for at least one extent");
        let now_us = clock::now_us();
        let are_many = |chunk| self.visits.borrow().are_many_at(chunk, now_us);
        let chunks = chunk::plan(extents, 1 + READ_AHEAD_CHUNKS, are_many);
        self.read(first.place(), first.block, chunks).await
    }

    /// One block outside of any sequence (an index page).
    pub async fn single(self: &Rc<Self>, place: BlockLocation) -> Result<CachedBytes, ReadError> {
        self.read(place, place, vec![Chunk::of(place)]).await
    }

    /// What lies at `place` of `block`, which the first of `chunks` covers; the others are read
    /// ahead.
    async fn read(
        self: &Rc<Self>,
        place: BlockLocation,
        block: BlockLocation,
        chunks: Vec<Chunk>,
    ) -> Result<CachedBytes, ReadError> {
        let mut chunks = chunks.into_iter();
        let first = chunks.next().expect("the first extent starts a chunk");
        let cached = self.cached(place);
        // Before what is read ahead, so that it is not what has to wait.
        let loading = cached.is_none().then(|| self.load(first, place));
        for chunk in chunks {
            self.load_ahead(chunk);
        }
        match (cached, loading) {
            // The first chunk counts as here although its later blocks may not be: the read that
            // brought this one brought them, too.
            (Some(bytes), _) => Ok(bytes),
            (None, loading) => {
                self.metrics.cache_misses.add(1);
                let (chunk, loading) = loading.expect("a place that is not cached is being read");
                self.loaded(place, block, chunk, &loading).await
            }
        }
    }

    /// Whether what lies at a place is in memory.
    pub fn holds(&self, place: BlockLocation) -> bool {
        self.cache.borrow_mut().get(place).is_some()
    }

    /// What lies at a place, if it is in memory.
    pub fn cached(&self, place: BlockLocation) -> Option<CachedBytes> {
        let cached = self.cache.borrow_mut().get(place);
        if cached.is_some() {
            self.metrics.cache_hits.add(1);
        }
        cached
    }

    /// Any pages of a segment, past the cache, in as many tries as it may take. Nothing of them is
    /// checked.
    pub async fn pages(&self, place: BlockLocation) -> Result<Buffer, ReadError> {
        Ok(self.disk.read_patiently(place).await?.0)
    }

    /// A block whose heads are good, whatever is wrong with the bodies of its batches; the caller
    /// checks those it wants. Pages that cannot be read are zeros. Never cached.
    pub async fn block_with_good_heads(
        &self,
        place: BlockLocation,
    ) -> Result<(CachedBytes, Rc<OpenSegment>), ReadError> {
        let (buffer, segment) = self.disk.read_what_is_there(place).await?;
        parse(&buffer, &segment, place)?;
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
        let (buffer, segment) = self.disk.read_what_is_there(place).await?;
        let mut bytes = buffer.to_vec();
        let header = &segment.header;
        one_bit::correct_block(&mut bytes, header.salt, header.segment, place.offset);
        parse(&bytes, &segment, place)?;
        Ok(bytes)
    }

    /// Reads a parked slice again. What is damaged meanwhile is an error, like for any reader.
    pub async fn read_back(self: &Rc<Self>, parked: &ParkedSlice) -> Result<BlockSlice, ReadError> {
        let extent = parked.extent;
        // Alone: what was around it has been read and sent, or is parked, too.
        let chunks = chunk::plan(std::iter::once((parked.tp, extent)), 1, |_| false);
        let batches = match self.read(extent.place(), extent.block, chunks).await {
            Ok(batches) => batches,
            // The slice may be the intact part of a damaged block, as it was when it was read.
            Err(refused @ ReadError::Corrupt { .. }) => {
                let (whole, segment) = self.block_with_good_heads(extent.block).await?;
                if is_damaged(&parse(whole.as_slice(), &segment, extent.block)?, parked) {
                    return Err(refused);
                }
                whole.slice(to_usize(extent.offset_in_block), to_usize(extent.bytes))
            }
            Err(error) => return Err(error),
        };
        let skip = to_usize(parked.offset - extent.place().offset);
        Ok(BlockSlice {
            bytes: batches.slice(skip, parked.bytes),
            segment: Rc::clone(&parked.segment),
            tp: parked.tp,
            extent,
            offset: parked.offset,
        })
    }

    async fn loaded(
        &self,
        place: BlockLocation,
        block: BlockLocation,
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
                Some(Err(_)) => {
                    loading.done.notify();
                    // What is damaged may be a neighbour that was only read along.
                    let whole = self.read_alone(block).await?;
                    let skip = to_usize(place.offset - block.offset);
                    return Ok(whole.slice(skip, to_usize(place.bytes)));
                }
            }
        }
    }

    /// Starts a read, or joins the one that covers `place`.
    fn load(self: &Rc<Self>, chunk: Chunk, place: BlockLocation) -> Running {
        let running = self.running(place);
        running.unwrap_or_else(|| self.start(self.uncovered(chunk), None))
    }

    /// Starts a read unless it begins with what is here or on its way, or too much is being read
    /// already.
    fn load_ahead(self: &Rc<Self>, chunk: Chunk) {
        let begin = chunk.beginning();
        let is_coming = self.holds(begin) || self.running(begin).is_some();
        let bytes = to_usize(chunk.pages().bytes);
        if !is_coming && let Some(charge) = self.in_flight.try_charge(bytes) {
            self.start(self.uncovered(chunk), Some(charge));
        }
    }

    /// The chunk that is being read and covers a place.
    fn running(&self, place: BlockLocation) -> Option<Running> {
        let loading = self.loading.borrow();
        let key = Chunk::of(place).key();
        let (_, (chunk, loading)) = loading.range(..=key).next_back()?;
        chunk.covers(place).then(|| (*chunk, Rc::clone(loading)))
    }

    /// The chunk up to where other blocks begin that are being read, or are in the cache and large
    /// enough that going around them is cheaper than reading them again.
    fn uncovered(&self, chunk: Chunk) -> Chunk {
        if chunk.part.is_some() {
            return chunk;
        }
        let (journal, segment, start) = chunk.key();
        let behind = (journal, segment, start + 1)..(journal, segment, chunk.end());
        let loading = self.loading.borrow();
        let mut running = loading
            .range(behind)
            .filter(|(_, (chunk, _))| chunk.part.is_none());
        let running = running.next().map(|(key, _)| key.2);
        let cached = self
            .cache
            .borrow()
            .next_blocks(chunk.place(), READ_GAP_BYTES_MAX);
        let end = running.into_iter().chain(cached).min();
        end.map_or(chunk, |end| chunk.before(end))
    }

    fn start(self: &Rc<Self>, chunk: Chunk, charge: Option<Charge>) -> Running {
        if chunk.part.is_some() {
            self.visits.borrow_mut().add(chunk, clock::now_us());
        }
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
        (chunk, loading)
    }

    /// Reads within the budget for reads in flight, waiting for it if need be.
    async fn read_charged(
        &self,
        chunk: Chunk,
        charge: Option<Charge>,
    ) -> Result<CachedBytes, ReadError> {
        let mut charge = charge.unwrap_or_else(|| self.in_flight.charge());
        charge.grow_to(to_usize(chunk.pages().bytes)).await;
        let read = self.disk.read(chunk.pages()).await?;
        drop(charge);
        self.keep(chunk, read).await
    }

    /// Reads one block without its neighbours, as patiently as it takes.
    async fn read_alone(&self, place: BlockLocation) -> Result<CachedBytes, ReadError> {
        let mut charge = self.in_flight.charge();
        charge.grow_to(to_usize(place.bytes)).await;
        let read = self.disk.read_patiently(place).await?;
        drop(charge);
        self.keep(Chunk::of(place), read).await
    }

    /// Checks what was read and puts it into the cache.
    async fn keep(&self, chunk: Chunk, (buffer, segment): Read) -> Result<CachedBytes, ReadError> {
        self.metrics.fetch_cold_reads.add(1);
        let bytes = chunk.pages().bytes;
        self.metrics.fetch_cold_bytes.add(u64::from(bytes));
        let buffer = Rc::new(buffer);
        chunk.check(&segment, &buffer).await?;
        let read = CachedBytes {
            buffer,
            start: to_usize(chunk.skip()),
            bytes: to_usize(chunk.bytes),
        };
        let holding = match chunk.part {
            Some(_) => Holding::Part,
            None => Holding::Blocks,
        };
        let mut cache = self.cache.borrow_mut();
        // Somebody may have read the block around it meanwhile.
        if holding == Holding::Blocks || cache.get(chunk.place()).is_none() {
            let (journal, segment, start) = chunk.key();
            cache.insert(journal, segment, start, read.clone(), holding);
        }
        Ok(read)
    }
}

/// A block with its heads checked.
fn parse<'a>(
    bytes: &'a [u8],
    segment: &OpenSegment,
    place: BlockLocation,
) -> Result<BlockView<'a>, ReadError> {
    let header = &segment.header;
    parse_block(bytes, header.salt, header.segment, place.offset)
        .map_err(|error| corrupt(place, &error))
}

/// Whether a damaged batch of the block reaches into the slice.
fn is_damaged(block: &BlockView<'_>, slice: &ParkedSlice) -> bool {
    let start = slice.offset - slice.extent.block.offset;
    let end = to_usize(start) + slice.bytes;
    block.damaged_batches().any(|batch| {
        to_usize(batch.offset_in_block) < end && start < batch.offset_in_block + batch.bytes
    })
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("u32 fits usize")
}
