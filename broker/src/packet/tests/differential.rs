//! rumqttd's codecs as the peer: what they write we read the same, what we write
//! they read the same, and no noise makes us panic.

use std::sync::Arc;

use proptest::prelude::*;
use rumqttd::protocol::{self as peer, Protocol as _, v4::V4, v5::V5};

use super::*;
use crate::{
    Publish, QoS,
    fanout::Message,
    packet::{
        encode::{self, Alias},
        is_v5,
    },
    publish::Properties,
};

fn peer_write(protocol: Protocol, packet: peer::Packet) -> Vec<u8> {
    let mut out = BytesMut::new();
    if is_v5(protocol) {
        V5.write(packet, &mut out)
    } else {
        V4.write(packet, &mut out)
    }
    .unwrap();
    out.to_vec()
}

fn peer_read(protocol: Protocol, bytes: &[u8]) -> Result<peer::Packet, peer::Error> {
    let mut input = BytesMut::from(bytes);
    let max = 1024 * 1024;
    if is_v5(protocol) {
        V5.read_mut(&mut input, max)
    } else {
        V4.read_mut(&mut input, max)
    }
}

/// Their PUBLISH keeps some fields to itself; this is the way in.
fn peer_publish(publish: &Publish, id: u16) -> peer::Publish {
    let mut raw = vec![
        0x30 | u8::from(publish.retain) | (publish.qos as u8) << 1 | u8::from(publish.dup) << 3,
    ];
    raw.extend(id.to_be_bytes());
    raw.extend(u16::try_from(publish.topic.len()).unwrap().to_be_bytes());
    raw.extend(publish.topic.as_bytes());
    raw.extend(&publish.payload);
    peer::Publish::deserialize(raw.into())
}

fn peer_properties(properties: &Properties) -> peer::PublishProperties {
    let text = |text: &Option<Arc<str>>| text.as_ref().map(ToString::to_string);
    peer::PublishProperties {
        payload_format_indicator: properties.payload_is_utf8.map(u8::from),
        message_expiry_interval: properties.message_expiry_secs,
        topic_alias: None,
        response_topic: text(&properties.response_topic),
        correlation_data: properties.correlation_data.clone(),
        user_properties: properties
            .user
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        subscription_identifiers: Vec::new(),
        content_type: text(&properties.content_type),
    }
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::V4), Just(Protocol::V5)]
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![
        Just(QoS::AtMostOnce),
        Just(QoS::AtLeastOnce),
        Just(QoS::ExactlyOnce)
    ]
}

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-zü/ 日$]{1,12}".prop_map(Arc::from)
}

prop_compose! {
    fn properties()(
        payload_is_utf8 in any::<Option<bool>>(),
        message_expiry_secs in any::<Option<u32>>(),
        content_type in prop::option::of(name()),
        response_topic in prop::option::of(name()),
        correlation_data in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        user in prop::collection::vec((name(), name()), 0..4),
    ) -> Properties {
        Properties {
            payload_is_utf8,
            message_expiry_secs,
            content_type,
            response_topic,
            correlation_data: correlation_data.map(Bytes::from),
            user,
        }
    }
}

