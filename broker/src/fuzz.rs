//! Entries for the fuzzer in `broker/fuzz`: none may panic, whatever the bytes, and
//! what they say of themselves must hold.

mod carriers;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::{
    Protocol, QoS,
    budget::Budget,
    fanout::Message,
    filters::Filters,
    packet::{self, Header, Kind, Packet, decode, decode_connect, encode},
    topic::{self, Topics},
};

pub use carriers::{proxy, websocket_frames, websocket_handshake};

const PROTOCOLS: [Protocol; 2] = [Protocol::V4, Protocol::V5];

/// A whole frame, as every packet of both versions.
pub fn packets(data: &[u8]) {
    let Ok(Some(header)) = Header::peek(data, usize::MAX) else {
        return;
    };
    let body = Bytes::copy_from_slice(&data[header.len..]);
    let mut topics = Topics::default();
    for protocol in PROTOCOLS {
        decode(protocol, header, &body, &mut topics).ok();
    }
    decode_connect(&body).ok();
}

/// The body of a CONNECT. What is taken names a version and a will that fit it.
pub fn connect(data: &[u8]) {
    let Ok(connect) = decode_connect(&Bytes::copy_from_slice(data)) else {
        return;
    };
    assert!(connect.receive_max > 0 && connect.packet_bytes_max > 0);
    if connect.protocol == Protocol::V4 {
        assert!(connect.topic_alias_max == 0 && connect.session_expiry_secs == 0);
        let properties = connect.will.and_then(|will| will.publish.properties);
        assert!(properties.is_none());
    }
}

/// Flags and the body of a PUBLISH. What is taken is written and read again as the same.
pub fn publish(data: &[u8]) {
    for protocol in PROTOCOLS {
        let Some(Packet::Publish(found)) = body(Kind::Publish, protocol, data) else {
            continue;
        };
        let mut publish = found.publish;
        // Properties beyond the limit are gone, and these answered with their reason.
        if found.excess {
            continue;
        }
        let message = Message::new(&publish, 0, 0, 0, &Arc::new(Budget::of(0)));
        let mut out = BytesMut::new();
        let delivery = encode::Delivery {
            message: &message,
            qos: publish.qos,
            retain: publish.retain,
            dup: false,
            id: found.id,
            expiry_secs: message.expiry_secs(),
            subscription_ids: &[],
            alias: None,
        };
        assert!(encode::publish(&mut out, protocol, &delivery, usize::MAX));
        let header = Header::peek(&out, usize::MAX)
            .expect("a header of ours")
            .expect("a whole one");
        let body = out.freeze().slice(header.len..);
        let again = decode(protocol, header, &body, &mut Topics::default());
        let Ok(Packet::Publish(again)) = again else {
            panic!("what we wrote is not read: {again:?}");
        };
        publish.dup = false;
        assert_eq!(again.id, found.id);
        assert_eq!(format!("{:?}", again.publish), format!("{publish:?}"));
    }
}

/// Which of the four acknowledgements, and its body.
pub fn acks(data: &[u8]) {
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    let kind = [Kind::PubAck, Kind::PubRec, Kind::PubRel, Kind::PubComp][usize::from(which % 4)];
    for protocol in PROTOCOLS {
        if let Some(
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack),
        ) = body(kind, protocol, rest)
        {
            assert!(ack.id > 0);
        }
    }
}

/// Flags and the body of a SUBSCRIBE.
pub fn subscribe(data: &[u8]) {
    for protocol in PROTOCOLS {
        if let Some(Packet::Subscribe(found)) = body(Kind::Subscribe, protocol, data) {
            assert!(found.id > 0 && found.subscription_id != Some(0));
            assert!((1..=packet::FILTERS_MAX).contains(&found.filters.len()));
            for (filter, options) in &found.filters {
                assert!(!(options.no_local && filter.starts_with("$share/")));
                topic::check_filter(filter).ok();
                if let Some(Ok(inner)) = topic::shared_filter(filter) {
                    topic::check_filter(inner).expect("checked");
                }
            }
        }
    }
}

/// Flags and the body of an UNSUBSCRIBE.
pub fn unsubscribe(data: &[u8]) {
    for protocol in PROTOCOLS {
        if let Some(Packet::Unsubscribe(found)) = body(Kind::Unsubscribe, protocol, data) {
            assert!(found.id > 0 && !found.filters.is_empty());
        }
    }
}

