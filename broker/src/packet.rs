//! The MQTT 3.1.1 and 5.0 wire format, from bytes to values and back.
//!
//! Decoding is strict: what the specifications call malformed or a protocol
//! error is an [`Error`] that carries the MQTT 5 reason code. Nothing here
//! panics, waits, or allocates more than the frame it was given; payloads are
//! slices of the frame. What a *server* receives is decoded, and what a server
//! sends is encoded; nothing else. Why we have a codec of our own:
//! `docs/decisions/0001-own-mqtt-codec.md`.

mod connect;
mod decode;
pub(crate) mod encode;
mod read;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{Protocol, Publish, QoS};

pub(crate) use connect::{Connect, Refusal, Will, decode as decode_connect};
pub(crate) use decode::{TOO_MANY_PAIRS, decode, message_properties};
pub(crate) use read::text;

/// MQTT 5 reason codes that the broker sends (section 2.4).
pub(crate) mod reason {
    pub(crate) const SUCCESS: u8 = 0x00;
    pub(crate) const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
    pub(crate) const MALFORMED: u8 = 0x81;
    pub(crate) const PROTOCOL_ERROR: u8 = 0x82;
    pub(crate) const UNSUPPORTED_PROTOCOL: u8 = 0x84;
    pub(crate) const CLIENT_ID_INVALID: u8 = 0x85;
    pub(crate) const SERVER_UNAVAILABLE: u8 = 0x88;
    pub(crate) const SERVER_BUSY: u8 = 0x89;
    pub(crate) const SERVER_SHUTTING_DOWN: u8 = 0x8B;
    pub(crate) const BAD_USER_NAME: u8 = 0x86;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const BAD_AUTHENTICATION_METHOD: u8 = 0x8C;
    pub(crate) const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
    pub(crate) const SESSION_TAKEN_OVER: u8 = 0x8E;
    pub(crate) const TOPIC_FILTER_INVALID: u8 = 0x8F;
    pub(crate) const TOPIC_NAME_INVALID: u8 = 0x90;
    pub(crate) const PACKET_ID_NOT_FOUND: u8 = 0x92;
    pub(crate) const NOT_WILLING: u8 = 0x83;
    pub(crate) const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
    pub(crate) const TOPIC_ALIAS_INVALID: u8 = 0x94;
    pub(crate) const PACKET_TOO_LARGE: u8 = 0x95;
    pub(crate) const QUOTA_EXCEEDED: u8 = 0x97;
    pub(crate) const ADMINISTRATIVE_ACTION: u8 = 0x98;
    pub(crate) const RETAIN_NOT_SUPPORTED: u8 = 0x9A;
    pub(crate) const CONNECTION_RATE_EXCEEDED: u8 = 0x9F;
}

/// A packet that must not have been sent: the reason code for an MQTT 5 client
/// and a line for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} (reason code {reason:#04x})")]
pub(crate) struct Error {
    pub(crate) reason: u8,
    pub(crate) what: &'static str,
}

impl Error {
    pub(crate) const fn malformed(what: &'static str) -> Self {
        Self {
            reason: reason::MALFORMED,
            what,
        }
    }

    pub(crate) const fn protocol(what: &'static str) -> Self {
        Self {
            reason: reason::PROTOCOL_ERROR,
            what,
        }
    }
}

/// Most filters of one SUBSCRIBE; those beyond are refused.
pub(crate) const FILTERS_MAX: usize = 8192;
/// Most user properties of one message. Taken apart, a pair of a few bytes takes
/// many times its size.
pub(crate) const USER_PAIRS_MAX: usize = 256;
/// Most bytes of the properties of a will, which last as long as their session.
const WILL_PROPERTIES_BYTES_MAX: usize = 8 * 1024;
/// Longest user name taken, in bytes.
const USERNAME_BYTES_MAX: usize = 1024;
/// What one pair takes beside its bytes.
const USER_PAIR_BYTES: usize = 96;
/// What the properties of a message take beside theirs.
const PROPERTIES_BYTES: usize = 192;

