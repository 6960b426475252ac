//! A file on the executor's ring.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use crate::runtime::buffer::{Buffer, allocate};
use crate::runtime::executor::engine::{Engine, OpenFiles, engine};
use crate::runtime::ring::Ring;

/// The two descriptors of a file.
#[derive(Debug)]
pub(super) struct DirectFile {
    plain: Rc<OwnedFd>,
    dsync: Option<Rc<OwnedFd>>,
}

impl DirectFile {
    pub(super) async fn open(path: &Path, write: bool) -> io::Result<DirectFile> {
        let mode = if write { libc::O_RDWR } else { libc::O_RDONLY };
        let plain = open_with(path, mode | libc::O_DIRECT).await?;
        let dsync = if write {
            Some(open_with(path, mode | libc::O_DIRECT | libc::O_DSYNC).await?)
        } else {
            None
        };
        Ok(DirectFile { plain, dsync })
    }

    /// Writes through one of the descriptors; says how much was written.
    pub(super) async fn write(
        &self,
        buffer: Rc<Buffer>,
        len: usize,
        offset: u64,
        is_durable: bool,
    ) -> io::Result<usize> {
        let file = match &self.dsync {
            Some(dsync) if is_durable => dsync,
            _ => &self.plain,
        };
        let engine = engine();
        ring(&engine).write(file, buffer, len, offset).await
    }

    pub(super) async fn flush(&self) -> io::Result<()> {
        let engine = engine();
        ring(&engine).flush(&self.plain).await
    }

    pub(super) async fn read(&self, offset: u64, bytes: usize) -> io::Result<Buffer> {
        let engine = engine();
        let buffer = allocate(bytes);
        ring(&engine).read(&self.plain, buffer, bytes, offset).await
    }
}

async fn open_with(path: &Path, flags: i32) -> io::Result<Rc<OwnedFd>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let engine = engine();
    ring(&engine).open(path, flags).await.map(Rc::new)
}

fn ring(engine: &Engine) -> &Ring {
    match &engine.files {
        OpenFiles::Host(ring) => ring,
        OpenFiles::Memory(_) => unreachable!("opened on an executor with a ring"),
    }
}
