//! The bytes of one file: what is durable, and what was written since.
//!
//! Invariant: the backing file holds exactly what a power cut cannot take away. Everything else is
//! a list of changes in the order they were made; a flush carries them out on the backing file, a
//! cut drops them or keeps some of their sectors.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::seeded::Seeded;

/// What a disk writes whole or not at all, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// One file.
#[derive(Debug)]
pub(super) struct Content {
    durable: File,
    bytes: u64,
    changes: VecDeque<Change>,
    next_number: u64,
}

#[derive(Debug)]
struct Change {
    number: u64,
    what: What,
    /// The backing file has it; it is kept because older changes may still go below it.
    is_durable: bool,
}

#[derive(Debug)]
enum What {
    Write { offset: u64, data: Vec<u8> },
    Resize { bytes: u64 },
}

/// How many sectors a cut kept and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sectors {
    /// Unflushed sectors that are on the disk all the same.
    pub kept: u64,
    /// Unflushed sectors that are gone.
    pub lost: u64,
}

impl Content {
    /// An empty file, backed by a new file at `path`.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        let durable = options.read(true).write(true).create_new(true).open(path)?;
        Ok(Self {
            durable,
            bytes: 0,
            changes: VecDeque::new(),
            next_number: 0,
        })
    }

    /// Its size as programs see it.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads as programs do: up to the end of the file.
    pub(super) fn read(&self, offset: u64, bytes: u64) -> io::Result<Vec<u8>> {
        let end = self.bytes.min(offset.saturating_add(bytes));
        let mut data = vec![0; length(end.saturating_sub(offset))?];
        read_to_end_of_file(&self.durable, &mut data, offset)?;
        for change in &self.changes {
            match &change.what {
                What::Write {
                    offset: at,
                    data: new,
                } => overlay(&mut data, offset, new, *at)?,
                What::Resize { bytes } => {
                    let from = length(bytes.saturating_sub(offset))?.min(data.len());
                    data[from..].fill(0);
                }
            }
        }
        Ok(data)
    }

    /// Writes; gives the change's number. Not durable before a flush.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> u64 {
        let end = offset + data.len() as u64;
        self.bytes = self.bytes.max(end);
        self.change(What::Write {
            offset,
            data: data.to_vec(),
        })
    }

    /// Cuts the file off or fills it up with zeros. Not durable before a flush.
    pub(super) fn resize(&mut self, bytes: u64) {
        self.bytes = bytes;
        self.change(What::Resize { bytes });
    }

    /// The number that the next change will get: a flush that begins now covers those below.
    pub(super) const fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Makes the changes with numbers below `end` durable.
    pub(super) fn flush(&mut self, end: u64) -> io::Result<()> {
        while let Some(change) = self.changes.front().filter(|change| change.number < end) {
            carry_out(&self.durable, &change.what)?;
            self.changes.pop_front();
        }
        self.forget_covered()
    }

    /// Makes one change durable, as a write through `O_DSYNC` does: it covers no other write.
    pub(super) fn flush_one(&mut self, number: u64) -> io::Result<()> {
        let found = self
            .changes
            .iter_mut()
            .find(|change| change.number == number);
        if let Some(change) = found {
            carry_out(&self.durable, &change.what)?;
            change.is_durable = true;
        }
        self.forget_covered()
    }

    /// What a failed flush does on real systems: the writes are gone, and nobody will say so again.
    pub(super) fn lose_writes(&mut self) {
        self.changes
            .retain(|change| change.is_durable || matches!(change.what, What::Resize { .. }));
    }

    /// The power fails: every change that is not durable is gone.
    pub(super) fn drop_changes(&mut self) -> io::Result<Sectors> {
        let mut sectors = Sectors::default();
        for change in self.changes.drain(..).filter(|change| !change.is_durable) {
            sectors.lost += change.what.sectors();
        }
        self.bytes = self.durable.metadata()?.len();
        Ok(sectors)
    }

    /// The power fails in the middle of writing: of each change that is not durable, all, some or
    /// none of the sectors are on the disk.
    pub(super) fn tear_changes(&mut self, random: &mut Seeded) -> io::Result<Sectors> {
        let mut sectors = Sectors::default();
        for change in std::mem::take(&mut self.changes) {
            if change.is_durable {
                carry_out(&self.durable, &change.what)?;
                continue;
            }
            let count = change.what.sectors();
            match random.below(3) {
                0 => sectors.lost += count,
                1 => {
                    carry_out(&self.durable, &change.what)?;
                    sectors.kept += count;
                }
                _ => {
                    let kept = tear(&self.durable, &change.what, random)?;
                    sectors.kept += kept;
                    sectors.lost += count - kept;
                }
            }
        }
        self.bytes = self.durable.metadata()?.len();
        Ok(sectors)
    }

    /// Changes one bit of what is durable, as a disk does that forgets.
    pub(super) fn rot(&self, offset: u64, bit: u8) -> io::Result<()> {
        let mut byte = [0];
        self.durable.read_exact_at(&mut byte, offset)?;
        byte[0] ^= 1 << (bit % 8);
        self.durable.write_all_at(&byte, offset)
    }

    fn change(&mut self, what: What) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.changes.push_back(Change {
            number,
            what,
            is_durable: false,
        });
        number
    }

    /// A durable change matters only while an older one is not durable. That one may have gone over
    /// it just now.
    fn forget_covered(&mut self) -> io::Result<()> {
        while let Some(change) = self.changes.front().filter(|change| change.is_durable) {
            carry_out(&self.durable, &change.what)?;
            self.changes.pop_front();
        }
        Ok(())
    }
}

