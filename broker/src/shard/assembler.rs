//! Fills blocks for the next group: items in, open blocks out.
//!
//! Small batches are gathered, sorted by chain and partition, and copied once into a shared block,
//! one frame per chain. A large request that was received in place becomes a block of its own, and
//! nothing of it is copied. Offsets are assigned on entry ([`Assembler::add`]) and LSNs when a
//! block is filled, so a large block first closes the gathered one: the frames of a chain stay in
//! the order of their offsets.
//!
//! Invariant: what was added is in exactly one block, in arrival order within its partition. Runs
//! on the shard's executor, in memory only.

use bytes::Bytes;
use catena_core::block::{
    self, BLOCK_HEADER_BYTES, BatchPlace, BlockWriter, PlacedEntry, PlacedFrame,
};
use catena_core::entry::{ENTRY_HEADER_BYTES, FrameKind, ROW_BYTES, RecordKind};
use catena_core::ids::Lsn;
use catena_core::limits::{BLOCK_ALIGN, BLOCK_BYTES_MAX};
use catena_core::log::ShardLog;
use catena_protocol::ids::{ChainEpoch, ChainId, TopicPartition};

use crate::journal::OpenBlock;
use crate::runtime::buffer::{self, Buffer};

/// One admitted batch.
pub struct AdmittedBatch {
    /// Its chain.
    pub chain: ChainId,
    /// Its place in the partition.
    pub place: BatchPlace,
    /// The batch as the producer built it.
    pub bytes: Bytes,
}

/// A frame of a filled block, for what happens when the block is durable.
pub struct FilledFrame {
    /// Its chain.
    pub chain: ChainId,
    /// Its LSN.
    pub lsn: Lsn,
    /// What was placed where.
    pub placed: PlacedFrame,
    /// What it says, unless it holds batches.
    pub control: Option<ControlFrame>,
}

/// A control frame of a filled block.
pub struct ControlFrame {
    /// The number the submitter gave it.
    pub ticket: u64,
    /// What it does.
    pub kind: FrameKind,
    /// Its body.
    pub body: Bytes,
}

/// A journal record of a filled block.
pub struct FilledRecord {
    /// The number the submitter gave it.
    pub ticket: u64,
    /// Where the record starts within the block.
    pub offset_in_block: u32,
    /// Its length with header, in bytes.
    pub bytes: u32,
    /// Whether it holds old batches that were moved, which nobody waits for.
    pub is_relocation: bool,
}

impl FilledRecord {
    fn new(ticket: u64, placed: PlacedEntry, is_relocation: bool) -> FilledRecord {
        FilledRecord {
            ticket,
            offset_in_block: placed.offset_in_block,
            bytes: placed.bytes,
            is_relocation,
        }
    }
}

/// A block that only waits for its group.
pub struct FilledBlock {
    /// The block.
    pub block: OpenBlock,
    /// Its frames, in order.
    pub frames: Vec<FilledFrame>,
    /// Its journal records, in order.
    pub records: Vec<FilledRecord>,
}

enum Small {
    Batch(AdmittedBatch),
    Control {
        ticket: u64,
        chain: ChainId,
        kind: FrameKind,
        body: Bytes,
    },
    Record {
        ticket: u64,
        kind: RecordKind,
        chain: ChainId,
        epoch: ChainEpoch,
        body: Bytes,
    },
    Relocation {
        ticket: u64,
        row_count: u16,
        body: Bytes,
    },
}

/// Gathers admitted items and fills blocks.
#[derive(Default)]
pub struct Assembler {
    gathered: Vec<Small>,
    gathered_bytes: usize,
    filled: Vec<FilledBlock>,
    filled_bytes: usize,
}

impl Assembler {
    /// Adds a small batch.
    pub fn add(&mut self, batch: AdmittedBatch, log: &mut ShardLog) {
        let bytes = block::frame_bytes(1, batch.bytes.len());
        self.make_room(bytes, log);
        self.gathered.push(Small::Batch(batch));
    }

    /// Adds a control frame of a chain; `ticket` comes back with the filled frame.
    pub fn add_control(
        &mut self,
        ticket: u64,
        chain: ChainId,
        kind: FrameKind,
        body: Bytes,
        log: &mut ShardLog,
    ) {
        self.make_room(entry_bytes(body.len()), log);
        self.gathered.push(Small::Control {
            ticket,
            chain,
            kind,
            body,
        });
    }

    /// Adds a record that is local to this journal; `ticket` comes back with its place.
    pub fn add_record(
        &mut self,
        ticket: u64,
        kind: RecordKind,
        (chain, epoch): (ChainId, ChainEpoch),
        body: Bytes,
        log: &mut ShardLog,
    ) {
        self.make_room(entry_bytes(body.len()), log);
        self.gathered.push(Small::Record {
            ticket,
            kind,
            chain,
            epoch,
            body,
        });
    }

    /// Adds batches that the cleaner moves: `body` with a directory of `row_count` rows. `ticket`
    /// comes back with its place.
    pub fn add_relocation(&mut self, ticket: u64, row_count: u16, body: Bytes, log: &mut ShardLog) {
        self.make_room(entry_bytes(body.len()), log);
        self.gathered.push(Small::Relocation {
            ticket,
            row_count,
            body,
        });
    }

