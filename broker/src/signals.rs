//! SIGTERM and SIGINT: the first asks for a graceful stop, the second ends the process at once.
//!
//! Only the `catena-broker` program installs this; a broker inside another program leaves that
//! program's signals alone.

use std::ffi::c_int;
use std::io::{self, Write};
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::limits::STOP_TIMEOUT;

/// Calls `stop` once, on a thread of its own, when the first signal comes; it only asks, and
/// returns. A second signal ends the process with `code_at_once`, whatever is in progress. Until
/// this is called a signal ends the process by itself.
pub fn install(stop: impl FnOnce() + Send + 'static, code_at_once: c_int) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut stop = Some(stop);
            for signal in signals.forever() {
                let Some(stop) = stop.take() else {
                    end("second signal", code_at_once)
                };
                tracing::info!(
                    signal = name(signal),
                    "stopping; a second signal stops at once"
                );
                stop();
            }
        })?;
    Ok(())
}

/// Ends the process with `code_at_once` if it still runs after [`STOP_TIMEOUT`].
pub fn limit_stop(code_at_once: c_int) {
    let limit = move || {
        thread::sleep(STOP_TIMEOUT);
        end("the stop takes too long", code_at_once)
    };
    // Without this thread a second signal is still there to end a stop that hangs.
    if let Err(error) = thread::Builder::new()
        .name("stop-limit".into())
        .spawn(limit)
    {
        tracing::warn!(%error, "the time to stop is not limited");
    }
}

/// Ends the process without another word to anybody; acknowledged messages are on disk.
fn end(why: &str, code: c_int) -> ! {
    // Not through the log thread, which may be what hangs.
    let _ = writeln!(io::stderr(), "{why}: stopping at once");
    signal_hook::low_level::exit(code)
}

fn name(signal: c_int) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        _ => "other",
    }
}
