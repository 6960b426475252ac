//! A real broker process with a data directory of its own.
//!
//! Invariant: the process is ended by its own handle, at the latest when the value is dropped. Its
//! log is kept in a file and shown if the test panics.
//!
//! [`start_again`](Broker::start_again) panics unless the broker comes up. For runs in which it may
//! not, there are [`launch`](Broker::launch) and [`readiness`](Broker::readiness).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use catena_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::wait::{self, LIMIT};
use crate::{metrics, programs};

const LOG_LINES_SHOWN: usize = 60;

/// How a broker is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many shards.
    pub shards: usize,
    /// `--space-bytes`.
    pub space: String,
    /// `--cache-bytes`.
    pub cache: String,
    /// Any further arguments.
    pub more: Vec<String>,
    /// The data directory; `None` for one of its own.
    pub data_dir: Option<PathBuf>,
    /// The program; `None` for the broker of this workspace.
    pub program: Option<PathBuf>,
    /// Its environment, empty otherwise.
    pub environment: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shards: 1,
            space: "4GiB".to_owned(),
            cache: "64MiB".to_owned(),
            more: Vec::new(),
            data_dir: None,
            program: None,
            environment: Vec::new(),
        }
    }
}

impl Settings {
    /// The defaults with this many shards.
    pub fn shards(shards: usize) -> Self {
        Self {
            shards,
            ..Self::default()
        }
    }

    /// The same for a broker that has a planted bug, if `bug` names one.
    #[must_use]
    pub fn with_bug(mut self, bug: Option<&str>) -> Self {
        if let Some(bug) = bug {
            self.program = Some(programs::planted_broker().to_path_buf());
            let variable = "CATENA_PLANTED_BUG".to_owned();
            self.environment.push((variable, bug.to_owned()));
        }
        self
    }
}

/// A broker, running or not.
#[derive(Debug)]
pub struct Broker {
    dir: TempDir,
    settings: Settings,
    running: Option<Running>,
    /// The first start lets the broker pick; later ones keep what clients know.
    listen: String,
}

#[derive(Debug)]
struct Running {
    child: Child,
    admin: String,
    /// Its first line, empty if it ends before.
    said: Receiver<String>,
}

/// How far a start has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// Not yet.
    Starting,
    /// It ended, or said something else.
    Failed,
}

impl Broker {
    /// Starts one shard on a new directory.
    pub fn start() -> Self {
        Self::start_with(Settings::default())
    }

    /// Starts on a new directory.
    pub fn start_with(settings: Settings) -> Self {
        let mut broker = Self::prepare(settings);
        broker.start_again();
        broker
    }