    /// Takes a buffer whose batches already lie where a block with one frame of `chain` has them.
    pub fn add_in_place(
        &mut self,
        mut buffer: Buffer,
        chain: ChainId,
        places: &[BatchPlace],
        log: &mut ShardLog,
    ) {
        self.fill(log);
        let stamp = log.stamp(chain);
        let mut writer = BlockWriter::new(&mut buffer);
        let placed = writer.place_batches(&stamp, places);
        let (used, entries) = (writer.used(), writer.entry_count());
        log.placed(chain, stamp.lsn, placed.crc, FrameKind::Batches);
        let frames = vec![FilledFrame {
            chain,
            lsn: stamp.lsn,
            placed,
            control: None,
        }];
        self.push_filled(
            OpenBlock {
                buffer,
                used,
                entries,
            },
            frames,
            Vec::new(),
        );
    }

    /// Bytes gathered and filled so far.
    pub fn pending_bytes(&self) -> usize {
        self.gathered_bytes + self.filled_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.filled.is_empty()
    }

    /// Fills a last block with what is gathered and hands out all blocks.
    pub fn take(&mut self, log: &mut ShardLog) -> Vec<FilledBlock> {
        self.fill(log);
        self.filled_bytes = 0;
        std::mem::take(&mut self.filled)
    }

    /// Fills a block with what is gathered, so that every admitted batch has its LSN.
    pub fn fill(&mut self, log: &mut ShardLog) {
        if self.gathered.is_empty() {
            return;
        }
        let mut gathered = std::mem::take(&mut self.gathered);
        self.gathered_bytes = 0;
        gathered.sort_by_key(sort_key);
        let mut buffer = buffer::allocate(exact_bytes(&gathered).next_multiple_of(BLOCK_ALIGN));
        let mut frames = Vec::new();
        let mut records = Vec::new();
        let mut writer = BlockWriter::new(&mut buffer);
        let mut run: Vec<(BatchPlace, &[u8])> = Vec::with_capacity(gathered.len());
        let mut items = gathered.iter().peekable();
        while let Some(item) = items.next() {
            match item {
                Small::Batch(batch) => {
                    run.push((batch.place, &batch.bytes[..]));
                    let ends =
                        !matches!(items.peek(), Some(Small::Batch(n)) if n.chain == batch.chain);
                    if ends {
                        let stamp = log.stamp(batch.chain);
                        let placed = writer.push_batches(&stamp, &run);
                        log.placed(batch.chain, stamp.lsn, placed.crc, FrameKind::Batches);
                        frames.push(FilledFrame {
                            chain: batch.chain,
                            lsn: stamp.lsn,
                            placed,
                            control: None,
                        });
                        run.clear();
                    }
                }
                Small::Control {
                    ticket,
                    chain,
                    kind,
                    body,
                } => {
                    let stamp = log.stamp(*chain);
                    let placed = writer.push_frame(*kind, &stamp, body);
                    log.placed(*chain, stamp.lsn, placed.crc, *kind);
                    frames.push(FilledFrame {
                        chain: *chain,
                        lsn: stamp.lsn,
                        placed,
                        control: Some(ControlFrame {
                            ticket: *ticket,
                            kind: *kind,
                            body: body.clone(),
                        }),
                    });
                }
                Small::Record {
                    ticket,
                    kind,
                    chain,
                    epoch,
                    body,
                } => {
                    let placed = writer.push_record(*kind, *chain, *epoch, body);
                    records.push(FilledRecord::new(*ticket, placed, false));
                }
                Small::Relocation {
                    ticket,
                    row_count,
                    body,
                } => {
                    let placed = writer.push_relocation(*row_count, body);
                    records.push(FilledRecord::new(*ticket, placed, true));
                }
            }
        }
        let (used, entries) = (writer.used(), writer.entry_count());
        drop(run);
        self.push_filled(
            OpenBlock {
                buffer,
                used,
                entries,
            },
            frames,
            records,
        );
    }

    fn make_room(&mut self, bytes: usize, log: &mut ShardLog) {
        if BLOCK_HEADER_BYTES + self.gathered_bytes + bytes > BLOCK_BYTES_MAX {
            self.fill(log);
        }
        self.gathered_bytes += bytes;
    }

    fn push_filled(
        &mut self,
        block: OpenBlock,
        frames: Vec<FilledFrame>,
        records: Vec<FilledRecord>,
    ) {
        self.filled_bytes += block.used;
        self.filled.push(FilledBlock {
            block,
            frames,
            records,
        });
    }
}

/// Batches by chain and partition (stable: arrival order within a partition); control frames after
/// the batches that were admitted before them, and of the same chain in arrival order.
fn sort_key(item: &Small) -> (u8, ChainId, Option<TopicPartition>) {
    match item {
        Small::Batch(batch) => (0, batch.chain, Some(batch.place.tp)),
        Small::Control { chain, .. } => (1, *chain, None),
        Small::Record { chain, .. } => (2, *chain, None),
        Small::Relocation { .. } => (3, ChainId::new(0), None),
    }
}

fn entry_bytes(body: usize) -> usize {
    ENTRY_HEADER_BYTES + body.next_multiple_of(8)
}

/// The block's used bytes, to the byte: one frame per chain, one row per partition.
fn exact_bytes(sorted: &[Small]) -> usize {
    let mut total = BLOCK_HEADER_BYTES;
    let mut chain = None;
    let mut partition = None;
    for item in sorted {
        match item {
            Small::Batch(batch) => {
                if chain != Some(batch.chain) {
                    chain = Some(batch.chain);
                    partition = None;
                    total += ENTRY_HEADER_BYTES;
                }
                if partition != Some(batch.place.tp) {
                    partition = Some(batch.place.tp);
                    total += ROW_BYTES;
                }
                total += batch.bytes.len();
            }
            Small::Control { body, .. }
            | Small::Record { body, .. }
            | Small::Relocation { body, .. } => {
                total += entry_bytes(body.len());
            }
        }
    }
    total
}

#[cfg(test)]
mod tests;
