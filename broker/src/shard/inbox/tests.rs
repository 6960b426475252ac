//! Received bytes are kept once, charged as they come, and not kept at all if nobody wants them.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use catena_protocol::frame::{Api, PROTOCOL_VERSION, encode_frame};
use catena_protocol::ids::CorrelationId;

use super::*;
use crate::runtime::executor::{Queue, spawn, yield_now};
use crate::runtime::testing::run;

fn receiving(limit_bytes: usize) -> Rc<Receiving> {
    Rc::new(Receiving {
        grown: Budget::new(limit_bytes),
        ..Receiving::default()
    })
}

async fn inbox(listener: &TcpListener, receiving: &Rc<Receiving>) -> (Inbox, TcpStream) {
    let address = listener.local_addr().expect("it listens");
    let conn = Conn::connect(address).await.expect("it accepts");
    let (peer, _) = listener.accept().expect("it was connected to");
    (Inbox::new(Rc::new(conn), Rc::clone(receiving)), peer)
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a port")
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(
        &mut frame,
        Api::Produce,
        PROTOCOL_VERSION,
        0,
        CorrelationId(1),
        b"header",
        u32::try_from(payload.len()).expect("small"),
    );
    frame.extend_from_slice(payload);
    frame
}

async fn next_frame(inbox: &mut Inbox) -> (Bytes, Bytes) {
    let prefix = inbox.prefix().await.expect("a prefix");
    let header = inbox.header(&prefix).await.expect("a header");
    let bytes = usize::try_from(prefix.payload_bytes()).expect("small");
    let payload = inbox.payload(bytes).await.expect("a payload");
    (header, payload)
}

#[test]
fn frames_that_come_one_by_one_lie_in_one_chunk() {
    let listener = listener();
    run(move || async move {
        let receiving = receiving(1 << 20);
        let (mut inbox, mut peer) = inbox(&listener, &receiving).await;
        let mut last: Option<Bytes> = None;
        for round in 0..10_u8 {
            // The connection waits before anything comes, so it gives its chunk up.
            let waiting = std::pin::pin!(next_frame(&mut inbox));
            let sent = async {
                yield_now().await;
                // The first wait begins before any memory is lent.
                let has_spare = receiving.spare.borrow().len() >= CHUNK_BYTES_MIN;
                assert_eq!(has_spare, round > 0);
                peer.write_all(&frame(&[round; 100])).expect("sent");
            };
            let ((_, payload), ()) = futures_util::future::join(waiting, sent).await;
            assert_eq!(payload[..], [round; 100]);
            let behind = last.map(|last: Bytes| payload.as_ptr() as usize - last.as_ptr() as usize);
            let distance = frame(&[0; 100]).len();
            assert!(behind.is_none_or(|behind| behind == distance), "{behind:?}");
            last = Some(payload);
        }
    });
}

#[test]
fn a_frame_is_held_once_its_last_byte_is_here() {
    let listener = listener();
    run(move || async move {
        let receiving = receiving(1 << 20);
        let (mut inbox, mut peer) = inbox(&listener, &receiving).await;
        let next = frame(&[7; 50]);
        assert!(!inbox.holds_frame(), "nothing came");
        let damaged = {
            let mut bytes = next.clone();
            bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
            bytes
        };
        let parts = [
            (&next[..0], false),
            (&next[..PREFIX_BYTES - 1], false),
            (&next[..PREFIX_BYTES], false),
            (&next[..next.len() - 1], false),
            (&next[..], true),
            (&damaged[..], false),
        ];
        for (behind, is_held) in parts {
            let first = frame(&[1; 100]);
            let sent = [&first[..], behind].concat();
            peer.write_all(&sent).expect("sent");
            inbox.fill_to(sent.len()).await.expect("all of it comes");
            next_frame(&mut inbox).await;
            assert_eq!(
                inbox.holds_frame(),
                is_held,
                "{} bytes behind",
                behind.len()
            );
            drop(inbox.take(behind.len()));
        }
    });
}

#[test]
fn large_frames_of_many_connections_all_arrive_within_the_budget() {
    const LIMIT: usize = 512 << 10;
    const FRAME: usize = 300 << 10;
    let listener = listener();
    run(move || async move {
        let receiving = receiving(LIMIT);
        let mut tasks = Vec::new();
        for number in 0..8_u8 {
            let (mut inbox, mut peer) = inbox(&listener, &receiving).await;
            std::thread::spawn(move || {
                peer.write_all(&frame(&vec![number; FRAME])).expect("sent");
            });
            let receiving = Rc::clone(&receiving);
            tasks.push(spawn(Queue::Network, async move {
                let (_, payload) = next_frame(&mut inbox).await;
                assert!(payload.iter().all(|byte| *byte == number));
                // Besides the limit one frame may be there in full.
                assert!(receiving.grown.used_bytes() <= LIMIT + FRAME);
            }));
        }
        for task in tasks {
            clock::timeout(Duration::from_secs(20), task)
                .await
                .expect("nobody waits for ever");
        }
        assert_eq!(receiving.grown.used_bytes(), 0);
    });
}

#[test]
fn a_payload_that_is_discarded_is_never_held() {
    let listener = listener();
    run(move || async move {
        let receiving = receiving(0);
        let (mut inbox, mut peer) = inbox(&listener, &receiving).await;
        std::thread::spawn(move || {
            peer.write_all(&frame(&vec![1; 8 << 20])).expect("sent");
            peer.write_all(&frame(b"next")).expect("sent");
        });
        let prefix = inbox.prefix().await.expect("a prefix");
        inbox.header(&prefix).await.expect("a header");
        inbox.discard(8 << 20).await.expect("it comes");
        assert!(inbox.chunk.len() <= CHUNK_BYTES);
        let (header, payload) = next_frame(&mut inbox).await;
        assert_eq!((&header[..], &payload[..]), (&b"header"[..], &b"next"[..]));
    });
}
