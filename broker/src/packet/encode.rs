//! Encodes what a server sends, appended to one output buffer.

use bytes::{BufMut, BytesMut};

use super::{Kind, is_v5, reason};
use crate::{Protocol, Publish, QoS, fanout::Message, publish::Properties};

/// What a CONNACK of MQTT 5 announces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Announce<'a> {
    pub(crate) receive_max: u16,
    pub(crate) packet_bytes_max: usize,
    pub(crate) topic_alias_max: u16,
    /// The session was there before.
    pub(crate) session_present: bool,
    /// The session's expiry, where it is not what the client asked for.
    pub(crate) session_expiry_secs: Option<u32>,
    /// Something may be retained.
    pub(crate) retains: bool,
    /// Messages that the session's queue had no room for.
    pub(crate) dropped: u64,
    pub(crate) assigned_client_id: Option<&'a str>,
    /// The keep-alive that counts, where it is not the client's own.
    pub(crate) keep_alive_secs: Option<u16>,
    /// Where the client may have responses sent, if it asked.
    pub(crate) response_information: Option<&'a str>,
}

/// The user property of CONNACK that says how many messages a session did not get.
const MESSAGES_DROPPED: &str = "messages-dropped";

/// CONNACK with success. Returns false, and writes nothing, if the packet would be
/// larger than `frame_max` even without what the client can find out by itself.
pub(crate) fn connack(
    out: &mut BytesMut,
    protocol: Protocol,
    announce: &Announce<'_>,
    frame_max: usize,
) -> bool {
    if !is_v5(protocol) {
        out.put_slice(&[0x20, 2, u8::from(announce.session_present), 0]);
        return true;
    }
    let mut block = BytesMut::with_capacity(64);
    if let Some(secs) = announce.session_expiry_secs {
        block.put_u8(0x11);
        block.put_u32(secs);
    }
    block.put_u8(0x21);
    block.put_u16(announce.receive_max);
    block.put_u8(0x27);
    block.put_u32(u32::try_from(announce.packet_bytes_max).unwrap_or(u32::MAX));
    if let Some(id) = announce.assigned_client_id {
        block.put_u8(0x12);
        put_str(&mut block, id);
    }
    if let Some(secs) = announce.keep_alive_secs {
        block.put_u8(0x13);
        block.put_u16(secs);
    }
    if !announce.retains {
        block.put_slice(&[0x25, 0]);
    }
    // QoS 2, retained messages otherwise, wildcards, subscription identifiers and shared
    // subscriptions are available, which is what their absence says.
    let needed = block.len();
    block.put_u8(0x22);
    block.put_u16(announce.topic_alias_max);
    if let Some(text) = announce.response_information {
        block.put_u8(0x1A);
        put_str(&mut block, text);
    }
    if announce.dropped > 0 {
        block.put_u8(0x26);
        put_str(&mut block, MESSAGES_DROPPED);
        put_str(&mut block, &announce.dropped.to_string());
    }
    let fits = |block: usize| {
        let body = 2 + varint_len(block) + block;
        1 + varint_len(body) + body <= frame_max
    };
    if !fits(block.len()) {
        // Without the one there are no aliases, and nobody may count on the other.
        block.truncate(needed);
    }
    if !fits(block.len()) {
        return false;
    }
    fixed(
        out,
        Kind::ConnAck,
        0,
        2 + varint_len(block.len()) + block.len(),
    );
    out.put_slice(&[u8::from(announce.session_present), reason::SUCCESS]);
    put_varint(out, block.len());
    out.put_slice(&block);
    true
}

/// The largest CONNACK with a refusal.
pub(crate) const REFUSAL_BYTES: usize = 5;

