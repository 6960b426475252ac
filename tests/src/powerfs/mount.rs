//! The kernel's requests, carried out on the [`Disk`](super::disk::Disk) behind the switch.
//!
//! Attributes and names are never cached by the kernel, and files are always opened for direct
//! I/O, so that it keeps nothing that a power cut would have to take from it. Runs on the threads
//! of the FUSE session.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::disk::{Node, error_number};
use super::faults::{Effect, Operation};
use super::power::{Power, Shared, State};

const BLOCK_BYTES: u32 = 4096;
const WRITE_BYTES_MAX: u32 = 1 << 20;
const SPACE_BYTES_DEFAULT: u64 = 64 << 30;

const OPENED: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// Answers the kernel.
pub(super) struct Mount(pub(super) Arc<Shared>);

type Result<T> = std::result::Result<T, Errno>;

impl Mount {
    fn write_at(&self, inode: u64, offset: u64, data: &[u8], flags: OpenFlags) -> Result<()> {
        check_aligned(flags, offset, data.len() as u64)?;
        let mut entered = self.0.enter(Operation::Write, inode)?;
        let size = entered.state.disk.file(inode)?.bytes();
        let end = offset + data.len() as u64;
        entered.state.check_space(end.saturating_sub(size))?;
        let place = match entered.effect {
            Some(Effect::Misdirect) => elsewhere(&mut entered.state, offset, size),
            _ => offset,
        };
        let number = entered.state.disk.file(inode)?.write(place, data);
        let mut state = entered.state;
        if is_write_through(flags) && state.power == Power::On {
            match state.effect(Operation::Flush, inode) {
                Some(Effect::Fail(error)) => return Err(error),
                Some(Effect::FailAndLose) => {
                    state.disk.file(inode)?.lose_writes();
                    return Err(Errno::IO);
                }
                _ => state = self.0.stretch_flush(state),
            }
            if state.power == Power::On {
                flush_one(&mut state, inode, number)?;
            }
        }
        self.0.leave(state, ())
    }

    fn resize(&self, inode: u64, bytes: u64) -> Result<()> {
        let mut entered = self.0.enter(Operation::Write, inode)?;
        let size = entered.state.disk.file(inode)?.bytes();
        entered.state.check_space(bytes.saturating_sub(size))?;
        entered.state.disk.file(inode)?.resize(bytes);
        self.0.leave(entered.state, ())
    }

    fn flush_file(&self, inode: u64) -> Result<()> {
        let mut entered = self.0.enter(Operation::Flush, inode)?;
        if entered.effect == Some(Effect::FailAndLose) {
            entered.state.disk.file(inode)?.lose_writes();
            return Err(Errno::IO);
        }
        let end = entered.state.disk.file(inode)?.next_number();
        let mut state = self.0.stretch_flush(entered.state);
        if state.power == Power::On {
            let flushed = state.disk.file(inode)?.flush(end);
            flushed.map_err(|error| error_number(&error))?;
        }
        self.0.leave(state, ())
    }

    fn flush_directory(&self, inode: u64) -> Result<()> {
        let mut entered = self.0.enter(Operation::Flush, inode)?;
        if entered.state.power == Power::On {
            entered.state.disk.flush_directory(inode)?;
        }
        self.0.leave(entered.state, ())
    }

    fn read_at(&self, inode: u64, offset: u64, bytes: u32, flags: OpenFlags) -> Result<Vec<u8>> {
        check_aligned(flags, offset, u64::from(bytes))?;
        let mut entered = self.0.enter(Operation::Read, inode)?;
        let file = entered.state.disk.file(inode)?;
        let mut data = file
            .read(offset, u64::from(bytes))
            .map_err(|error| error_number(&error))?;
        if entered.effect == Some(Effect::FlipBit) && !data.is_empty() {
            let at = entered.state.random.below(data.len());
            data[at] ^= 1 << entered.state.random.below(8);
        }
        self.0.leave(entered.state, data)
    }

    /// Carries out a change of names in a directory.
    fn name<T>(&self, parent: u64, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut entered = self.0.enter(Operation::Name, parent)?;
        let changed = change(&mut entered.state)?;
        self.0.leave(entered.state, changed)
    }

    /// Carries out what neither counts nor fails, but needs power.
    fn look<T>(&self, at: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let mut state = self.0.lock();
        if state.power == Power::Off {
            return Err(Errno::IO);
        }
        let seen = at(&mut state)?;
        self.0.leave(state, seen)
    }
}

/// A write that went astray: another block of the same file.
fn elsewhere(state: &mut State, offset: u64, size: u64) -> u64 {
    let block = u64::from(BLOCK_BYTES);
    let blocks = usize::try_from(size / block).unwrap_or(usize::MAX).max(2);
    let place = state.random.below(blocks) as u64 * block + offset % block;
    if place == offset {
        offset + block
    } else {
        place
    }
}

fn flush_one(state: &mut State, inode: u64, number: u64) -> Result<()> {
    let flushed = state.disk.file(inode)?.flush_one(number);
    flushed.map_err(|error| error_number(&error))
}

fn open_flags(flags: OpenFlags) -> OFlags {
    OFlags::from_bits_retain(flags.0.cast_unsigned())
}

fn is_write_through(flags: OpenFlags) -> bool {
    open_flags(flags).intersects(OFlags::DSYNC | OFlags::SYNC)
}

