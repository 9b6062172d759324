//! MQTT packets of both versions, by rumqttc's codecs.
//!
//! Only the codecs: rumqttc's event loop keeps its own list of unacknowledged
//! publishes, resends it by its own rules, stalls when acknowledgements come
//! out of order, and loses a place of its window with each refused QoS 2
//! publish. A device here must be the only owner of what is resent, so
//! [`crate::session`] drives the socket and [`crate::window`] keeps the books.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{QoS as QosV4, v4};
use rumqttc::v5::mqttbytes::{QoS as QosV5, v5};

/// The largest packet that a gateway may send to a device that subscribes to nothing.
const PACKET_BYTES_MAX: usize = 64 * 1024;

/// The user property that carries the identity.
const IDENTITY_PROPERTY: &str = "idempotency-key";

/// Which MQTT a device speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

impl Version {
    /// The name in reports and on the command line.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// Delivery as asked for on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Zero,
    One,
    Two,
}

/// Name and password, both or neither.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// A publish on its way out.
pub(crate) struct Publish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) qos: Qos,
    /// Zero for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) payload: &'a Bytes,
    /// Sent as a user property where the version has them.
    pub(crate) identity: Option<String>,
}

/// What a gateway says to a device that only publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Accepted, with the gateway's limits.
    Accepted {
        receive_max: u16,
        keep_alive_secs: Option<u16>,
    },
    /// Refused before it began.
    Refused,
    PubAck {
        packet_id: u16,
        reason: u8,
    },
    PubRec {
        packet_id: u16,
        reason: u8,
    },
    PubComp {
        packet_id: u16,
    },
    PingResp,
    /// The gateway ends the connection.
    Disconnect,
    /// Nothing that a device has asked for.
    Unexpected,
}

/// Bytes that are not MQTT.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) String);

impl Version {
    /// Appends CONNECT with a clean session: what must be sent again is known here.
    pub(crate) fn connect(
        self,
        client_id: &str,
        keep_alive_secs: u16,
        login: Option<&Login>,
        out: &mut BytesMut,
    ) {
        match self {
            Self::V4 => {
                let mut connect = v4::Connect::new(client_id);
                connect.keep_alive = keep_alive_secs;
                if let Some(login) = login {
                    connect.set_login(&login.username, &login.password);
                }
                written(v4::Packet::Connect(connect).write(out, usize::MAX));
            }
            Self::V5 => {
                let connect = v5::Connect {
                    keep_alive: keep_alive_secs,
                    client_id: client_id.to_owned(),
                    clean_start: true,
                    properties: None,
                };
                let login = login.map(|login| v5::Login::new(&login.username, &login.password));
                written(v5::Packet::Connect(connect, None, login).write(out, None));
            }
        }
    }

    /// Appends PUBLISH.
    pub(crate) fn publish(self, publish: Publish<'_>, out: &mut BytesMut) {
        match self {
            Self::V4 => {
                let qos = match publish.qos {
                    Qos::Zero => QosV4::AtMostOnce,
                    Qos::One => QosV4::AtLeastOnce,
                    Qos::Two => QosV4::ExactlyOnce,
                };
                let mut packet =
                    v4::Publish::from_bytes(publish.topic, qos, publish.payload.clone());
                packet.pkid = publish.packet_id;
                written(packet.write(out));
            }
            Self::V5 => {
                let qos = match publish.qos {
                    Qos::Zero => QosV5::AtMostOnce,
                    Qos::One => QosV5::AtLeastOnce,
                    Qos::Two => QosV5::ExactlyOnce,
                };
                let properties = publish.identity.map(|identity| v5::PublishProperties {
                    user_properties: vec![(IDENTITY_PROPERTY.to_owned(), identity)],
                    ..Default::default()
                });
                let mut packet =
                    v5::Publish::new(publish.topic, qos, publish.payload.clone(), properties);
                packet.pkid = publish.packet_id;
                written(packet.write(out));
            }
        }
    }

    /// Appends PUBREL.
    pub(crate) fn pubrel(self, packet_id: u16, out: &mut BytesMut) {
        match self {
            Self::V4 => written(v4::PubRel::new(packet_id).write(out)),
            Self::V5 => written(v5::PubRel::new(packet_id, None).write(out)),
        }
    }