prop_compose! {
    fn publishes()(
        topic in name(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        qos in qos(),
        retain: bool,
        dup: bool,
        properties in properties(),
    ) -> Publish {
        Publish {
            topic,
            payload: payload.into(),
            qos,
            retain,
            dup: dup && qos != QoS::AtMostOnce,
            properties: (properties != Properties::default()).then(|| Arc::new(properties)),
            delivery: None,
        }
    }
}

fn aliases() -> impl Strategy<Value = Option<Alias>> {
    prop_oneof![
        Just(None),
        (1_u16..).prop_map(|alias| Some(Alias::New(alias))),
        (1_u16..).prop_map(|alias| Some(Alias::Known(alias))),
    ]
}

proptest! {
    #[test]
    fn publishes_that_rumqttd_writes_are_read(
        protocol in protocols(),
        mut publish in publishes(),
        id in 1_u16..,
    ) {
        if !is_v5(protocol) {
            publish.properties = None;
        }
        let properties = publish.properties.as_deref().map(peer_properties);
        let bytes =
            peer_write(protocol, peer::Packet::Publish(peer_publish(&publish, id), properties));
        let Ok(Packet::Publish(found)) = decode_frame(protocol, &bytes) else {
            panic!("{bytes:02x?}");
        };
        prop_assert_eq!(found.id, if publish.qos == QoS::AtMostOnce { 0 } else { id });
        let found = found.publish;
        prop_assert_eq!(&found.topic, &publish.topic);
        prop_assert_eq!(&found.payload, &publish.payload);
        prop_assert_eq!(
            (found.qos, found.retain, found.dup),
            (publish.qos, publish.retain, publish.dup)
        );
        prop_assert_eq!(&found.properties, &publish.properties);
    }

    #[test]
    fn publishes_that_we_write_are_read_by_rumqttd(
        protocol in protocols(),
        publish in publishes(),
        id in 1_u16..,
        subscription_ids in prop::collection::vec(1_u32..268_435_455, 0..3),
        alias in aliases(),
    ) {
        let message = Message::new(&publish, 0, 0, 0, &Arc::new(crate::budget::Budget::of(0)));
        let expiry_secs = message.expiry_secs();
        let delivery = encode::Delivery {
            message: &message,
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            id,
            expiry_secs,
            subscription_ids: &subscription_ids,
            alias,
        };
        let bytes = written(|out| assert!(encode::publish(out, protocol, &delivery, usize::MAX)));
        let size = bytes.len();
        written(|out| assert!(encode::publish(out, protocol, &delivery, size)));
        written(|out| assert!(!encode::publish(out, protocol, &delivery, size - 1)));

        let Ok(peer::Packet::Publish(found, properties)) = peer_read(protocol, &bytes) else {
            panic!("{bytes:02x?}");
        };
        let mut expect = publish.clone();
        let id = if publish.qos == QoS::AtMostOnce { 0 } else { id };
        if is_v5(protocol) && matches!(alias, Some(Alias::Known(_))) {
            expect.topic = Arc::from("");
        }
        prop_assert_eq!(found, peer_publish(&expect, id));
        let expect = is_v5(protocol).then(|| {
            let known = publish.properties.as_deref().cloned().unwrap_or_default();
            let mut expect = peer_properties(&known);
            expect.subscription_identifiers =
                subscription_ids.iter().map(|&id| id as usize).collect();
            expect.topic_alias = alias.map(|(Alias::New(n) | Alias::Known(n))| n);
            expect
        });
        prop_assert_eq!(properties.unwrap_or_default(), expect.unwrap_or_default());
    }

    #[test]
    fn connects_that_rumqttd_writes_are_read(
        protocol in protocols(),
        keep_alive: u16,
        client_id in name(),
        clean: bool,
        will in prop::option::of(publishes()),
        username in prop::option::of(name()),
        receive_max in prop::option::of(1_u16..),
        packet_max in prop::option::of(1_u32..),
    ) {
        let v5 = is_v5(protocol);
        let connect = peer::Connect {
            keep_alive,
            client_id: client_id.to_string(),
            clean_session: clean,
        };
        let properties = v5.then(|| peer::ConnectProperties {
            session_expiry_interval: Some(3),
            receive_maximum: receive_max,
            max_packet_size: packet_max,
            topic_alias_max: Some(9),
            request_response_info: Some(1),
            request_problem_info: Some(0),
            user_properties: vec![("a".into(), "b".into())],
            authentication_method: None,
            authentication_data: None,
        });
        let last_will = will.as_ref().map(|will| peer::LastWill {
            topic: Bytes::copy_from_slice(will.topic.as_bytes()),
            message: will.payload.clone(),
            qos: peer::qos(will.qos as u8).unwrap(),
            retain: will.retain,
        });
        let login = username.as_ref().map(|name| peer::Login {
            username: name.to_string(),
            password: "p".into(),
        });
        let packet = peer::Packet::Connect(connect, properties, last_will, None, login);
        let found = decode_connect_frame(&peer_write(protocol, packet)).unwrap();
        prop_assert_eq!(found.protocol, protocol);
        prop_assert_eq!(found.clean, clean);
        prop_assert_eq!(found.keep_alive.map_or(0, |said| said.as_secs()), u64::from(keep_alive));
        prop_assert_eq!(found.client_id, client_id);
        prop_assert_eq!(found.username, username);
        if v5 {
            prop_assert_eq!(found.receive_max, receive_max.unwrap_or(u16::MAX));
            prop_assert_eq!(
                found.packet_bytes_max,
                packet_max.map_or(usize::MAX, |max| max as usize)
            );
            prop_assert!(!found.problem_information);
        }
        prop_assert_eq!(found.will.is_some(), will.is_some());
        if let (Some(found), Some(will)) = (found.will, will) {
            prop_assert_eq!(found.publish.topic, will.topic);
            prop_assert_eq!(found.publish.payload, will.payload);
            prop_assert_eq!((found.publish.qos, found.publish.retain), (will.qos, will.retain));
        }
    }

    #[test]
    fn a_mutated_publish_that_we_take_is_one_that_rumqttd_takes(
        protocol in protocols(),
        mut publish in publishes(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        if !is_v5(protocol) {
            publish.properties = None;
        }
        let properties = publish.properties.as_deref().map(peer_properties);
        let mut bytes =
            peer_write(protocol, peer::Packet::Publish(peer_publish(&publish, 1), properties));
        let header = Header::peek(&bytes, usize::MAX).unwrap().unwrap();
        // Not the fixed header: its lengths are another table's matter.
        if header.body > 0 {
            let at = header.len + at.index(header.body);
            bytes[at] = byte;
        }
        if decode_frame(protocol, &bytes).is_ok() {
            prop_assert!(peer_read(protocol, &bytes).is_ok(), "{:02x?}", bytes);
        }
    }

    #[test]
    fn noise_never_panics(
        protocol in protocols(),
        kind in 1_u8..16,
        flags in 0_u8..16,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = frame(kind << 4 | flags, &body);
        if let Ok(Some(header)) = Header::peek(&bytes, usize::MAX) {
            let body = Bytes::copy_from_slice(&bytes[header.len..]);
            let mut topics = Topics::default();
            decode(protocol, header, &body, &mut topics).ok();
            decode_connect(&body).ok();
        }
        Header::peek(&body, 100).ok();
    }

    #[test]
    fn noise_behind_a_protocol_name_never_panics(
        level in 4_u8..6,
        body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let body = [b"\0\x04MQTT", &[level][..], &body].concat();
        decode_connect(&body.into()).ok();
    }
}