/// Direct I/O on a real disk wants whole sectors.
fn check_aligned(flags: OpenFlags, offset: u64, bytes: u64) -> Result<()> {
    let is_direct = open_flags(flags).contains(OFlags::DIRECT);
    if is_direct && !(offset | bytes).is_multiple_of(super::SECTOR_BYTES) {
        return Err(Errno::INVAL);
    }
    Ok(())
}

fn attributes(state: &mut State, inode: u64) -> Result<FileAttr> {
    let (kind, size, perm) = match state.disk.node(inode)? {
        Node::File(content) => (FileType::RegularFile, content.bytes(), 0o644),
        Node::Directory(_) => (FileType::Directory, 4096, 0o755),
    };
    Ok(FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(super::SECTOR_BYTES),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    })
}

fn refused(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

/// Answers with what `$result` gives, or with its error.
macro_rules! answer {
    ($reply:ident, $result:expr, $done:expr) => {
        match $result {
            Ok(done) => $done($reply, done),
            Err(error) => $reply.error(refused(error)),
        }
    };
}

impl Filesystem for Mount {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Refusals mean that the kernel's own, smaller values hold; all of it works with those.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.look(|state| {
            let inode = state.disk.lookup(parent.0, name)?;
            attributes(state, inode)
        });
        answer!(reply, found, entry);
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let found = self.look(|state| attributes(state, inode.0));
        answer!(reply, found, attr);
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = size.map_or(Ok(()), |size| self.resize(inode.0, size));
        let found = resized.and_then(|()| self.look(|state| attributes(state, inode.0)));
        answer!(reply, found, attr);
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let made = self.name(parent.0, |state| {
            let inode = state.disk.create_directory(parent.0, name)?;
            attributes(state, inode)
        });
        answer!(reply, made, entry);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.name(parent.0, |state| state.disk.remove(parent.0, name));
        answer!(reply, removed, empty);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.name(parent.0, |state| state.disk.remove(parent.0, name));
        answer!(reply, removed, empty);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = if flags.is_empty() {
            self.name(parent.0, |state| {
                let names = (name, new_name);
                state.disk.rename((parent.0, new_parent.0), names)
            })
        } else {
            Err(Errno::INVAL)
        };
        answer!(reply, renamed, empty);
    }

    fn open(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let opened = self.look(|state| {
            state.disk.file(inode.0)?;
            state.disk.open(inode.0);
            Ok(())
        });
        answer!(reply, opened, |reply: ReplyOpen, ()| reply
            .opened(FileHandle(0), OPENED));
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let created = self.name(parent.0, |state| {
            let inode = state.disk.create(parent.0, name)?;
            state.disk.open(inode);
            attributes(state, inode)
        });
        answer!(reply, created, |reply: ReplyCreate, attributes| {
            reply.created(&TTL, &attributes, Generation(0), FileHandle(0), OPENED);
        });
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // A close does not fail, and must not wait for a frozen disk: the kernel may do it late.
        let mut state = self.0.lock();
        if state.power == Power::On {
            state.disk.close(inode.0);
        }
        reply.ok();
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.read_at(inode.0, offset, size, flags);
        answer!(reply, read, |reply: ReplyData, data: Vec<u8>| reply
            .data(&data));
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.write_at(inode.0, offset, data, flags);
        let bytes = u32::try_from(data.len()).expect("the kernel writes a megabyte at most");
        answer!(reply, written, |reply: ReplyWrite, ()| reply.written(bytes));
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Not the flush of a disk: the kernel asks at every close.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        answer!(reply, self.flush_file(inode.0), empty);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        answer!(reply, self.flush_directory(inode.0), empty);
    }

    fn fallocate(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(fuser::Errno::EOPNOTSUPP);
        }
        let size = self.look(|state| Ok(state.disk.file(inode.0)?.bytes()));
        let end = offset + length;
        let done = size.and_then(|size| {
            if end > size {
                self.resize(inode.0, end)
            } else {
                Ok(())
            }
        });
        answer!(reply, done, empty);
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.look(|state| {
            let entries = state.disk.directory(inode.0)?.entries().clone();
            let kind = |inode| match state.disk.node(inode) {
                Ok(Node::Directory(_)) => FileType::Directory,
                _ => FileType::RegularFile,
            };
            let dots = [".", ".."].map(|name| (name.into(), inode.0));
            let named = dots.into_iter().chain(entries);
            let all = named.map(|(name, inode)| (name, inode, kind(inode)));
            Ok(all.collect::<Vec<_>>())
        });
        match listed {
            Ok(all) => {
                for ((name, inode, kind), next) in all.into_iter().zip(1..) {
                    if next > offset && reply.add(INodeNo(inode), next, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(refused(error)),
        }
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let state = self.0.lock();
        let space = state.space_bytes.unwrap_or(SPACE_BYTES_DEFAULT);
        let free = space.saturating_sub(state.disk.bytes());
        drop(state);
        let blocks = |bytes: u64| bytes / u64::from(BLOCK_BYTES);
        let (space, free) = (blocks(space), blocks(free));
        reply.statfs(
            space,
            free,
            free,
            1 << 20,
            1 << 20,
            BLOCK_BYTES,
            255,
            BLOCK_BYTES,
        );
    }
}

/// The kernel keeps nothing.
const TTL: Duration = Duration::ZERO;

fn entry(reply: ReplyEntry, attributes: FileAttr) {
    reply.entry(&TTL, &attributes, Generation(0));
}

fn attr(reply: ReplyAttr, attributes: FileAttr) {
    reply.attr(&TTL, &attributes);
}

fn empty(reply: ReplyEmpty, (): ()) {
    reply.ok();
}
