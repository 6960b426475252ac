//! Entries: what a commit block holds. Two families share one 48-byte header. *Chain frames* (kind
//! below 128) are replicated, carry an LSN and are linked by `prev_frame_crc`. *Journal records*
//! (128 and above) are local to the replica and stay outside that link.
//!
//! ```text
//!  0 kind u8          1 flags u8         2 reserved u16     4 length u32 (header, body and pad)
//!  8 chain u32       12 epoch u32       16 lsn u64         24 commit_lsn_hint u64
//! 32 prev_frame_crc u32                 36 body_bytes u32 (without pad)
//! 40 row_count u16   42 reserved u16    44 crc u32
//! ```
//!
//! `crc` covers bytes 0..44, then for a `Batches` frame and a `Relocation` record the directory
//! rows and the 64-byte header of every batch, and for every other kind the whole body. Batch
//! bodies are covered by the `batch_crc` that those headers hold, so no byte is hashed twice.
//!
//! Invariant: an [`EntryView`] comes only from bytes whose geometry and crc were checked, so
//! walking it never fails.

mod batches;
pub mod control;

use catena_protocol::batch::BatchError;
use catena_protocol::ids::{ChainEpoch, ChainId};
use crc32fast::Hasher;

pub use self::batches::{BatchRows, BatchView, Batches, RowView, write_row};
use crate::ids::Lsn;
use crate::layout::{put_u16, put_u32, put_u64, to_u32, to_usize, u16_at, u32_at, u64_at};

/// Length of an entry's header.
pub const ENTRY_HEADER_BYTES: usize = 48;

/// Length of one directory row of a `Batches` frame.
pub const ROW_BYTES: usize = 16;

/// Entries are multiples of this, so that batches inside them are aligned.
pub const ENTRY_ALIGN: usize = 8;

/// Where the crc lies in the header; it covers what is before.
const CRC_AT: usize = 44;

/// Set in the kinds that a reader may skip when it does not know them.
const NOT_CRITICAL: u8 = 0x40;

/// The first kind that is a journal record.
const FIRST_RECORD_KIND: u8 = 128;

/// What a chain frame does when it is folded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Record batches of one or many partitions.
    Batches = 1,
    /// Moves the log start of one partition: [`control::Trim`].
    Trim = 2,
    /// Forgets every partition of a topic: [`control::DropTopic`].
    DropTopic = 3,
    /// Forgets idle producers: [`control::ProducerExpiry`].
    ProducerExpiry = 4,
    /// One encoded command of the metadata chain.
    Metadata = 16,
}

/// What a journal record says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum RecordKind {
    /// This replica acts in no epoch of `chain` below `epoch` (both in the header). No body.
    Promise = 128,
    /// Frames of `chain` above an LSN are void: [`control::Truncate`].
    Truncate = 129,
    /// One page of an index run.
    IndexPage = 132,
    /// The directory of an index run.
    IndexDirectory = 133,
    /// Batches that the cleaner copied here from a segment that is to be freed, with a directory
    /// as in a `Batches` frame.
    Relocation = 134,
}

/// A kind byte, sorted into what this version knows and what it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    Frame(FrameKind),
    Record(RecordKind),
    /// A kind of a later version. If it [is critical](EntryKind::is_critical), the reader must
    /// refuse to start.
    Unknown(u8),
}

impl EntryKind {
    /// The kind with this number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Frame(FrameKind::Batches),
            2 => Self::Frame(FrameKind::Trim),
            3 => Self::Frame(FrameKind::DropTopic),
            4 => Self::Frame(FrameKind::ProducerExpiry),
            16 => Self::Frame(FrameKind::Metadata),
            128 => Self::Record(RecordKind::Promise),
            129 => Self::Record(RecordKind::Truncate),
            132 => Self::Record(RecordKind::IndexPage),
            133 => Self::Record(RecordKind::IndexDirectory),
            134 => Self::Record(RecordKind::Relocation),
            other => Self::Unknown(other),
        }
    }

    /// The number on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::Frame(kind) => kind as u8,
            Self::Record(kind) => kind as u8,
            Self::Unknown(number) => number,
        }
    }

    /// Whether an entry of this kind must be understood to read the journal at all.
    pub const fn is_critical(self) -> bool {
        self.number() & NOT_CRITICAL == 0
    }

    /// Whether the body is a directory of rows and batches, of which the entry's crc covers the
    /// heads only.
    pub const fn holds_batches(self) -> bool {
        matches!(
            self,
            Self::Frame(FrameKind::Batches) | Self::Record(RecordKind::Relocation)
        )
    }

    /// Whether it is a chain frame (has an LSN, is replicated).
    pub const fn is_frame(self) -> bool {
        self.number() < FIRST_RECORD_KIND
    }
}

