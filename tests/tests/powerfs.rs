//! The test file system itself: what a power cut takes, what it leaves, and how faults look to a
//! program. Without root or FUSE these tests say so and pass.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use catena_tests::powerfs::{Effect, Fault, Loss, Operation, PowerFs};
use rustix::fs::OFlags;
use rustix::io::Errno;

const PAGE: usize = 4096;

/// A mounted file system, or nothing where that is not possible.
fn mounted() -> Option<PowerFs> {
    match PowerFs::check_supported() {
        Ok(()) => Some(PowerFs::mount(1).expect("it can be mounted")),
        Err(reason) => {
            eprintln!("left out: powerfs {reason}");
            None
        }
    }
}

fn cut(disk: &PowerFs) {
    disk.freeze();
    disk.power_off();
    disk.power_on(Loss::Drop, 0).expect("the power comes back");
}

fn flush_dir(path: &Path) {
    let dir = File::open(path).expect("the directory");
    dir.sync_all().expect("it can be flushed");
}

fn open(path: &Path, flags: OFlags) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
        .expect("it can be opened")
}

/// A page at an address that direct I/O takes.
struct Page {
    memory: Vec<u8>,
    start: usize,
}

impl Page {
    fn filled(byte: u8) -> Self {
        let memory = vec![byte; 2 * PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Self { memory, start }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + PAGE]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + PAGE]
    }
}

#[test]
fn a_cut_takes_unflushed_bytes_and_leaves_flushed_ones() {
    let Some(disk) = mounted() else { return };
    let path = disk.path().join("file");
    let file = open(&path, OFlags::empty());
    file.write_all_at(&[1; 3 * PAGE], 0).expect("a write");
    file.sync_data().expect("a flush");
    flush_dir(disk.path());
    file.write_all_at(&[2; PAGE], 0).expect("a write");
    assert_eq!(fs::read(&path).expect("it is there")[..PAGE], [2; PAGE]);
    drop(file);
    cut(&disk);
    assert_eq!(fs::read(&path).expect("it is there"), [1; 3 * PAGE]);
}

#[test]
fn direct_and_write_through_io_work_and_only_write_through_is_durable() {
    let Some(disk) = mounted() else { return };
    let path = disk.path().join("file");
    let through = open(&path, OFlags::DIRECT | OFlags::DSYNC);
    let page = Page::filled(3);
    let written = through.write_all_at(page.bytes(), 0);
    written.expect("an aligned write");
    flush_dir(disk.path());
    let direct = open(&path, OFlags::DIRECT);
    let written = direct.write_all_at(page.bytes(), PAGE as u64);
    written.expect("an aligned write");
    let mut read = Page::filled(0);
    direct
        .read_exact_at(read.bytes_mut(), PAGE as u64)
        .expect("an aligned read");
    assert_eq!(read.bytes(), page.bytes());
    let unaligned = direct.write_all_at(&page.bytes()[..100], 0);
    assert_eq!(
        unaligned.expect_err("100 bytes").kind(),
        ErrorKind::InvalidInput
    );
    drop((through, direct));
    cut(&disk);
    assert_eq!(fs::read(&path).expect("it is there"), [3; PAGE]);
}

#[test]
fn names_are_lost_without_a_flush_of_their_directory() {
    let Some(disk) = mounted() else { return };
    let (old, new) = (disk.path().join("old"), disk.path().join("new"));
    fs::write(&old, b"content").expect("a file");
    open(&old, OFlags::empty()).sync_all().expect("a flush");
    cut(&disk);
    assert!(!old.exists(), "a flushed file whose name was not");

    fs::write(&old, b"content").expect("a file");
    open(&old, OFlags::empty()).sync_all().expect("a flush");
    flush_dir(disk.path());
    fs::rename(&old, &new).expect("a new name");
    assert!(new.exists() && !old.exists());
    cut(&disk);
    assert_eq!(fs::read(&old).expect("the old name"), b"content");
    assert!(!new.exists());

    fs::rename(&old, &new).expect("a new name");
    flush_dir(disk.path());
    fs::remove_file(&new).expect("it is there");
    cut(&disk);
    assert!(new.exists(), "a removal is lost, too");
}

