//! The broker's own counters, read over plain HTTP/1.1 from its admin address.
//!
//! Only what a report needs: whether segments were recycled or filled for the first time, since
//! first-filled ones cost the device more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::METRICS_BYTES_MAX;

const PATIENCE: Duration = Duration::from_secs(5);

/// Segment counters of the broker, all shards together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct SegmentCounters {
    pub(crate) recycled: u64,
    pub(crate) created: u64,
}

impl SegmentCounters {
    /// What was added since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            recycled: self.recycled.saturating_sub(before.recycled),
            created: self.created.saturating_sub(before.created),
        }
    }

    /// How the segments of a run came about, for the report.
    pub(crate) fn describe(self) -> &'static str {
        match (self.recycled, self.created) {
            (0, 0) => "segments in hand (none prepared during the run)",
            (_, 0) => "recycled segments",
            (0, _) => "first-filled segments",
            _ => "recycled and first-filled segments",
        }
    }
}

/// Reads the segment counters from `http://ADDRESS/metrics`.
pub(crate) async fn segment_counters(address: &str) -> Result<SegmentCounters> {
    let page = timeout(PATIENCE, get(address, "/metrics"))
        .await
        .with_context(|| format!("{address}/metrics did not answer within {PATIENCE:?}"))??;
    Ok(SegmentCounters {
        recycled: sum_of(&page, "catena_segments_recycled_total"),
        created: sum_of(&page, "catena_segments_created_total"),
    })
}

/// One GET with `Connection: close`; the body of a 200 answer.
async fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("cannot reach {address}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let limit = u64::try_from(METRICS_BYTES_MAX)?;
    stream.take(limit).read_to_end(&mut answer).await?;
    body_of(&String::from_utf8_lossy(&answer))
        .with_context(|| format!("http://{address}{path} gave no usable answer"))
}

fn body_of(answer: &str) -> Result<String> {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("no end of the headers")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "status {status:?}");
    let chunked = head.lines().any(|line| {
        let line = line.to_ascii_lowercase();
        line.starts_with("transfer-encoding:") && line.contains("chunked")
    });
    if chunked {
        dechunk(body)
    } else {
        Ok(body.to_owned())
    }
}

fn dechunk(mut rest: &str) -> Result<String> {
    let mut body = String::with_capacity(rest.len());
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without a size")?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).context("a chunk's size is not a number")?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).context("a chunk is cut short")?);
        rest = after
            .get(size..)
            .and_then(|rest| rest.strip_prefix("\r\n"))
            .unwrap_or_default();
    }
}

/// The sum of all samples of one counter, whatever their labels.
fn sum_of(page: &str, name: &str) -> u64 {
    page.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = match rest.split_once('}') {
                Some((labels, value)) if labels.starts_with('{') => value,
                None if rest.starts_with(' ') => rest,
                _ => return None,
            };
            value.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE catena_segments_recycled counter
catena_segments_recycled_total{shard=\"0\"} 3
catena_segments_recycled_total{shard=\"1\"} 4
catena_segments_recycled_total_other 9
catena_segments_created_total 2
# EOF
";

    #[test]
    fn counters_are_summed_over_their_labels() {
        assert_eq!(sum_of(PAGE, "catena_segments_recycled_total"), 7);
        assert_eq!(sum_of(PAGE, "catena_segments_created_total"), 2);
        assert_eq!(sum_of(PAGE, "catena_absent_total"), 0);
    }

    #[test]
    fn bodies_are_read_plain_and_chunked() {
        let plain = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(body_of(plain).expect("plain"), "abc");
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(body_of(chunked).expect("chunked"), "abcde");
        assert!(body_of("HTTP/1.1 404 Not Found\r\n\r\n").is_err());
        assert!(body_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc").is_err());
    }

    #[test]
    fn segments_are_described_by_what_was_prepared_during_the_run() {
        let before = SegmentCounters {
            recycled: 5,
            created: 2,
        };
        let after = SegmentCounters {
            recycled: 9,
            created: 2,
        };
        assert_eq!(after.since(before).describe(), "recycled segments");
        assert_eq!(before.since(before).recycled, 0);
    }

    #[tokio::test]
    async fn counters_are_read_from_an_admin_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("one caller");
            let mut request = [0_u8; 1024];
            let read = stream.read(&mut request).await.expect("a request");
            assert!(request[..read].starts_with(b"GET /metrics HTTP/1.1\r\n"));
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{PAGE}");
            stream
                .write_all(answer.as_bytes())
                .await
                .expect("the caller reads");
        });
        let counters = segment_counters(&address).await.expect("an answer");
        assert_eq!(
            counters,
            SegmentCounters {
                recycled: 7,
                created: 2
            }
        );
        server.await.expect("the server side holds");
    }
}