    /// Appends PINGREQ.
    pub(crate) fn pingreq(self, out: &mut BytesMut) {
        // The same two bytes in both versions.
        written(v4::Packet::PingReq.write(out, usize::MAX));
    }

    /// Appends DISCONNECT.
    pub(crate) fn disconnect(self, out: &mut BytesMut) {
        match self {
            Self::V4 => written(v4::Packet::Disconnect.write(out, usize::MAX)),
            Self::V5 => {
                let packet = v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection);
                written(packet.write(out));
            }
        }
    }

    /// Takes the next whole packet off `bytes`; `None` when there is none yet.
    ///
    /// # Errors
    /// When `bytes` are no packet of this version.
    pub(crate) fn read(self, bytes: &mut BytesMut) -> Result<Option<Incoming>, Malformed> {
        let Some(length) = frame_length(bytes)? else {
            return Ok(None);
        };
        // The codecs get whole frames only: inside one, their "insufficient
        // bytes" is a malformed packet, and not a reason to wait for more.
        let mut frame = bytes.split_to(length);
        if frame[0] == DISCONNECT {
            // Whatever its reason; the codec refuses the short forms.
            return Ok(Some(Incoming::Disconnect));
        }
        match self {
            Self::V4 => v4::Packet::read(&mut frame, PACKET_BYTES_MAX)
                .map(|packet| incoming_v4(&packet))
                .map_err(|error| Malformed(error.to_string())),
            Self::V5 => v5::Packet::read(&mut frame, None)
                .map(|packet| incoming_v5(&packet))
                .map_err(|error| Malformed(error.to_string())),
        }
        .map(Some)
    }
}

/// First byte of a DISCONNECT.
const DISCONNECT: u8 = 0xe0;

/// The length of the first packet, header included, once all of it is there.
fn frame_length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut remaining = 0;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if remaining > PACKET_BYTES_MAX {
                return Err(Malformed(format!("a packet of {remaining} bytes")));
            }
            let length = 2 + index + remaining;
            return Ok((length <= bytes.len()).then_some(length));
        }
    }
    if bytes.len() > 4 {
        return Err(Malformed(
            "a packet length of more than four bytes".to_owned(),
        ));
    }
    Ok(None)
}

/// Packets are made here from checked parts and stay far below MQTT's limits.
fn written<E: std::fmt::Debug>(result: Result<usize, E>) {
    result.expect("topic, identity and payload are checked to fit in a packet");
}

fn incoming_v4(packet: &v4::Packet) -> Incoming {
    match packet {
        v4::Packet::ConnAck(ack) if ack.code == v4::ConnectReturnCode::Success => {
            Incoming::Accepted {
                receive_max: u16::MAX,
                keep_alive_secs: None,
            }
        }
        v4::Packet::ConnAck(_) => Incoming::Refused,
        v4::Packet::PubAck(ack) => Incoming::PubAck {
            packet_id: ack.pkid,
            reason: 0,
        },
        v4::Packet::PubRec(ack) => Incoming::PubRec {
            packet_id: ack.pkid,
            reason: 0,
        },
        v4::Packet::PubComp(ack) => Incoming::PubComp {
            packet_id: ack.pkid,
        },
        v4::Packet::PingResp => Incoming::PingResp,
        _ => Incoming::Unexpected,
    }
}