/// CONNACK with a refusal: an MQTT 5 reason code, translated for 3.1.1.
/// Returns whether there is a way to say it at all.
pub(crate) fn connack_refused(out: &mut BytesMut, protocol: Protocol, code: u8) -> bool {
    if is_v5(protocol) {
        out.put_slice(&[0x20, 3, 0, code, 0]);
        return true;
    }
    let code = match code {
        reason::UNSUPPORTED_PROTOCOL => 1,
        reason::CLIENT_ID_INVALID => 2,
        reason::SERVER_UNAVAILABLE | reason::SERVER_BUSY => 3,
        reason::QUOTA_EXCEEDED | reason::CONNECTION_RATE_EXCEEDED => 3,
        reason::BAD_USER_NAME => 4,
        reason::TOPIC_NAME_INVALID | reason::NOT_AUTHORIZED => 5,
        // For anything else 3.1.1 says: close without a word.
        _ => return false,
    };
    out.put_slice(&[0x20, 2, 0, code]);
    true
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP. `text` only goes to MQTT 5.
pub(crate) fn ack(
    out: &mut BytesMut,
    protocol: Protocol,
    kind: Kind,
    id: u16,
    code: u8,
    text: Option<&str>,
) {
    let flags = if kind == Kind::PubRel { 0b0010 } else { 0 };
    if !is_v5(protocol) || code == reason::SUCCESS {
        let [high, low] = id.to_be_bytes();
        out.put_slice(&[(kind as u8) << 4 | flags, 2, high, low]);
        return;
    }
    let block = text.map_or(0, |text| 3 + text.len());
    fixed(
        out,
        kind,
        flags,
        3 + if block > 0 {
            varint_len(block) + block
        } else {
            0
        },
    );
    out.put_u16(id);
    out.put_u8(code);
    if let Some(text) = text {
        put_varint(out, block);
        out.put_u8(0x1F);
        put_str(out, text);
    }
}

/// SUBACK; `codes` are MQTT 5 reason codes, anything refused is 0x80 in 3.1.1.
/// Returns false, and writes nothing, if the packet would be larger than `frame_max`.
pub(crate) fn suback(
    out: &mut BytesMut,
    protocol: Protocol,
    id: u16,
    codes: &[u8],
    frame_max: usize,
) -> bool {
    let v5 = is_v5(protocol);
    let body = 2 + usize::from(v5) + codes.len();
    if 1 + varint_len(body) + body > frame_max {
        return false;
    }
    fixed(out, Kind::SubAck, 0, body);
    out.put_u16(id);
    if v5 {
        out.put_u8(0);
        out.put_slice(codes);
    } else {
        out.extend(
            codes
                .iter()
                .map(|&code| if code >= 0x80 { 0x80 } else { code }),
        );
    }
    true
}

/// UNSUBACK. Returns false, and writes nothing, if the packet would be larger than
/// `frame_max`.
pub(crate) fn unsuback(
    out: &mut BytesMut,
    protocol: Protocol,
    id: u16,
    codes: &[u8],
    frame_max: usize,
) -> bool {
    if is_v5(protocol) {
        let body = 3 + codes.len();
        if 1 + varint_len(body) + body > frame_max {
            return false;
        }
        fixed(out, Kind::UnsubAck, 0, body);
        out.put_u16(id);
        out.put_u8(0);
        out.put_slice(codes);
    } else {
        fixed(out, Kind::UnsubAck, 0, 2);
        out.put_u16(id);
    }
    true
}

/// PINGRESP.
pub(crate) fn pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xD0, 0]);
}

/// DISCONNECT of MQTT 5, with the reason in words if `text` is given.
pub(crate) fn disconnect(out: &mut BytesMut, code: u8, text: Option<&str>) {
    match text {
        None => out.put_slice(&[0xE0, 1, code]),
        Some(text) => {
            let block = 3 + text.len();
            fixed(out, Kind::Disconnect, 0, 1 + varint_len(block) + block);
            out.put_u8(code);
            put_varint(out, block);
            out.put_u8(0x1F);
            put_str(out, text);
        }
    }
}

/// How one subscriber gets one message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery<'a> {
    pub(crate) message: &'a Message,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// It may have been sent before.
    pub(crate) dup: bool,
    /// 0 at QoS 0.
    pub(crate) id: u16,
    /// What is left of the message's lifetime.
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) subscription_ids: &'a [u32],
    pub(crate) alias: Option<Alias>,
}

/// The topic alias of a PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    /// From here on it stands for the topic, which is there too.
    New(u16),
    /// It stands for the topic, which is left out.
    Known(u16),
}

