//! Addresses: a host name with a port to tell clients, and an address that may be off.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// DNS allows no longer name.
const HOST_NAME_BYTES_MAX: usize = 253;

/// The address to listen on: of an interface, not a name.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let refused = |_| format!("{text:?} is not an address; write IP:PORT, e.g. 0.0.0.0:9640");
    text.parse().map_err(refused)
}

/// The same, as a source other than the flags gives it.
pub(super) fn read_listen_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let addr = listen_address(&text).map_err(serde::de::Error::custom)?;
    Ok(Some(addr))
}

/// A host name or IP address with a port, as given to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or address, without the brackets of an IPv6 address.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl From<SocketAddr> for HostPort {
    fn from(addr: SocketAddr) -> Self {
        Self {
            host: addr.ip().to_string(),
            port: addr.port(),
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is not HOST:PORT, like broker-1.example:9640");
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(refused)?;
        let host = match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(host) => host.parse::<Ipv6Addr>().map_err(|_| refused())?.to_string(),
            None if is_host_name(host) => host.to_owned(),
            None => return Err(refused()),
        };
        Ok(Self { host, port })
    }
}

/// Names and IPv4 addresses; the resolver decides what a name means.
fn is_host_name(host: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= HOST_NAME_BYTES_MAX && host.bytes().all(known)
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The value of `--admin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Off,
    On(SocketAddr),
}

impl From<Option<SocketAddr>> for AdminAddress {
    fn from(addr: Option<SocketAddr>) -> Self {
        addr.map_or(Self::Off, Self::On)
    }
}

impl From<AdminAddress> for Option<SocketAddr> {
    fn from(address: AdminAddress) -> Self {
        match address {
            AdminAddress::Off => None,
            AdminAddress::On(addr) => Some(addr),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let addr = text
            .parse()
            .map_err(|_| format!("{text:?} is neither an address like 127.0.0.1:9641 nor off"))?;
        Ok(Self::On(addr))
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::On(addr) => addr.fmt(f),
        }
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(HostPort, AdminAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_read_back_as_shown() {
        let shown = [
            "broker-1.example:9640",
            "10.0.0.1:1",
            "[::1]:9640",
            "[fe80::1:2]:65535",
        ];
        for text in shown {
            let address = text.parse::<HostPort>().expect("a good address");
            assert_eq!(address.to_string(), text);
        }
        let from_bound = HostPort::from("[::1]:80".parse::<SocketAddr>().expect("an address"));
        assert_eq!(from_bound.to_string(), "[::1]:80");
    }

    #[test]
    fn bad_hosts_are_refused() {
        for text in [
            "",
            "host",
            "host:",
            ":1",
            "host:0",
            "host:65536",
            "::1:9640",
            "a b:1",
            "[x]:1",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_to_listen_on_is_refused_with_what_to_write() {
        let addr = listen_address("[::1]:9640").expect("an address");
        assert_eq!(addr.to_string(), "[::1]:9640");
        for text in ["localhost:9640", "9640", "127.0.0.1", ""] {
            let refused = listen_address(text).expect_err("no address");
            let words = "is not an address; write IP:PORT, e.g. 0.0.0.0:9640";
            assert_eq!(refused, format!("{text:?} {words}"));
        }
    }

    #[test]
    fn the_admin_server_can_be_off() {
        assert_eq!("off".parse(), Ok(AdminAddress::Off));
        let on = "127.0.0.1:9641"
            .parse::<AdminAddress>()
            .expect("an address");
        assert_eq!(on.to_string(), "127.0.0.1:9641");
        assert!("localhost:9641".parse::<AdminAddress>().is_err());
    }
}
