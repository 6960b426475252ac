//! The admin server, asked over plain HTTP.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::wait::{LIMIT, until_some};

/// The answer to a request: status line, headers and body.
///
/// Asks again if the server hangs up without a word: it gives a client 2 s for its request, which
/// one that gets no core may miss.
///
/// # Panics
/// If nobody listens, or nothing is answered.
pub fn get(addr: &str, path: &str) -> String {
    until_some("the admin server answers", || {
        let mut stream = TcpStream::connect(addr).expect("the admin server listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let answer = ask(&mut stream, path).unwrap_or_default();
        (!answer.is_empty()).then_some(answer)
    })
}

fn ask(stream: &mut TcpStream, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a gauge or counter over all its labels. Fractions are cut off.
///
/// # Panics
/// If there is no such metric.
pub fn sum(addr: &str, name: &str) -> u64 {
    let answer = get(addr, "/metrics");
    let mut samples = answer.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = rest.strip_prefix('{')?.split_once("} ")?.1;
        let whole = value.split(['.', ' ']).next().unwrap_or_default();
        Some(whole.parse::<u64>().expect("a number"))
    });
    let first = samples.next();
    first.unwrap_or_else(|| panic!("no metric {name}")) + samples.sum::<u64>()
}
