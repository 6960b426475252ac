//! One file: what is on the medium, what is visible, and the writes in between.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::faults::Fault;
use crate::runtime::simulated::rng::Rng;
use crate::runtime::simulated::this_world;

/// Contents are kept, and survive or not, in pieces of this size.
pub const PAGE_BYTES: usize = 4096;
/// Damage spares what has been durable for less than this: long enough for an idle journal to note
/// in its ledger what it has flushed.
const YOUNG_US: u64 = 150_000;
/// The medium writes a sector whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct InodeId(pub(super) u64);

type Page = Rc<[u8; PAGE_BYTES]>;

/// How far a piece of a write has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The write has not returned.
    InFlight,
    /// It has returned; a flush makes it durable.
    Completed,
}

/// One page of a write that is not durable.
#[derive(Debug, Clone)]
struct Piece {
    write: u64,
    page: u64,
    data: Page,
    /// What was visible before.
    before: Option<Page>,
    stage: Stage,
}

#[derive(Debug, Default)]
pub(super) struct Inode {
    /// Whether no fault happens to it.
    pub(super) is_protected: bool,
    /// Whether it says how far another file was flushed.
    pub(super) is_ledger: bool,
    /// Length that is visible, in bytes.
    pub(super) len: u64,
    durable_len: u64,
    visible: FxHashMap<u64, Page>,
    durable: FxHashMap<u64, Page>,
    /// In the order of the writes.
    pieces: Vec<Piece>,
    /// Since when pages are durable; a page that is not listed is never damaged.
    durable_since_us: FxHashMap<u64, u64>,
    /// Pages that the medium cannot read until they are written again.
    unreadable: FxHashSet<u64>,
}

fn page_of(offset: u64) -> u64 {
    offset / 4096
}

impl Inode {
    pub(super) fn new(is_protected: bool) -> Inode {
        Inode {
            is_protected,
            ..Inode::default()
        }
    }

    /// Bytes at `offset`; fewer only at the end of the file.
    pub(super) fn read(&self, offset: u64, bytes: usize) -> Vec<u8> {
        let rest = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut read = vec![0; bytes.min(rest)];
        for (page, chunk) in (page_of(offset)..).zip(read.chunks_mut(PAGE_BYTES)) {
            if let Some(data) = self.visible.get(&page) {
                chunk.copy_from_slice(&data[..chunk.len()]);
            }
        }
        read
    }

    pub(super) fn is_readable(&self, offset: u64, bytes: usize) -> bool {
        let end = offset + u64::try_from(bytes).expect("usize fits u64");
        let pages = page_of(offset)..page_of(end + 4095);
        self.unreadable.is_empty()
            || pages
                .into_iter()
                .all(|page| !self.unreadable.contains(&page))
    }

    /// The pages that have been durable for a while, in no order.
    pub(super) fn old_pages(&self, now_us: u64) -> impl Iterator<Item = u64> {
        let is_old = move |page: &&u64| {
            let since_us = self.durable_since_us.get(page).copied();
            since_us.is_some_and(|since_us| since_us.saturating_add(YOUNG_US) < now_us)
        };
        self.durable.keys().filter(is_old).copied()
    }

    /// Pages that are young now stay so.
    pub(super) fn spare_young_pages(&mut self, now_us: u64) {
        self.durable_since_us
            .retain(|_, since_us| since_us.saturating_add(YOUNG_US) < now_us);
    }

    /// Damages a page.
    pub(super) fn rot(&mut self, page: u64, fault: Fault, rng: &mut Rng) {
        let within = rng.index(PAGE_BYTES);
        let sector = within - within % SECTOR_BYTES;
        match fault {
            Fault::LatentSectorError => {
                self.unreadable.insert(page);
            }
            Fault::SectorRot => self.change(page, |data| {
                data[sector..sector + SECTOR_BYTES].fill_with(|| {
                    let [byte, ..] = rng.next_u64().to_le_bytes();
                    byte
                });
            }),
            _ => self.change(page, |data| data[within] ^= 1 << (within % 8)),
        }
    }

    fn change(&mut self, page: u64, mut change: impl FnMut(&mut [u8; PAGE_BYTES])) {
        // The page that was read back is the page on the medium, unless it is being written anew.
        let is_one = match (self.visible.get(&page), self.durable.get(&page)) {
            (Some(visible), Some(durable)) => Rc::ptr_eq(visible, durable),
            _ => false,
        };
        if let Some(data) = self.durable.get_mut(&page) {
            change(Rc::make_mut(data));
            if is_one {
                let damaged = Rc::clone(data);
                self.visible.insert(page, damaged);
            }
        }
    }

