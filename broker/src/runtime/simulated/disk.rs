//! The simulated disk: what is written is lost unless it is flushed, and sometimes even then.
//!
//! Every operation is an *I/O point* with a number. [`Disk::crash_at_io`] stops the node at one, in
//! the middle of that operation; [`kill`](super::kill) then decides what is left:
//!
//! - Of writes that no flush covers any subset of their 4 KiB pieces, in any order, and of a piece
//!   any of its 512-byte sectors.
//! - Of names that were made, changed or removed since their directory was flushed a prefix, per
//!   directory, in the order of the changes.
//!
//! [`Disk::plan_fault`] injects errors and silent damage. What a failed write or flush lost is not
//! brought back by a later flush.
//!
//! Contents are kept per 4 KiB page and shared, so a preallocated file costs nothing. Single
//! threaded; operations take virtual time.

mod agent;
mod crash;
mod faults;
mod file;
mod inode;
mod names;

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

pub(in crate::runtime) use agent::SimulatedAgent;
pub use faults::{Fault, FaultCounts};
pub(in crate::runtime) use file::SimulatedFile;
pub use inode::PAGE_BYTES;

use super::rng::Rng;
use super::timers::Sleep;
use super::{Death, this_world};
use faults::Faults;
use inode::{Inode, InodeId};
use names::{Names, Node};

/// What an operation does, for faults and for the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Read,
    Write,
    Flush,
    /// Makes, changes or removes a name.
    Name,
    /// Looks names up.
    Look,
}

struct State {
    names: Names,
    inodes: FxHashMap<InodeId, Inode>,
    next_inode: u64,
    next_write: u64,
    rng: Rng,
    ios: u64,
    crash_at: Option<u64>,
    faults: Faults,
    protected: Option<PathBuf>,
}

/// The disk of a simulated node.
pub struct Disk(RefCell<State>);

impl Disk {
    pub(super) fn new(rng: Rng) -> Disk {
        Disk(RefCell::new(State {
            names: Names::default(),
            inodes: FxHashMap::default(),
            next_inode: 1,
            next_write: 1,
            rng,
            ios: 0,
            crash_at: None,
            faults: Faults::default(),
            protected: None,
        }))
    }

    /// Operations so far.
    pub fn ios(&self) -> u64 {
        self.0.borrow().ios
    }

    /// Stops the node that does the operation of this number; `None` takes that back.
    pub fn crash_at_io(&self, io: Option<u64>) {
        self.0.borrow_mut().crash_at = io;
    }

    /// Lets a fault happen at the first operation that can have it, from this number on.
    pub fn plan_fault(&self, from_io: u64, fault: Fault) {
        self.0.borrow_mut().faults.plan(from_io, fault);
    }

    /// Forgets the faults that have not happened. Damage that was done stays.
    pub fn heal(&self) {
        self.0.borrow_mut().faults.clear();
    }

    /// Makes a directory and those above it, durably.
    pub fn create_dir(&self, path: &Path) {
        let mut state = self.0.borrow_mut();
        let above: Vec<_> = path.ancestors().collect();
        // The root is always there.
        for directory in above.iter().rev().skip(1) {
            state.names.link(directory, Node::Directory);
            let parent = directory.parent().expect("only the root has no parent");
            state.names.flush(parent, usize::MAX);
        }
    }

    /// Lets no fault happen to files below this directory that are made from now on.
    pub fn protect(&self, directory: &Path) {
        self.0.borrow_mut().protected = Some(directory.to_owned());
    }

    /// How many faults of each kind have happened.
    pub fn fault_counts(&self) -> FaultCounts {
        self.0.borrow().faults.counts()
    }

    /// Flips one bit of what a file holds, on the medium. False if nothing is stored there.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut state = self.0.borrow_mut();
        let Some(id) = state.names.file(path) else {
            return false;
        };
        let inode = state.inodes.get_mut(&id).expect("names lead to inodes");
        inode.flip_bit(offset, bit)
    }

    /// Makes a page of a file unreadable until it is written again.
    pub fn spoil(&self, path: &Path, offset: u64) {
        let mut state = self.0.borrow_mut();
        let id = state.names.file(path).expect("there is such a file");
        let mut rng = state.rng.fork();
        let page = offset / PAGE_BYTES as u64;
        let inode = state.inodes.get_mut(&id).expect("names lead to inodes");
        inode.rot(page, Fault::LatentSectorError, &mut rng);
    }

    /// Files in order of their names: path and length in bytes.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.0.borrow();
        let files = state.names.files();
        files
            .map(|(path, id)| (path.clone(), state.inodes[&id].len))
            .collect()
    }

    /// What a file holds now.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.borrow();
        let inode = &state.inodes[&state.names.file(path)?];
        let bytes = usize::try_from(inode.len).expect("a test file fits in memory");
        Some(inode.read(0, bytes))
    }

    /// Reduces the disk to what is left after a node's death.
    pub(super) fn crash(&self, death: Death) {
        let mut state = self.0.borrow_mut();
        state.crash_at = None;
        let now_us = this_world().now_us();
        for inode in state.inodes.values_mut() {
            inode.spare_young_pages(now_us);
        }
        crash::crash(&mut state, death);
    }

    fn with<T>(&self, then: impl FnOnce(&mut State) -> T) -> T {
        then(&mut self.0.borrow_mut())
    }
}

