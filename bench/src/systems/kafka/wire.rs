//! One connection to a broker of the Kafka protocol: frames, versions, one request at a time.
//!
//! A broker answers the requests of a connection in their order, so answers are matched by turn.
//! Errors are kinds, without what differs from request to request.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{
    Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A result whose error is a kind.
pub(super) type Outcome<T> = Result<T, String>;

/// Longest frame a broker is believed to send.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// Room for received bytes before a read.
const READ_BYTES_MIN: usize = 64 << 10;

/// How long a connection may take to come about.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;

/// Versions no newer than these are used. In later ones requests give topics by number instead of
/// by name; those of offsets only tell more, which librdkafka's mock broker gets wrong.
const LAST_VERSIONS: [(ApiKey, i16); 4] = [
    (ApiKey::Produce, 12),
    (ApiKey::Fetch, 12),
    (ApiKey::DeleteTopics, 5),
    (ApiKey::ListOffsets, 3),
];

/// Which versions of which requests a broker takes.
#[derive(Clone, Debug)]
pub(super) struct Versions(HashMap<i16, VersionRange>);

impl Versions {
    /// The version to send a request in.
    pub(super) fn of<R: Request>(&self) -> Outcome<i16> {
        let none = VersionRange { min: 0, max: -1 };
        let mut range = R::VERSIONS.intersect(self.0.get(&R::KEY).unwrap_or(&none));
        for (key, last) in LAST_VERSIONS {
            if key as i16 == R::KEY {
                range.max = range.max.min(last);
            }
        }
        if range.is_empty() {
            let name = ApiKey::try_from(R::KEY).map(|key| format!("{key:?} "));
            let name = name.unwrap_or_default();
            return Err(format!(
                "the broker takes no {name}request this client knows"
            ));
        }
        Ok(range.max)
    }

    /// Whether the broker takes such a request.
    pub(super) fn has<R: Request>(&self) -> bool {
        self.of::<R>().is_ok()
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Sent<R> {
    id: i32,
    version: i16,
    request: PhantomData<R>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    incoming: BytesMut,
    outgoing: BytesMut,
    versions: Versions,
    next_id: i32,
}

impl Wire {
    /// Connects and learns what the broker takes.
    pub(super) async fn connect(address: &str) -> Outcome<Self> {
        let stream = timeout(CONNECT_TIME_MAX, TcpStream::connect(address))
            .await
            .map_err(|_| "cannot connect: no answer".to_owned())?
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|error| format!("cannot connect: {}", error.kind()))?;
        // Brokers answer the first version whatever they are.
        let oldest = VersionRange { min: 0, max: 0 };
        let mut wire = Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            versions: Versions(HashMap::from([(ApiVersionsRequest::KEY, oldest)])),
            next_id: 0,
        };
        let answer = wire.call(&ApiVersionsRequest::default()).await?;
        check(answer.error_code)?;
        let ranges = answer.api_keys.iter().map(|key| {
            let range = VersionRange {
                min: key.min_version,
                max: key.max_version,
            };
            (key.api_key, range)
        });
        wire.versions = Versions(ranges.collect());
        Ok(wire)
    }

    pub(super) fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call<R: Request>(&mut self, request: &R) -> Outcome<R::Response> {
        let sent = self.send(request).await?;
        self.receive(sent).await
    }

    /// Sends a request; its answer is the next that is received.
    pub(super) async fn send<R: Request>(&mut self, request: &R) -> Outcome<Sent<R>> {
        let version = self.versions.of::<R>()?;
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.outgoing.clear();
        encode(request, version, id, &mut self.outgoing)?;
        self.stream
            .write_all(&self.outgoing)
            .await
            .map_err(|error| lost(&error))?;
        Ok(Sent {
            id,
            version,
            request: PhantomData,
        })
    }

    /// Waits for the answer to the oldest request that has none yet.
    pub(super) async fn receive<R: Request>(&mut self, sent: Sent<R>) -> Outcome<R::Response> {
        let frame = read_frame(&mut self.stream, &mut self.incoming).await?;
        decode::<R>(frame, sent.version, sent.id)
    }

