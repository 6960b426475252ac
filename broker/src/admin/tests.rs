//! The admin server over real sockets on the loopback address.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::*;

fn started(names: &[&str]) -> (AdminServer, Arc<NodeStatus>) {
    let status = NodeStatus::new(names.iter().copied());
    let addr = "127.0.0.1:0".parse().expect("an address");
    let admin = AdminServer::start(addr, Arc::clone(&status)).expect("loopback can be bound");
    (admin, status)
}

/// Sends raw bytes and reads until the server closes.
fn exchange(admin: &AdminServer, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(admin.addr()).expect("the server listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout can be set");
    // The server may close before it has read an oversized request.
    let _ = stream.write_all(request);
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response);
    String::from_utf8_lossy(&response).into_owned()
}

fn get(admin: &AdminServer, path: &str) -> (String, String) {
    let response = exchange(
        admin,
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(),
    );
    let (head, body) = response.split_once("\r\n\r\n").expect("an HTTP response");
    (head.to_owned(), body.to_owned())
}

#[test]
fn an_address_is_held_before_there_is_anything_to_serve() {
    let port = AdminPort::bind("127.0.0.1:0".parse().expect("an address"));
    let port = port.expect("loopback can be bound");
    let addr = port.addr();
    let early = TcpStream::connect(addr).expect_err("nothing is served yet");
    assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);
    let admin = port.serve(NodeStatus::new(["0"])).expect("it listens");
    assert_eq!(get(&admin, "/healthz").1, "ok\n");
    let taken = AdminPort::bind(addr).expect_err("it is in use");
    assert_eq!(taken.to_string(), "somebody listens there already");
}

#[test]
fn health_follows_a_stall_and_its_end() {
    let (admin, status) = started(&["0", "1"]);
    let (head, body) = get(&admin, "/healthz");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(body, "ok\n");

    status.shards()[1].set_stalled(Some(420));
    let (head, body) = get(&admin, "/healthz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(body, "shard 1: no progress for 420 ms\n");

    status.shards()[1].set_stalled(None);
    assert_eq!(get(&admin, "/healthz").1, "ok\n");
}

#[test]
fn a_failed_journal_is_unhealthy_until_restart() {
    let (admin, status) = started(&["0"]);
    status.shards()[0].metrics().journal_failed.set(1);
    let (head, body) = get(&admin, "/healthz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert!(
        body.starts_with("shard 0: a write or flush failed"),
        "{body}"
    );
}

#[test]
fn readiness_waits_for_the_start_and_ends_with_the_drain() {
    let (admin, status) = started(&["0"]);
    assert_eq!(get(&admin, "/readyz").1, "starting\n");
    status.set_phase(Phase::Ready);
    assert_eq!(get(&admin, "/readyz").1, "ok\n");
    status.set_phase(Phase::Draining);
    let (head, body) = get(&admin, "/readyz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(body, "draining\n");
    assert_eq!(get(&admin, "/healthz").1, "ok\n", "draining is not a fault");
}

#[test]
fn metrics_are_served_as_openmetrics() {
    let (admin, status) = started(&["0"]);
    status.shards()[0].metrics().produce_requests.add(5);
    let (head, body) = get(&admin, "/metrics");
    assert!(head.contains(METRICS_CONTENT_TYPE), "{head}");
    assert!(
        body.contains("catena_produce_requests_total{shard=\"0\"} 5\n"),
        "{body}"
    );
    assert!(body.contains("process_resident_memory_bytes "), "{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");
}

#[test]
fn unknown_paths_and_methods_are_refused() {
    let (admin, _status) = started(&["0"]);
    assert!(get(&admin, "/").0.starts_with("HTTP/1.1 404"));
    let post = b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
    assert!(exchange(&admin, post).starts_with("HTTP/1.1 405"));
}

#[test]
fn an_endless_header_is_cut_off() {
    let (admin, _status) = started(&["0"]);
    let mut request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ".to_vec();
    request.resize(4 * ADMIN_REQUEST_HEAD_BYTES_MAX, b'a');
    let response = exchange(&admin, &request);
    assert!(!response.contains("200 OK"), "{response}");
}

#[test]
fn a_client_that_sends_nothing_blocks_nobody_and_is_closed() {
    let (admin, _status) = started(&["0"]);
    let mut silent = TcpStream::connect(admin.addr()).expect("the server listens");
    silent
        .write_all(b"GET /healthz HT")
        .expect("the socket takes a few bytes");
    assert_eq!(get(&admin, "/healthz").1, "ok\n");
    silent
        .set_read_timeout(Some(ADMIN_HEADER_TIMEOUT + Duration::from_secs(60)))
        .expect("a timeout can be set");
    let mut rest = Vec::new();
    let closed = silent.read_to_end(&mut rest);
    assert!(
        closed.is_ok(),
        "the server closes the connection: {closed:?}"
    );
}

#[test]
fn stopping_frees_the_port_with_a_connection_open() {
    let (admin, _status) = started(&["0"]);
    let addr = admin.addr();
    let open = TcpStream::connect(addr).expect("the server listens");
    admin.stop();
    drop(open);
    assert!(TcpStream::connect(addr).is_err());
}