/// An operation that has begun.
struct Begun {
    fault: Option<Fault>,
    duration_us: u64,
    crashes: bool,
}

impl Begun {
    /// Lets its time pass. Never returns at an I/O point at which the node dies.
    async fn wait(&self) {
        let world = this_world();
        if self.crashes {
            world.crash_here();
            pending::<()>().await;
        }
        Sleep::until(world.now_us() + self.duration_us).await;
    }
}

/// Counts an operation, chooses its fault and its duration.
fn begin(operation: Operation, on: InodeId, at: u64, bytes: usize) -> Begun {
    let world = this_world();
    let (io, begun) = world.disk().with(|state| {
        let io = state.ios;
        state.ios += 1;
        let is_protected = state.inodes.get(&on).is_some_and(|i| i.is_protected);
        let fault = state.faults.take(io, operation, is_protected);
        if let Some(fault) = fault.filter(|fault| fault.is_rot()) {
            state.rot(fault, world.now_us());
        }
        let duration_us = fault
            .and_then(Fault::duration_us)
            .unwrap_or_else(|| service_us(&mut state.rng, operation, bytes));
        let crashes = state.crash_at == Some(io);
        let begun = Begun {
            fault,
            duration_us,
            crashes,
        };
        (io, begun)
    });
    let bytes = u64::try_from(bytes).expect("usize fits u64");
    let (operation, fault) = (operation as u64, u64::from(begun.fault.is_some()));
    world
        .trace
        .event("io", &[io, operation, on.0, at, bytes, fault]);
    begun
}

/// Service times like those of the disks this was measured on, with now and then a long one.
fn service_us(rng: &mut Rng, operation: Operation, bytes: usize) -> u64 {
    let transfer_us = u64::try_from(bytes / 2048).expect("usize fits u64");
    let base_us = match operation {
        Operation::Read | Operation::Write => rng.between(20, 120),
        Operation::Flush => rng.between(50, 400),
        Operation::Name | Operation::Look => rng.between(30, 300),
    };
    let extra_us = if rng.chance(1, 200) {
        rng.between(1_000, 50_000)
    } else {
        0
    };
    base_us + transfer_us + extra_us
}

fn io_error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl State {
    fn inode(&mut self, id: InodeId) -> &mut Inode {
        self.inodes.get_mut(&id).expect("open files keep inodes")
    }

    /// Damages something that is stored: any page, or the last one of a file.
    ///
    /// What was made durable just before, or just before a crash, is spared: damage to the last
    /// group before the ledger knew of it is what a single node cannot tell from a torn write. For
    /// the same reason a ledger is damaged only if nothing else is.
    fn rot(&mut self, fault: Fault, now_us: u64) {
        let is_alone = self.faults.is_only_damage();
        let mut stored: Vec<_> = self
            .inodes
            .iter()
            .filter(|(_, inode)| !inode.is_protected && (is_alone || !inode.is_ledger))
            .flat_map(|(id, inode)| inode.old_pages(now_us).map(|page| (*id, page)))
            .collect();
        stored.sort_unstable();
        if stored.is_empty() {
            return;
        }
        let (id, any) = stored[self.rng.index(stored.len())];
        let last = stored.iter().rev().find(|(other, _)| *other == id);
        let page = match last {
            Some((_, last)) if self.rng.chance(1, 4) => *last,
            _ => any,
        };
        let mut rng = self.rng.fork();
        self.inode(id).rot(page, fault, &mut rng);
    }

    /// The file of that name.
    fn lookup(&self, path: &Path) -> io::Result<InodeId> {
        match self.names.get(path) {
            Some(Node::File(id)) => Ok(id),
            Some(Node::Directory) => Err(io_error(libc::EISDIR)),
            None => Err(io_error(libc::ENOENT)),
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<InodeId> {
        if self.names.get(path).is_some() {
            return Err(io_error(libc::EEXIST));
        }
        if !self.names.has_parent(path) {
            return Err(io_error(libc::ENOENT));
        }
        let id = InodeId(self.next_inode);
        self.next_inode += 1;
        let is_protected = self
            .protected
            .as_ref()
            .is_some_and(|directory| path.starts_with(directory));
        let mut inode = Inode::new(is_protected);
        inode.is_ledger = path.file_name().is_some_and(|name| name == "ledger");
        self.inodes.insert(id, inode);
        self.names.link(path, Node::File(id));
        Ok(id)
    }
}
