//! Names: which are durable, and which were made, changed or removed since.
//!
//! Invariant: a name changes durably only when its own directory is flushed. File systems with a
//! journal keep more; a program that relies on it loses files on others.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};

use crate::seeded::Seeded;

/// Names and what they lead to.
type Entries = BTreeMap<OsString, u64>;

/// One directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    entries: Entries,
    durable: Entries,
    /// Those made since the last flush, in order; each is kept or lost as a whole.
    changes: VecDeque<Change>,
}

/// Names that get another meaning in one step: `None` for no longer being there.
type Change = Vec<(OsString, Option<u64>)>;

impl Directory {
    /// The names as programs see them.
    pub(super) const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// What a name leads to.
    pub(super) fn get(&self, name: &OsStr) -> Option<u64> {
        self.entries.get(name).copied()
    }

    /// Makes or replaces a name.
    pub(super) fn set(&mut self, name: &OsStr, inode: u64) {
        self.change(vec![(name.to_owned(), Some(inode))]);
    }

    /// Takes a name away.
    pub(super) fn remove(&mut self, name: &OsStr) {
        self.change(vec![(name.to_owned(), None)]);
    }

    /// Renames in one step, over whatever `to` led to.
    pub(super) fn rename(&mut self, from: &OsStr, to: &OsStr, inode: u64) {
        self.change(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
    }

    /// Makes all names durable.
    pub(super) fn flush(&mut self) {
        self.changes.clear();
        self.durable.clone_from(&self.entries);
    }

    /// The power fails: all changes since the last flush are gone.
    pub(super) fn drop_changes(&mut self) {
        self.changes.clear();
        self.entries.clone_from(&self.durable);
    }

    /// The power fails while names are written: the first few changes are on the disk.
    pub(super) fn tear_changes(&mut self, random: &mut Seeded) {
        let kept = random.below(self.changes.len() + 1);
        for change in self.changes.drain(..).take(kept) {
            carry_out(&mut self.durable, change);
        }
        self.entries.clone_from(&self.durable);
    }

    /// Everything that a name leads to, or can lead to after a cut.
    pub(super) fn reachable(&self) -> impl Iterator<Item = u64> {
        let changed = self
            .changes
            .iter()
            .flatten()
            .filter_map(|(_, inode)| *inode);
        let named = self.entries.values().chain(self.durable.values()).copied();
        named.chain(changed)
    }

    fn change(&mut self, change: Change) {
        carry_out(&mut self.entries, change.clone());
        self.changes.push_back(change);
    }
}

fn carry_out(entries: &mut Entries, change: Change) {
    for (name, inode) in change {
        match inode {
            Some(inode) => entries.insert(name, inode),
            None => entries.remove(&name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Directory) -> Vec<(&str, u64)> {
        let entries = directory.entries().iter();
        entries
            .map(|(name, inode)| (name.to_str().expect("a text"), *inode))
            .collect()
    }

    #[test]
    fn a_name_without_a_flush_of_its_directory_is_gone_after_a_cut() {
        let mut directory = Directory::default();
        directory.set(OsStr::new("kept"), 2);
        directory.flush();
        directory.set(OsStr::new("lost"), 3);
        directory.remove(OsStr::new("kept"));
        assert_eq!(names(&directory), [("lost", 3)]);
        directory.drop_changes();
        assert_eq!(names(&directory), [("kept", 2)]);
    }

    #[test]
    fn a_rename_is_lost_or_kept_as_a_whole() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..40 {
            let mut directory = Directory::default();
            directory.set(OsStr::new("old"), 2);
            directory.flush();
            directory.set(OsStr::new("new.tmp"), 3);
            directory.rename(OsStr::new("new.tmp"), OsStr::new("old"), 3);
            assert_eq!(directory.reachable().max(), Some(3));
            assert!(directory.reachable().any(|inode| inode == 2));
            directory.tear_changes(&mut Seeded::new(seed));
            outcomes.insert(format!("{:?}", names(&directory)));
        }
        let expected = [
            r#"[("new.tmp", 3), ("old", 2)]"#,
            r#"[("old", 2)]"#,
            r#"[("old", 3)]"#,
        ];
        assert_eq!(outcomes.iter().collect::<Vec<_>>(), expected);
    }
}