impl What {
    fn sectors(&self) -> u64 {
        match self {
            Self::Write { data, .. } => (data.len() as u64).div_ceil(SECTOR_BYTES),
            Self::Resize { .. } => 0,
        }
    }
}

fn carry_out(file: &File, what: &What) -> io::Result<()> {
    match what {
        What::Write { offset, data } => file.write_all_at(data, *offset),
        What::Resize { bytes } => file.set_len(*bytes),
    }
}

/// Writes a random subset of the sectors; gives how many.
fn tear(file: &File, what: &What, random: &mut Seeded) -> io::Result<u64> {
    let What::Write { offset, data } = what else {
        return Ok(0);
    };
    let mut kept = 0;
    let mut at = *offset;
    for sector in data.chunks(length(SECTOR_BYTES)?) {
        if random.below(2) == 0 {
            file.write_all_at(sector, at)?;
            kept += 1;
        }
        at += SECTOR_BYTES;
    }
    Ok(kept)
}

/// Fills `data` from `offset` on; what lies behind the end of the file stays as it is.
fn read_to_end_of_file(file: &File, data: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        match file.read_at(&mut data[done..], offset + done as u64)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(())
}

/// Puts what `new`, written at `new_at`, has in common with `data`, which lies at `at`, over it.
fn overlay(data: &mut [u8], at: u64, new: &[u8], new_at: u64) -> io::Result<()> {
    let start = at.max(new_at);
    let end = (at + data.len() as u64).min(new_at + new.len() as u64);
    if start < end {
        let from = &new[length(start - new_at)?..length(end - new_at)?];
        data[length(start - at)?..length(end - at)?].copy_from_slice(from);
    }
    Ok(())
}

fn length(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONES: [u8; 1024] = [1; 1024];
    const TWOS: [u8; 1024] = [2; 1024];

    fn new() -> (tempfile::TempDir, Content) {
        let dir = tempfile::tempdir().expect("a directory");
        let content = Content::create(&dir.path().join("0")).expect("a file");
        (dir, content)
    }

    /// The byte that fills each sector.
    fn whole(content: &Content) -> Vec<u8> {
        let read = content.read(0, u64::MAX).expect("it can be read");
        let sectors = read.chunks(512).map(|sector| {
            assert!(sector.iter().all(|byte| *byte == sector[0]) && sector.len() == 512);
            sector[0]
        });
        sectors.collect()
    }

    #[test]
    fn a_read_sees_unflushed_writes_and_a_cut_takes_them_back() {
        let (_dir, mut content) = new();
        content.write(0, &ONES);
        content.flush(content.next_number()).expect("a flush");
        content.write(512, &TWOS);
        assert_eq!(whole(&content), [1, 2, 2]);
        let sectors = content.drop_changes().expect("a cut");
        assert_eq!(sectors, Sectors { kept: 0, lost: 2 });
        assert_eq!(whole(&content), [1, 1]);
    }

    #[test]
    fn a_flush_does_not_cover_what_came_after_it_began() {
        let (_dir, mut content) = new();
        content.write(0, &ONES);
        let began = content.next_number();
        content.write(0, &TWOS);
        content.flush(began).expect("a flush");
        assert_eq!(whole(&content), [2, 2]);
        content.drop_changes().expect("a cut");
        assert_eq!(whole(&content), [1, 1]);
    }

    #[test]
    fn a_write_through_covers_only_itself_and_stays_above_older_writes() {
        let (_dir, mut content) = new();
        content.write(0, &ONES);
        let through = content.write(512, &TWOS);
        content.flush_one(through).expect("a write through");
        content.flush(through).expect("a flush of the older write");
        assert_eq!(whole(&content), [1, 2, 2]);
        content.drop_changes().expect("a cut");
        assert_eq!(whole(&content), [1, 2, 2]);
    }

    #[test]
    fn a_write_through_survives_a_cut_that_takes_the_older_write() {
        let (_dir, mut content) = new();
        content.write(0, &ONES);
        let through = content.write(512, &TWOS);
        content.flush_one(through).expect("a write through");
        content.drop_changes().expect("a cut");
        assert_eq!(whole(&content), [0, 2, 2]);
    }

    #[test]
    fn a_torn_write_keeps_whole_sectors_only() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let (_dir, mut content) = new();
            content.write(0, &ONES);
            content.flush(content.next_number()).expect("a flush");
            content.write(0, &TWOS);
            content.tear_changes(&mut Seeded::new(seed)).expect("a cut");
            seen.insert(whole(&content));
        }
        let expected = [[1, 1], [1, 2], [2, 1], [2, 2]];
        assert!(seen.iter().eq(&expected), "{seen:?}");
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
        let (_dir, mut content) = new();
        content.write(0, &ONES);
        content.flush(content.next_number()).expect("a flush");
        content.resize(512);
        content.resize(1024);
        assert_eq!(whole(&content), [1, 0]);
        content.flush(content.next_number()).expect("a flush");
        assert_eq!(whole(&content), [1, 0]);
    }

    #[test]
    fn a_failed_flush_leaves_the_old_bytes_behind() {
        let (_dir, mut content) = new();
        content.write(0, &ONES);
        content.flush(content.next_number()).expect("a flush");
        content.write(0, &TWOS);
        content.lose_writes();
        content
            .flush(content.next_number())
            .expect("says nothing of it");
        assert_eq!(whole(&content), [1, 1]);
    }
}
