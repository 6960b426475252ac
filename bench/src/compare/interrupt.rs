//! Interrupted, a comparison stops the broker it has started and removes what it has made.
//!
//! One lock orders the two sides: a broker is started, stopped and forgotten under it, and once a
//! signal has come it is never free again, so that nothing is begun while things are put away.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::limits::{REMOVE_TRIES_MAX, SERVER_POLL};

/// The broker that is running.
type Running = Arc<Mutex<Option<Pid>>>;

/// Watches for signals that end the process; dropped, it does so no longer.
#[derive(Debug)]
pub(crate) struct Interrupt {
    handle: Handle,
    running: Running,
}

impl Interrupt {
    /// From now on such a signal kills the broker that is running and removes `dir`.
    pub(crate) fn watch(dir: &Path) -> Result<Self> {
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
        let handle = signals.handle();
        let running = Running::default();
        let (watched, dir) = (running.clone(), dir.to_owned());
        thread::Builder::new()
            .name("interrupt".to_owned())
            .spawn(move || {
                if let Some(signal) = signals.forever().next() {
                    // Held until the process is gone.
                    let running = lock(&watched);
                    put_away(*running, &dir);
                    std::process::exit(128 + signal);
                }
            })?;
        Ok(Self { handle, running })
    }

    /// Starts a broker, which is killed by such a signal as long as what is returned lives.
    pub(crate) fn start<T>(
        &self,
        start: impl FnOnce() -> Result<(T, Option<Pid>)>,
    ) -> Result<(T, Killed)> {
        let mut running = lock(&self.running);
        let (started, pid) = start()?;
        *running = pid;
        Ok((started, Killed(self.running.clone())))
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // Never free after a signal, which is then what ends the process, and not the failure of a
        // run whose broker it has killed.
        drop(lock(&self.running));
        self.handle.close();
    }
}

/// A broker that is killed when the process is ended by a signal.
#[derive(Debug)]
pub(crate) struct Killed(Running);

impl Drop for Killed {
    fn drop(&mut self) {
        *lock(&self.0) = None;
    }
}

fn lock(running: &Mutex<Option<Pid>>) -> MutexGuard<'_, Option<Pid>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put_away(running: Option<Pid>, dir: &Path) {
    if let Some(pid) = running {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
    // A broker that is just being killed may still make a file.
    for _ in 0..REMOVE_TRIES_MAX {
        if fs::remove_dir_all(dir).is_ok() {
            return;
        }
        thread::sleep(SERVER_POLL);
    }
    eprintln!("catena-bench: {} is left behind", dir.display());
}
