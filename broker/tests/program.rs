//! The `catena-broker` program as its operator meets it: exit codes, messages, signals.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

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
fn a_foreign_directory_ends_with_3() {
    let dir = directory();
    fs::write(dir.path().join("thesis.tex"), "x").expect("the file can be written");
    let path = dir.path().to_str().expect("temporary paths are UTF-8");
    let output = output(&["--data-dir", path, "--admin", "off"]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("not empty"), "{said}");
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