fn incoming_v5(packet: &v5::Packet) -> Incoming {
    match packet {
        v5::Packet::ConnAck(ack) if ack.code == v5::ConnectReturnCode::Success => {
            let properties = ack.properties.as_ref();
            Incoming::Accepted {
                receive_max: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
                keep_alive_secs: properties.and_then(|p| p.server_keep_alive),
            }
        }
        v5::Packet::ConnAck(_) => Incoming::Refused,
        v5::Packet::PubAck(ack) => Incoming::PubAck {
            packet_id: ack.pkid,
            reason: match ack.reason {
                v5::PubAckReason::Success => 0x00,
                v5::PubAckReason::NoMatchingSubscribers => 0x10,
                v5::PubAckReason::UnspecifiedError => 0x80,
                v5::PubAckReason::ImplementationSpecificError => 0x83,
                v5::PubAckReason::NotAuthorized => 0x87,
                v5::PubAckReason::TopicNameInvalid => 0x90,
                v5::PubAckReason::PacketIdentifierInUse => 0x91,
                v5::PubAckReason::QuotaExceeded => 0x97,
                v5::PubAckReason::PayloadFormatInvalid => 0x99,
            },
        },
        v5::Packet::PubRec(ack) => Incoming::PubRec {
            packet_id: ack.pkid,
            reason: match ack.reason {
                v5::PubRecReason::Success => 0x00,
                v5::PubRecReason::NoMatchingSubscribers => 0x10,
                v5::PubRecReason::UnspecifiedError => 0x80,
                v5::PubRecReason::ImplementationSpecificError => 0x83,
                v5::PubRecReason::NotAuthorized => 0x87,
                v5::PubRecReason::TopicNameInvalid => 0x90,
                v5::PubRecReason::PacketIdentifierInUse => 0x91,
                v5::PubRecReason::QuotaExceeded => 0x97,
                v5::PubRecReason::PayloadFormatInvalid => 0x99,
            },
        },
        v5::Packet::PubComp(ack) => Incoming::PubComp {
            packet_id: ack.pkid,
        },
        v5::Packet::PingResp(_) => Incoming::PingResp,
        v5::Packet::Disconnect(_) => Incoming::Disconnect,
        _ => Incoming::Unexpected,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_publish_carries_its_identity_as_the_user_property() {
        let mut out = BytesMut::new();
        Version::V5.publish(
            Publish {
                topic: "devices/a/telemetry",
                qos: Qos::One,
                packet_id: 7,
                payload: &Bytes::from_static(b"{}"),
                identity: Some("sim-a-1-2".to_owned()),
            },
            &mut out,
        );
        let v5::Packet::Publish(publish) = v5::Packet::read(&mut out, None).unwrap() else {
            panic!("not a publish");
        };
        assert_eq!(publish.pkid, 7);
        assert_eq!(
            publish.properties.unwrap().user_properties,
            [("idempotency-key".to_owned(), "sim-a-1-2".to_owned())]
        );
    }

    #[test]
    fn acknowledgements_are_read_with_their_reason() {
        for (version, bytes, expect) in [
            (
                Version::V4,
                &[0x40, 2, 0, 9][..],
                Incoming::PubAck {
                    packet_id: 9,
                    reason: 0,
                },
            ),
            (
                Version::V5,
                &[0x40, 2, 0, 9],
                Incoming::PubAck {
                    packet_id: 9,
                    reason: 0,
                },
            ),
            (
                Version::V5,
                &[0x40, 3, 0, 9, 0x97],
                Incoming::PubAck {
                    packet_id: 9,
                    reason: 0x97,
                },
            ),
            (
                Version::V5,
                &[0x40, 4, 0, 9, 0x87, 0],
                Incoming::PubAck {
                    packet_id: 9,
                    reason: 0x87,
                },
            ),
            (
                Version::V5,
                &[0x50, 3, 0, 9, 0x97],
                Incoming::PubRec {
                    packet_id: 9,
                    reason: 0x97,
                },
            ),
            (
                Version::V5,
                &[0x70, 2, 0, 9],
                Incoming::PubComp { packet_id: 9 },
            ),
            (
                Version::V4,
                &[0x50, 2, 1, 0],
                Incoming::PubRec {
                    packet_id: 256,
                    reason: 0,
                },
            ),
            (Version::V5, &[0xe0, 0], Incoming::Disconnect),
            (Version::V5, &[0xe0, 1, 0x8b], Incoming::Disconnect),
            (
                Version::V4,
                &[0x20, 2, 0, 0],
                Incoming::Accepted {
                    receive_max: u16::MAX,
                    keep_alive_secs: None,
                },
            ),
            (Version::V4, &[0x20, 2, 0, 5], Incoming::Refused),
            (
                Version::V5,
                &[0x20, 6, 0, 0, 3, 0x21, 0, 10],
                Incoming::Accepted {
                    receive_max: 10,
                    keep_alive_secs: None,
                },
            ),
        ] {
            assert_eq!(
                version.read(&mut BytesMut::from(bytes)),
                Ok(Some(expect)),
                "{bytes:x?}"
            );
            let torn = &bytes[..bytes.len() - 1];
            assert_eq!(
                version.read(&mut BytesMut::from(torn)),
                Ok(None),
                "{torn:x?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_from_the_network_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for version in [Version::V4, Version::V5] {
                let mut bytes = BytesMut::from(bytes.as_slice());
                while let Ok(Some(_)) = version.read(&mut bytes) {}
            }
        }
    }
}
