//! Every way to be wrong, with the reason code it earns.

use super::*;
use crate::{
    Protocol::{V4, V5},
    QoS,
    packet::{Ack, Disconnect, Options, SendRetained, encode, reason::*},
};

fn reason(protocol: Protocol, first: u8, body: &[u8]) -> Option<u8> {
    decode_frame(protocol, &frame(first, body))
        .err()
        .map(|error| error.reason)
}

#[test]
fn fixed_headers_are_checked() {
    let check = |bytes: &[u8], expect: Option<Result<(Kind, usize), u8>>| {
        let found = Header::peek(bytes, 1000)
            .map(|header| header.map(|header| (header.kind, header.frame())))
            .map_err(|error| error.reason)
            .transpose();
        assert_eq!(found, expect, "{bytes:02x?}");
    };
    check(&[], None);
    check(&[0x30], None);
    check(&[0x30, 0x80], None);
    check(&[0x30, 5], Some(Ok((Kind::Publish, 7))));
    check(&[0x30, 0x85, 0x01], Some(Ok((Kind::Publish, 136))));
    check(&[0xC0, 0], Some(Ok((Kind::PingReq, 2))));
    check(&[0x00, 0], Some(Err(MALFORMED)));
    check(&[0x30, 0x80, 0x80, 0x80, 0x80], Some(Err(MALFORMED)));
    check(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], Some(Err(PACKET_TOO_LARGE)));
    // 1000 bytes with the fixed header, and one more.
    check(&[0x30, 0xE5, 0x07], Some(Ok((Kind::Publish, 1000))));
    check(&[0x30, 0xE6, 0x07], Some(Err(PACKET_TOO_LARGE)));
    for first in [
        0x11, 0x22, 0x41, 0x58, 0x60, 0x63, 0x80, 0x83, 0xA0, 0xC1, 0xD4, 0xE8, 0xF1,
    ] {
        check(&[first, 0], Some(Err(MALFORMED)));
    }
}

#[test]
fn publishes_are_checked() {
    let check = |protocol, first, body: &[u8], expect| {
        assert_eq!(
            reason(protocol, first, body),
            expect,
            "{protocol:?} {first:02x} {body:02x?}"
        );
    };
    check(V4, 0x30, b"\0\x01a", None);
    check(V4, 0x32, b"\0\x01a\0\x01x", None);
    check(V4, 0x34, b"\0\x01a\0\x01x", None);
    check(V4, 0x3D, b"\0\x01a\0\x01x", None);
    check(V4, 0x36, b"\0\x01a\0\x01x", Some(MALFORMED)); // QoS 3
    check(V4, 0x38, b"\0\x01a", Some(MALFORMED)); // DUP at QoS 0
    check(V4, 0x32, b"\0\x01a\0\0x", Some(PROTOCOL_ERROR)); // identifier 0
    check(V4, 0x32, b"\0\x01a\0", Some(MALFORMED));
    check(V4, 0x30, b"\0\x05a", Some(MALFORMED));
    check(V4, 0x30, b"\0", Some(MALFORMED));
    check(V4, 0x30, b"", Some(MALFORMED));
    check(V4, 0x30, b"\0\0x", Some(TOPIC_NAME_INVALID));
    check(V4, 0x30, b"\0\x03a/+", Some(TOPIC_NAME_INVALID));
    check(V4, 0x30, b"\0\x03a/#", Some(TOPIC_NAME_INVALID));
    check(V4, 0x30, b"\0\x02a\0", Some(MALFORMED));
    check(V4, 0x30, b"\0\x02\xC3\x28", Some(MALFORMED));
    check(V4, 0x30, b"\0\x03\xED\xA0\x80", Some(MALFORMED)); // a surrogate

    let with = |properties: &[u8]| {
        let len = u8::try_from(properties.len()).unwrap();
        [b"\0\x01a", &[len][..], properties].concat()
    };
    check(V5, 0x30, &with(&[]), None);
    check(V5, 0x30, b"\0\x01a", Some(MALFORMED)); // no property length
    check(V5, 0x30, b"\0\x01a\x05", Some(MALFORMED));
    check(V5, 0x30, b"\0\x01a\x80\x80\x80\x80\x01", Some(MALFORMED));
    check(V5, 0x30, &with(&[0x01, 0, 0x02, 0, 0, 0, 1]), None);
    check(V5, 0x30, &with(&[0x01, 2]), Some(PROTOCOL_ERROR));
    check(V5, 0x30, &with(&[0x01, 1, 0x01, 1]), Some(PROTOCOL_ERROR)); // twice
    check(V5, 0x30, &with(&[0x26, 0, 0, 0, 0, 0x26, 0, 0, 0, 0]), None); // user, twice
    check(V5, 0x30, &with(&[0x26, 0, 1, 0, 0, 0]), Some(MALFORMED)); // U+0000
    check(V5, 0x30, &with(&[0x02, 0, 0]), Some(MALFORMED));
    check(V5, 0x30, &with(&[0x0B, 1]), Some(PROTOCOL_ERROR)); // from a client
    check(V5, 0x30, &with(&[0x11, 0, 0, 0, 1]), Some(MALFORMED)); // of CONNECT
    check(V5, 0x30, &with(&[0x7F]), Some(MALFORMED));
    check(V5, 0x30, &with(&[0x08, 0, 1, b'#']), Some(PROTOCOL_ERROR));
    check(V5, 0x30, &with(&[0x08, 0, 0]), Some(PROTOCOL_ERROR));
    check(V5, 0x30, &with(&[0x23, 0, 0]), Some(TOPIC_ALIAS_INVALID));
    check(V5, 0x30, &with(&[0x23, 0, 17]), Some(TOPIC_ALIAS_INVALID));
    check(V5, 0x30, &with(&[0x23, 0, 16]), None);
    check(V5, 0x30, b"\0\0\x03\x23\0\x01", Some(PROTOCOL_ERROR)); // unknown alias
}

