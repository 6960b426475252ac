//! The `catena-broker` program as its operator meets it: exit codes, messages, signals.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::process::{Pid, Signal, kill_process};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena-broker"));
    command.args(args).env_clear();
    command
}

fn output(args: &[&str]) -> Output {
    program(args).output().expect("the program can be run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A running broker; killed if the test ends early.
struct Running {
    child: Child,
    ready: String,
}

impl Running {
    fn start(dir: &Path) -> Self {
        let dir = dir.to_str().expect("temporary paths are UTF-8");
        let mut child = program(&["--data-dir", dir, "--space-bytes", "4GiB"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program can be run");
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let mut ready = String::new();
        let read = BufReader::new(stdout).read_line(&mut ready);
        read.expect("a line or the end");
        Self { child, ready }
    }

    /// The word after `name` in the ready line.
    fn said(&self, name: &str) -> &str {
        let (_, rest) = self
            .ready
            .split_once(name)
            .expect("the ready line names it");
        rest.trim_start()
            .split(',')
            .next()
            .expect("split gives at least one part")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the broker runs");
    }

    fn exit_code(mut self) -> Option<i32> {
        self.child
            .wait()
            .expect("the broker can be waited for")
            .code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended already, which is the normal case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn http_get(addr: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("the admin server listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("the request fits");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .expect("an answer and the end");
    response
}

/// Waits until the broker says that it is well: a shard that gets no core for a moment counts as
/// stalled.
fn until_well(addr: &str) {
    let began = Instant::now();
    loop {
        let health = http_get(addr, "/healthz");
        if health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n") {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{health}");
        thread::yield_now();
    }
}

#[test]
fn check_config_prints_what_would_be_used() {
    let output = output(&[
        "--check-config",
        "--listen",
        "127.0.0.1:7",
        "--space-bytes",
        "4GiB",
    ]);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output.stdout);
    assert!(text.contains("listen = \"127.0.0.1:7\"\n"), "{text}");
    assert!(text.contains("space-bytes = \"4GiB\"\n"), "{text}");
}

#[test]
fn a_bad_configuration_ends_with_2_and_says_why() {
    let flag = output(&["--segment-bytes", "5MiB"]);
    assert_eq!(flag.status.code(), Some(2));
    assert!(text(&flag.stderr).contains("is not a power of two"));

    let same = ["--listen", "127.0.0.1:7", "--admin", "127.0.0.1:7"];
    let ports = program(&["--check-config"]).args(same).output();
    let ports = ports.expect("the program can be run");
    assert_eq!(ports.status.code(), Some(2));
    assert!(text(&ports.stderr).contains("are the same port"));

    let output = program(&[])
        .env("CATENA_LISEN", "x")
        .output()
        .expect("the program can be run");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("unknown key `CATENA_LISEN`; did you mean `CATENA_LISTEN`?"),
        "{said}"
    );
}

#[test]
fn a_foreign_directory_ends_with_3_and_says_so_whatever_is_logged() {
    let dir = directory();
    fs::write(dir.path().join("thesis.tex"), "x").expect("the file can be written");
    let path = dir.path().to_str().expect("temporary paths are UTF-8");
    for level in ["info", "off", "catena_core=info"] {
        let args = ["--data-dir", path, "--admin", "off", "--log-level", level];
        let output = output(&args);
        assert_eq!(output.status.code(), Some(3));
        let said = text(&output.stderr);
        assert_eq!(said.matches("not empty").count(), 1, "{level}: {said}");
    }
}

#[test]
fn an_address_in_use_ends_with_1_before_anything_is_read_back() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let of_clients = format!(
        "cannot listen on {addr}: somebody listens there already; stop it, or choose another \
         --listen\n"
    );
    let of_admin = format!(
        "cannot serve metrics and health on {addr}: somebody listens there already; stop it, or \
         choose another --admin (or off)\n"
    );
    for (listen, admin, why) in [
        (addr.as_str(), "off", of_clients),
        ("127.0.0.1:0", addr.as_str(), of_admin),
    ] {
        let dir = directory();
        let path = dir.path().to_str().expect("temporary paths are UTF-8");
        let mut command = program(&["--data-dir", path, "--space-bytes", "4GiB"]);
        let output = command
            .args(["--listen", listen, "--admin", admin])
            .output();
        let output = output.expect("the program can be run");
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(said.contains(&why), "{said}");
        let metadata = dir.path().join("journals/999");
        assert!(!metadata.exists(), "nothing was started");
    }
}

#[test]
fn damaged_metadata_ends_with_3() {
    let dir = directory();
    let broker = Running::start(dir.path());
    broker.signal(Signal::TERM);
    assert_eq!(broker.exit_code(), Some(0));
    let metadata = dir.path().join("journals/999");
    let mut segment = None;
    for entry in fs::read_dir(&metadata).expect("the metadata journal") {
        let path = entry.expect("an entry").path();
        let name = path.to_string_lossy().into_owned();
        if name.ends_with("/0000000001.seg") {
            segment = Some(path);
        } else if name.contains("/checkpoint-") || name.contains("/metadata-") {
            fs::remove_file(path).expect("it was there");
        }
    }
    // The head of the first block, behind the header page.
    let segment = fs::File::options()
        .write(true)
        .open(segment.expect("a segment"));
    let segment = segment.expect("it can be written");
    segment.write_all_at(&[0xA5; 64], 4096).expect("written");

    let path = dir.path().to_str().expect("temporary paths are UTF-8");
    let mut command = program(&["--data-dir", path, "--space-bytes", "4GiB"]);
    let again = command.args(["--listen", "127.0.0.1:0", "--admin", "off"]);
    let again = again.output().expect("the program can be run");
    let said = text(&again.stderr);
    assert_eq!(again.status.code(), Some(3), "{said}");
    let words = "a broker does not start without its metadata";
    assert!(said.contains(words), "{said}");
}

/// A listener that lets sockets of the same user share its port.
fn sharing_listener() -> TcpListener {
    let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
    let shared = socket_with(family, SocketType::STREAM, flags, None).expect("a socket");
    sockopt::set_socket_reuseport(&shared, true).expect("it can be shared");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    bind(&shared, &any).expect("a free port");
    listen(&shared, 16).expect("it listens");
    TcpListener::from(shared)
}

#[test]
fn a_signal_during_the_start_does_not_end_it_at_once() {
    let dir = directory();
    let path = dir.path().to_str().expect("temporary paths are UTF-8");
    // A start waits a while for the end of whoever listens on its port.
    let other = sharing_listener();
    other.set_nonblocking(true).expect("it does not block");
    let addr = other.local_addr().expect("an address").to_string();
    let child = program(&["--data-dir", path, "--space-bytes", "4GiB"])
        .args(["--listen", &addr, "--admin", "off"])
        .stdout(Stdio::null())
        .spawn()
        .expect("the program can be run");
    let mut starting = Running {
        child,
        ready: String::new(),
    };
    while let Err(error) = other.accept() {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let ended = starting.child.try_wait().expect("it can be waited for");
        assert_eq!(ended, None, "it starts");
        thread::yield_now();
    }
    starting.signal(Signal::TERM);
    drop(other);
    // It stops once it has started, unless this test was held up for as long as it waits.
    let code = starting.exit_code();
    assert!(matches!(code, Some(0 | 1)), "{code:?}");
}

#[test]
fn a_broker_serves_says_so_and_stops_cleanly_on_sigterm() {
    let dir = directory();
    let broker = Running::start(dir.path());
    assert!(
        broker.ready.starts_with("catena-broker ready: "),
        "{}",
        broker.ready
    );
    assert!(
        broker.ready.ends_with("acks after flush\n"),
        "{}",
        broker.ready
    );
    TcpStream::connect(broker.said("listen")).expect("clients can connect");
    until_well(broker.said("admin"));
    let metrics = http_get(broker.said("admin"), "/metrics");
    assert!(
        metrics.contains("catena_journal_failed{shard=\"control\"} 0\n"),
        "{metrics}"
    );
    broker.signal(Signal::TERM);
    assert_eq!(broker.exit_code(), Some(0));
    let lock = fs::read(dir.path().join("LOCK")).expect("the lock file stays");
    assert_eq!(lock, b"", "it names nobody");
}

#[test]
fn a_second_broker_on_the_same_data_ends_with_3_and_the_first_goes_on() {
    let dir = directory();
    let broker = Running::start(dir.path());
    let path = dir.path().to_str().expect("temporary paths are UTF-8");
    let second = output(&[
        "--data-dir",
        path,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "off",
    ]);
    assert_eq!(second.status.code(), Some(3));
    let said = text(&second.stderr);
    assert!(
        said.contains(&format!("in use by process {}", broker.child.id())),
        "{said}"
    );
    until_well(broker.said("admin"));
    broker.signal(Signal::INT);
    assert_eq!(broker.exit_code(), Some(0));
}

#[test]
fn a_killed_broker_starts_again_on_its_data() {
    let dir = directory();
    let broker = Running::start(dir.path());
    let identity = fs::read_to_string(dir.path().join("store.toml")).expect("an identity");
    broker.signal(Signal::KILL);
    assert_eq!(broker.exit_code(), None);
    let again = Running::start(dir.path());
    assert!(
        again.ready.starts_with("catena-broker ready: "),
        "{}",
        again.ready
    );
    let kept = fs::read_to_string(dir.path().join("store.toml")).expect("an identity");
    assert_eq!(kept, identity);
    again.signal(Signal::TERM);
    assert_eq!(again.exit_code(), Some(0));
}
