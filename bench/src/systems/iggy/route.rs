//! Where an Iggy server and a topic on it are, and what every connection asks.

use std::sync::Arc;

use iggy::prelude::{
    AutoLogin, Client, Consumer, DEFAULT_ROOT_PASSWORD, DEFAULT_ROOT_USERNAME, Identifier,
    IggyError, MessageClient, PolledMessages, PollingStrategy, TcpClient, TcpClientConfig,
    TcpClientReconnectionConfig, TopicClient, UserClient,
};

/// Where a server is and as whom to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Login {
    address: String,
    user: String,
    password: String,
}

impl Login {
    pub(super) fn parse(address: &str) -> Option<Self> {
        let (user, password, address) = match address.split_once("://") {
            None => (DEFAULT_ROOT_USERNAME, DEFAULT_ROOT_PASSWORD, address),
            Some(("iggy" | "iggy+tcp", rest)) => {
                let (credentials, address) = rest.rsplit_once('@')?;
                let (user, password) = credentials.split_once(':')?;
                (user, password, address)
            }
            Some(_) => return None,
        };
        let (host, port) = address.rsplit_once(':')?;
        let is_whole = !host.is_empty() && port.parse::<u16>().is_ok() && !user.is_empty();
        is_whole.then(|| Self {
            address: address.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

/// What every connection of a run needs to know.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) login: Login,
    pub(super) stream: Identifier,
    pub(super) topic: Identifier,
}

impl Route {
    /// Connects once: whether to do so again is for the caller to say, as a client that does so
    /// by itself also sends again what may have arrived.
    pub(super) async fn connect(&self) -> Result<TcpClient, IggyError> {
        let client = TcpClient::create(Arc::new(TcpClientConfig {
            server_address: self.login.address.clone(),
            auto_login: AutoLogin::Disabled,
            reconnection: TcpClientReconnectionConfig {
                enabled: false,
                ..TcpClientReconnectionConfig::default()
            },
            nodelay: true,
            ..TcpClientConfig::default()
        }))?;
        client.connect().await?;
        client
            .login_user(&self.login.user, &self.login.password)
            .await?;
        Ok(client)
    }

    /// The server's numbers of the partitions, in order.
    pub(super) async fn partitions(&self, client: &TcpClient) -> Result<Vec<u32>, IggyError> {
        let topic = client.get_topic(&self.stream, &self.topic).await?;
        let topic = topic.ok_or(IggyError::ResourceNotFound("the topic".to_owned()))?;
        let mut ids = topic
            .partitions
            .iter()
            .map(|partition| partition.id)
            .collect::<Vec<_>>();
        ids.sort_unstable();
        Ok(ids)
    }

    pub(super) async fn poll(
        &self,
        client: &TcpClient,
        id: u32,
        strategy: PollingStrategy,
        count: u32,
    ) -> Result<PolledMessages, IggyError> {
        let consumer = Consumer::default();
        let (stream, topic) = (&self.stream, &self.topic);
        client
            .poll_messages(stream, topic, Some(id), &consumer, &strategy, count, false)
            .await
    }

    /// The offset after the last message; `None` if there has been none.
    pub(super) async fn end(&self, client: &TcpClient, id: u32) -> Result<Option<u64>, IggyError> {
        let polled = self.poll(client, id, PollingStrategy::last(), 1).await?;
        let last = polled.messages.last().map(|message| message.header.offset);
        // Of an empty partition the server says that it is at offset 0.
        let last = last.or(Some(polled.current_offset).filter(|offset| *offset > 0));
        Ok(last.map(|offset| offset + 1))
    }
}

/// The server's number of a partition.
pub(super) fn id_of(ids: &[u32], partition: u32) -> Result<u32, String> {
    let index = usize::try_from(partition).ok();
    let id = index.and_then(|index| ids.get(index));
    id.copied().ok_or_else(|| "no such partition".to_owned())
}

/// Whether the connection is of no use any more.
pub(super) fn is_lost(error: &IggyError) -> bool {
    matches!(
        error,
        IggyError::Disconnected
            | IggyError::NotConnected
            | IggyError::EmptyResponse
            | IggyError::StaleClient
            | IggyError::TcpError
            | IggyError::Unauthenticated
    )
}

pub(super) fn kind_of(error: &IggyError) -> String {
    error.as_string().replace('_', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_carry_credentials() {
        let login = |address, user: &str, password: &str| {
            let (user, password) = (user.to_owned(), password.to_owned());
            let address = String::from(address);
            Some(Login {
                address,
                user,
                password,
            })
        };
        assert_eq!(Login::parse("h:1"), login("h:1", "iggy", "iggy"));
        assert_eq!(Login::parse("iggy://u:p@h:1"), login("h:1", "u", "p"));
        assert_eq!(
            Login::parse("iggy+tcp://u:p@q@h:1"),
            login("h:1", "u", "p@q")
        );
        for wrong in [
            "",
            "h",
            ":1",
            "h:x",
            "iggy://h:1",
            "iggy://u@h:1",
            "iggy+quic://u:p@h:1",
        ] {
            assert_eq!(Login::parse(wrong), None, "{wrong}");
        }
    }
}
