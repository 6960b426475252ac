//! Connecting to the broker that the command line names.

use std::time::Duration;

use catena_client::Client;

use crate::cli::Connection;
use crate::exit::Failure;

/// A connection that takes longer than this is not coming.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);

pub(crate) async fn connect(connection: &Connection) -> Result<Client, Failure> {
    let builder = Client::builder()
        .client_name(concat!("catena/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connection.timeout.min(CONNECT_TIMEOUT_MAX))
        .request_timeout(connection.timeout);
    Ok(builder.connect(&connection.broker).await?)
}
