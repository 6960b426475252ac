//! Time that the host keeps from one core of this machine, as it goes by.
//!
//! A guest cannot tell from inside a thread: a thread that the host stopped seems to have run.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The kernel counts in ticks of this length.
const TICK: Duration = Duration::from_millis(10);

/// The kernel counts at its next tick, which may itself be late.
const COUNTED_WITHIN: Duration = Duration::from_millis(50);

/// Records when one core was stolen, until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    stop: Sender<()>,
    thread: JoinHandle<Vec<(SystemTime, Duration)>>,
}

impl Recorder {
    /// Begins to watch a core. The thread costs a few thousandths of the core that it runs on.
    pub fn start(core: usize) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut thefts = Vec::new();
            let mut known = stolen(core);
            while stopped.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let now = stolen(core);
                if now > known {
                    thefts.push((SystemTime::now(), now.saturating_sub(known)));
                    known = now;
                }
            }
            thefts
        });
        Self { stop, thread }
    }

    /// Ends the watch.
    ///
    /// # Panics
    /// If the kernel did not tell.
    pub fn finish(self) -> Thefts {
        // The thread waits for this.
        let _ = self.stop.send(());
        Thefts(self.thread.join().expect("the kernel's counters are there"))
    }
}

/// When a core was stolen, and for how long each time.
#[derive(Clone, Debug, Default)]
pub struct Thefts(Vec<(SystemTime, Duration)>);

impl Thefts {
    /// What was stolen in the time before `end`, to within the few ticks after which the kernel
    /// counts it.
    pub fn before(&self, end: SystemTime, time: Duration) -> Duration {
        let counted = end - time..end + COUNTED_WITHIN;
        let inside = self.0.iter().filter(|(at, _)| counted.contains(at));
        inside.map(|(_, stolen)| *stolen).sum()
    }
}

/// Of one core since the machine started.
fn stolen(core: usize) -> Duration {
    let stat = fs::read_to_string("/proc/stat").expect("the kernel's counters can be read");
    let ticks = ticks_stolen(&stat, core).expect("the core's counters");
    TICK * ticks
}

fn ticks_stolen(stat: &str, core: usize) -> Option<u32> {
    let name = format!("cpu{core} ");
    let fields = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    fields.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_told_apart() {
        let stat = "cpu  1 2 3 4 5 6 7 800 9 0\ncpu0 1 2 3 4 5 6 7 80 9 0\n\
                    cpu10 1 2 3 4 5 6 7 8 9 0\nintr 5\n";
        assert_eq!(ticks_stolen(stat, 0), Some(80));
        assert_eq!(ticks_stolen(stat, 10), Some(8));
        assert_eq!(ticks_stolen(stat, 1), None);
    }

    #[test]
    fn thefts_count_if_they_overlap() {
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let thefts = Thefts(vec![
            (at(1000), ms(10)),
            (at(1100), ms(30)),
            (at(1300), ms(20)),
        ]);
        assert_eq!(thefts.before(at(1120), ms(100)), ms(30));
        assert_eq!(thefts.before(at(1120), ms(120)), ms(40));
        assert_eq!(thefts.before(at(1260), ms(100)), ms(20), "counted late");
        assert_eq!(thefts.before(at(1240), ms(100)), ms(0));
    }
}
