//! CONNECT: the one packet that tells its own protocol version.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Error, PROPERTIES_BYTES, USER_PAIR_BYTES, USER_PAIRS_MAX, USERNAME_BYTES_MAX,
    WILL_PROPERTIES_BYTES_MAX, is_v5, qos,
    read::{Properties, Reader, UNKNOWN},
    reason,
};
use crate::{Protocol, Publish, publish, topic};

/// A CONNECT, checked.
#[derive(Debug)]
pub(crate) struct Connect {
    pub(crate) protocol: Protocol,
    /// Clean Session or Clean Start.
    pub(crate) clean: bool,
    /// `None`: the client may be silent for ever.
    pub(crate) keep_alive: Option<Duration>,
    /// Empty when the client wants one assigned.
    pub(crate) client_id: Arc<str>,
    pub(crate) username: Option<Arc<str>>,
    /// Taken out once the client is known.
    pub(crate) password: Option<Password>,
    pub(crate) will: Option<Will>,
    pub(crate) session_expiry_secs: u32,
    pub(crate) receive_max: u16,
    /// The largest packet the client takes.
    pub(crate) packet_bytes_max: usize,
    /// The highest topic alias that we may send; 0 for none.
    pub(crate) topic_alias_max: u16,
    /// Whether the client wants reason strings.
    pub(crate) problem_information: bool,
    /// Whether the client asks where it may have responses sent.
    pub(crate) response_information: bool,
    /// What it takes in memory, for as long as the session lasts.
    pub(crate) bytes: usize,
}

/// A password or token. Debug output hides it.
pub(crate) struct Password(pub(crate) Box<[u8]>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What to publish when the session ends without a DISCONNECT.
#[derive(Debug)]
pub(crate) struct Will {
    pub(crate) publish: Publish,
    /// How long after the connection it is published, if the session lasts as long.
    pub(crate) delay_secs: u32,
    pub(crate) refused: bool,
}

/// Why a CONNECT was not taken, and in which protocol to say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) protocol: Option<Protocol>,
    pub(crate) error: Error,
}

/// Decodes the body of a CONNECT.
pub(crate) fn decode(body: &Bytes) -> Result<Connect, Refusal> {
    let mut reader = Reader::new(body);
    let protocol = protocol(&mut reader)?;
    rest(protocol, reader).map_err(|error| Refusal {
        protocol: Some(protocol),
        error,
    })
}

fn protocol(reader: &mut Reader<'_>) -> Result<Protocol, Refusal> {
    let unknown = |error| Refusal {
        protocol: None,
        error,
    };
    let name = reader.str().map_err(unknown)?;
    let level = reader.u8().map_err(unknown)?;
    match (name, level) {
        ("MQTT", 4) => Ok(Protocol::V4),
        ("MQTT", 5) => Ok(Protocol::V5),
        ("MQTT" | "MQIsdp", level) => Err(Refusal {
            protocol: Some(if level > 5 {
                Protocol::V5
            } else {
                Protocol::V4
            }),
            error: Error {
                reason: reason::UNSUPPORTED_PROTOCOL,
                what: "a protocol level other than 4 (3.1.1) and 5",
            },
        }),
        _ => Err(unknown(Error {
            reason: reason::UNSUPPORTED_PROTOCOL,
            what: "a protocol name other than MQTT",
        })),
    }
}

