//! The latency ceiling: the plainest durable server there can be.
//!
//! One thread per side and plain blocking calls: receive a 1 KiB message, write one 4 KiB block
//! past the page cache, flush it, send an acknowledgement; one message in flight. What a broker
//! adds to this is its own cost.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ceiling::disk::{AlignedBuffer, TestFile};
use crate::ceiling::report::RunFigures;
use crate::clock::duration_ns;
use crate::cores::pin;
use crate::latency::Latencies;
use crate::payload::fill_random;

const MESSAGE_BYTES: usize = 1024;
const BLOCK_BYTES: usize = 4096;
const ACK_BYTES: usize = 16;

/// Exchanges messages for about `time`. Durable by `fdatasync` after each write, or with `dsync`
/// by an `O_DSYNC` descriptor.
pub(crate) fn measure(
    file: &TestFile,
    dsync: bool,
    server_core: usize,
    client_core: usize,
    time: Duration,
) -> Result<RunFigures> {
    let handle = if dsync {
        file.open_direct_dsync()?
    } else {
        file.open_direct()?
    };
    let blocks = file.bytes() / u64::try_from(BLOCK_BYTES)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let server = thread::spawn(move || -> Result<()> {
        pin(Some(server_core))?;
        let (stream, _) = listener.accept()?;
        serve(stream, &handle, !dsync, blocks)
    });
    let client = thread::spawn(move || -> Result<(Latencies, u64)> {
        pin(Some(client_core))?;
        drive(TcpStream::connect(address)?, time)
    });
    let outcome = client.join().ok().context("the client panicked")?;
    server.join().ok().context("the server panicked")??;
    let (latencies, elapsed_ns) = outcome?;
    Ok(RunFigures::new(
        &latencies,
        u64::try_from(MESSAGE_BYTES)?,
        elapsed_ns,
    ))
}

fn serve(mut stream: TcpStream, file: &File, flush: bool, blocks: u64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut block = AlignedBuffer::random(BLOCK_BYTES, 2);
    let block_bytes = u64::try_from(BLOCK_BYTES)?;
    for number in 0_u64.. {
        let Some(()) = receive(&mut stream, &mut block.bytes_mut()[..MESSAGE_BYTES])? else {
            break;
        };
        file.write_all_at(block.bytes(), (number % blocks) * block_bytes)?;
        if flush {
            file.sync_data()?;
        }
        stream.write_all(&[0; ACK_BYTES])?;
    }
    Ok(())
}

/// Fills `message`; `None` if the client closed before its first byte.
fn receive(stream: &mut TcpStream, message: &mut [u8]) -> Result<Option<()>> {
    let first = stream.read(message)?;
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut message[first..])?;
    Ok(Some(()))
}

fn drive(mut stream: TcpStream, time: Duration) -> Result<(Latencies, u64)> {
    stream.set_nodelay(true)?;
    let mut message = vec![0; MESSAGE_BYTES];
    fill_random(&mut message, 3);
    let mut ack = [0; ACK_BYTES];
    let mut latencies = Latencies::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut ack)?;
        latencies.record(duration_ns(sent.elapsed()), 1);
    }
    Ok((latencies, duration_ns(started.elapsed())))
}