#[test]
fn acknowledgements_are_checked() {
    for first in [0x40, 0x50, 0x62, 0x70] {
        let check = |protocol, body: &[u8], expect| {
            assert_eq!(
                reason(protocol, first, body),
                expect,
                "{protocol:?} {first:x} {body:02x?}"
            );
        };
        check(V4, &[0, 1], None);
        check(V4, &[0, 0], Some(PROTOCOL_ERROR));
        check(V4, &[0], Some(MALFORMED));
        check(V4, &[], Some(MALFORMED));
        check(V4, &[0, 1, 0], Some(MALFORMED)); // 3.1.1 has no reason code
        check(V5, &[0, 1], None);
        check(V5, &[0, 1, 0], None);
        check(V5, &[0, 1, 0, 0], None);
        check(V5, &[0, 1, 0, 4, 0x1F, 0, 1, b'x'], None);
        check(V5, &[0, 1, 0, 0, 0], Some(MALFORMED));
        check(V5, &[0, 1, 1], Some(PROTOCOL_ERROR));
        check(V5, &[0, 1, 0, 2, 0x01, 0], Some(MALFORMED));
    }
    let refused = decode_frame(V5, &[0x50, 3, 1, 2, 0x97]).unwrap();
    assert!(matches!(
        refused,
        Packet::PubRec(Ack {
            id: 0x0102,
            reason: 0x97
        })
    ));
    assert_eq!(reason(V5, 0x62, &[0, 1, 0x97]), Some(PROTOCOL_ERROR));
}

#[test]
fn subscriptions_are_checked() {
    let check = |protocol, first, body: &[u8], expect| {
        assert_eq!(
            reason(protocol, first, body),
            expect,
            "{protocol:?} {first:02x} {body:02x?}"
        );
    };
    check(V4, 0x82, b"\0\x01\0\x01a\x02", None);
    check(V4, 0x82, b"\0\0\0\x01a\x00", Some(PROTOCOL_ERROR));
    check(V4, 0x82, b"\0\x01", Some(PROTOCOL_ERROR)); // no filter
    check(V4, 0x82, b"\0\x01\0\x01a", Some(MALFORMED));
    check(V4, 0x82, b"\0\x01\0\x01a\x03", Some(MALFORMED));
    check(V4, 0x82, b"\0\x01\0\x01a\x04", Some(MALFORMED)); // an option of 5
    check(V4, 0x82, b"\0\x01\0\x01\0\x00", Some(MALFORMED));
    check(V5, 0x82, b"\0\x01\0\0\x01a\x2E", None);
    check(V5, 0x82, b"\0\x01\0\0\x01a\x3E", Some(PROTOCOL_ERROR)); // retain handling 3
    check(V5, 0x82, b"\0\x01\0\0\x01a\x40", Some(MALFORMED));
    check(
        V5,
        0x82,
        b"\0\x01\x02\x0B\x00\0\x01a\x00",
        Some(PROTOCOL_ERROR),
    );
    check(
        V5,
        0x82,
        b"\0\x01\x04\x0B\x01\x0B\x01\0\x01a\x00",
        Some(PROTOCOL_ERROR),
    );
    check(
        V5,
        0x82,
        b"\0\x01\0\0\x0a$share/g/a\x04",
        Some(PROTOCOL_ERROR),
    );
    check(V5, 0x82, b"\0\x01\x02\x01\x00\0\x01a\x00", Some(MALFORMED));
    check(V4, 0xA2, b"\0\x01\0\x01a", None);
    check(V4, 0xA2, b"\0\x01", Some(PROTOCOL_ERROR));
    check(V4, 0xA2, b"\0\0\0\x01a", Some(PROTOCOL_ERROR));
    check(V5, 0xA2, b"\0\x01\0\0\x01a", None);
    check(V5, 0xA2, b"\0\x01\x02\x0B\x01\0\x01a", Some(MALFORMED));

    let packet = decode_frame(V5, &frame(0x82, b"\0\x07\x03\x0B\x80\x01\0\x01a\x1D")).unwrap();
    let Packet::Subscribe(subscribe) = packet else {
        panic!("{packet:?}")
    };
    assert_eq!((subscribe.id, subscribe.subscription_id), (7, Some(128)));
    let options = Options {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retained: SendRetained::IfNew,
    };
    assert_eq!(subscribe.filters, [("a".into(), options)]);
}

