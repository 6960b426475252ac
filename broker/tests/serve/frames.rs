//! Frames that nobody wants cost the broker nothing, and their connection goes on.

use catena_protocol::error::ErrorCode;
use catena_protocol::frame::{Api, FLAG_RESPONSE, PROTOCOL_VERSION, encode_frame};
use catena_protocol::messages::ErrorResponse;

use crate::support::{Peer, TestBroker, batch_of};

#[test]
fn a_frame_with_the_response_flag_is_refused_before_its_payload_is_there() {
    let broker = TestBroker::start(1);
    let mut peer = Peer::connect(&broker);
    let topic = peer.create_topic("orders", 1);
    for api in [Api::Produce, Api::Fetch] {
        let correlation = peer.correlation();
        let payload_bytes: u32 = 32 << 20;
        let mut frame = Vec::new();
        encode_frame(
            &mut frame,
            api,
            PROTOCOL_VERSION,
            FLAG_RESPONSE,
            correlation,
            b"",
            payload_bytes,
        );
        peer.send(&frame);
        let (prefix, header, _) = peer.receive();
        assert_eq!(prefix.correlation, correlation);
        let error = ErrorResponse::decode(&header).expect("an error");
        assert_eq!(error.code, ErrorCode::UnknownApi);
        peer.send(&vec![0xab; 32 << 20]);
    }
    let acks = peer.produce(&[(topic, 0, &batch_of(1, b"value"))]);
    assert_eq!((acks[0].error, acks[0].detail), (ErrorCode::None, 0));
    broker.stop();
}