    /// Begins a write: its bytes are visible from now on. The last page may be partial.
    pub(super) fn write(&mut self, write: u64, offset: u64, bytes: &[u8]) {
        for (page, chunk) in (page_of(offset)..).zip(bytes.chunks(PAGE_BYTES)) {
            let mut data = [0; PAGE_BYTES];
            data[..chunk.len()].copy_from_slice(chunk);
            let data = Rc::new(data);
            let before = self.visible.insert(page, Rc::clone(&data));
            self.unreadable.remove(&page);
            self.pieces.push(Piece {
                write,
                page,
                data,
                before,
                stage: Stage::InFlight,
            });
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
    }

    /// A write has returned.
    pub(super) fn complete(&mut self, write: u64) {
        for piece in self.pieces.iter_mut().rev().filter(|p| p.write == write) {
            piece.stage = Stage::Completed;
        }
    }

    /// Writes, or the flush that covered them, failed: each piece came through or is gone. Reads
    /// are direct, so they tell which; no later flush brings back what is gone.
    pub(super) fn fail(&mut self, writes: &[u64], rng: &mut Rng) {
        for at in (0..self.pieces.len()).rev() {
            if writes.contains(&self.pieces[at].write) && rng.chance(1, 2) {
                let piece = self.pieces.remove(at);
                self.take_back(piece);
            }
        }
    }

    /// Shows again what was there before a piece, unless it was written over since.
    fn take_back(&mut self, piece: Piece) {
        let is_shown = self.visible.get(&piece.page);
        if is_shown.is_some_and(|shown| Rc::ptr_eq(shown, &piece.data)) {
            match piece.before {
                Some(before) => self.visible.insert(piece.page, before),
                None => self.visible.remove(&piece.page),
            };
        }
    }

    /// A write that needs no flush has returned.
    pub(super) fn complete_durably(&mut self, write: u64) {
        let (done, rest) = self
            .pieces
            .drain(..)
            .partition(|p: &Piece| p.write == write);
        self.pieces = rest;
        self.settle(done);
    }

    /// The writes that a flush which begins now covers.
    pub(super) fn completed(&self) -> Vec<u64> {
        let completed = |piece: &&Piece| piece.stage == Stage::Completed;
        let mut writes: Vec<u64> = self
            .pieces
            .iter()
            .filter(completed)
            .map(|p| p.write)
            .collect();
        writes.dedup();
        writes
    }

    /// A flush has returned.
    pub(super) fn flushed(&mut self, writes: &[u64]) {
        let is_covered = |p: &Piece| writes.contains(&p.write);
        let (done, rest) = self.pieces.drain(..).partition(is_covered);
        self.pieces = rest;
        self.settle(done);
        self.durable_len = self.len;
    }

    fn settle(&mut self, pieces: Vec<Piece>) {
        let now_us = this_world().now_us();
        for piece in pieces {
            // What an earlier write left behind cannot come back over it.
            self.pieces
                .retain(|older| older.page != piece.page || older.write > piece.write);
            self.durable_since_us.insert(piece.page, now_us);
            self.durable.insert(piece.page, piece.data);
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> bool {
        let at = usize::try_from(offset % 4096).expect("below a page");
        let page = page_of(offset);
        let is_stored = self.durable.contains_key(&page);
        self.change(page, |data| data[at] ^= 1 << (bit % 8));
        is_stored
    }

    /// The process died: what was written stays, what was being written came through or did not.
    pub(super) fn survive_kill(&mut self, rng: &mut Rng) {
        for at in (0..self.pieces.len()).rev() {
            if self.pieces[at].stage == Stage::InFlight {
                if rng.chance(1, 2) {
                    let piece = self.pieces.remove(at);
                    self.take_back(piece);
                } else {
                    self.pieces[at].stage = Stage::Completed;
                }
            }
        }
    }

    /// The power went: of each piece that is not durable, what `luck` leaves.
    pub(super) fn survive_power_cut(&mut self, luck: Luck, rng: &mut Rng) {
        if self.pieces.is_empty() && self.len == self.durable_len {
            return;
        }
        for piece in std::mem::take(&mut self.pieces) {
            let before = self.durable.get(&piece.page);
            if let Some(data) = survivor(&piece.data, before, luck, rng) {
                self.durable.insert(piece.page, data);
            }
        }
        if self.len != self.durable_len && luck.keeps(rng) {
            self.durable_len = self.len;
        }
        self.len = self.durable_len;
        self.visible = self.durable.clone();
    }
}

/// What a power cut leaves of pieces that no flush covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Luck {
    Nothing,
    Everything,
    /// Each piece is there or not.
    Pieces,
    /// Each sector of each piece is there or not.
    Sectors,
}

impl Luck {
    pub(super) fn draw(rng: &mut Rng) -> Luck {
        [Luck::Nothing, Luck::Everything, Luck::Pieces, Luck::Sectors][rng.index(4)]
    }

    pub(super) fn keeps(self, rng: &mut Rng) -> bool {
        match self {
            Luck::Nothing => false,
            Luck::Everything => true,
            Luck::Pieces | Luck::Sectors => rng.chance(1, 2),
        }
    }
}

fn survivor(data: &Page, before: Option<&Page>, luck: Luck, rng: &mut Rng) -> Option<Page> {
    if luck != Luck::Sectors {
        return luck.keeps(rng).then(|| Rc::clone(data));
    }
    let mut torn = before.map_or([0; PAGE_BYTES], |page| **page);
    for (old, new) in torn.chunks_mut(SECTOR_BYTES).zip(data.chunks(SECTOR_BYTES)) {
        if rng.chance(1, 2) {
            old.copy_from_slice(new);
        }
    }
    Some(Rc::new(torn))
}
