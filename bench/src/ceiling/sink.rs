//! Both ceilings at once: the bytes of one TCP stream over loopback, written past the page cache in
//! flushed groups.
//!
//! Disk and loopback share memory, processors and, in a virtual machine, the host's own threads, so
//! that each alone is faster. The blocks of the next groups are received while one is written, as
//! in a broker; what that adds (frames, checksums, offsets, acknowledgements) is its own cost.
//! Writers run on any core, as for the disk alone.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::disk::{AlignedBuffer, TestFile};
use super::loopback;
use super::report::RunFigures;
use crate::clock::duration_ns;
use crate::cores::pin;
use crate::latency::Latencies;

const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS_PER_GROUP: usize = 16;

/// One is written, one waits, one is received.
const GROUPS: usize = 3;

/// Streams for about `time` from a thread on `client_core` to one on `server_core`, and from there
/// to `file`. Whole groups count, when they are flushed.
pub(crate) fn stream(
    file: &TestFile,
    server_core: usize,
    client_core: usize,
    time: Duration,
) -> Result<RunFigures> {
    let handle = file.open_direct()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    // Before anything waits for it.
    let stream = TcpStream::connect(address)?;
    let (received, full) = channel();
    let (reuse, empty) = channel();
    for block in 0..BLOCKS_PER_GROUP * GROUPS {
        reuse.send(AlignedBuffer::random(BLOCK_BYTES, block.try_into()?))?;
    }
    thread::scope(|scope| {
        let sender = scope.spawn(move || -> Result<Latencies> {
            pin(Some(client_core))?;
            loopback::send(stream, time)
        });
        let receiver = scope.spawn(move || -> Result<()> {
            pin(Some(server_core))?;
            let (stream, _) = listener.accept()?;
            receive(stream, &empty, &received)
        });
        let groups = write_groups(&handle, file.bytes(), &full, &reuse);
        // With these the receiver ends, and with that the sender, also if a write has failed.
        drop((full, reuse));
        let received = receiver.join().ok().context("the receiver panicked")?;
        let sent = sender.join().ok().context("the sender panicked")?;
        let groups = groups.context("cannot write")?;
        received?;
        sent?;
        Ok(groups)
    })
}

/// Fills empty blocks until the stream ends.
fn receive(
    mut stream: TcpStream,
    empty: &Receiver<AlignedBuffer>,
    full: &Sender<AlignedBuffer>,
) -> Result<()> {
    while let Ok(mut block) = empty.recv() {
        match stream.read_exact(block.bytes_mut()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
        if full.send(block).is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes the blocks that come, a group at a time, from the start of the file, round and round.
fn write_groups(
    file: &File,
    file_bytes: u64,
    full: &Receiver<AlignedBuffer>,
    reuse: &Sender<AlignedBuffer>,
) -> io::Result<RunFigures> {
    let block_bytes = u64::try_from(BLOCK_BYTES).expect("1 MiB fits 64 bits");
    let blocks = file_bytes / block_bytes;
    let mut latencies = Latencies::new();
    let started = Instant::now();
    let (done, written) = channel();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..BLOCKS_PER_GROUP)
            .map(|_| {
                let (to, own) = channel::<(AlignedBuffer, u64)>();
                let done = done.clone();
                scope.spawn(move || {
                    for (block, position) in own {
                        let result = file.write_all_at(block.bytes(), position);
                        // Nobody waits for it any more once another has failed.
                        let _ = done.send(result.map(|()| block));
                    }
                });
                to
            })
            .collect();
        for group in 0.. {
            let blocks_before = group * u64::try_from(BLOCKS_PER_GROUP).expect("a small number");
            let group: Vec<_> = full.iter().take(BLOCKS_PER_GROUP).collect();
            if group.len() < BLOCKS_PER_GROUP {
                break;
            }
            let began = Instant::now();
            for ((number, block), writer) in (blocks_before..).zip(group).zip(&writers) {
                let position = number % blocks * block_bytes;
                writer
                    .send((block, position))
                    .expect("a writer runs until its channel is closed");
            }
            let group = written.iter().take(BLOCKS_PER_GROUP);
            let group = group.collect::<io::Result<Vec<_>>>()?;
            file.sync_data()?;
            latencies.record(duration_ns(began.elapsed()), 1);
            for block in group {
                // The receiver has ended with the stream.
                let _ = reuse.send(block);
            }
        }
        let group_bytes = block_bytes * u64::try_from(BLOCKS_PER_GROUP).expect("a small number");
        let elapsed_ns = duration_ns(started.elapsed());
        Ok(RunFigures::new(&latencies, group_bytes, elapsed_ns))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_streamed_lies_in_the_file() {
        let program = std::env::current_exe().expect("a test knows its program");
        let dir = program.parent().expect("a program lies in a directory");
        let file = TestFile::allocate(dir, 32 << 20).expect("builds lie on a disk with O_DIRECT");
        let (server, client) = crate::cores::first_two();
        let figures = stream(&file, server, client, Duration::from_millis(200)).expect("writable");
        assert!(figures.operations > 0);
        let mut sent = vec![0; BLOCK_BYTES];
        crate::payload::fill_random(&mut sent, loopback::SEED);
        let mut block = AlignedBuffer::random(BLOCK_BYTES, 0);
        let file = file.open_direct().expect("it was open before");
        for number in 0..16 {
            file.read_exact_at(block.bytes_mut(), number << 20)
                .expect("it was written");
            assert!(block.bytes() == sent, "block {number}");
        }
    }
}