/// Why an entry was refused. The values name what disagrees.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EntryError {
    #[error("entry of {length} bytes with a body of {body_bytes} in {available} available bytes")]
    Length {
        length: u32,
        body_bytes: u32,
        available: usize,
    },
    #[error("directory of {row_count} rows does not fit a body of {body_bytes} bytes")]
    Directory { row_count: u16, body_bytes: u32 },
    #[error("directory row {row} does not agree with its batches")]
    Row { row: u16 },
    #[error("batch header in directory row {row}: {source}")]
    Batch { row: u16, source: BatchError },
    #[error("entry crc is {found:#010x}, its bytes give {computed:#010x}")]
    Crc { found: u32, computed: u32 },
}

/// The header of an entry as it lies on disk, with typed fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryHeader {
    pub kind: EntryKind,
    pub flags: u8,
    /// Header, body and pad; a multiple of [`ENTRY_ALIGN`].
    pub length: u32,
    pub chain: ChainId,
    pub epoch: ChainEpoch,
    pub lsn: Lsn,
    pub commit_lsn_hint: Lsn,
    pub prev_frame_crc: u32,
    pub body_bytes: u32,
    pub row_count: u16,
    pub crc: u32,
}

impl EntryHeader {
    /// Reads the fields; nothing is checked but that there are enough bytes.
    ///
    /// # Panics
    /// If `bytes` is shorter than [`ENTRY_HEADER_BYTES`].
    pub fn decode(bytes: &[u8]) -> Self {
        Self {
            kind: EntryKind::from_number(bytes[0]),
            flags: bytes[1],
            length: u32_at(bytes, 4),
            chain: ChainId(u32_at(bytes, 8)),
            epoch: ChainEpoch(u32_at(bytes, 12)),
            lsn: Lsn(u64_at(bytes, 16)),
            commit_lsn_hint: Lsn(u64_at(bytes, 24)),
            prev_frame_crc: u32_at(bytes, 32),
            body_bytes: u32_at(bytes, 36),
            row_count: u16_at(bytes, 40),
            crc: u32_at(bytes, CRC_AT),
        }
    }

    /// Writes all fields, the crc as given.
    ///
    /// # Panics
    /// If `out` is shorter than [`ENTRY_HEADER_BYTES`].
    pub fn encode_into(&self, out: &mut [u8]) {
        out[0] = self.kind.number();
        out[1] = self.flags;
        put_u16(out, 2, 0);
        put_u32(out, 4, self.length);
        put_u32(out, 8, self.chain.0);
        put_u32(out, 12, self.epoch.0);
        put_u64(out, 16, self.lsn.0);
        put_u64(out, 24, self.commit_lsn_hint.0);
        put_u32(out, 32, self.prev_frame_crc);
        put_u32(out, 36, self.body_bytes);
        put_u16(out, 40, self.row_count);
        put_u16(out, 42, 0);
        put_u32(out, CRC_AT, self.crc);
    }

    /// Checks that header, body and pad agree and fit the bytes there are.
    pub fn check_length(&self, available: usize) -> Result<(), EntryError> {
        let (length, body) = (to_usize(self.length), to_usize(self.body_bytes));
        let fits = length <= available && body < length && length == entry_bytes(body);
        if fits {
            return Ok(());
        }
        Err(EntryError::Length {
            length: self.length,
            body_bytes: self.body_bytes,
            available,
        })
    }
}

/// Length on disk of an entry with a body of `body_bytes`.
pub const fn entry_bytes(body_bytes: usize) -> usize {
    ENTRY_HEADER_BYTES + body_bytes.next_multiple_of(ENTRY_ALIGN)
}

/// Writes the crc of the entry that fills `entry` and returns it. Header, rows and batch headers
/// are already there.
pub(crate) fn seal_entry(entry: &mut [u8], row_count: u16) -> u32 {
    let body_bytes = to_usize(u32_at(entry, 36));
    let (header, body) = entry.split_at_mut(ENTRY_HEADER_BYTES);
    let mut hasher = Hasher::new();
    hasher.update(&header[..CRC_AT]);
    if EntryKind::from_number(header[0]).holds_batches() {
        let rows = BatchRows::new_trusted(&body[..body_bytes], row_count);
        rows.hash_heads(&mut hasher);
    } else {
        hasher.update(&body[..body_bytes]);
    }
    let crc = hasher.finalize();
    put_u32(header, CRC_AT, crc);
    crc
}

/// Identity of a chain frame that was read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub chain: ChainId,
    pub epoch: ChainEpoch,
    pub lsn: Lsn,
    pub commit_lsn_hint: Lsn,
    /// The `crc` of the chain's frame before this one.
    pub prev_frame_crc: u32,
    pub crc: u32,
    /// Where the entry starts in its block.
    pub offset_in_block: u32,
    /// Whole entry, header and pad included.
    pub bytes: u32,
}

