//! Connecting to the broker that the command line names.

use std::pin::pin;
use std::time::Duration;

use catena_client::{BuildError, Client, ClientBuilder, RequestError};

use crate::cli::Connection;
use crate::exit::Failure;

/// A connection that takes longer than this is not coming.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);

/// After this long without a connection the user is told what is waited for.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// How long to look for the cause.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) async fn connect(connection: &Connection) -> Result<Client, Failure> {
    let Connection { broker, timeout } = connection;
    let mut connecting = pin!(settings(*timeout).connect(broker));
    if let Ok(connected) = tokio::time::timeout(SILENCE_MAX, &mut connecting).await {
        return Ok(connected?);
    }
    tokio::select! {
        biased;
        connected = &mut connecting => return Ok(connected?),
        cause = cause_of_waiting(broker) => {
            if let Some(cause) = cause {
                let limit = humantime::format_duration(*timeout);
                eprintln!("waiting for {broker}: {cause} (up to {limit}; --timeout)");
            }
        }
    }
    Ok(connecting.await?)
}

fn settings(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .client_name(concat!("catena/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(timeout.min(CONNECT_TIMEOUT_MAX))
        .request_timeout(timeout)
}

/// Why there is no connection; found by trying for one beside the attempts that go on, as these
/// tell only when they give up. `None` if there can be one now.
async fn cause_of_waiting(broker: &str) -> Option<String> {
    let cause = match settings(PROBE_TIMEOUT).connect(broker).await.err()? {
        BuildError::Request(RequestError::TimedOut { last, .. }) => last.to_string(),
        other => other.to_string(),
    };
    let known = format!("connection to {broker}: ");
    let cause = cause.strip_prefix(&known).unwrap_or(&cause);
    Some(cause.to_owned())
}