#[test]
fn the_other_packets_are_checked() {
    let check = |protocol, first, body: &[u8], expect| {
        assert_eq!(
            reason(protocol, first, body),
            expect,
            "{protocol:?} {first:02x} {body:02x?}"
        );
    };
    check(V4, 0xC0, &[], None);
    check(V4, 0xC0, &[0], Some(MALFORMED));
    check(V4, 0xE0, &[], None);
    check(V4, 0xE0, &[0], Some(MALFORMED));
    check(V5, 0xE0, &[], None);
    check(V5, 0xE0, &[4], None);
    check(V5, 0xE0, &[4, 0], None);
    check(V5, 0xE0, &[0x8B], Some(PROTOCOL_ERROR)); // a server's reason
    check(V5, 0xE0, &[0, 5, 0x11, 0, 0, 0, 1], None);
    check(V5, 0xE0, &[0, 2, 0x01, 0], Some(MALFORMED));
    check(V5, 0xE0, &[0, 0, 0], Some(MALFORMED));
    check(V5, 0x10, &[], Some(PROTOCOL_ERROR)); // a second CONNECT
    check(V5, 0xF0, &[], Some(PROTOCOL_ERROR));
    check(V4, 0xF0, &[], Some(MALFORMED));
    for first in [0x20, 0x90, 0xB0, 0xD0] {
        check(V4, first, &[], Some(PROTOCOL_ERROR));
        check(V5, first, &[0, 1, 0], Some(PROTOCOL_ERROR));
    }
    let packet = decode_frame(V5, &[0xE0, 7, 0x04, 5, 0x11, 0, 0, 0, 9]).unwrap();
    let expect = Disconnect {
        reason: 4,
        session_expiry_secs: Some(9),
    };
    assert!(matches!(packet, Packet::Disconnect(found) if found == expect));
}

fn connect(level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    frame(
        0x10,
        &[b"\0\x04MQTT", &[level, flags, 0, 10][..], rest].concat(),
    )
}

