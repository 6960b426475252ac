//! The file the disk is measured with; removed when dropped.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};

use super::{AlignedBuffer, MIB, length};
use crate::limits::TEST_FILES_MAX;
use crate::progress::Progress;

/// A file of a multiple of 16 MiB where possible, else of 1 MiB, either written once with
/// incompressible bytes or only allocated.
#[derive(Debug)]
pub(crate) struct TestFile {
    path: PathBuf,
    bytes: u64,
    written: bool,
}

impl TestFile {
    /// Makes a file and writes all of it, so that later writes change no metadata. Random bytes
    /// rather than zeros: some devices keep zeros without writing them and read them for free.
    pub(crate) fn create(dir: &Path, bytes: u64) -> Result<Self> {
        let mut file = Self::allocate(dir, bytes)?;
        let handle = file.open_direct()?;
        let progress = Progress::new();
        let mut buffer = AlignedBuffer::random(MIB, 0);
        let blocks = file.bytes / length(MIB);
        for block in 0..blocks {
            if block % 64 == 0 {
                progress.show(&format!(
                    "ceiling: writing the test file, {block} of {blocks} MiB"
                ));
            }
            buffer.stamp(block);
            handle.write_all_at(buffer.bytes(), block * length(MIB))?;
        }
        handle.sync_all()?;
        file.written = true;
        Ok(file)
    }

    /// Makes a file with all its space allocated and nothing written.
    pub(crate) fn allocate(dir: &Path, bytes: u64) -> Result<Self> {
        let bytes = bytes - bytes % length(MIB);
        let name = format!("catena-bench-ceiling-{}.tmp", std::process::id());
        let path = (0..TEST_FILES_MAX)
            .map(|attempt| dir.join(format!("{name}{attempt}")))
            .find(|path| !path.exists())
            .context("no free name for a test file")?;
        // From here on the file is removed even when a step below fails.
        let file = Self {
            path,
            bytes,
            written: false,
        };
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&file.path, flags, Mode::RUSR | Mode::WUSR)?;
        fallocate(&handle, FallocateFlags::empty(), 0, bytes)
            .with_context(|| format!("cannot allocate {bytes} bytes"))?;
        rustix::fs::fsync(&handle)?;
        file.open_direct()?;
        Ok(file)
    }

    /// Length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether every byte has been written before.
    pub(crate) fn is_written(&self) -> bool {
        self.written
    }

    /// A descriptor that bypasses the page cache.
    pub(crate) fn open_direct(&self) -> Result<File> {
        self.open(OFlags::DIRECT)
    }

    /// The same, and every write is durable when it returns.
    pub(crate) fn open_direct_dsync(&self) -> Result<File> {
        self.open(OFlags::DIRECT | OFlags::DSYNC)
    }

    fn open(&self, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&self.path, flags, Mode::empty())
            .with_context(|| format!("{} does not allow O_DIRECT", self.path.display()))?;
        Ok(File::from(handle))
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        // It may not exist if making it failed; there is nobody to tell otherwise.
        let _ = fs::remove_file(&self.path);
    }
}
