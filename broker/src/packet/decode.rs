//! Decodes what a connected client may send.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Ack, Disconnect, Error, FILTERS_MAX, Header, Inbound, Kind, Options, PROPERTIES_BYTES, Packet,
    SendRetained, Subscribe, USER_PAIR_BYTES, USER_PAIRS_MAX, Unsubscribe, connect, is_v5, qos,
    read::{Properties, Reader, UNKNOWN},
    reason,
};
use crate::{Protocol, Publish, QoS, publish::Properties as Message, topic::Topics};

/// Decodes the body of one frame. `topics` remembers the connection's topics
/// and aliases.
pub(crate) fn decode(
    protocol: Protocol,
    header: Header,
    body: &Bytes,
    topics: &mut Topics,
) -> Result<Packet, Error> {
    match header.kind {
        Kind::Publish => publish(protocol, header.flags, body, topics).map(Packet::Publish),
        Kind::PubAck => ack(protocol, body, &DELIVERY).map(Packet::PubAck),
        Kind::PubRec => ack(protocol, body, &DELIVERY).map(Packet::PubRec),
        Kind::PubRel => ack(protocol, body, &RELEASE).map(Packet::PubRel),
        Kind::PubComp => ack(protocol, body, &RELEASE).map(Packet::PubComp),
        Kind::Subscribe => subscribe(protocol, body).map(Packet::Subscribe),
        Kind::Unsubscribe => unsubscribe(protocol, body).map(Packet::Unsubscribe),
        Kind::PingReq => Reader::new(body).finish().map(|()| Packet::PingReq),
        Kind::Disconnect => disconnect(protocol, body).map(Packet::Disconnect),
        Kind::Connect => Err(Error::protocol("a second CONNECT")),
        Kind::Auth if is_v5(protocol) => {
            Err(Error::protocol("AUTH without an authentication method"))
        }
        Kind::Auth => Err(Error::malformed("packet type 15")),
        Kind::ConnAck | Kind::SubAck | Kind::UnsubAck | Kind::PingResp => {
            Err(Error::protocol("a packet that only servers send"))
        }
    }
}

fn publish(
    protocol: Protocol,
    flags: u8,
    body: &Bytes,
    topics: &mut Topics,
) -> Result<Inbound, Error> {
    let qos = qos(flags >> 1)?;
    let dup = flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(Error::malformed("DUP at QoS 0"));
    }
    let mut reader = Reader::new(body);
    let name = reader.binary()?;
    let id = if qos == QoS::AtMostOnce {
        0
    } else {
        packet_id(&mut reader)?
    };
    let Found {
        alias,
        properties,
        excess,
    } = if is_v5(protocol) {
        message(reader.properties()?)?
    } else {
        Found::default()
    };
    if excess && qos == QoS::AtMostOnce {
        // There is no acknowledgement to say it in.
        return Err(Error {
            reason: reason::QUOTA_EXCEEDED,
            what: TOO_MANY_PAIRS,
        });
    }
    let taken_apart = properties.as_ref().map_or(0, |found| {
        PROPERTIES_BYTES + found.user.len() * USER_PAIR_BYTES
    });
    let known = topics.resolve(name, alias)?;
    Ok(Inbound {
        id,
        refused: known.refused,
        denied: false,
        excess,
        bytes: body.len().max(known.name.len()) + taken_apart,
        cached: known.cached,
        publish: Publish {
            topic: known.name,
            payload: reader.rest(),
            qos,
            retain: flags & 1 != 0,
            dup,
            properties,
            delivery: None,
        },
    })
}

/// Reads properties that `encode::message_properties` wrote; `None` inside for no
/// properties, and outside for anything else.
pub(crate) fn message_properties(bytes: &Bytes) -> Option<Option<Message>> {
    let found = message(Properties::of(bytes)).ok()?;
    let properties = found.properties.map(Arc::unwrap_or_clone);
    Some(properties)
}

/// What a PUBLISH with too many user properties is told.
pub(crate) const TOO_MANY_PAIRS: &str = "more than 256 user properties";

/// The properties of a PUBLISH.
#[derive(Debug, Default)]
struct Found {
    alias: Option<u16>,
    properties: Option<Arc<Message>>,
    /// There were more pairs than we take; those beyond are checked and dropped.
    excess: bool,
}

fn message(mut block: Properties<'_>) -> Result<Found, Error> {
    if block.reader.is_empty() {
        return Ok(Found::default());
    }
    let mut alias = None;
    let mut excess = false;
    let mut found = Message::default();
    while let Some(id) = block.next()? {
        match id {
            0x01 => found.payload_is_utf8 = Some(block.reader.bool()?),
            0x02 => found.message_expiry_secs = Some(block.reader.u32()?),
            0x03 => found.content_type = Some(block.reader.shared_str()?),
            0x08 => found.response_topic = Some(connect::response_topic(block.reader.binary()?)?),
            0x09 => found.correlation_data = Some(block.reader.binary_shared()?),
            0x0B => return Err(Error::protocol("a subscription identifier from a client")),
            0x23 => alias = Some(block.reader.u16()?),
            Properties::USER if found.user.len() >= USER_PAIRS_MAX => {
                excess = true;
                block.skip_user()?;
            }
            Properties::USER => found.user.push(block.user()?),
            _ => return Err(UNKNOWN),
        }
    }
    Ok(Found {
        alias,
        properties: (found != Message::default()).then(|| Arc::new(found)),
        excess,
    })
}

