//! Threads that take a core away from others, in slices of milliseconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::process;
use crate::seeded::Seeded;

/// Running spinners. The first never rests: it takes its share whenever the scheduler lets it. The
/// others come in bursts, each a wake-up that may push out whoever has the core.
#[derive(Debug)]
pub(super) struct Spinners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Spinners {
    pub(super) fn start(core: usize, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                process::keep_to(core);
                spin(number, &stop);
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a spinner does not panic");
        }
    }
}

fn spin(number: usize, stop: &AtomicBool) {
    let mut random = Seeded::new(u64::try_from(number).expect("a small number"));
    let mut micros = |least: usize, more: usize| {
        let micros = least + random.below(more);
        Duration::from_micros(u64::try_from(micros).expect("a small number"))
    };
    while !stop.load(Ordering::Relaxed) {
        let until = Instant::now() + micros(1_000, 3_000);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        if number > 0 {
            thread::park_timeout(micros(100, 2_000));
        }
    }
}