    /// A broker that was never started, on a new directory.
    pub fn prepare(settings: Settings) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("broker-")
            .tempdir_in(programs::scratch_dir())
            .expect("a directory for the broker");
        Self {
            dir,
            settings,
            running: None,
            listen: "127.0.0.1:0".to_owned(),
        }
    }

    /// Starts a broker that was ended, on the same data and port, and waits until it serves.
    ///
    /// # Panics
    /// If it runs, or does not come up.
    pub fn start_again(&mut self) {
        self.launch();
        let readiness = self.readiness(LIMIT);
        assert_eq!(readiness, Readiness::Ready, "see its log");
    }

    /// Starts a broker that was ended, on the same data and port, and does not wait.
    ///
    /// # Panics
    /// If it runs, or the program cannot be run.
    pub fn launch(&mut self) {
        assert!(self.running.is_none(), "the broker runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log file");
        let program = self.settings.program.as_deref();
        let mut child = bare(program.unwrap_or_else(|| programs::broker()))
            .envs(self.settings.environment.iter().cloned())
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--listen", &self.listen, "--admin", "127.0.0.1:0"])
            .args(["--cores", &cores(self.settings.shards)])
            .args(["--space-bytes", &self.settings.space])
            .args(["--cache-bytes", &self.settings.cache])
            .args(&self.settings.more)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the broker program can be run");
        let said = first_line(&mut child);
        self.running = Some(Running {
            child,
            admin: String::new(),
            said,
        });
    }

    /// Waits for `limit` at the most until a broker that was [launched](Self::launch) serves.
    ///
    /// # Panics
    /// If it was not launched.
    pub fn readiness(&mut self, limit: Duration) -> Readiness {
        let running = self.running.as_mut().expect("the broker was launched");
        if !running.admin.is_empty() {
            return Readiness::Ready;
        }
        match running.said.recv_timeout(limit) {
            Ok(line) if line.starts_with("catena-broker ready: ") => {
                running.admin = word_after(&line, "admin ");
                self.listen = word_after(&line, "listen ");
                Readiness::Ready
            }
            Ok(_) | Err(RecvTimeoutError::Disconnected) => Readiness::Failed,
            Err(RecvTimeoutError::Timeout) => Readiness::Starting,
        }
    }

    /// As [`start_again`](Self::start_again), with other settings.
    pub fn start_again_with(&mut self, settings: Settings) {
        self.settings = settings;
        self.start_again();
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill(&mut self) {
        let mut running = self.running.take().expect("the broker runs");
        running.child.kill().expect("the broker can be killed");
        running.child.wait().expect("the broker can be waited for");
    }

    /// Sends `SIGKILL` and does not wait: a process that waits for its disk ends only when that
    /// answers. [`exited`](Self::exited) waits.
    pub fn send_kill(&mut self) {
        let running = self.running.as_mut().expect("the broker runs");
        running.child.kill().expect("the broker can be killed");
    }

    /// Whether it was started and its end was not waited for.
    pub const fn is_started(&self) -> bool {
        self.running.is_some()
    }

    /// Sends `SIGTERM`; [`exited`](Self::exited) waits for the end.
    pub fn terminate(&self) {
        let running = self.running.as_ref().expect("the broker runs");
        let pid = Pid::from_child(&running.child);
        kill_process(pid, Signal::TERM).expect("the broker can be signalled");
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// If it does not end.
    pub fn exited(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the broker runs");
        let ended = || running.child.try_wait().expect("it can be waited for");
        wait::until_some("the broker ends", ended)
    }

    /// A clean stop.
    ///
    /// # Panics
    /// If the broker reports anything but success.
    pub fn stop(&mut self) {
        self.terminate();
        let status = self.exited();
        assert_eq!(status.code(), Some(0), "a clean stop");
    }

    /// Whether the process is alive.
    pub fn is_alive(&mut self) -> bool {
        let running = self.running.as_mut().expect("the broker was started");
        let status = running.child.try_wait().expect("it can be waited for");
        status.is_none()
    }

    /// Where clients connect.
    pub fn addr(&self) -> &str {
        &self.listen
    }

    /// A client of this broker.
    pub async fn client(&self) -> Client {
        let client = wait::within_limit("a connection", Client::connect(self.addr()));
        client.await.expect("a client connects")
    }

    /// The sum of a metric over all shards, the control plane included.
    pub fn metric(&self, name: &str) -> u64 {
        let running = self.running.as_ref().expect("the broker runs");
        metrics::sum(&running.admin, name)
    }

    /// The answer to a request of the admin server: status line, headers and body.
    pub fn admin_get(&self, path: &str) -> String {
        let running = self.running.as_ref().expect("the broker runs");
        metrics::get(&running.admin, path)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        let chosen = self.settings.data_dir.clone();
        chosen.unwrap_or_else(|| self.dir.path().join("data"))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        let running = self.running.as_ref().expect("the broker runs");
        running.child.id()
    }

    /// The checkpoints of the first shard, the newest last; not those that are being written.
    ///
    /// # Panics
    /// If its journal has no directory.
    pub fn checkpoints(&self) -> Vec<PathBuf> {
        let dir = self.data_dir().join("journals/000");
        let entries = fs::read_dir(dir).expect("the journal's directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let number = |path: &PathBuf| -> Option<u64> {
            let name = path.file_name()?.to_str()?;
            name.strip_prefix("checkpoint-")?.parse().ok()
        };
        let numbered = paths.filter_map(|path| Some((number(&path)?, path)));
        numbered.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// A directory beside the data, for files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What the broker logged so far, in all its runs.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("broker.log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            // Fails when it has ended already.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
            eprintln!("end of the broker's log:\n{}", lines[from..].join("\n"));
        }
    }
}

/// The broker program, untouched by the environment of the test run.
pub fn program() -> Command {
    bare(programs::broker())
}

fn bare(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null());
    command
}

/// The line that says that the broker serves, when it comes.
fn first_line(child: &mut Child) -> Receiver<String> {
    let stdout = child.stdout.take().expect("standard output is a pipe");
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        // Whatever stands in the way: there is no line, and that is what it says.
        let _ = BufReader::new(stdout).read_line(&mut line);
        // The test may have given up.
        let _ = send.send(line);
    });
    receive
}

fn word_after(line: &str, name: &str) -> String {
    let (_, rest) = line.split_once(name).expect("the ready line names it");
    let word = rest.split(',').next().unwrap_or_default();
    word.trim().to_owned()
}

/// The first `count` CPUs that this process may use.
fn cores(count: usize) -> String {
    let status = fs::read_to_string("/proc/self/status").expect("a Linux host");
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("the kernel names the allowed CPUs");
    let mut cpus = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<usize>().expect("a CPU number");
        cpus.extend(number(first)..=number(last));
    }
    assert!(cpus.len() >= count, "this test needs {count} CPUs");
    let names: Vec<String> = cpus[..count].iter().map(usize::to_string).collect();
    names.join(",")
}