/// The type of a packet, as in the high nibble of its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Kind {
    fn of(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The flags that the specifications fix for this type; `None` for PUBLISH.
    const fn flags(self) -> Option<u8> {
        match self {
            Self::Publish => None,
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => Some(0b0010),
            _ => Some(0),
        }
    }
}

/// A fixed header (section 2.1): what follows, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    /// Bytes of the fixed header itself.
    pub(crate) len: usize,
    /// Bytes that follow it.
    pub(crate) body: usize,
}

impl Header {
    /// Reads a fixed header from the front of `input`: `None` when more bytes
    /// are needed. A frame above `frame_max` is refused before it is buffered.
    pub(crate) fn peek(input: &[u8], frame_max: usize) -> Result<Option<Self>, Error> {
        let Some(&first) = input.first() else {
            return Ok(None);
        };
        let kind = Kind::of(first).ok_or(Error::malformed("packet type 0"))?;
        let flags = first & 0x0F;
        if kind.flags().is_some_and(|fixed| fixed != flags) {
            return Err(Error::malformed("reserved flags of the fixed header"));
        }
        let mut body = 0_usize;
        for at in 0..4 {
            let Some(&byte) = input.get(1 + at) else {
                return Ok(None);
            };
            body |= usize::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                let len = 2 + at;
                if len + body > frame_max {
                    return Err(Error {
                        reason: reason::PACKET_TOO_LARGE,
                        what: "packet larger than packet_bytes_max",
                    });
                }
                return Ok(Some(Self {
                    kind,
                    flags,
                    len,
                    body,
                }));
            }
        }
        Err(Error::malformed("remaining length of more than four bytes"))
    }

    pub(crate) const fn frame(&self) -> usize {
        self.len + self.body
    }
}

/// A packet from a client whose session is established.
#[derive(Debug)]
pub(crate) enum Packet {
    Publish(Inbound),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    PingReq,
    Disconnect(Disconnect),
}

/// A PUBLISH with what belongs to its connection only.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// The packet identifier; 0 at QoS 0.
    pub(crate) id: u16,
    pub(crate) publish: Publish,
    /// Whether the topic is one we refuse: reserved, or longer than we take.
    pub(crate) refused: bool,
    /// Whether the client has no right to publish it; for the session to say.
    pub(crate) denied: bool,
    /// More user properties than [`USER_PAIRS_MAX`]; those beyond are not here.
    pub(crate) excess: bool,
    /// What it takes in memory: its frame, and what was taken apart.
    pub(crate) bytes: usize,
    /// The place of the topic in the session's cache, if it has one.
    pub(crate) cached: Option<usize>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) id: u16,
    pub(crate) reason: u8,
}

/// SUBSCRIBE; the filters are UTF-8 but not yet checked as filters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) id: u16,
    pub(crate) subscription_id: Option<u32>,
    pub(crate) filters: Vec<(Arc<str>, Options)>,
    /// Filters beyond [`FILTERS_MAX`], checked and dropped.
    pub(crate) excess: usize,
}

/// The options of one subscription (MQTT 5, section 3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) retained: SendRetained,
}

/// When a SUBSCRIBE brings the retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendRetained {
    Always,
    IfNew,
    Never,
}

/// UNSUBSCRIBE.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsubscribe {
    pub(crate) id: u16,
    pub(crate) filters: Vec<Arc<str>>,
}

/// DISCONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disconnect {
    pub(crate) reason: u8,
    pub(crate) session_expiry_secs: Option<u32>,
}

/// The QoS of two bits; 3 is malformed everywhere.
pub(crate) fn qos(bits: u8) -> Result<QoS, Error> {
    match bits & 0b11 {
        0 => Ok(QoS::AtMostOnce),
        1 => Ok(QoS::AtLeastOnce),
        2 => Ok(QoS::ExactlyOnce),
        _ => Err(Error::malformed("QoS 3")),
    }
}

pub(crate) fn is_v5(protocol: Protocol) -> bool {
    protocol == Protocol::V5
}
