//! Files and directories by inode number, and what a power cut makes of them.
//!
//! Invariant: an inode stays for as long as a name leads to it, could lead to it after a cut, or
//! somebody has it open.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::content::{Content, Sectors};
use super::tree::Directory;
use crate::seeded::Seeded;

/// The inode of the root directory.
pub(super) const ROOT: u64 = 1;

/// What a power cut leaves of the changes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Drop,
    /// Of each write all, some or no sectors; of each directory the first few changes.
    Tear,
}

#[derive(Debug)]
pub(super) enum Node {
    File(Content),
    Directory(Directory),
}

/// A file system without mount point and without faults.
#[derive(Debug)]
pub(super) struct Disk {
    backing: PathBuf,
    nodes: BTreeMap<u64, Node>,
    opened: BTreeMap<u64, u64>,
    last_inode: u64,
}

type Result<T> = std::result::Result<T, Errno>;

impl Disk {
    /// An empty file system whose durable bytes lie below `backing`.
    pub(super) fn new(backing: &Path) -> Self {
        let root = Node::Directory(Directory::default());
        Self {
            backing: backing.to_owned(),
            nodes: BTreeMap::from([(ROOT, root)]),
            opened: BTreeMap::new(),
            last_inode: ROOT,
        }
    }

    pub(super) fn node(&self, inode: u64) -> Result<&Node> {
        self.nodes.get(&inode).ok_or(Errno::NOENT)
    }

    pub(super) fn file(&mut self, inode: u64) -> Result<&mut Content> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Directory(_)) => Err(Errno::ISDIR),
            None => Err(Errno::NOENT),
        }
    }

    pub(super) fn directory(&mut self, inode: u64) -> Result<&mut Directory> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(Errno::NOTDIR),
            None => Err(Errno::NOENT),
        }
    }

    pub(super) fn lookup(&mut self, parent: u64, name: &OsStr) -> Result<u64> {
        self.directory(parent)?.get(name).ok_or(Errno::NOENT)
    }

    pub(super) fn create(&mut self, parent: u64, name: &OsStr) -> Result<u64> {
        self.add(parent, name, |path| Content::create(path).map(Node::File))
    }

    pub(super) fn create_directory(&mut self, parent: u64, name: &OsStr) -> Result<u64> {
        self.add(parent, name, |_| Ok(Node::Directory(Directory::default())))
    }

    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) -> Result<()> {
        let inode = self.lookup(parent, name)?;
        if let Node::Directory(directory) = self.node(inode)?
            && !directory.entries().is_empty()
        {
            return Err(Errno::NOTEMPTY);
        }
        self.directory(parent)?.remove(name);
        Ok(())
    }

    /// Within a directory only: between two, journals differ in what they keep together.
    pub(super) fn rename(&mut self, parents: (u64, u64), names: (&OsStr, &OsStr)) -> Result<()> {
        if parents.0 != parents.1 {
            return Err(Errno::XDEV);
        }
        let inode = self.lookup(parents.0, names.0)?;
        self.directory(parents.0)?.rename(names.0, names.1, inode);
        Ok(())
    }

    pub(super) fn open(&mut self, inode: u64) {
        *self.opened.entry(inode).or_default() += 1;
    }

    pub(super) fn close(&mut self, inode: u64) {
        if let Some(count) = self.opened.get_mut(&inode) {
            *count -= 1;
        }
        self.opened.retain(|_, count| *count > 0);
        self.forget_unreachable();
    }

    pub(super) fn flush_directory(&mut self, inode: u64) -> Result<()> {
        self.directory(inode)?.flush();
        self.forget_unreachable();
        Ok(())
    }

    /// The size of all files as programs see them.
    pub(super) fn bytes(&self) -> u64 {
        let files = self.nodes.values().filter_map(|node| match node {
            Node::File(content) => Some(content.bytes()),
            Node::Directory(_) => None,
        });
        files.sum()
    }

    /// The path of an inode below the root, for people and for the choice of faults.
    pub(super) fn path(&self, wanted: u64) -> String {
        self.path_below(ROOT, wanted).unwrap_or_default()
    }

    /// The inode at a path below the root.
    pub(super) fn find(&mut self, path: &Path) -> Result<u64> {
        let mut inode = ROOT;
        for name in path {
            inode = self.lookup(inode, name)?;
        }
        Ok(inode)
    }

    /// The power fails.
    pub(super) fn cut(&mut self, loss: Loss, random: &mut Seeded) -> io::Result<Sectors> {
        let mut total = Sectors::default();
        for node in self.nodes.values_mut() {
            let sectors = match (node, loss) {
                (Node::File(content), Loss::Drop) => content.drop_changes()?,
                (Node::File(content), Loss::Tear) => content.tear_changes(random)?,
                (Node::Directory(directory), Loss::Drop) => {
                    directory.drop_changes();
                    continue;
                }
                (Node::Directory(directory), Loss::Tear) => {
                    directory.tear_changes(random);
                    continue;
                }
            };
            total.kept += sectors.kept;
            total.lost += sectors.lost;
        }
        self.opened.clear();
        self.forget_unreachable();
        Ok(total)
    }

    fn add(
        &mut self,
        parent: u64,
        name: &OsStr,
        make: impl FnOnce(&Path) -> io::Result<Node>,
    ) -> Result<u64> {
        if self.directory(parent)?.get(name).is_some() {
            return Err(Errno::EXIST);
        }
        let inode = self.last_inode + 1;
        let node =
            make(&self.backing.join(inode.to_string())).map_err(|error| error_number(&error))?;
        self.last_inode = inode;
        self.nodes.insert(inode, node);
        self.directory(parent)?.set(name, inode);
        Ok(inode)
    }

    fn forget_unreachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut to_visit = vec![ROOT];
        to_visit.extend(self.opened.keys());
        while let Some(inode) = to_visit.pop() {
            reached.insert(inode);
            if let Some(Node::Directory(directory)) = self.nodes.get(&inode) {
                to_visit.extend(directory.reachable());
            }
        }
        let unreachable: Vec<u64> = self
            .nodes
            .keys()
            .copied()
            .filter(|inode| !reached.contains(inode))
            .collect();
        for inode in unreachable {
            if let Some(Node::File(_)) = self.nodes.remove(&inode) {
                // Only tidying: the directory is removed as a whole at the end.
                let _ = std::fs::remove_file(self.backing.join(inode.to_string()));
            }
        }
    }

    fn path_below(&self, directory: u64, wanted: u64) -> Option<String> {
        let Some(Node::Directory(directory)) = self.nodes.get(&directory) else {
            return None;
        };
        directory.entries().iter().find_map(|(name, inode)| {
            let name = text(name);
            if *inode == wanted {
                return Some(name);
            }
            let below = self.path_below(*inode, wanted)?;
            Some(format!("{name}/{below}"))
        })
    }
}

