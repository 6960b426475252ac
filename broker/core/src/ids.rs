//! Identities of the physical journal and positions in it. All are plain copies, ordered by the
//! order of writing. Identities that clients see are in `catena_protocol::ids`.

use std::fmt;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// Wraps the number.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The number itself.
            pub const fn get(self) -> $inner {
                self.0
            }

            /// The next one in order. Numbers are never reused, so running out is a bug.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("identities never run out"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype! {
    /// One journal of a store: the append-only sequence of segments that one shard writes.
    JournalId(u16)
}

impl JournalId {
    /// The journal of the control plane.
    pub const METADATA: Self = Self(999);
}

newtype! {
    /// A segment of a journal; rises by one for each segment opened, never reused.
    SegmentSeq(u32)
}
newtype! {
    /// Index of a frame in its chain: dense, starting at 1. 0 means "before the first frame".
    Lsn(u64)
}

impl Lsn {
    /// Before the first frame of a chain.
    pub const ZERO: Self = Self(0);
}

/// A byte position in a journal. Ordered by segment, then offset: the order of writing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct JournalPos {
    pub segment: SegmentSeq,
    /// Bytes from the start of the segment file.
    pub offset: u32,
}

impl JournalPos {
    /// A position from its parts.
    pub const fn new(segment: SegmentSeq, offset: u32) -> Self {
        Self { segment, offset }
    }
}

impl fmt::Display for JournalPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// Where one block lies: `[offset, offset + bytes)` of a segment, header and padding included. Also
/// names some blocks together, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockLocation {
    pub journal: JournalId,
    pub segment: SegmentSeq,
    /// Bytes from the start of the segment file; of a block, a multiple of `BLOCK_ALIGN`.
    pub offset: u32,
    /// Length on disk; of a block, a multiple of `BLOCK_ALIGN`.
    pub bytes: u32,
}

impl BlockLocation {
    /// The segment that holds it.
    pub const fn segment_key(&self) -> (JournalId, SegmentSeq) {
        (self.journal, self.segment)
    }

    /// Where the block starts.
    pub const fn start(&self) -> JournalPos {
        JournalPos::new(self.segment, self.offset)
    }

    /// Where the next block starts. Saturates, because a location may come from disk.
    pub const fn end(&self) -> JournalPos {
        JournalPos::new(self.segment, self.offset.saturating_add(self.bytes))
    }
}

impl fmt::Display for BlockLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "journal {} at {}+{}",
            self.journal,
            self.start(),
            self.bytes
        )
    }
}