/// Identity of a journal record that was read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    pub kind: RecordKind,
    pub chain: ChainId,
    pub epoch: ChainEpoch,
    pub crc: u32,
    /// Where the entry starts in its block.
    pub offset_in_block: u32,
    /// Whole entry, header and pad included.
    pub bytes: u32,
}

/// One checked entry of a block.
#[derive(Clone, Copy, Debug)]
pub enum EntryView<'a> {
    /// A frame of record batches. Their heads are checked; bodies are checked by
    /// [`BatchView::verify`].
    Batches(FrameHeader, BatchRows<'a>),
    /// Any other chain frame, with its body.
    Frame(FrameHeader, &'a [u8]),
    /// A journal record, with its body.
    Record(RecordHeader, &'a [u8]),
    /// Batches that were moved here. Checked like those of a frame.
    Relocation(RecordHeader, BatchRows<'a>),
    /// A kind of a later version. Refuse to start if its kind is critical, else skip it.
    Unknown(EntryHeader, &'a [u8]),
}

impl<'a> EntryView<'a> {
    /// Checks the entry at the start of `bytes`, which may go on behind it: geometry, crc and the
    /// structure of batch headers, but not batch bodies. `offset_in_block` is only passed on.
    ///
    /// Also serves to read a single entry (an index page, say) without its block.
    pub fn parse(bytes: &'a [u8], offset_in_block: usize) -> Result<Self, EntryError> {
        if bytes.len() < ENTRY_HEADER_BYTES {
            let available = bytes.len();
            return Err(EntryError::Length {
                length: 0,
                body_bytes: 0,
                available,
            });
        }
        let header = EntryHeader::decode(bytes);
        header.check_length(bytes.len())?;
        let body = &bytes[ENTRY_HEADER_BYTES..][..to_usize(header.body_bytes)];
        let mut hasher = Hasher::new();
        hasher.update(&bytes[..CRC_AT]);
        let rows = if header.kind.holds_batches() {
            let rows = BatchRows::check_geometry(body, header.row_count)?;
            rows.hash_heads(&mut hasher);
            Some(rows)
        } else {
            hasher.update(body);
            None
        };
        let computed = hasher.finalize();
        if computed != header.crc {
            return Err(EntryError::Crc {
                found: header.crc,
                computed,
            });
        }
        if let Some(rows) = rows {
            rows.check_batch_headers()?;
        }
        Ok(Self::from_checked(
            &header,
            body,
            rows,
            to_u32(offset_in_block),
        ))
    }

    /// The view of bytes that [`EntryView::parse`] has accepted before.
    pub(crate) fn trusted(bytes: &'a [u8], offset_in_block: usize) -> Self {
        let header = EntryHeader::decode(bytes);
        let body = &bytes[ENTRY_HEADER_BYTES..][..to_usize(header.body_bytes)];
        let rows = header
            .kind
            .holds_batches()
            .then(|| BatchRows::new_trusted(body, header.row_count));
        Self::from_checked(&header, body, rows, to_u32(offset_in_block))
    }

    fn from_checked(
        header: &EntryHeader,
        body: &'a [u8],
        rows: Option<BatchRows<'a>>,
        offset_in_block: u32,
    ) -> Self {
        let EntryHeader {
            chain,
            epoch,
            lsn,
            commit_lsn_hint,
            prev_frame_crc,
            crc,
            ..
        } = *header;
        let bytes = header.length;
        match header.kind {
            EntryKind::Frame(kind) => {
                let frame = FrameHeader {
                    kind,
                    chain,
                    epoch,
                    lsn,
                    commit_lsn_hint,
                    prev_frame_crc,
                    crc,
                    offset_in_block,
                    bytes,
                };
                match rows {
                    Some(rows) => Self::Batches(frame, rows),
                    None => Self::Frame(frame, body),
                }
            }
            EntryKind::Record(kind) => {
                let record = RecordHeader {
                    kind,
                    chain,
                    epoch,
                    crc,
                    offset_in_block,
                    bytes,
                };
                match rows {
                    Some(rows) => Self::Relocation(record, rows),
                    None => Self::Record(record, body),
                }
            }
            EntryKind::Unknown(_) => Self::Unknown(*header, body),
        }
    }

    /// Whole length of the entry in its block.
    pub const fn bytes(&self) -> u32 {
        match self {
            Self::Batches(frame, _) | Self::Frame(frame, _) => frame.bytes,
            Self::Record(record, _) | Self::Relocation(record, _) => record.bytes,
            Self::Unknown(header, _) => header.length,
        }
    }
}
