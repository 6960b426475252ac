//! How much of each segment is still wanted.
//!
//! After a start the pages of all runs are read once and counted; from then on commits add, trims
//! and moves subtract. A page that cannot be read does not stop the count: what it names was
//! written before it, so every segment up to its own is kept and the others are not.
//!
//! Invariant: a segment that holds a batch which some extent of the index names is wanted. Mistakes
//! go to the side of keeping too much and end with the next start. Pure bookkeeping on the shard's
//! executor.

use std::collections::BTreeMap;

use catena_core::ids::{JournalId, SegmentSeq};
use catena_core::index::Extent;

use super::SegmentKey;

/// What is wanted of one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LiveBytes {
    /// Bytes of batches.
    pub bytes: u64,
    /// Extents that they form.
    pub extents: u64,
}

/// The count over all segments.
#[derive(Debug, Default)]
pub struct LiveCount {
    segments: BTreeMap<SegmentKey, LiveBytes>,
    bytes: u64,
    /// Per journal the last segment that holds a page which could not be read.
    unread: BTreeMap<JournalId, SegmentSeq>,
    is_complete: bool,
}

impl LiveCount {
    /// Counts an extent as wanted.
    pub fn add(&mut self, extent: &Extent) {
        let live = self.segments.entry(extent.block.segment_key()).or_default();
        live.bytes += u64::from(extent.bytes);
        live.extents += 1;
        self.bytes += u64::from(extent.bytes);
    }

    /// Counts an extent as no longer wanted.
    pub fn remove(&mut self, extent: &Extent) {
        let key = extent.block.segment_key();
        let Some(live) = self.segments.get_mut(&key) else {
            return;
        };
        let bytes = u64::from(extent.bytes).min(live.bytes);
        live.bytes -= bytes;
        live.extents = live.extents.saturating_sub(1);
        self.bytes -= bytes;
        if live.bytes == 0 {
            self.segments.remove(&key);
        }
    }

    /// Notes that a page in this segment could not be counted.
    pub fn note_unreadable(&mut self, page_in: SegmentKey) {
        let last = self.unread.entry(page_in.0).or_insert(page_in.1);
        *last = page_in.1.max(*last);
    }

    /// Whether a page could not be counted.
    pub fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// Notes that everything found at start has been counted.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Whether everything found at start has been counted. Nothing may be freed before.
    pub const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What is known to be wanted of a segment.
    pub fn of(&self, segment: SegmentKey) -> LiveBytes {
        self.segments.get(&segment).copied().unwrap_or_default()
    }

    /// Whether an unreadable page may name batches in the segment.
    pub fn may_be_named(&self, segment: SegmentKey) -> bool {
        let named_by = |(journal, last): (&JournalId, &SegmentSeq)| {
            *journal != segment.0 || *last >= segment.1
        };
        self.unread.iter().any(named_by)
    }

    /// Whether anything in the segment is wanted, or may be.
    pub fn wants(&self, segment: SegmentKey) -> bool {
        self.segments.contains_key(&segment) || self.may_be_named(segment)
    }

    /// Bytes wanted of all segments together.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use catena_core::ids::BlockLocation;
    use catena_protocol::ids::Offset;

    use super::*;

    fn key(journal: u16, segment: u32) -> SegmentKey {
        (JournalId::new(journal), SegmentSeq::new(segment))
    }

    fn extent(segment: SegmentKey, bytes: u32) -> Extent {
        Extent {
            base_offset: Offset::new(0),
            end_offset: Offset::new(1),
            block: BlockLocation {
                journal: segment.0,
                segment: segment.1,
                offset: 4096,
                bytes: 4096,
            },
            offset_in_block: 128,
            bytes,
            max_timestamp_ms: 0,
        }
    }

    #[test]
    fn a_segment_is_wanted_until_its_last_extent_goes() {
        let mut live = LiveCount::default();
        let (one, two) = (key(0, 1), key(0, 2));
        live.add(&extent(one, 100));
        live.add(&extent(one, 50));
        live.add(&extent(two, 7));
        live.remove(&extent(one, 100));
        assert!(live.wants(one));
        assert_eq!(
            live.of(one),
            LiveBytes {
                bytes: 50,
                extents: 1
            }
        );
        live.remove(&extent(one, 50));
        assert!(!live.wants(one) && live.wants(two));
        assert_eq!(live.bytes(), 7);
    }

    #[test]
    fn what_was_never_counted_takes_nothing_from_others() {
        let mut live = LiveCount::default();
        live.add(&extent(key(0, 2), 7));
        live.remove(&extent(key(0, 1), 100));
        live.remove(&extent(key(0, 2), 3));
        assert_eq!(live.bytes(), 4);
        live.remove(&extent(key(0, 2), 9));
        assert_eq!(live.bytes(), 0);
    }

    #[test]
    fn a_page_that_cannot_be_read_keeps_what_it_may_name_and_nothing_else() {
        let mut live = LiveCount::default();
        live.note_unreadable(key(0, 5));
        live.note_unreadable(key(0, 3));
        assert!(live.wants(key(0, 1)) && live.wants(key(0, 5)));
        assert!(!live.wants(key(0, 6)), "written after the page");
        assert!(live.wants(key(1, 6)), "of another journal all may be named");
        assert_eq!(live.of(key(0, 1)), LiveBytes::default());
    }
}
