//! The disk ceiling: `O_DIRECT` writes in flushed groups, `O_DSYNC` writes, sequential reads.
//!
//! A group is what the broker's journal does: several blocks written at once, all awaited, then
//! one flush. Threads with plain `pwrite` stand in for the broker's ring; they run on any core,
//! for this is the device's limit and not one core's.

mod aligned;
mod test_file;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ceiling::report::RunFigures;
use crate::clock::duration_ns;
use crate::latency::Latencies;

pub(crate) use aligned::AlignedBuffer;
pub(crate) use test_file::TestFile;

const MIB: usize = 1 << 20;

/// Reads in flight: what a cold reader of the broker keeps ahead.
const READS_IN_FLIGHT: usize = 2;

/// Blocks of one size written together, then flushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WritePattern {
    block_bytes: usize,
    blocks_per_group: usize,
}

impl WritePattern {
    /// The journal's largest group: sixteen blocks of 1 MiB.
    pub(crate) const MIB: Self = Self {
        block_bytes: MIB,
        blocks_per_group: 16,
    };
    /// Groups of sixteen blocks of 256 KiB.
    pub(crate) const KIB_256: Self = Self {
        block_bytes: 256 << 10,
        blocks_per_group: 16,
    };

    fn group_bytes(self) -> u64 {
        length(self.block_bytes) * length(self.blocks_per_group)
    }
}

