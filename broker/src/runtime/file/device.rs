//! Preparing an executor for a device, before its first real I/O there.

use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;

use glommio::io::OpenOptions;

use super::{IO_ALIGN, LogFile, in_context, io_error};
use crate::runtime::buffer::{Buffer, allocate};
use crate::runtime::random;

/// Prepares the current executor for I/O in `directory` and tests it there: writes both ways,
/// flushes, reads back and compares. Call once per executor and directory, before any
/// [`LogFile::open`].
///
/// # Errors
/// What the operating system says, or `InvalidData` if the bytes read are not the bytes written.
pub async fn prepare_device(directory: impl AsRef<Path>) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    if crate::runtime::simulated::world().is_some() {
        return Ok(());
    }
    if crate::runtime::portable::is_here() {
        return Ok(());
    }
    let path = directory
        .as_ref()
        .join(format!(".self-test-{:016x}", random::u64()));
    fs::write(&path, [0; 2 * IO_ALIGN]).map_err(|error| in_context("create", &path, &error))?;
    let tested = settle_polling_and_test(&path).await;
    let removed = fs::remove_file(&path).map_err(|error| in_context("remove", &path, &error));
    tested.and(removed)
}

async fn settle_polling_and_test(path: &Path) -> io::Result<()> {
    settle_polling(path)
        .await
        .map_err(|error| in_context("open", path, &error))?;
    let file = LogFile::open(path, true).await?;
    let tested = write_and_read_back(&file).await;
    let closed = file.close().await;
    tested.and(closed)
}

/// The first file that a thread opens on a device decides whether the backend uses polled I/O
/// there: it tries a polled read. On an empty file that read succeeds on any device, and later
/// reads then fail with `EOPNOTSUPP`. A descriptor that cannot be read fails the trial on every
/// device, which leaves polling off.
async fn settle_polling(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .dma_open(path)
        .await
        .map_err(io_error)?;
    file.close().await.map_err(io_error)
}

async fn write_and_read_back(file: &LogFile) -> io::Result<()> {
    let page = IO_ALIGN as u64;
    let written = [test_page(), test_page()];
    file.write(Rc::clone(&written[0]), IO_ALIGN, 0).await?;
    file.flush().await?;
    file.write_dsync(Rc::clone(&written[1]), IO_ALIGN, page)
        .await?;
    for (offset, expected) in [(0, &written[0]), (page, &written[1])] {
        let read = file.read(offset, IO_ALIGN).await?;
        if read[..] != expected[..] {
            let message = format!(
                "self-test {}: the bytes read at {offset} are not the bytes written",
                file.path().display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
    }
    Ok(())
}

fn test_page() -> Rc<Buffer> {
    let mut page = allocate(IO_ALIGN);
    for word in page.chunks_exact_mut(8) {
        word.copy_from_slice(&random::u64().to_le_bytes());
    }
    Rc::new(page)
}
