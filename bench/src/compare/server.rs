//! A broker that is started for one turn of a comparison and stopped after it.

use std::fs::{self, File};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::config::SystemConfig;
use super::interrupt::{Interrupt, Killed};
use crate::cores::keep_to;
use crate::limits::{LOG_TAIL_BYTES, SERVER_POLL, SERVER_START_MAX, SERVER_STOP_MAX};

/// A running broker; dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    _killed_on_signals: Killed,
}

impl Server {
    /// Starts the command of `system` with its data in `dir`, and waits until it takes connections.
    ///
    /// Fails if something listens there already, since that would be measured instead.
    pub(crate) fn start(system: &SystemConfig, dir: &Path, interrupt: &Interrupt) -> Result<Self> {
        ensure!(
            !listens(&system.address),
            "something listens at {} already",
            system.address
        );
        let log = dir.join("server.log");
        let (child, killed) = interrupt.start(|| {
            lay_out(system, dir)?;
            let child = spawn(system, dir, &log)?;
            let pid = pid_of(&child);
            Ok((child, pid))
        })?;
        let mut server = Self {
            child,
            log,
            _killed_on_signals: killed,
        };
        server.wait_until_it_listens(&system.address)?;
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self, address: &str) -> Result<()> {
        let deadline = Instant::now() + SERVER_START_MAX;
        while !listens(address) {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", self.last_words());
            }
            ensure!(
                Instant::now() < deadline,
                "it does not listen at {address} after {SERVER_START_MAX:?}: {}",
                self.last_words()
            );
            thread::sleep(SERVER_POLL);
        }
        Ok(())
    }

    /// Asks the broker to stop and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        if let Some(pid) = pid_of(&self.child) {
            kill_process(pid, Signal::TERM).context("cannot stop it")?;
        }
        let deadline = Instant::now() + SERVER_STOP_MAX;
        while self.child.try_wait()?.is_none() {
            ensure!(
                Instant::now() < deadline,
                "it still runs {SERVER_STOP_MAX:?} after it was asked to stop"
            );
            thread::sleep(SERVER_POLL);
        }
        Ok(())
    }

    /// The end of its log, on one line.
    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        let text = String::from_utf8_lossy(tail);
        let lines: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        lines.join(" | ")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already if it was stopped as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the directory of a turn.
fn lay_out(system: &SystemConfig, dir: &Path) -> Result<()> {
    if !system.keep_data && dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text) in &system.files {
        fs::write(dir.join(name), fill(text, dir))?;
    }
    Ok(())
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()).ok()?)
}

/// A child gets the cores of the thread that starts it.
fn spawn(system: &SystemConfig, dir: &Path, log: &Path) -> Result<Child> {
    let [program, arguments @ ..] = system.command.as_slice() else {
        bail!("it has no command");
    };
    let (out, errors) = (File::create(log)?, File::options().append(true).open(log)?);
    let mut command = Command::new(find(program));
    command
        .args(arguments.iter().map(|argument| fill(argument, dir)))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors);
    let started = thread::scope(|scope| {
        let starting = scope.spawn(|| {
            keep_to(&system.cores)?;
            command
                .spawn()
                .with_context(|| format!("cannot start {program}"))
        });
        starting.join()
    });
    started.map_err(|_| anyhow::anyhow!("the thread that starts {program} panicked"))?
}

/// Programs of this project lie beside this one; others are on the path.
fn find(program: &str) -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(program)));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| program.into())
}

fn fill(text: &str, dir: &Path) -> String {
    text.replace("{dir}", &dir.display().to_string())
}

fn listens(address: &str) -> bool {
    let first = address.split([',', '?']).next().unwrap_or(address);
    let host = first.rsplit_once('@').map_or(first, |(_, host)| host);
    let mut found = host.to_socket_addrs().into_iter().flatten();
    found.any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::args::SystemName;

    fn system(address: &str, command: &[&str]) -> SystemConfig {
        SystemConfig {
            name: "x".to_owned(),
            system: SystemName::Catena,
            acks: None,
            address: address.to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            files: [("in.txt".to_owned(), "my dir is {dir}".to_owned())].into(),
            cores: Vec::new(),
            keep_data: false,
            admin: None,
        }
    }

    fn watch() -> Interrupt {
        Interrupt::watch(Path::new("/nowhere")).expect("signals can be watched")
    }

    #[test]
    fn a_server_that_ends_at_once_tells_why() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cat = system("127.0.0.1:1", &["cat", "{dir}/in.txt"]);
        let error = Server::start(&cat, dir.path(), &watch()).expect_err("it does not listen");
        let expected = format!("my dir is {}", dir.path().display());
        assert!(error.to_string().contains(&expected), "{error}");
        let none = system("127.0.0.1:1", &["no-such-program"]);
        let error =
            Server::start(&none, dir.path(), &watch()).expect_err("there is no such program");
        assert!(error.to_string().contains("cannot start no-such-program"));
    }

    #[test]
    fn a_turn_begins_with_an_empty_directory_unless_data_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let own = dir.path().join("own");
        for keep_data in [true, false] {
            fs::create_dir_all(&own).expect("a directory");
            fs::write(own.join("left"), "").expect("a file");
            let cat = SystemConfig {
                keep_data,
                ..system("127.0.0.1:1", &["cat"])
            };
            Server::start(&cat, &own, &watch()).expect_err("it does not listen");
            assert_eq!(own.join("left").exists(), keep_data);
        }
    }

    #[test]
    fn what_listens_already_is_not_measured_by_mistake() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = Server::start(&system(&address, &["cat"]), dir.path(), &watch());
        let error = error.expect_err("the port is taken");
        assert!(error.to_string().contains("listens at"), "{error}");
    }
}