fn rest(protocol: Protocol, mut reader: Reader<'_>) -> Result<Connect, Error> {
    let frame_bytes = reader.len();
    let flags = reader.u8()?;
    if flags & 0b0000_0001 != 0 {
        return Err(Error::malformed("reserved flag of CONNECT"));
    }
    let has_will = flags & 0b0000_0100 != 0;
    let will_qos = qos(flags >> 3)?;
    let will_retain = flags & 0b0010_0000 != 0;
    let has_password = flags & 0b0100_0000 != 0;
    let has_username = flags & 0b1000_0000 != 0;
    if !has_will && flags & 0b0011_1000 != 0 {
        return Err(Error::malformed("will QoS or will retain without a will"));
    }
    if protocol == Protocol::V4 && has_password && !has_username {
        return Err(Error::malformed("a password without a user name"));
    }
    let keep_alive = reader.u16()?;

    let mut connect = Connect {
        protocol,
        clean: flags & 0b0000_0010 != 0,
        keep_alive: (keep_alive > 0).then(|| Duration::from_secs(keep_alive.into())),
        client_id: Arc::from(""),
        username: None,
        password: None,
        will: None,
        session_expiry_secs: 0,
        receive_max: u16::MAX,
        packet_bytes_max: usize::MAX,
        topic_alias_max: 0,
        problem_information: true,
        response_information: false,
        bytes: frame_bytes,
    };
    if is_v5(protocol) {
        properties(&mut connect, reader.properties()?)?;
    }
    connect.client_id = reader.shared_str()?;
    if has_will {
        let (properties, delay_secs) = if is_v5(protocol) {
            let block = reader.properties()?;
            if block.reader.len() > WILL_PROPERTIES_BYTES_MAX {
                return Err(TOO_MUCH);
            }
            will_properties(block)?
        } else {
            (None, 0)
        };
        let name = topic::Topic::parse(reader.binary()?)?;
        // The will outlives the frame for as long as the session lasts, so it
        // must not keep the frame: copied.
        let payload = Bytes::copy_from_slice(reader.binary()?);
        if let Some(found) = &properties {
            connect.bytes += PROPERTIES_BYTES + found.user.len() * USER_PAIR_BYTES;
        }
        connect.will = Some(Will {
            refused: name.refused(topic::Bounds::default()),
            delay_secs,
            publish: Publish {
                topic: name.into(),
                payload,
                qos: will_qos,
                retain: will_retain,
                dup: false,
                properties: properties.map(Arc::new),
                delivery: None,
            },
        });
    }
    if has_username {
        let name = reader.str()?;
        if name.len() > USERNAME_BYTES_MAX {
            return Err(Error {
                reason: reason::BAD_USER_NAME,
                what: "a user name that is too long",
            });
        }
        connect.username = Some(Arc::from(name));
    }
    if has_password {
        connect.password = Some(Password(reader.binary()?.into()));
    }
    reader.finish()?;
    Ok(connect)
}

fn properties(connect: &mut Connect, mut block: Properties<'_>) -> Result<(), Error> {
    let mut authentication_data = false;
    let mut authentication_method = false;
    while let Some(id) = block.next()? {
        match id {
            0x11 => connect.session_expiry_secs = block.reader.u32()?,
            0x21 => connect.receive_max = non_zero(block.reader.u16()?)?,
            0x27 => {
                let max = non_zero(block.reader.u32()?)?;
                connect.packet_bytes_max = usize::try_from(max).unwrap_or(usize::MAX);
            }
            0x22 => connect.topic_alias_max = block.reader.u16()?,
            0x19 => connect.response_information = block.reader.bool()?,
            0x17 => connect.problem_information = block.reader.bool()?,
            0x15 => {
                block.reader.str()?;
                authentication_method = true;
            }
            0x16 => {
                block.reader.binary()?;
                authentication_data = true;
            }
            Properties::USER => block.skip_user()?,
            _ => return Err(UNKNOWN),
        }
    }
    if authentication_method {
        return Err(Error {
            reason: reason::BAD_AUTHENTICATION_METHOD,
            what: "an authentication method, of which there is none",
        });
    }
    if authentication_data {
        return Err(Error::protocol("authentication data without a method"));
    }
    Ok(())
}

/// A will that asks us to keep too much.
const TOO_MUCH: Error = Error {
    reason: reason::QUOTA_EXCEEDED,
    what: "a will with more than 256 user properties or 8 KiB of properties",
};

/// The properties of a will that go with its message, and its delay.
fn will_properties(mut block: Properties<'_>) -> Result<(Option<publish::Properties>, u32), Error> {
    let mut found = publish::Properties::default();
    let mut delay_secs = 0;
    while let Some(id) = block.next()? {
        match id {
            0x18 => delay_secs = block.reader.u32()?,
            0x01 => found.payload_is_utf8 = Some(block.reader.bool()?),
            0x02 => found.message_expiry_secs = Some(block.reader.u32()?),
            0x03 => found.content_type = Some(block.reader.shared_str()?),
            0x08 => found.response_topic = Some(response_topic(block.reader.binary()?)?),
            0x09 => {
                found.correlation_data = Some(Bytes::copy_from_slice(block.reader.binary()?));
            }
            Properties::USER if found.user.len() >= USER_PAIRS_MAX => return Err(TOO_MUCH),
            Properties::USER => found.user.push(block.user()?),
            _ => return Err(UNKNOWN),
        }
    }
    let properties = (found != publish::Properties::default()).then_some(found);
    Ok((properties, delay_secs))
}

/// A response topic is a topic name: no wildcards, not empty.
pub(super) fn response_topic(bytes: &[u8]) -> Result<Arc<str>, Error> {
    topic::Topic::parse(bytes)
        .map(Arc::from)
        .map_err(|error| match error.reason {
            reason::TOPIC_NAME_INVALID => {
                Error::protocol("a response topic with wildcards or empty")
            }
            _ => error,
        })
}

fn non_zero<T: Default + PartialEq>(value: T) -> Result<T, Error> {
    if value == T::default() {
        Err(Error::protocol("a maximum of zero"))
    } else {
        Ok(value)
    }
}