#[test]
fn connects_are_checked() {
    let check = |bytes: &[u8], expect: Option<(Option<Protocol>, u8)>| {
        let found = decode_connect_frame(bytes).err();
        let found = found.map(|refusal| (refusal.protocol, refusal.error.reason));
        assert_eq!(found, expect, "{bytes:02x?}");
    };
    let v4 = |reason| Some((Some(V4), reason));
    let v5 = |reason| Some((Some(V5), reason));
    check(&connect(4, 0x02, b"\0\x01a"), None);
    check(&connect(5, 0x02, b"\0\0\x01a"), None);
    check(&connect(3, 0x02, b"\0\x01a"), v4(UNSUPPORTED_PROTOCOL));
    check(&connect(6, 0x02, b"\0\0\x01a"), v5(UNSUPPORTED_PROTOCOL));
    check(
        &frame(0x10, b"\0\x06MQIsdp\x03\x02\0\0\0\x01a"),
        v4(UNSUPPORTED_PROTOCOL),
    );
    check(
        &frame(0x10, b"\0\x04MQTX\x04\x02\0\0\0\x01a"),
        Some((None, UNSUPPORTED_PROTOCOL)),
    );
    check(&frame(0x10, b""), Some((None, MALFORMED)));
    check(&frame(0x10, b"\0\x04MQTT"), Some((None, MALFORMED)));
    check(&connect(4, 0x03, b"\0\x01a"), v4(MALFORMED)); // reserved flag
    check(&connect(4, 0x0A, b"\0\x01a"), v4(MALFORMED)); // will QoS without will
    check(&connect(4, 0x22, b"\0\x01a"), v4(MALFORMED)); // will retain without will
    check(&connect(4, 0x1E, b"\0\x01a\0\x01t\0\0"), v4(MALFORMED)); // will QoS 3
    check(&connect(4, 0x16, b"\0\x01a\0\x01t\0\x01x"), None);
    check(
        &connect(4, 0x06, b"\0\x01a\0\x01#\0\x01x"),
        v4(TOPIC_NAME_INVALID),
    );
    check(&connect(4, 0x06, b"\0\x01a\0\x01t"), v4(MALFORMED));
    check(&connect(4, 0x42, b"\0\x01a\0\x01p"), v4(MALFORMED)); // password alone
    check(&connect(5, 0x42, b"\0\0\x01a\0\x01p"), None);
    check(&connect(4, 0xC2, b"\0\x01a\0\x01u\0\x01p"), None);
    check(&connect(4, 0x82, b"\0\x01a"), v4(MALFORMED));
    check(&connect(4, 0x02, b"\0\x01a\0"), v4(MALFORMED)); // one byte more
    check(&connect(4, 0x02, b"\0\x01\0"), v4(MALFORMED)); // U+0000
    check(&connect(4, 0x02, b"\0\x01\xFF"), v4(MALFORMED));
    check(
        &connect(5, 0x02, b"\x03\x21\0\0\0\x01a"),
        v5(PROTOCOL_ERROR),
    ); // receive maximum 0
    check(
        &connect(5, 0x02, b"\x05\x27\0\0\0\0\0\x01a"),
        v5(PROTOCOL_ERROR),
    );
    check(
        &connect(5, 0x02, b"\x02\x17\x02\0\x01a"),
        v5(PROTOCOL_ERROR),
    );
    check(&connect(5, 0x02, b"\x02\x01\x01\0\x01a"), v5(MALFORMED));
    check(
        &connect(5, 0x02, b"\x06\x21\0\x01\x21\0\x01\0\x01a"),
        v5(PROTOCOL_ERROR),
    );
    check(
        &connect(5, 0x02, b"\x04\x15\0\x01m\0\x01a"),
        v5(BAD_AUTHENTICATION_METHOD),
    );
    check(
        &connect(5, 0x02, b"\x04\x16\0\x01d\0\x01a"),
        v5(PROTOCOL_ERROR),
    );
    check(
        &connect(5, 0x06, b"\0\0\x01a\x05\x18\0\0\0\x09\0\x01t\0\x01x"),
        None,
    );
    check(
        &connect(5, 0x06, b"\0\0\x01a\x02\x23\x01\0\x01t\0\x01x"),
        v5(MALFORMED),
    );
}

#[test]
fn packets_for_clients_are_encoded() {
    let check = |expect: &[u8], write: &dyn Fn(&mut BytesMut)| {
        assert_eq!(written(write), expect);
    };
    check(&[0x40, 2, 1, 2], &|out| {
        encode::ack(out, V5, Kind::PubAck, 258, 0, None)
    });
    check(&[0x62, 2, 0, 2], &|out| {
        encode::ack(out, V4, Kind::PubRel, 2, 0x92, Some("x"))
    });
    check(&[0x62, 3, 0, 2, 0x92], &|out| {
        encode::ack(out, V5, Kind::PubRel, 2, 0x92, None)
    });
    check(&[0x50, 9, 0, 2, 0x97, 5, 0x1F, 0, 2, b'n', b'o'], &|out| {
        encode::ack(out, V5, Kind::PubRec, 2, 0x97, Some("no"));
    });
    check(&[0x90, 4, 0, 1, 2, 0x80], &|out| {
        assert!(encode::suback(out, V4, 1, &[2, 0x8F], usize::MAX))
    });
    check(&[0x90, 5, 0, 1, 0, 2, 0x8F], &|out| {
        assert!(encode::suback(out, V5, 1, &[2, 0x8F], usize::MAX))
    });
    check(&[0xB0, 2, 0, 1], &|out| {
        assert!(encode::unsuback(out, V4, 1, &[0], usize::MAX))
    });
    check(&[0xB0, 4, 0, 1, 0, 0x11], &|out| {
        assert!(encode::unsuback(out, V5, 1, &[0x11], usize::MAX))
    });
    check(&[0xE0, 1, 0x8B], &|out| encode::disconnect(out, 0x8B, None));
    check(&[0x20, 2, 0, 3], &|out| {
        assert!(encode::connack_refused(out, V4, SERVER_BUSY));
    });
    check(&[0x20, 3, 0, 0x89, 0], &|out| {
        assert!(encode::connack_refused(out, V5, SERVER_BUSY));
    });
    check(&[], &|out| {
        assert!(!encode::connack_refused(out, V4, MALFORMED))
    });
}