#[test]
fn nothing_that_happens_while_frozen_succeeds() {
    let Some(disk) = mounted() else { return };
    let path = disk.path().join("file");
    let file = open(&path, OFlags::empty());
    file.write_all_at(&[1; PAGE], 0).expect("a write");
    file.sync_all().expect("a flush");
    flush_dir(disk.path());
    disk.freeze_at(disk.operations() + 2);
    let writing = thread::spawn(move || -> io::Result<()> {
        file.write_all_at(&[2; PAGE], 0)?;
        file.sync_all()
    });
    assert!(disk.wait_frozen(Duration::from_secs(30)), "at the flush");
    assert!(!writing.is_finished(), "the flush is not answered");
    disk.power_off();
    let result = writing.join().expect("no panic");
    assert_eq!(
        result.expect_err("it was not flushed").raw_os_error(),
        Some(Errno::IO.raw_os_error())
    );
    disk.power_on(Loss::Drop, 0).expect("the power comes back");
    assert_eq!(fs::read(&path).expect("it is there"), [1; PAGE]);
}

#[test]
fn a_failed_flush_loses_the_data_and_the_next_one_succeeds() {
    let Some(disk) = mounted() else { return };
    let path = disk.path().join("file");
    let file = open(&path, OFlags::empty());
    file.write_all_at(&[1; PAGE], 0).expect("a write");
    file.sync_all().expect("a flush");
    disk.inject(Fault::once(Operation::Flush, Effect::FailAndLose));
    file.write_all_at(&[2; PAGE], 0).expect("a write");
    assert!(file.sync_all().is_err());
    file.sync_all().expect("the next flush says nothing of it");
    assert_eq!(fs::read(&path).expect("it is there"), [1; PAGE]);
    assert_eq!(disk.injected()["flush error with loss"], 1);
}

#[test]
fn errors_space_and_read_only_reach_the_program_and_end() {
    let Some(disk) = mounted() else { return };
    let path = disk.path().join("file");
    let file = open(&path, OFlags::empty());
    let error_of = |result: io::Result<()>| result.expect_err("a fault").raw_os_error();
    let number = |error: Errno| Some(error.raw_os_error());

    disk.inject(Fault::once(Operation::Write, Effect::Fail(Errno::IO)));
    assert_eq!(error_of(file.write_all_at(&[1], 0)), number(Errno::IO));
    file.write_all_at(&[1; PAGE], 0).expect("the fault is over");
    disk.inject(Fault::always(Operation::Read, Effect::Fail(Errno::IO)).in_path("fil"));
    assert_eq!(error_of(fs::read(&path).map(drop)), number(Errno::IO));
    disk.clear_faults();
    disk.set_space(2 * PAGE as u64);
    let beyond = file.write_all_at(&[1; PAGE], 2 * PAGE as u64);
    assert_eq!(error_of(beyond), number(Errno::NOSPC));
    disk.set_read_only();
    assert_eq!(error_of(file.write_all_at(&[1], 0)), number(Errno::ROFS));
    disk.clear_faults();
    file.write_all_at(&[2; PAGE], 2 * PAGE as u64)
        .expect("all faults are over");
}

#[test]
fn a_flipped_bit_and_a_misdirected_write_are_not_reported() {
    let Some(disk) = mounted() else { return };
    let path = disk.path().join("file");
    let file = open(&path, OFlags::empty());
    file.write_all_at(&[0; 2 * PAGE], 0).expect("a write");
    disk.inject(Fault::once(Operation::Read, Effect::FlipBit));
    let read = fs::read(&path).expect("it succeeds");
    let ones: u32 = read.iter().map(|byte| byte.count_ones()).sum();
    assert_eq!(ones, 1);
    disk.inject(Fault::once(Operation::Write, Effect::Misdirect));
    file.write_all_at(&[7; PAGE], 0).expect("it succeeds");
    let read = fs::read(&path).expect("it is there");
    assert_eq!(
        (&read[..PAGE], &read[PAGE..]),
        (&[0; PAGE][..], &[7; PAGE][..])
    );
}

#[test]
fn slow_and_hung_operations_take_their_time() {
    let Some(disk) = mounted() else { return };
    let file = open(&disk.path().join("file"), OFlags::empty());
    let delay = Duration::from_millis(30);
    disk.set_flush_delay(delay);
    let began = Instant::now();
    file.sync_all().expect("a flush");
    assert!(began.elapsed() >= delay);
    disk.inject(Fault::always(Operation::Write, Effect::Hang));
    let writing = thread::spawn(move || file.write_all_at(&[1; PAGE], 0));
    let hangs = || disk.injected().contains_key("hung operation");
    catena_tests::wait::until("the write has begun", hangs);
    assert!(!writing.is_finished());
    disk.clear_faults();
    writing.join().expect("no panic").expect("it goes on");
}
