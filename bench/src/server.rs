//! What the server process used while it was measured: processor time, memory, threads.
//!
//! A thread of its own reads `/proc/PID` a few times a second; the figures are differences
//! between the samples nearest to the edges of the measured window.

pub(crate) mod metrics;
pub(crate) mod process;

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::clock::Clock;
use crate::limits::SERVER_SAMPLE_MS;
use crate::rate::{number, seconds, seconds_per_gb, share};
use crate::window::Window;
use process::ProcessSample;

/// What a process used over a window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProcessUse {
    pub(crate) pid: u32,
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// Processor seconds over the window's length; 1.0 is one core full.
    pub(crate) cores_busy: f64,
    pub(crate) user_seconds_per_gb: Option<f64>,
    pub(crate) system_seconds_per_gb: Option<f64>,
    pub(crate) resident_before_mib: f64,
    pub(crate) resident_after_mib: f64,
    /// The most seen in a sample of this run.
    pub(crate) resident_peak_mib: f64,
    pub(crate) threads: u64,
    /// The longest time between two samples. Far more than the sampling interval means that this
    /// machine, or the sampling thread on it, stood still.
    pub(crate) sampling_gap_ms: f64,
}

/// A sampler at work; [`Sampler::finish`] ends it.
#[derive(Debug)]
pub(crate) struct Sampler {
    pid: u32,
    stop: Sender<()>,
    thread: JoinHandle<Vec<TimedSample>>,
}

#[derive(Clone, Copy, Debug)]
struct TimedSample {
    at_ns: u64,
    sample: ProcessSample,
}

impl Sampler {
    /// Begins to sample process `pid`; an error if there is no such process.
    pub(crate) fn start(pid: u32, clock: Clock) -> Result<Self> {
        let first = process::sample(pid).with_context(|| format!("no process {pid} to sample"))?;
        let (stop, stopped) = mpsc::channel();
        let mut samples = vec![TimedSample {
            at_ns: clock.now_ns(),
            sample: first,
        }];
        let thread = thread::Builder::new()
            .name("server-sampler".to_owned())
            .spawn(move || {
                let pause = Duration::from_millis(SERVER_SAMPLE_MS);
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    // A process that has ended leaves the samples up to its end.
                    let Ok(sample) = process::sample(pid) else {
                        break;
                    };
                    samples.push(TimedSample {
                        at_ns: clock.now_ns(),
                        sample,
                    });
                }
                samples
            })?;
        Ok(Self { pid, stop, thread })
    }

    /// Ends the sampling.
    pub(crate) fn finish(self) -> Result<Samples> {
        // The thread is gone already if the process is; both are seen at the join.
        let _ = self.stop.send(());
        let samples = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the server sampler panicked"))?;
        Ok(Samples {
            pid: self.pid,
            samples,
        })
    }
}

/// What a sampler saw.
#[derive(Debug)]
pub(crate) struct Samples {
    pid: u32,
    samples: Vec<TimedSample>,
}

impl Samples {
    /// The longest time between two samples.
    pub(crate) fn longest_gap_ms(&self) -> f64 {
        longest_gap_ms(&self.samples)
    }

    /// The use over `window`, in which `bytes` were moved.
    pub(crate) fn over(&self, window: Window, bytes: u64) -> ProcessUse {
        use_over(self.pid, &self.samples, window, bytes)
    }
}

/// The use between the samples nearest to the window's edges. They miss the edges by part of a
/// sampling interval, so processor seconds are scaled to the window's length, over which the
/// bytes were counted.
fn use_over(pid: u32, samples: &[TimedSample], window: Window, bytes: u64) -> ProcessUse {
    let nearest = |ns: u64| {
        *samples
            .iter()
            .min_by_key(|s| s.at_ns.abs_diff(ns))
            .expect("the first sample is kept")
    };
    let (before, after) = (nearest(window.measure_ns), nearest(window.end_ns));
    let measured = seconds(window.measured_ns());
    let elapsed = seconds(after.at_ns.saturating_sub(before.at_ns));
    let scale = share(measured, elapsed).unwrap_or(0.0);
    let user_seconds = scale * (after.sample.user_seconds - before.sample.user_seconds);
    let system_seconds = scale * (after.sample.system_seconds - before.sample.system_seconds);
    let peak = samples
        .iter()
        .map(|s| s.sample.resident_kib)
        .max()
        .unwrap_or(0);
    ProcessUse {
        pid,
        user_seconds,
        system_seconds,
        cores_busy: share(user_seconds + system_seconds, measured).unwrap_or(0.0),
        user_seconds_per_gb: seconds_per_gb(user_seconds, bytes),
        system_seconds_per_gb: seconds_per_gb(system_seconds, bytes),
        resident_before_mib: number(before.sample.resident_kib) / 1024.0,
        resident_after_mib: number(after.sample.resident_kib) / 1024.0,
        resident_peak_mib: number(peak) / 1024.0,
        threads: after.sample.threads,
        sampling_gap_ms: longest_gap_ms(samples),
    }
}

fn longest_gap_ms(samples: &[TimedSample]) -> f64 {
    let gaps = samples
        .windows(2)
        .map(|pair| pair[1].at_ns.saturating_sub(pair[0].at_ns));
    seconds(gaps.max().unwrap_or(0)) * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_ns: u64, user_seconds: f64, resident_kib: u64) -> TimedSample {
        let sample = ProcessSample {
            user_seconds,
            system_seconds: 0.5,
            resident_kib,
            threads: 4,
        };
        TimedSample { at_ns, sample }
    }

    #[test]
    fn use_is_counted_between_the_edges_of_the_window() {
        let second = 1_000_000_000;
        let samples = [
            at(0, 1.0, 1024),
            at(second, 2.0, 2048),
            at(2 * second, 2.5, 8192),
            at(3 * second, 3.0, 4096),
            at(4 * second, 9.0, 1024),
        ];
        let window = Window::new(0, Duration::from_secs(1), Duration::from_secs(2));
        let used = use_over(7, &samples, window, 2_000_000_000);
        assert!((used.user_seconds - 1.0).abs() < 1e-9);
        assert!((used.cores_busy - 0.5).abs() < 1e-9);
        assert!((used.user_seconds_per_gb.expect("bytes moved") - 0.5).abs() < 1e-9);
        assert!((used.resident_before_mib - 2.0).abs() < 1e-9);
        assert!((used.resident_after_mib - 4.0).abs() < 1e-9);
        assert!((used.resident_peak_mib - 8.0).abs() < 1e-9);
        assert!((used.sampling_gap_ms - 1000.0).abs() < 1e-9);
    }

    #[test]
    fn samples_beside_the_edges_are_scaled_to_the_window() {
        let second = 1_000_000_000;
        let samples = [at(second, 1.0, 1), at(4 * second, 2.5, 1)];
        let window = Window::new(0, Duration::from_secs(1), Duration::from_secs(2));
        let used = use_over(7, &samples, window, 1_000_000_000);
        assert!(
            (used.user_seconds - 1.0).abs() < 1e-9,
            "three seconds between the samples, two in the window"
        );
    }

    #[test]
    fn this_process_can_be_sampled() {
        let clock = Clock::start();
        let sampler = Sampler::start(std::process::id(), clock).expect("this process exists");
        let window = Window::new(0, Duration::ZERO, Duration::from_nanos(1));
        let used = sampler.finish().expect("the sampler ends").over(window, 0);
        assert!(used.resident_peak_mib > 0.0 && used.threads >= 1);
        assert_eq!(used.user_seconds_per_gb, None);
    }
}
