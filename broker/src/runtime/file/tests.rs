//! Direct reads and writes: what is written comes back, and memory outlives an abandoned write.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::runtime::buffer::{self, allocate};
use crate::runtime::clock::{sleep, timeout};
use crate::runtime::executor::engine::{OpenFiles, engine};
use crate::runtime::testing::run;

const PAGE: usize = IO_ALIGN;

fn segment(bytes: usize) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("0000000001.seg");
    fs::write(&path, vec![0; bytes]).expect("room for the file");
    (directory, path)
}

/// Operations that nobody waits for and the kernel has not finished.
fn abandoned() -> usize {
    match &engine().files {
        OpenFiles::Host(ring) => ring.abandoned(),
        OpenFiles::Memory(_) => 0,
    }
}

fn filled(bytes: usize, byte: u8) -> Rc<Buffer> {
    let mut buffer = allocate(bytes);
    buffer.fill(byte);
    Rc::new(buffer)
}

#[test]
fn what_is_written_is_read_back_and_only_that() {
    let (_directory, path) = segment(64 * PAGE);
    run(move || async move {
        let file = LogFile::open(&path, true).await.expect("the file exists");
        // 20 KiB lie in a buffer of 32 KiB: 16 KiB of it are written.
        let plain = filled(5 * PAGE, 1);
        file.write(Rc::clone(&plain), 4 * PAGE, 0)
            .await
            .expect("written");
        file.flush().await.expect("flushed");
        let durable = filled(PAGE, 2);
        file.write_dsync(Rc::clone(&durable), PAGE, 8 * PAGE as u64)
            .await
            .expect("written");
        let read = file.read(0, 16 * PAGE).await.expect("read");
        assert_eq!(read.len(), 16 * PAGE);
        for (page, bytes) in read.chunks_exact(PAGE).enumerate() {
            let expected = match page {
                0..4 => 1,
                8 => 2,
                _ => 0,
            };
            assert!(bytes.iter().all(|byte| *byte == expected), "page {page}");
        }
        assert!(
            plain.iter().all(|byte| *byte == 1),
            "still readable after the write"
        );
    });
}

#[test]
fn a_written_buffer_is_recycled_to_its_whole_length() {
    let (_directory, path) = segment(64 * PAGE);
    run(move || async move {
        let file = LogFile::open(&path, true).await.expect("the file exists");
        let buffer = filled(16 * PAGE, 3);
        let address = buffer.as_ptr();
        file.write(buffer, PAGE, 0).await.expect("written");
        let again = allocate(16 * PAGE);
        assert_eq!((again.as_ptr(), again.len()), (address, 16 * PAGE));
    });
}

#[test]
fn concurrent_writes_of_one_buffer_all_arrive() {
    let (_directory, path) = segment(64 * PAGE);
    run(move || async move {
        let file = LogFile::open(&path, true).await.expect("the file exists");
        let buffer = filled(PAGE, 5);
        let writes = (0..64).map(|page| file.write(Rc::clone(&buffer), PAGE, page * PAGE as u64));
        for written in futures_util::future::join_all(writes).await {
            written.expect("written");
        }
        let read = file.read(0, 64 * PAGE).await.expect("read");
        assert!(read.iter().all(|byte| *byte == 5));
        assert_eq!(Rc::strong_count(&buffer), 1);
    });
}

#[test]
fn a_read_at_the_end_returns_only_what_is_there() {
    let (_directory, path) = segment(3 * PAGE + 100);
    run(move || async move {
        let file = LogFile::open(&path, false).await.expect("the file exists");
        assert_eq!(
            file.read(2 * PAGE as u64, 4 * PAGE)
                .await
                .expect("read")
                .len(),
            PAGE + 100
        );
        assert_eq!(
            file.read(8 * PAGE as u64, PAGE).await.expect("read").len(),
            0
        );
    });
}

#[test]
fn a_read_buffer_can_be_changed_and_written_elsewhere() {
    let (_directory, path) = segment(IO_BYTES_MAX);
    run(move || async move {
        let file = LogFile::open(&path, true).await.expect("the file exists");
        let mut buffer = file.read(0, IO_BYTES_MAX).await.expect("read");
        assert_eq!(buffer.capacity(), IO_BYTES_MAX);
        buffer.fill(9);
        file.write(Rc::new(buffer), IO_BYTES_MAX, 0)
            .await
            .expect("written");
        let copied = file.read(0, 2 * PAGE).await.expect("read");
        file.write(Rc::new(copied), PAGE, 0)
            .await
            .expect("written without a change");
        let read = file.read(0, IO_BYTES_MAX).await.expect("read");
        assert!(read.iter().all(|byte| *byte == 9));
    });
}

