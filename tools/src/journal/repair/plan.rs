//! Decides what to do about each kind of damage.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use catena_core::ids::{JournalId, SegmentSeq};
use catena_core::ledger::{LEDGER_PAGE_BYTES, LedgerSlot};
use catena_core::scan::{CorruptRange, Damage};
use catena_core::sealed_text;
use serde::Serialize;

use super::super::accepted::{self, Accepted};
use super::super::examine::Examined;
use super::super::files::{JournalFiles, StoreFiles};
use super::super::metadata::Metadata;
use super::name_of;

/// One change.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub(super) enum Action {
    /// Bytes `[at, at + bytes.len())` of a file become these.
    Write {
        file: PathBuf,
        at: u64,
        #[serde(skip)]
        bytes: Vec<u8>,
        why: String,
    },
    /// A bit of a file is flipped.
    FlipBit {
        file: PathBuf,
        at: u64,
        bit: u8,
        why: String,
    },
    /// A file goes to the quarantine.
    Remove { file: PathBuf, why: String },
    /// Damage is noted as known.
    Accept {
        file: PathBuf,
        #[serde(skip)]
        text: Vec<u8>,
        why: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write {
                file,
                at,
                bytes,
                why,
            } => {
                let end = at + bytes.len() as u64;
                write!(f, "write bytes [{at}, {end}) of {}: {why}", file.display())
            }
            Self::FlipBit { file, at, bit, why } => {
                write!(
                    f,
                    "flip bit {bit} of byte {at} of {}: {why}",
                    file.display()
                )
            }
            Self::Remove { file, why } => write!(f, "remove {}: {why}", file.display()),
            Self::Accept { file, why, .. } => write!(f, "note in {}: {why}", file.display()),
        }
    }
}

/// What to do, and what nothing can be done about.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) beyond: Vec<String>,
}

impl Plan {
    /// The file that says who the store is.
    pub(super) fn identity(&mut self, store: &StoreFiles) -> anyhow::Result<()> {
        let Some(path) = &store.identity else {
            return Ok(());
        };
        let mut bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        if sealed_text::check(&bytes) != sealed_text::Seal::Broken {
            return Ok(());
        }
        match sealed_text::correct(&mut bytes) {
            Some(flip) => self.actions.push(Action::FlipBit {
                file: path.clone(),
                at: flip.at as u64,
                bit: flip.bit,
                why: "then its checksum fits".to_owned(),
            }),
            None => self.beyond.push(format!(
                "{}: more than one bit is wrong; restore it from a copy",
                path.display()
            )),
        }
        Ok(())
    }

    /// One journal.
    pub(super) fn journal(
        &mut self,
        journal: &JournalFiles,
        examined: &Examined,
        accept_loss: bool,
    ) -> anyhow::Result<()> {
        self.bits(examined);
        self.ledger(journal, examined);
        self.checkpoints(journal, examined);
        self.tail(examined);
        self.losses(journal, examined, accept_loss)
    }

    /// Bits that a checksum proves to be flipped.
    fn bits(&mut self, examined: &Examined) {
        for segment in &examined.segments {
            if let Some(flip) = segment.flipped {
                self.actions.push(Action::FlipBit {
                    file: segment.path.clone(),
                    at: flip.at as u64,
                    bit: flip.bit,
                    why: "then the segment's header is right".to_owned(),
                });
            }
        }
        for correction in &examined.corrections {
            let Some(file) = file_of(examined, correction.block.segment) else {
                continue;
            };
            self.actions.push(Action::FlipBit {
                file,
                at: correction.at,
                bit: correction.bit,
                why: format!("then the block at {} is right", correction.block),
            });
        }
    }

    fn ledger(&mut self, journal: &JournalFiles, examined: &Examined) {
        let Some(file) = &journal.ledger else { return };
        let ledger = &examined.ledger;
        let write = |page: usize, bytes: Vec<u8>, why: String| Action::Write {
            file: file.clone(),
            at: (page * LEDGER_PAGE_BYTES) as u64,
            bytes,
            why,
        };
        for &page in &ledger.bad_pages {
            let why = match ledger.newest {
                Some(slot) => format!(
                    "clear the unreadable page; the other one counts, flushed up to {}",
                    slot.flushed
                ),
                None => "clear the unreadable page".to_owned(),
            };
            self.actions
                .push(write(page, vec![0; LEDGER_PAGE_BYTES], why));
        }
        let end = examined.outcome.end;
        if ledger.damaged && end.segment > SegmentSeq(0) {
            // All that is before the end was just read from the disk.
            let slot = LedgerSlot {
                journal: journal.id,
                sequence: 1,
                flushed: end,
                group_seq: examined.outcome.next_group_seq.saturating_sub(1),
            };
            let why = format!("write the ledger anew: what is readable ends at {end}");
            self.actions.push(write(1, slot.encode().to_vec(), why));
        }
    }

