//! Testing a directory's files before anything depends on them.

use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;

use super::{IO_ALIGN, LogFile, in_context};
use crate::runtime::buffer::{Buffer, allocate};
use crate::runtime::executor::engine::{OpenFiles, engine};
use crate::runtime::random;

/// Tests the current executor's I/O in `directory`: writes both ways, flushes, reads back and
/// compares. Blocks for a moment; for the start.
///
/// # Errors
/// What the operating system says, or `InvalidData` if the bytes read are not the bytes written.
pub async fn self_test(directory: impl AsRef<Path>) -> io::Result<()> {
    #[cfg(feature = "simulation")]
    if crate::runtime::simulated::world().is_some() {
        return Ok(());
    }
    if matches!(engine().files, OpenFiles::Memory(_)) {
        return Ok(());
    }
    let path = directory
        .as_ref()
        .join(format!(".self-test-{:016x}", random::u64()));
    fs::write(&path, [0; 2 * IO_ALIGN]).map_err(|error| in_context("create", &path, &error))?;
    let tested = write_and_read_back(&path).await;
    let removed = fs::remove_file(&path).map_err(|error| in_context("remove", &path, &error));
    tested.and(removed)
}

async fn write_and_read_back(path: &Path) -> io::Result<()> {
    let file = LogFile::open(path, true).await?;
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