#[test]
fn an_abandoned_write_keeps_its_memory_until_the_kernel_is_done() {
    let (_directory, path) = segment(64 * PAGE);
    run(move || async move {
        let file = LogFile::open(&path, true).await.expect("the file exists");
        let fresh = buffer::stats().fresh;
        let mut abandoned_most = 0;
        for round in 0..50 {
            let buffer = filled(64 * PAGE, round);
            // Polled once, then given up: sometimes before the kernel saw it, sometimes after.
            let patience = Duration::from_micros(u64::from(round));
            let _ = timeout(patience, file.write_dsync(buffer, 64 * PAGE, 0)).await;
            abandoned_most = abandoned_most.max(abandoned());
        }
        assert!(
            abandoned_most > 0,
            "no write was abandoned in flight: the test tests nothing"
        );
        while abandoned() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        let last = filled(64 * PAGE, 77);
        file.write(Rc::clone(&last), 64 * PAGE, 0)
            .await
            .expect("written");
        let read = file.read(0, 64 * PAGE).await.expect("read");
        assert!(read.iter().all(|byte| *byte == 77));
        assert!(buffer::stats().fresh - fresh <= 51);
        assert!(buffer::stats().reused > 0, "the memory came back");
    });
}

#[test]
fn a_directory_is_tested_and_left_as_it_was() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().to_owned();
    run(move || async move { self_test(path).await.expect("the device works") });
    let left = fs::read_dir(directory.path()).expect("listed").count();
    assert_eq!(left, 0);
}

#[test]
fn more_operations_than_the_ring_holds_all_complete() {
    const AT_ONCE: u64 = 1000;
    let (_directory, path) = segment(PAGE);
    run(move || async move {
        let file = LogFile::open(&path, true).await.expect("the file exists");
        let buffer = filled(PAGE, 6);
        let writes = (0..AT_ONCE).map(|_| file.write(Rc::clone(&buffer), PAGE, 0));
        for written in futures_util::future::join_all(writes).await {
            written.expect("written");
        }
        assert_eq!(Rc::strong_count(&buffer), 1);
    });
}

#[test]
fn an_open_that_is_given_up_leaves_no_descriptor() {
    let (_directory, path) = segment(PAGE);
    let opened = path.clone();
    run(move || async move {
        let mut given_up = 0;
        for _ in 0..50 {
            let open = timeout(Duration::ZERO, LogFile::open(&opened, true)).await;
            given_up += u32::from(open.is_err());
        }
        assert!(given_up > 0, "the test tests nothing");
    });
    assert_eq!(descriptors_of(&path), 0);
}

#[test]
fn errors_name_the_path_and_keep_their_kind() {
    run(|| async {
        let path = "/nowhere/0000000001.seg";
        let error = LogFile::open(path, true)
            .await
            .expect_err("there is no such file");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(
            error.to_string(),
            "open /nowhere/0000000001.seg: No such file or directory (os error 2)"
        );
        let error = self_test("/nowhere")
            .await
            .expect_err("there is no such directory");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    });
}

#[test]
#[should_panic(expected = "an I/O of 5000 bytes is not aligned")]
fn an_unaligned_write_is_a_bug() {
    let (_directory, path) = segment(4 * PAGE);
    run(move || async move {
        let file = LogFile::open(&path, true).await.expect("the file exists");
        file.write(filled(5000, 0), 5000, 0)
            .await
            .expect("never reached");
    });
}

#[test]
#[should_panic(expected = "is open for reading only")]
fn a_write_to_a_file_opened_for_reading_is_a_bug() {
    let (_directory, path) = segment(4 * PAGE);
    run(move || async move {
        let file = LogFile::open(&path, false).await.expect("the file exists");
        file.write(filled(PAGE, 0), PAGE, 0)
            .await
            .expect("never reached");
    });
}

#[test]
fn a_file_that_is_dropped_at_the_end_of_an_executor_is_closed() {
    let (_directory, path) = segment(PAGE);
    let opened = path.clone();
    run(move || async move {
        let file = LogFile::open(&opened, true).await;
        drop(file.expect("the file exists"));
    });
    assert_eq!(descriptors_of(&path), 0);
}

fn descriptors_of(path: &Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").expect("a Linux host");
    let open = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    open.filter(|file| file == path).count()
}