/// PUBLISH. Returns false, and writes nothing, if the packet would be larger
/// than `frame_max`.
pub(crate) fn publish(
    out: &mut BytesMut,
    protocol: Protocol,
    delivery: &Delivery<'_>,
    frame_max: usize,
) -> bool {
    let Delivery { message, qos, .. } = delivery;
    let (topic, alias) = match delivery.alias.filter(|_| is_v5(protocol)) {
        None => (message.topic(), None),
        Some(Alias::New(alias)) => (message.topic(), Some(alias)),
        Some(Alias::Known(alias)) => (&[][..], Some(alias)),
    };
    let mut body = 2 + topic.len() + message.payload().len();
    if *qos != QoS::AtMostOnce {
        body += 2;
    }
    let mut block = 0;
    if is_v5(protocol) {
        block = message.properties().len() + if delivery.expiry_secs.is_some() { 5 } else { 0 };
        for &id in delivery.subscription_ids {
            block += 1 + varint_len(id as usize);
        }
        if alias.is_some() {
            block += 3;
        }
        body += varint_len(block) + block;
    }
    if body > VARINT_MAX || 1 + varint_len(body) + body > frame_max {
        return false;
    }
    out.reserve(5 + body);
    fixed(
        out,
        Kind::Publish,
        u8::from(delivery.dup) << 3 | (*qos as u8) << 1 | u8::from(delivery.retain),
        body,
    );
    put_binary(out, topic);
    if *qos != QoS::AtMostOnce {
        out.put_u16(delivery.id);
    }
    if is_v5(protocol) {
        put_varint(out, block);
        out.put_slice(message.properties());
        if let Some(secs) = delivery.expiry_secs {
            out.put_u8(0x02);
            out.put_u32(secs);
        }
        for &id in delivery.subscription_ids {
            out.put_u8(0x0B);
            put_varint(out, id as usize);
        }
        if let Some(alias) = alias {
            out.put_u8(0x23);
            out.put_u16(alias);
        }
    }
    out.put_slice(message.payload());
    true
}

/// The properties of a message as they go to every MQTT 5 subscriber; the
/// lifetime is not among them, because it shrinks.
pub(crate) fn message_properties(out: &mut BytesMut, publish: &Publish) {
    let Some(properties) = publish.properties.as_deref() else {
        return;
    };
    let Properties {
        payload_is_utf8,
        message_expiry_secs: _,
        content_type,
        response_topic,
        correlation_data,
        user,
    } = properties;
    if let Some(is_utf8) = payload_is_utf8 {
        out.put_slice(&[0x01, u8::from(*is_utf8)]);
    }
    if let Some(content_type) = content_type {
        out.put_u8(0x03);
        put_str(out, content_type);
    }
    if let Some(topic) = response_topic {
        out.put_u8(0x08);
        put_str(out, topic);
    }
    if let Some(data) = correlation_data {
        out.put_u8(0x09);
        put_binary(out, data);
    }
    for (name, value) in user {
        out.put_u8(0x26);
        put_str(out, name);
        put_str(out, value);
    }
}

/// The largest variable byte integer.
const VARINT_MAX: usize = 268_435_455;

fn fixed(out: &mut BytesMut, kind: Kind, flags: u8, body: usize) {
    out.put_u8((kind as u8) << 4 | flags);
    put_varint(out, body);
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    debug_assert!(value <= VARINT_MAX, "callers bound what they write");
    loop {
        let byte = u8::try_from(value & 0x7F).expect("seven bits fit a byte");
        value >>= 7;
        if value == 0 {
            out.put_u8(byte);
            return;
        }
        out.put_u8(byte | 0x80);
    }
}

const fn varint_len(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

fn put_str(out: &mut BytesMut, text: &str) {
    put_binary(out, text.as_bytes());
}

/// Two bytes of length and the bytes. Everything written here was read from a
/// field of the same kind or is a constant, so it fits.
fn put_binary(out: &mut BytesMut, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("came from a field with two bytes of length");
    out.put_u16(len);
    out.put_slice(bytes);
}
