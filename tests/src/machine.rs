//! A broker on a disk that can lose power and fail: both together, as one machine.
//!
//! The data directory lies on [`PowerFs`] itself, or on a real file system on a loop device whose
//! blocks lie there (`volume`); then a cut is followed by the replay of that file system's own
//! journal. Invariant: a cut happens to the broker, too: it learns of nothing from the freeze on.

mod volume;

use std::time::Duration;

use crate::broker::{Broker, Readiness, Settings};
use crate::powerfs::{Loss, PowerFs, Sectors};

pub use volume::Layout;
use volume::Volume;

/// How often is looked whether something happened.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// After so many looks it does not happen. Looks and not time: a paused machine is not stuck.
const LOOKS_MAX: u32 = 12_000;

/// How a machine is built.
#[derive(Clone, Debug)]
pub struct Build {
    /// Decides what random faults hit.
    pub seed: u64,
    /// What the data directory lies on.
    pub layout: Layout,
    /// A bug that the broker has.
    pub bug: Option<String>,
    /// How long a flush takes.
    pub flush_delay: Duration,
}

impl Build {
    /// The usual one of a seed: flushes take long enough for an early ack to show.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            layout: Layout::Direct,
            bug: None,
            flush_delay: Duration::from_millis(4),
        }
    }
}

/// What a start came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The broker serves.
    Ready,
    /// The disk froze before.
    Frozen,
}

/// A broker and its disk.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: nothing can hang on a disk that is gone.
    disk: PowerFs,
    broker: Broker,
    volume: Volume,
}

impl Machine {
    /// Makes the disk and its file system; the broker is not started.
    ///
    /// # Errors
    /// What the host refuses, in words.
    pub fn build(build: &Build) -> Result<Self, String> {
        let disk = PowerFs::mount(build.seed).map_err(|error| error.to_string())?;
        let volume = Volume::make(&disk, build.layout)?;
        let settings = Settings {
            space: "256MiB".to_owned(),
            cache: "8MiB".to_owned(),
            more: vec!["--segment-bytes".to_owned(), "4MiB".to_owned()],
            data_dir: Some(volume.data_dir(&disk)),
            ..Settings::default()
        };
        let broker = Broker::prepare(settings.with_bug(build.bug.as_deref()));
        disk.set_flush_delay(build.flush_delay);
        Ok(Self {
            disk,
            broker,
            volume,
        })
    }

    /// Starts the broker.
    ///
    /// # Errors
    /// If it does not come up: the end of its log.
    pub fn boot(&mut self) -> Result<Boot, String> {
        self.broker.launch();
        for _ in 0..LOOKS_MAX {
            match self.broker.readiness(LOOK_INTERVAL) {
                Readiness::Ready => return Ok(Boot::Ready),
                Readiness::Failed => return Err(self.failure("the broker did not come up")),
                Readiness::Starting if self.disk.is_frozen() => return Ok(Boot::Frozen),
                Readiness::Starting => {}
            }
        }
        Err(self.failure("the broker still starts"))
    }

    /// Waits until the disk froze by itself.
    ///
    /// # Errors
    /// If it does not.
    pub fn until_frozen(&self) -> Result<(), String> {
        for _ in 0..LOOKS_MAX {
            if self.disk.wait_frozen(LOOK_INTERVAL) {
                return Ok(());
            }
        }
        Err(self.failure("the broker does nothing to its disk"))
    }

    /// The power fails and comes back; the broker is not started again.
    ///
    /// # Errors
    /// What the host refuses, in words. What the file system on the disk cannot repair.
    pub fn cut(&mut self, loss: Loss, seed: u64) -> Result<Sectors, String> {
        self.lose_power()?;
        let sectors = self.disk.power_on(loss, seed);
        let sectors = sectors.map_err(|error| error.to_string())?;
        self.volume.attach(&self.disk)?;
        Ok(sectors)
    }

    fn lose_power(&mut self) -> Result<(), String> {
        self.disk.freeze();
        if self.broker.is_started() {
            self.broker.send_kill();
        }
        self.disk.power_off();
        if self.broker.is_started() {
            self.broker.exited();
        }
        self.volume.detach()
    }

    /// The disk.
    pub const fn disk(&self) -> &PowerFs {
        &self.disk
    }

    /// The broker.
    pub const fn broker(&self) -> &Broker {
        &self.broker
    }

    /// The broker, to stop and start it without a power cut.
    pub const fn broker_mut(&mut self) -> &mut Broker {
        &mut self.broker
    }

    /// What happened, with the end of the broker's log.
    pub fn failure(&self, what: &str) -> String {
        const LINES: usize = 12;
        let log = self.broker.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LINES);
        format!("{what}; its log ends:\n{}", lines[from..].join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A hung or frozen disk would keep the broker from ending, and the volume from leaving.
        self.disk.clear_faults();
        if let Err(error) = self.lose_power() {
            eprintln!("{error}");
        }
    }
}