fn text(name: &OsString) -> String {
    name.to_string_lossy().into_owned()
}

/// What a program is told when the backing file system fails.
pub(super) fn error_number(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> (tempfile::TempDir, Disk) {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::new(dir.path());
        (dir, disk)
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn a_flushed_file_without_a_durable_name_is_lost() {
        let (_dir, mut disk) = new();
        let file = disk.create(ROOT, name("a")).expect("a file");
        let content = disk.file(file).expect("the file");
        content.write(0, b"data");
        content.flush(content.next_number()).expect("a flush");
        disk.cut(Loss::Drop, &mut Seeded::new(0)).expect("a cut");
        assert_eq!(disk.lookup(ROOT, name("a")), Err(Errno::NOENT));
        assert_eq!(disk.nodes.len(), 1, "nothing leads to it any more");
    }

    #[test]
    fn a_removed_file_comes_back_unless_its_directory_was_flushed() {
        let (_dir, mut disk) = new();
        let file = disk.create(ROOT, name("a")).expect("a file");
        disk.flush_directory(ROOT).expect("the root");
        disk.remove(ROOT, name("a")).expect("it is there");
        disk.cut(Loss::Drop, &mut Seeded::new(0)).expect("a cut");
        assert_eq!(disk.lookup(ROOT, name("a")), Ok(file));
        disk.remove(ROOT, name("a")).expect("it is there");
        disk.flush_directory(ROOT).expect("the root");
        disk.cut(Loss::Drop, &mut Seeded::new(0)).expect("a cut");
        assert_eq!(disk.lookup(ROOT, name("a")), Err(Errno::NOENT));
    }

    #[test]
    fn a_file_below_a_directory_without_durable_name_is_lost_with_it() {
        let (_dir, mut disk) = new();
        let directory = disk.create_directory(ROOT, name("d")).expect("one");
        let file = disk.create(directory, name("f")).expect("a file");
        disk.flush_directory(directory).expect("the directory");
        assert_eq!(disk.path(file), "d/f");
        assert_eq!(disk.find(Path::new("d/f")), Ok(file));
        disk.cut(Loss::Drop, &mut Seeded::new(0)).expect("a cut");
        assert_eq!(disk.find(Path::new("d/f")), Err(Errno::NOENT));
    }

    #[test]
    fn an_open_file_outlives_its_name() {
        let (_dir, mut disk) = new();
        let file = disk.create(ROOT, name("a")).expect("a file");
        disk.open(file);
        disk.remove(ROOT, name("a")).expect("it is there");
        disk.flush_directory(ROOT).expect("the root");
        assert!(disk.file(file).is_ok());
        disk.close(file);
        assert!(disk.file(file).is_err());
    }
}
