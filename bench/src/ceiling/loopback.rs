//! The network ceiling: one TCP stream over loopback, 1 MiB writes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ceiling::report::RunFigures;
use crate::clock::duration_ns;
use crate::cores::pin;
use crate::latency::Latencies;
use crate::payload::fill_random;

const WRITE_BYTES: usize = 1 << 20;

/// Of the bytes that are sent.
pub(super) const SEED: u64 = 1;

/// Streams for about `time` from a thread on `client_core` to one on `server_core`.
///
/// Bytes are counted where they arrive, over the time until the last one did.
pub(crate) fn stream(server_core: usize, client_core: usize, time: Duration) -> Result<RunFigures> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let receiver = thread::spawn(move || -> Result<(u64, u64)> {
        pin(Some(server_core))?;
        let (stream, _) = listener.accept()?;
        receive(stream)
    });
    let sender = thread::spawn(move || -> Result<Latencies> {
        pin(Some(client_core))?;
        send(TcpStream::connect(address)?, time)
    });
    let latencies = sender.join().ok().context("the sender panicked")??;
    let (bytes, elapsed_ns) = receiver.join().ok().context("the receiver panicked")??;
    Ok(RunFigures::from_totals(&latencies, bytes, elapsed_ns))
}

pub(super) fn send(mut stream: TcpStream, time: Duration) -> Result<Latencies> {
    let mut buffer = vec![0; WRITE_BYTES];
    fill_random(&mut buffer, SEED);
    let mut latencies = Latencies::new();
    let started = Instant::now();
    while started.elapsed() < time {
        let write_started = Instant::now();
        stream.write_all(&buffer)?;
        latencies.record(duration_ns(write_started.elapsed()), 1);
    }
    Ok(latencies)
}

fn receive(mut stream: TcpStream) -> Result<(u64, u64)> {
    let mut buffer = vec![0; WRITE_BYTES];
    let started = Instant::now();
    let mut bytes = 0;
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok((bytes, duration_ns(started.elapsed())));
        }
        bytes += u64::try_from(read)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_writes_arrive() {
        let (server, client) = crate::cores::first_two();
        let figures = stream(server, client, Duration::from_millis(20)).expect("loopback works");
        assert!(figures.operations > 0);
        assert!(figures.mb_per_second > 0.0);
    }
}