/// Writes groups from the start of the file, round and round, for about `time`; a file that was
/// only allocated is written once.
pub(crate) fn write_groups(
    file: &TestFile,
    pattern: WritePattern,
    time: Duration,
) -> Result<RunFigures> {
    let groups = GroupWriter {
        file: file.open_direct()?,
        pattern,
        groups_per_pass: file.bytes() / pattern.group_bytes(),
        groups_max: if file.is_written() {
            u64::MAX
        } else {
            file.bytes() / pattern.group_bytes()
        },
        time,
        barrier: Barrier::new(pattern.blocks_per_group),
        done: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let started = Instant::now();
    let latencies = thread::scope(|scope| {
        let workers: Vec<_> = (1..pattern.blocks_per_group)
            .map(|worker| {
                scope.spawn({
                    let groups = &groups;
                    move || groups.follow(worker)
                })
            })
            .collect();
        let latencies = groups.lead(started);
        for worker in workers {
            worker.join().expect("a writer thread does not panic");
        }
        latencies
    });
    let elapsed_ns = duration_ns(started.elapsed());
    if let Some(error) = groups.failure.into_inner().expect("no writer panicked") {
        return Err(error.into());
    }
    Ok(RunFigures::new(
        &latencies,
        pattern.group_bytes(),
        elapsed_ns,
    ))
}

/// The state the writer threads share. All of them meet before and after each group.
struct GroupWriter {
    file: File,
    pattern: WritePattern,
    groups_per_pass: u64,
    groups_max: u64,
    time: Duration,
    barrier: Barrier,
    done: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl GroupWriter {
    /// The first thread: writes its block of each group, flushes, and says when to stop.
    fn lead(&self, started: Instant) -> Latencies {
        let mut latencies = Latencies::new();
        let mut buffer = AlignedBuffer::random(self.pattern.block_bytes, 0);
        for group in 0.. {
            let group_started = Instant::now();
            self.write_block(&mut buffer, group, 0);
            self.barrier.wait();
            self.keep(self.file.sync_data());
            latencies.record(duration_ns(group_started.elapsed()), 1);
            let over = started.elapsed() >= self.time || group + 1 >= self.groups_max;
            if over || self.failure.lock().expect("no writer panicked").is_some() {
                self.done.store(true, Ordering::Release);
            }
            self.barrier.wait();
            if self.done.load(Ordering::Acquire) {
                break;
            }
        }
        latencies
    }

    fn follow(&self, worker: usize) {
        let mut buffer = AlignedBuffer::random(self.pattern.block_bytes, length(worker));
        for group in 0.. {
            self.write_block(&mut buffer, group, worker);
            self.barrier.wait();
            self.barrier.wait();
            if self.done.load(Ordering::Acquire) {
                break;
            }
        }
    }

    fn write_block(&self, buffer: &mut AlignedBuffer, group: u64, worker: usize) {
        let position = (group % self.groups_per_pass) * self.pattern.group_bytes()
            + length(worker) * length(self.pattern.block_bytes);
        buffer.stamp(group);
        self.keep(self.file.write_all_at(buffer.bytes(), position));
    }

    /// Remembers the first failure; the threads keep meeting so that none waits for ever.
    fn keep(&self, result: io::Result<()>) {
        if let Err(error) = result {
            self.failure
                .lock()
                .expect("no writer panicked")
                .get_or_insert(error);
        }
    }
}

/// Writes blocks one at a time through an `O_DSYNC` descriptor, each durable before the next.
pub(crate) fn write_dsync(
    file: &TestFile,
    block_bytes: usize,
    time: Duration,
) -> Result<RunFigures> {
    let handle = file.open_direct_dsync()?;
    let mut buffer = AlignedBuffer::random(block_bytes, 0);
    let mut latencies = Latencies::new();
    let blocks = file.bytes() / length(block_bytes);
    let started = Instant::now();
    let mut block = 0;
    while started.elapsed() < time {
        let write_started = Instant::now();
        buffer.stamp(block);
        handle.write_all_at(buffer.bytes(), (block % blocks) * length(block_bytes))?;
        latencies.record(duration_ns(write_started.elapsed()), 1);
        block += 1;
    }
    let elapsed_ns = duration_ns(started.elapsed());
    Ok(RunFigures::new(&latencies, length(block_bytes), elapsed_ns))
}

/// Reads the file in blocks of 1 MiB from start to end, round and round, two at a time.
pub(crate) fn read_sequential(file: &TestFile, time: Duration) -> Result<RunFigures> {
    let handle = file.open_direct()?;
    let blocks = file.bytes() / length(MIB);
    let next = AtomicU64::new(0);
    let started = Instant::now();
    let reader = || -> io::Result<Latencies> {
        let mut buffer = AlignedBuffer::random(MIB, 0);
        let mut latencies = Latencies::new();
        while started.elapsed() < time {
            let block = next.fetch_add(1, Ordering::Relaxed) % blocks;
            let read_started = Instant::now();
            handle.read_exact_at(buffer.bytes_mut(), block * length(MIB))?;
            latencies.record(duration_ns(read_started.elapsed()), 1);
        }
        Ok(latencies)
    };
    let latencies = thread::scope(|scope| -> io::Result<Latencies> {
        let readers: Vec<_> = (0..READS_IN_FLIGHT).map(|_| scope.spawn(reader)).collect();
        let mut all = Latencies::new();
        for reader in readers {
            all.merge(&reader.join().expect("a reader thread does not panic")?);
        }
        Ok(all)
    })?;
    Ok(RunFigures::new(
        &latencies,
        length(MIB),
        duration_ns(started.elapsed()),
    ))
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length in memory fits 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_of_a_group_reaches_its_own_place() {
        let program = std::env::current_exe().expect("a test knows its program");
        let dir = program.parent().expect("a program lies in a directory");
        let pattern = WritePattern {
            block_bytes: 4096,
            blocks_per_group: 4,
        };
        let file = TestFile::allocate(dir, 1 << 20).expect("builds lie on a disk with O_DIRECT");
        let figures = write_groups(&file, pattern, Duration::from_secs(60)).expect("writable");
        assert_eq!(figures.operations, (1 << 20) / (4 * 4096));
        let handle = file.open_direct().expect("it was open before");
        let mut buffer = AlignedBuffer::random(4096, 0);
        for block in 0..(1_u64 << 20) / 4096 {
            handle
                .read_exact_at(buffer.bytes_mut(), block * 4096)
                .expect("written");
            assert_eq!(buffer.stamped(), block / 4, "block {block}");
        }
    }
}
