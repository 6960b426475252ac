//! Peers that are slow, silent, many or greedy: the others notice nothing, memory stays bounded.

use std::fs;

use catena_protocol::ids::{CorrelationId, Durability, PartitionId};
use catena_protocol::messages::{HelloRequest, ProduceItem, encode_produce_header};
use catena_tests::broker::Broker;
use catena_tests::peer::{Peer, batch, produce_frame};
use catena_tests::wait;
use catena_tests::witness::Witness;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const IDLE_CONNECTIONS: usize = 1_000;

/// A test that opens many connections needs as many descriptors.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, most).expect("the soft limit can be raised to the hard one");
}

fn resident_bytes(broker: &Broker) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.pid()));
    let status = status.expect("the broker runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.expect("a size").parse::<usize>().expect("a number") << 10
}

#[test]
fn peers_that_send_one_byte_and_stay_disturb_nobody() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let value = vec![b'x'; 300 << 10];
    let batch = batch(&[&value]);
    let produce = produce_frame(
        CorrelationId(1),
        witness.topic(),
        Durability::Durable,
        &batch,
    );
    let mut staying = Vec::new();
    for _ in 0..50 {
        let mut before_hello = Peer::silent(broker.addr());
        before_hello.send(&[24]);
        let mut after_hello = Peer::connect(broker.addr());
        after_hello.send(&produce[..1]);
        let mut in_payload = Peer::connect(broker.addr());
        in_payload.send(&produce[..200 << 10]);
        staying.extend([before_hello, after_hello, in_payload]);
    }
    for _ in 0..20 {
        witness.check("beside peers that stay in the middle of a frame");
    }
    let frame_lacks_one = &produce[200 << 10..produce.len() - 1];
    staying
        .last_mut()
        .expect("many peers")
        .send(frame_lacks_one);
    witness.check("beside a frame that lacks one byte");
    assert!(
        broker.metric("catena_connections") >= 100,
        "they are still there"
    );
    broker.stop();
}

#[test]
fn half_open_connections_are_closed() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let before = broker.metric("catena_connections");
    let peers: Vec<Peer> = (0..100).map(|_| Peer::connect(broker.addr())).collect();
    assert_eq!(broker.metric("catena_connections"), before + 100);
    peers.iter().for_each(Peer::end_sending);
    for peer in peers {
        assert!(peer.until_closed().is_empty());
    }
    let silent = Peer::silent(broker.addr());
    silent.end_sending();
    assert!(silent.until_closed().is_empty());
    wait::until("the broker forgets them", || {
        broker.metric("catena_connections") == before
    });
    witness.check("after half-open connections");
    broker.stop();
}

#[test]
fn a_thousand_idle_connections_cost_nothing_and_end_without_a_trace() {
    allow_many_files();
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let before = broker.metric("catena_connections");
    let before_bytes = resident_bytes(&broker);
    let mut idle: Vec<Peer> = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        idle.push(Peer::connect(broker.addr()));
    }
    let connections = u64::try_from(IDLE_CONNECTIONS).expect("a thousand");
    assert_eq!(broker.metric("catena_connections"), before + connections);
    witness.check("beside idle connections");
    let grown = resident_bytes(&broker).saturating_sub(before_bytes);
    let most = IDLE_CONNECTIONS * (32 << 10);
    assert!(
        grown < most,
        "{IDLE_CONNECTIONS} idle connections take {grown} bytes"
    );
    for peer in idle.iter_mut().step_by(100) {
        let hello_again = peer.ask(&HelloRequest::default());
        assert!(
            hello_again.is_err(),
            "an idle connection is served, and a hello comes once"
        );
    }
    drop(idle);
    wait::until("the broker forgets them", || {
        broker.metric("catena_connections") == before
    });
    witness.check("after idle connections");
    broker.stop();
}

/// Memory is taken for what arrives, not for what is announced.
#[test]
fn announced_bytes_that_do_not_come_take_no_memory() {
    let mut broker = Broker::start();
    let mut witness = Witness::start(&broker);
    let item = ProduceItem {
        topic: witness.topic(),
        partition: PartitionId(0),
        batch_bytes: 1_000_000,
        ..ProduceItem::default()
    };
    let mut announced = Vec::new();
    let items = [item; 15];
    encode_produce_header(
        &mut announced,
        CorrelationId(1),
        Durability::Durable,
        0,
        &items,
    );
    let before_bytes = resident_bytes(&broker);
    let mut staying = Vec::new();
    for _ in 0..300 {
        let mut peer = Peer::connect(broker.addr());
        peer.send(&announced);
        peer.send(&[0; 100]);
        staying.push(peer);
    }
    for _ in 0..5 {
        witness.check("beside 4.5 GB that were announced");
    }
    let grown = resident_bytes(&broker).saturating_sub(before_bytes);
    assert!(grown < 256 << 20, "grown by {grown} bytes");
    drop(staying);
    witness.check("after 4.5 GB that were announced");
    broker.stop();
}
