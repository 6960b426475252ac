//! The probes of the host pass here, and each refusal says what to do about it.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::*;

#[test]
fn this_host_has_io_uring() {
    io_uring().expect("the tests need io_uring anyway");
}

#[test]
fn whoever_asks_for_a_ring_is_not_interrupted_afterwards() {
    let (mut ours, _theirs) = UnixStream::pair().expect("a pair of sockets");
    // With a timeout the kernel does not go on by itself after an interruption.
    let patience = Some(Duration::from_millis(20));
    ours.set_read_timeout(patience).expect("a timeout");
    for _ in 0..50 {
        io_uring().expect("the tests need io_uring anyway");
        let ended = ours.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(ended, Err(io::ErrorKind::WouldBlock), "nobody writes");
    }
}

#[test]
fn each_refusal_of_io_uring_says_what_to_do() {
    let message =
        |code, disabled| uring_error(io::Error::from_raw_os_error(code), disabled).to_string();
    let cases = [
        (libc::EPERM, 2, "kernel.io_uring_disabled = 2", "sysctl -w"),
        (
            libc::EPERM,
            0,
            "forbidden for this process (EPERM)",
            "seccomp",
        ),
        (libc::ENOSYS, 0, "no io_uring (ENOSYS)", "Linux 5.15"),
        (
            libc::ENOMEM,
            0,
            "not enough memory for io_uring (ENOMEM",
            "LimitMEMLOCK=infinity",
        ),
        (
            libc::EMFILE,
            0,
            "io_uring cannot be set up",
            "limit of open files",
        ),
    ];
    for (code, disabled, what, fix) in cases {
        let text = message(code, disabled);
        assert!(text.contains(what) && text.contains(fix), "{text}");
        assert!(!text.contains('\n'), "one line: {text}");
    }
}

#[test]
fn direct_io_works_here_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    direct_io(directory.path()).expect("the temporary directory is on a disk");
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
}

#[test]
fn a_directory_without_direct_io_is_an_error() {
    let refused = direct_io(Path::new("/proc")).expect_err("not a place for files");
    assert!(matches!(
        refused,
        ProbeError::Directory {
            operation: "create a file",
            ..
        }
    ));
    let refused = direct_io(Path::new("/nowhere")).expect_err("no such directory");
    assert!(
        refused
            .to_string()
            .starts_with("cannot create a file in /nowhere: "),
        "{refused}"
    );
}
