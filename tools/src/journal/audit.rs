//! Follows every chain and partition through a journal and notices what is missing.
//!
//! Within one epoch of a chain the LSNs in a journal are dense and each frame names the crc of the
//! one before it; the batches of a partition tile its offsets. Between epochs a chain may have
//! lived in another journal, and segments that were freed leave a hole: both start a new *stretch*,
//! across which nothing is concluded.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use catena_core::block::BlockView;
use catena_core::entry::{EntryView, FrameHeader, RecordKind};
use catena_core::ids::{BlockLocation, JournalPos, Lsn, SegmentSeq};
use catena_protocol::ids::{ChainEpoch, ChainId, Offset, TopicPartition};
use serde::Serialize;

/// What a journal holds, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub blocks: u64,
    pub frames: u64,
    pub records: u64,
    pub batches: u64,
    pub messages: u64,
    pub batch_bytes: u64,
}

/// Something that should be in the journal and is not. Found when what follows it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    /// The block behind the gap.
    pub(crate) at: JournalPos,
    pub(crate) missing: Missing,
}

/// Ranges are half open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    Offsets {
        tp: TopicPartition,
        from: Offset,
        to: Offset,
    },
    Frames {
        chain: ChainId,
        from: Lsn,
        to: Lsn,
    },
    /// Both frames are there, but the later does not follow the earlier.
    Link {
        chain: ChainId,
        lsn: Lsn,
    },
    /// The offsets were already taken.
    Overlap {
        tp: TopicPartition,
        from: Offset,
        to: Offset,
    },
    /// An entry that this version must understand and does not.
    UnknownKind {
        kind: u8,
    },
}

#[derive(Debug)]
struct ChainSeen {
    epoch: ChainEpoch,
    lsn: Lsn,
    crc: u32,
    stretch: u64,
}

#[derive(Debug)]
struct PartitionSeen {
    next: Offset,
    stretch: u64,
}

/// The fold over the blocks of one journal, in order.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Segments before this one may have been freed, so holes there mean nothing.
    freed_below: SegmentSeq,
    last_segment: SegmentSeq,
    chains: BTreeMap<ChainId, ChainSeen>,
    partitions: BTreeMap<TopicPartition, PartitionSeen>,
    stretches: u64,
    pub(crate) counts: Counts,
    pub(crate) gaps: Vec<Gap>,
}

impl Audit {
    /// `freed_below` is where the newest checkpoint lets recovery start.
    pub(crate) fn new(freed_below: SegmentSeq) -> Self {
        Self {
            freed_below,
            ..Self::default()
        }
    }

    /// Nothing that follows has to fit to what came before.
    fn skip(&mut self) {
        self.chains.clear();
        self.partitions.clear();
    }

    pub(crate) fn block(&mut self, location: &BlockLocation, view: &BlockView<'_>) {
        self.counts.blocks += 1;
        let hole = location.segment.0 > self.last_segment.0.saturating_add(1);
        if hole && location.segment <= self.freed_below {
            self.skip();
        }
        self.last_segment = location.segment;
        let at = location.start();
        for entry in view.entries() {
            match entry {
                EntryView::Batches(frame, rows) => {
                    let stretch = self.frame(at, &frame);
                    for batch in rows.batches() {
                        self.counts.batches += 1;
                        self.counts.messages += u64::from(batch.header.record_count);
                        self.counts.batch_bytes += u64::from(batch.header.length);
                        let (from, to) = (batch.header.base_offset, batch.header.next_offset());
                        self.offsets(at, stretch, batch.tp, from, to);
                    }
                }
                EntryView::Frame(frame, _) => {
                    self.frame(at, &frame);
                }
                EntryView::Record(record, _) => {
                    self.counts.records += 1;
                    if record.kind == RecordKind::Truncate {
                        // What follows may take the LSNs and offsets of what was cut.
                        self.skip();
                    }
                }
                // Copies of batches whose frames were counted where they came first.
                EntryView::Relocation(..) => self.counts.records += 1,
                EntryView::Unknown(header, _) if header.kind.is_critical() => {
                    let kind = header.kind.number();
                    self.gaps.push(Gap {
                        at,
                        missing: Missing::UnknownKind { kind },
                    });
                }
                EntryView::Unknown(..) => {}
            }
        }
    }

    /// Follows the chain to this frame and gives the stretch that its partitions are in.
    fn frame(&mut self, at: JournalPos, frame: &FrameHeader) -> u64 {
        self.counts.frames += 1;
        let FrameHeader {
            chain,
            epoch,
            lsn,
            crc,
            prev_frame_crc,
            ..
        } = *frame;
        let seen = self.chains.get(&chain);
        let follows = seen.is_some_and(|seen| lsn.0 == seen.lsn.0 + 1);
        let stretch = match seen {
            Some(seen) if follows => {
                if prev_frame_crc != seen.crc {
                    self.gaps.push(Gap {
                        at,
                        missing: Missing::Link { chain, lsn },
                    });
                }
                seen.stretch
            }
            Some(seen) if epoch == seen.epoch => {
                let (from, to) = (Lsn(seen.lsn.0 + 1), lsn);
                self.gaps.push(Gap {
                    at,
                    missing: Missing::Frames { chain, from, to },
                });
                seen.stretch
            }
            _ => {
                self.stretches += 1;
                self.stretches
            }
        };
        self.chains.insert(
            chain,
            ChainSeen {
                epoch,
                lsn,
                crc,
                stretch,
            },
        );
        stretch
    }

    fn offsets(
        &mut self,
        at: JournalPos,
        stretch: u64,
        tp: TopicPartition,
        from: Offset,
        to: Offset,
    ) {
        let seen = self
            .partitions
            .insert(tp, PartitionSeen { next: to, stretch });
        let Some(seen) = seen.filter(|seen| seen.stretch == stretch) else {
            return;
        };
        let missing = match seen.next.cmp(&from) {
            Ordering::Less => Missing::Offsets {
                tp,
                from: seen.next,
                to: from,
            },
            Ordering::Greater => Missing::Overlap {
                tp,
                from,
                to: seen.next.min(to),
            },
            Ordering::Equal => return,
        };
        self.gaps.push(Gap { at, missing });
    }
}