/// Which of the packets without much in them, and its body: DISCONNECT, PINGREQ, AUTH,
/// and what only servers send.
pub fn small(data: &[u8]) {
    const KINDS: [Kind; 7] = [
        Kind::Disconnect,
        Kind::PingReq,
        Kind::Auth,
        Kind::ConnAck,
        Kind::SubAck,
        Kind::UnsubAck,
        Kind::PingResp,
    ];
    let Some((which, rest)) = data.split_first() else {
        return;
    };
    let which = usize::from(*which) % KINDS.len();
    for protocol in PROTOCOLS {
        let taken = body(KINDS[which], protocol, rest).is_some();
        assert!(!taken || which < 2, "a packet that clients do not send");
    }
}

/// A topic and filters, one a line: the trie agrees with [`topic::matches`] and with the
/// specification's rule, written out.
pub fn matching(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.lines().take(20);
    let Some(name) = lines.next() else { return };
    if topic::Topic::parse(name.as_bytes()).is_err() {
        return;
    }
    let filters: Vec<&str> = lines
        .filter(|line| topic::check_filter(line).is_ok())
        .collect();
    let mut trie = Filters::default();
    for (key, filter) in (0_u64..).zip(&filters) {
        trie.insert(filter, key, (), |(), ()| {});
    }
    let mut found = Vec::new();
    trie.visit(name, &mut |key, ()| {
        found.push(key);
        false
    });
    found.sort_unstable();
    let expect: Vec<u64> = (0_u64..)
        .zip(&filters)
        .filter(|(_, filter)| {
            let expect = rule(name, filter);
            assert_eq!(topic::matches(name, filter), expect, "{name:?} {filter:?}");
            expect
        })
        .map(|(key, _)| key)
        .collect();
    assert_eq!(found, expect, "{name:?} {filters:?}");
    for (key, filter) in (0_u64..).zip(&filters) {
        assert!(trie.remove(filter, key).is_some());
    }
    assert_eq!(trie.len(), 0);
}

/// Section 4.7, level by level.
fn rule(name: &str, filter: &str) -> bool {
    fn levels(names: &[&str], filters: &[&str]) -> bool {
        match (names, filters) {
            ([], []) | (_, ["#"]) => true,
            ([_, names @ ..], ["+", filters @ ..]) => levels(names, filters),
            ([name, names @ ..], [filter, filters @ ..]) => {
                name == filter && levels(names, filters)
            }
            _ => false,
        }
    }
    let hidden = name.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#'));
    let split = |text| str::split(text, '/').collect::<Vec<&str>>();
    !hidden && levels(&split(name), &split(filter))
}

/// Decodes one packet; the first byte of `data` has the flags where they are free.
fn body(kind: Kind, protocol: Protocol, data: &[u8]) -> Option<Packet> {
    let (flags, rest) = match kind {
        Kind::Publish => data
            .split_first()
            .map(|(first, rest)| (first & 0x0F, rest))?,
        Kind::PubRel | Kind::Subscribe | Kind::Unsubscribe => (0b0010, data),
        _ => (0, data),
    };
    let header = Header {
        kind,
        flags,
        len: 2,
        body: rest.len(),
    };
    let mut topics = Topics::default();
    let packet = decode(protocol, header, &Bytes::copy_from_slice(rest), &mut topics).ok()?;
    if let Packet::Publish(found) = &packet {
        assert_eq!(found.id == 0, found.publish.qos == QoS::AtMostOnce);
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn what_the_fuzzer_begins_with_holds() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 11] = [
            ("acks", super::acks),
            ("connect", super::connect),
            ("matching", super::matching),
            ("packets", super::packets),
            ("proxy", super::proxy),
            ("publish", super::publish),
            ("small", super::small),
            ("subscribe", super::subscribe),
            ("unsubscribe", super::unsubscribe),
            ("websocket_frames", super::websocket_frames),
            ("websocket_handshake", super::websocket_handshake),
        ];
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        assert_eq!(fs::read_dir(&corpus).unwrap().count(), targets.len());
        for (name, target) in targets {
            let mut seeds = 0;
            for seed in fs::read_dir(corpus.join(name)).unwrap() {
                target(&fs::read(seed.unwrap().path()).unwrap());
                seeds += 1;
            }
            assert!(seeds > 0, "{name}");
        }
    }
}