fn packet_id(reader: &mut Reader<'_>) -> Result<u16, Error> {
    match reader.u16()? {
        0 => Err(Error::protocol("packet identifier 0")),
        id => Ok(id),
    }
}

/// Reason codes of PUBACK and PUBREC.
const DELIVERY: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// Reason codes of PUBREL and PUBCOMP.
const RELEASE: [u8; 2] = [reason::SUCCESS, reason::PACKET_ID_NOT_FOUND];
/// Reason codes of a client's DISCONNECT.
const GOODBYE: [u8; 14] = [
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
];

fn reason_code(reader: &mut Reader<'_>, known: &[u8]) -> Result<u8, Error> {
    let code = reader.u8()?;
    if known.contains(&code) {
        Ok(code)
    } else {
        Err(Error::protocol(
            "a reason code that the packet does not have",
        ))
    }
}

/// A block that may have a reason string and user properties, which nobody reads.
fn explanation(mut block: Properties<'_>) -> Result<(), Error> {
    while let Some(id) = block.next()? {
        match id {
            0x1F => drop(block.reader.str()?),
            Properties::USER => block.skip_user()?,
            _ => return Err(UNKNOWN),
        }
    }
    Ok(())
}

fn ack(protocol: Protocol, body: &Bytes, known: &[u8]) -> Result<Ack, Error> {
    let mut reader = Reader::new(body);
    let id = packet_id(&mut reader)?;
    let mut reason = reason::SUCCESS;
    if is_v5(protocol) && !reader.is_empty() {
        reason = reason_code(&mut reader, known)?;
        if !reader.is_empty() {
            explanation(reader.properties()?)?;
        }
    }
    reader.finish()?;
    Ok(Ack { id, reason })
}

fn subscribe(protocol: Protocol, body: &Bytes) -> Result<Subscribe, Error> {
    let mut reader = Reader::new(body);
    let id = packet_id(&mut reader)?;
    let mut subscription_id = None;
    if is_v5(protocol) {
        let mut block = reader.properties()?;
        while let Some(property) = block.next()? {
            match property {
                0x0B => {
                    subscription_id = match block.reader.varint()? {
                        0 => return Err(Error::protocol("subscription identifier 0")),
                        number => Some(number),
                    };
                }
                Properties::USER => block.skip_user()?,
                _ => return Err(UNKNOWN),
            }
        }
    }
    let mut filters = Vec::new();
    let mut excess = 0;
    while !reader.is_empty() {
        let filter = reader.str()?;
        let options = options(protocol, reader.u8()?)?;
        if options.no_local && filter.starts_with("$share/") {
            return Err(Error::protocol("no local on a shared subscription"));
        }
        if filters.len() < FILTERS_MAX {
            filters.push((Arc::from(filter), options));
        } else {
            excess += 1;
        }
    }
    if filters.is_empty() {
        return Err(Error::protocol("SUBSCRIBE without a topic filter"));
    }
    Ok(Subscribe {
        id,
        subscription_id,
        filters,
        excess,
    })
}

fn options(protocol: Protocol, byte: u8) -> Result<Options, Error> {
    let reserved = if is_v5(protocol) {
        0b1100_0000
    } else {
        0b1111_1100
    };
    if byte & reserved != 0 {
        return Err(Error::malformed(
            "reserved bits of the subscription options",
        ));
    }
    Ok(Options {
        qos: qos(byte)?,
        no_local: byte & 0b0000_0100 != 0,
        retain_as_published: byte & 0b0000_1000 != 0,
        retained: match byte >> 4 {
            0 => SendRetained::Always,
            1 => SendRetained::IfNew,
            2 => SendRetained::Never,
            _ => return Err(Error::protocol("retain handling 3")),
        },
    })
}

fn unsubscribe(protocol: Protocol, body: &Bytes) -> Result<Unsubscribe, Error> {
    let mut reader = Reader::new(body);
    let id = packet_id(&mut reader)?;
    if is_v5(protocol) {
        let mut block = reader.properties()?;
        while let Some(property) = block.next()? {
            match property {
                Properties::USER => block.skip_user()?,
                _ => return Err(UNKNOWN),
            }
        }
    }
    let mut filters = Vec::new();
    while !reader.is_empty() {
        filters.push(reader.shared_str()?);
    }
    if filters.is_empty() {
        return Err(Error::protocol("UNSUBSCRIBE without a topic filter"));
    }
    Ok(Unsubscribe { id, filters })
}

fn disconnect(protocol: Protocol, body: &Bytes) -> Result<Disconnect, Error> {
    let mut reader = Reader::new(body);
    let mut packet = Disconnect {
        reason: reason::SUCCESS,
        session_expiry_secs: None,
    };
    if is_v5(protocol) && !reader.is_empty() {
        packet.reason = reason_code(&mut reader, &GOODBYE)?;
        if !reader.is_empty() {
            let mut block = reader.properties()?;
            while let Some(property) = block.next()? {
                match property {
                    0x11 => packet.session_expiry_secs = Some(block.reader.u32()?),
                    0x1F => drop(block.reader.str()?),
                    Properties::USER => block.skip_user()?,
                    _ => return Err(UNKNOWN),
                }
            }
        }
    }
    reader.finish()?;
    Ok(packet)
}
