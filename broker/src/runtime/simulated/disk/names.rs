//! The names of a disk: which there are, and which would still be there after a power cut.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::inode::InodeId;
use crate::runtime::simulated::rng::Rng;

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(InodeId),
}

/// A change of names in one directory.
#[derive(Debug, Clone)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

type Table = BTreeMap<PathBuf, Node>;

#[derive(Debug, Default)]
pub(super) struct Names {
    visible: Table,
    durable: Table,
    /// Changes that are not durable, by directory, in their order.
    changes: BTreeMap<PathBuf, Vec<Change>>,
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> Option<Node> {
        if path.parent().is_none() {
            return Some(Node::Directory);
        }
        self.visible.get(path).copied()
    }

    pub(super) fn file(&self, path: &Path) -> Option<InodeId> {
        match self.get(path)? {
            Node::File(id) => Some(id),
            Node::Directory => None,
        }
    }

    pub(super) fn has_parent(&self, path: &Path) -> bool {
        path.parent()
            .is_some_and(|parent| self.get(parent) == Some(Node::Directory))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, InodeId)> {
        self.visible.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path, *id)),
            Node::Directory => None,
        })
    }

    pub(super) fn list(&self, directory: &Path) -> impl Iterator<Item = (&PathBuf, Node)> {
        self.visible
            .iter()
            .filter(move |(path, _)| path.parent() == Some(directory))
            .map(|(path, node)| (path, *node))
    }

    pub(super) fn link(&mut self, path: &Path, node: Node) {
        self.change(path, Change::Link(path.to_owned(), node));
    }

    pub(super) fn unlink(&mut self, path: &Path) {
        self.change(path, Change::Unlink(path.to_owned()));
    }

    /// Both names are in one directory.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        assert_eq!(
            from.parent(),
            to.parent(),
            "renames stay in their directory"
        );
        self.change(to, Change::Rename(from.to_owned(), to.to_owned()));
    }

    fn change(&mut self, path: &Path, change: Change) {
        apply(&mut self.visible, &change);
        let directory = path.parent().expect("only the root has no parent");
        self.changes
            .entry(directory.to_owned())
            .or_default()
            .push(change);
    }

    /// How many changes of a directory are not durable.
    pub(super) fn pending(&self, directory: &Path) -> usize {
        self.changes.get(directory).map_or(0, Vec::len)
    }

    /// Makes the first `count` changes of a directory durable.
    pub(super) fn flush(&mut self, directory: &Path, count: usize) {
        if let Some(changes) = self.changes.get_mut(directory) {
            let count = count.min(changes.len());
            for change in changes.drain(..count) {
                apply(&mut self.durable, &change);
            }
        }
    }

    /// The power went: of each directory's changes a prefix is left.
    pub(super) fn survive_power_cut(&mut self, rng: &mut Rng) {
        for changes in std::mem::take(&mut self.changes).into_values() {
            let kept = rng.index(changes.len() + 1);
            for change in &changes[..kept] {
                apply(&mut self.durable, change);
            }
        }
        // What was in a directory whose own name is gone is gone, too.
        let mut reachable = Table::new();
        for (path, node) in &self.durable {
            let parent = path.parent().expect("only the root has no parent");
            if parent.parent().is_none() || reachable.contains_key(parent) {
                reachable.insert(path.clone(), *node);
            }
        }
        self.visible = reachable.clone();
        self.durable = reachable;
    }

    pub(super) fn is_linked(&self, id: InodeId) -> bool {
        self.visible.values().any(|node| *node == Node::File(id))
    }
}

fn apply(table: &mut Table, change: &Change) {
    match change {
        Change::Link(path, node) => {
            table.insert(path.clone(), *node);
        }
        Change::Unlink(path) => {
            table.remove(path);
        }
        Change::Rename(from, to) => {
            if let Some(node) = table.remove(from) {
                table.insert(to.clone(), node);
            }
        }
    }
}