    /// Checkpoints, and the snapshots of metadata that belong to them.
    fn checkpoints(&mut self, journal: &JournalFiles, examined: &Examined) {
        let is_bad_snapshot = |sequence: u64| {
            examined
                .bad_snapshots
                .iter()
                .any(|bad| bad.sequence == sequence)
        };
        let is_good = |sequence: u64| {
            let mut same = examined
                .checkpoints
                .iter()
                .filter(|it| it.sequence == sequence);
            same.all(|it| it.decoded.is_ok()) && !is_bad_snapshot(sequence)
        };
        let sequences: Vec<u64> = examined.checkpoints.iter().map(|it| it.sequence).collect();
        let one_is_good = sequences.iter().any(|sequence| is_good(*sequence));
        let is_whole = examined.is_whole();
        let metadata_is_damaged =
            journal.id == JournalId::METADATA && examined.corrupt().count() > 0;
        for sequence in sequences.into_iter().filter(|sequence| !is_good(*sequence)) {
            if !(one_is_good || is_whole) || metadata_is_damaged {
                self.beyond.push(format!(
                    "checkpoint {sequence} of {}: nothing else says what was there; restore it \
                     from a copy",
                    name_of(journal)
                ));
                continue;
            }
            let why = if one_is_good {
                "it is unreadable, another one is not"
            } else {
                "it is unreadable, and the journal is there from its beginning"
            };
            let checkpoints = examined.checkpoints.iter();
            let files = checkpoints
                .filter(|it| it.sequence == sequence)
                .map(|it| it.path.clone());
            let snapshots = journal.snapshots.iter();
            let files = files.chain(
                snapshots
                    .filter(|(of, _)| *of == sequence)
                    .map(|(_, path)| path.clone()),
            );
            self.actions.extend(files.map(|file| Action::Remove {
                file,
                why: why.to_owned(),
            }));
        }
    }

    /// What a crash left half written.
    fn tail(&mut self, examined: &Examined) {
        let Some(torn) = examined.outcome.torn.filter(|torn| torn.bytes > 0) else {
            return;
        };
        if let Some(file) = file_of(examined, torn.at.segment) {
            self.actions.push(Action::Write {
                file,
                at: torn.at.offset.into(),
                bytes: vec![0; usize::try_from(torn.bytes).expect("u32 fits usize")],
                why: "cut an unfinished write; nothing of it was acknowledged".to_owned(),
            });
        }
    }

    /// Damage that nothing on this node undoes.
    fn losses(
        &mut self,
        journal: &JournalFiles,
        examined: &Examined,
        accept_loss: bool,
    ) -> anyhow::Result<()> {
        let mut known = accepted::read(&journal.dir)?;
        let is_open = |range: &&CorruptRange| {
            !examined.is_correctable(range)
                && !accepted::is_accepted(&known, range, &examined.segments)
        };
        let metadata = Metadata::of(journal, examined);
        let is_needed = |range: &CorruptRange| {
            let metadata = metadata.as_ref();
            metadata.is_some_and(|metadata| metadata.is_needed(range))
        };
        let mut open: Vec<&CorruptRange> = examined.corrupt().filter(is_open).collect();
        for range in &open {
            self.beyond.push(format!(
                "{} segment {} [{}, {}): {}{}",
                name_of(journal),
                range.segment,
                range.start,
                range.end,
                range.what,
                match metadata {
                    None => "",
                    Some(_) if is_needed(range) => "; restore the journal from a copy",
                    Some(_) => "; a snapshot of metadata holds what it said",
                }
            ));
        }
        // A broker does not start on it, whether anybody knows of it or not.
        open.retain(|range| !is_needed(range));
        if !accept_loss || open.is_empty() {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let now = u64::try_from(now)?;
        let why = format!("{} damaged ranges are known and accepted", open.len());
        let new = open
            .iter()
            .map(|range| Accepted::new(range, &examined.segments, now));
        known.extend(new);
        for bad in &examined.bad {
            let is_missing = |range: &&&CorruptRange| match range.what {
                Damage::SegmentMissing { through } => {
                    range.segment <= bad.segment && bad.segment <= through
                }
                _ => false,
            };
            if open.iter().any(|range| is_missing(&range)) {
                self.actions.push(Action::Remove {
                    file: bad.path.clone(),
                    why: "nothing in it can be read".to_owned(),
                });
            }
        }
        self.actions.push(Action::Accept {
            file: accepted::path(&journal.dir),
            text: serde_json::to_vec_pretty(&known)?,
            why,
        });
        Ok(())
    }
}

fn file_of(examined: &Examined, segment: SegmentSeq) -> Option<PathBuf> {
    let mut segments = examined.segments.iter();
    let segment = segments.find(|it| it.header.segment == segment)?;
    Some(segment.path.clone())
}