    /// The bare connection, with nothing on its way.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// Appends a request with its length and header.
pub(super) fn encode<R: Request>(
    request: &R,
    version: i16,
    id: i32,
    out: &mut BytesMut,
) -> Outcome<()> {
    let start = out.len();
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(id)
        .with_client_id(Some(StrBytes::from_static_str("catena-bench")));
    out.put_i32(0);
    let encoded = header
        .encode(out, R::header_version(version))
        .and_then(|()| request.encode(out, version));
    let length = i32::try_from(out.len() - start - LENGTH_BYTES);
    let (Ok(()), Ok(length)) = (encoded, length) else {
        out.truncate(start);
        return Err("cannot encode the request".to_owned());
    };
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Takes an answer apart.
pub(super) fn decode<R: Request>(mut frame: Bytes, version: i16, id: i32) -> Outcome<R::Response> {
    let unreadable = |_| "unreadable answer".to_owned();
    let header_version = R::Response::header_version(version);
    let header = ResponseHeader::decode(&mut frame, header_version).map_err(unreadable)?;
    if header.correlation_id != id {
        return Err("an answer out of turn".to_owned());
    }
    R::Response::decode(&mut frame, version).map_err(unreadable)
}

/// Waits for a whole frame. Cancel safe: what has come stays in `incoming`.
pub(super) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    incoming: &mut BytesMut,
) -> Outcome<Bytes> {
    fill(stream, incoming, LENGTH_BYTES).await?;
    let length = incoming.as_ref().get_i32();
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= FRAME_BYTES_MAX)
        .ok_or("an answer of an impossible length")?;
    fill(stream, incoming, LENGTH_BYTES + length).await?;
    incoming.advance(LENGTH_BYTES);
    Ok(incoming.split_to(length).freeze())
}

/// Reads until there are `bytes`.
async fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    incoming: &mut BytesMut,
    bytes: usize,
) -> Outcome<()> {
    while incoming.len() < bytes {
        incoming.reserve((bytes - incoming.len()).max(READ_BYTES_MIN));
        match stream.read_buf(incoming).await {
            Ok(0) => return Err("the broker closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(lost(&error)),
        }
    }
    Ok(())
}

/// The kind of a connection's error.
pub(super) fn lost(error: &std::io::Error) -> String {
    format!("connection lost: {}", error.kind())
}

/// The kind of an error code in an answer.
pub(super) fn check(code: i16) -> Outcome<()> {
    ResponseError::try_from_code(code).map_or(Ok(()), |error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{DeleteTopicsRequest, FetchRequest};

    #[test]
    fn a_frame_is_read_once_it_is_whole_and_the_next_is_left() {
        let whole = [0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9];
        let mut incoming = BytesMut::new();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().expect("a runtime");
        runtime.block_on(async {
            let mut stream = &whole[..];
            let first = read_frame(&mut stream, &mut incoming).await;
            assert_eq!(first.as_deref(), Ok(&[7, 8][..]));
            let second = read_frame(&mut stream, &mut incoming).await;
            assert_eq!(second.as_deref(), Ok(&[9][..]));
            assert!(read_frame(&mut stream, &mut incoming).await.is_err());
            let endless = read_frame(&mut &[0xff; 8][..], &mut BytesMut::new()).await;
            assert_eq!(endless, Err("an answer of an impossible length".to_owned()));
        });
    }

    #[test]
    fn a_request_goes_in_the_newest_version_both_sides_know_that_names_topics() {
        let offered = |key: ApiKey, min, max| {
            Versions(HashMap::from([(key as i16, VersionRange { min, max })]))
        };
        assert_eq!(offered(ApiKey::Fetch, 4, 11).of::<FetchRequest>(), Ok(11));
        assert_eq!(offered(ApiKey::Fetch, 4, 17).of::<FetchRequest>(), Ok(12));
        assert!(!offered(ApiKey::Fetch, 13, 17).has::<FetchRequest>());
        assert!(!offered(ApiKey::Fetch, 4, 17).has::<DeleteTopicsRequest>());
    }
}
