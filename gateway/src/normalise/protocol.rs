//! What a payload means beyond its format, where a protocol says so.
//!
//! A mapping's pointers and values find their way in any tree of values. What they
//! cannot say is here, protocol by protocol: which part of a document is the
//! reading, what the protocol's own identity is, what kind of message it is.
//! `read` makes the tree, [`elements`] says whether it is a batch, and [`meaning`]
//! what one element of it says.

pub mod births;
pub(super) mod cloudevents;
mod home;
mod lorawan;
mod opcua;
mod senml;
mod shadow;
mod sparkplug;

use std::sync::Arc;

pub use sparkplug::life::Life;

use super::{
    Mapping, Message, Node, Normaliser, Place, Reject,
    decode::{self, Format},
    mapping::Tag,
    timestamp::Said,
};
use crate::event::{IdSource, Measurement};

/// Protocols with rules of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// None: the mapping says everything.
    #[default]
    None,
    /// Zigbee2MQTT: devices, and messages of the bridge itself.
    Zigbee2Mqtt,
    /// Shelly devices of the second generation and later.
    Shelly,
    /// Homie 4 and 5.
    Homie,
    /// Home Assistant's discovery documents.
    Discovery,
    /// Whether a client is there, as its will says.
    Lwt,
    /// `ChirpStack` 4.
    ChirpStack,
    /// The Things Stack 3.
    Tts,
    /// Shadow documents of AWS IoT.
    Shadow,
    /// OPC UA `PubSub` in JSON.
    OpcUa,
    /// Sparkplug B 3.0.
    Sparkplug,
    /// RFC 8428.
    Senml,
    /// InfluxDB line protocol.
    Influx,
    /// `CloudEvents` 1.0.
    CloudEvents,
    /// Bytes that nobody here understands.
    Raw,
}

impl Protocol {
    /// The protocol of a mapping, or of the format that a message is in.
    pub(super) const fn of(mapping: &Mapping, format: Format) -> Self {
        match (mapping.protocol, format) {
            (Self::None, Format::SenmlJson | Format::SenmlCbor) => Self::Senml,
            (Self::None, Format::Influx) => Self::Influx,
            (Self::None, Format::CloudEvents) => Self::CloudEvents,
            (Self::None, Format::Raw) => Self::Raw,
            (protocol, _) => protocol,
        }
    }
}

/// What one element says, where the mapping does not say it.
#[derive(Debug, Default)]
pub(super) struct Meaning<'n, 'a> {
    /// Who measured.
    pub(super) device: Option<String>,
    /// Whether that is only what the payload claims, and not the topic.
    pub(super) claimed: bool,
    /// The kind of message, where it is not telemetry.
    pub(super) kind: Option<Kind>,
    /// The device's time.
    pub(super) time: Option<Said>,
    /// Whether the time was reckoned from the moment of receipt: then it says nothing
    /// of which message this is.
    pub(super) relative: bool,
    /// Whether that is when another gateway received it.
    pub(super) time_of_receipt: bool,
    /// The protocol's own identity.
    pub(super) id: Option<Id>,
    /// The id that the event has already, given for this very purpose.
    pub(super) named: Option<Arc<str>>,
    /// The device's counter.
    pub(super) sequence: Option<u64>,
    /// The part whose leaves are measured.
    pub(super) part: Option<&'n Node<'a>>,
    /// What their names begin with.
    pub(super) prefix: Option<&'n str>,
    /// What was measured, where the protocol names it itself.
    pub(super) measurements: Option<Vec<Measurement>>,
    /// Words that describe the event.
    pub(super) tags: Vec<Tag>,
    /// W3C trace context.
    pub(super) traceparent: Option<Arc<str>>,
}

/// What an event's type says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// One of our own kinds of message.
    Message(&'static str),
    /// A type of the sender's, where the mapping names none.
    Type(Arc<str>),
}

/// The state of something: whether it is there.
pub(super) const STATE: Kind = Kind::Message("iot.state.v1");
/// What a device will say from now on.
pub(super) const BIRTH: Kind = Kind::Message("iot.birth.v1");
/// A description of a device.
pub(super) const METADATA: Kind = Kind::Message("iot.metadata.v1");
/// Bytes that nobody here understands.
pub(super) const OPAQUE: Kind = Kind::Message("iot.opaque.v1");

/// An identity of the protocol's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Id {
    /// `Protocol`, or `Explicit` where the sender gave an id for this very purpose.
    pub(super) source: IdSource,
    /// What it consists of.
    pub(super) parts: Vec<Box<[u8]>>,
    /// Whether all elements of a batch share it.
    pub(super) shared: bool,
    /// Whether it may come again with something else, so that what is said belongs
    /// to the identity.
    pub(super) repeats: bool,
}

impl Id {
    pub(super) fn protocol(parts: &[&[u8]]) -> Self {
        Self {
            source: IdSource::Protocol,
            parts: parts.iter().map(|part| Box::from(*part)).collect(),
            shared: false,
            repeats: false,
        }
    }
}

/// A message begins, of which it is not known yet whether anything of it can be used.
pub(super) fn begin(mapping: &Mapping, message: &Message<'_>) {
    if mapping.protocol == Protocol::Sparkplug {
        sparkplug::begin(message);
    }
}

/// What is within a payload that its protocol compresses; `None` where it does not.
///
/// # Errors
/// When it says that it is compressed, and cannot be inflated.
pub(super) fn inflated(
    mapping: &Mapping,
    topic: &str,
    payload: &[u8],
) -> Result<Option<Vec<u8>>, Reject> {
    match mapping.protocol {
        Protocol::Sparkplug => sparkplug::inflated(topic, payload, mapping.lenient),
        _ => Ok(None),
    }
}

/// The tree of a payload; `None` where the message is understood and is not data.
///
/// # Errors
/// When the payload is not what the protocol says.
pub(super) fn read<'a>(
    protocol: Protocol,
    format: Format,
    mapping: &Mapping,
    message: &Message<'a>,
) -> Result<Option<Node<'a>>, Reject> {
    match protocol {
        // For devices, not from them.
        Protocol::Zigbee2Mqtt | Protocol::Homie if is_command(message.topic) => return Ok(None),
        // Something that is no longer there.
        Protocol::Homie | Protocol::Discovery if message.payload.is_empty() => return Ok(None),
        Protocol::Sparkplug => return sparkplug::read(message, mapping.lenient),
        Protocol::CloudEvents => return cloudevents::read(message, mapping.lenient).map(Some),
        // A text of no characters (Homie convention, "Empty string values").
        Protocol::Homie if message.payload == [0] => return Ok(Some(Node::Text("".into()))),
        _ => {}
    }
    if format == Format::Csv && !message.payload.is_empty() {
        let is_text = |column: &str| mapping.is_text(Some(column));
        let (columns, lenient) = (&mapping.columns, mapping.lenient);
        return decode::csv::decode(columns, &is_text, message.payload, lenient).map(Some);
    }
    if format == Format::Scalar && mapping.is_text(None) && !message.payload.is_empty() {
        return decode::scalar_text(message.payload).map(Some);
    }
    decode::decode_leniently(format, message.payload, mapping.lenient).map(Some)
}

/// Whether a payload is text, all of it.
pub(super) fn is_text(protocol: Protocol, format: Format, message: &Message<'_>) -> bool {
    match (protocol, format) {
        (Protocol::Sparkplug, _) => sparkplug::is_text(message),
        (Protocol::CloudEvents, _) => cloudevents::is_text(message),
        (_, format) => format.is_text(),
    }
}

/// Whether a topic of Zigbee2MQTT or Homie is one that devices listen to.
fn is_command(topic: &str) -> bool {
    let mut levels = topic.rsplit('/');
    matches!(levels.next(), Some("set" | "get"))
}

/// The array whose elements are events of their own, where the protocol knows.
///
/// # Errors
/// When there should be one and is not.
pub(super) fn elements<'n, 'a>(
    protocol: Protocol,
    root: &'n Node<'a>,
) -> Result<Option<Option<&'n Node<'a>>>, Reject> {
    match protocol {
        // A discovery document is kept whole: elements of one would each hold it all.
        Protocol::Senml | Protocol::Discovery => Ok(Some(None)),
        Protocol::OpcUa => opcua::elements(root).map(Some),
        _ => Ok(None),
    }
}

/// What one element says; `None` where it is understood and is not data.
///
/// # Errors
/// When it is not what the protocol says.
pub(super) fn meaning<'n, 'a>(
    of: &Normaliser<'_>,
    protocol: Protocol,
    place: &Place<'n, 'a>,
    used: &mut Vec<&'n Node<'a>>,
) -> Result<Option<Meaning<'n, 'a>>, Reject> {
    let element = place.element;
    let message = of.message;
    Ok(Some(match protocol {
        Protocol::None => Meaning::default(),
        Protocol::Zigbee2Mqtt => home::zigbee2mqtt(of, element)?,
        Protocol::Shelly => home::shelly(element, used)?,
        Protocol::Homie => home::homie(of)?,
        Protocol::Discovery => home::discovery(of, element)?,
        Protocol::Lwt => home::will(element)?,
        Protocol::ChirpStack => lorawan::chirpstack(message, element),
        Protocol::Tts => lorawan::things_stack(message, element),
        Protocol::Shadow => shadow::meaning(message, element)?,
        Protocol::OpcUa => return opcua::meaning(of, place, used),
        Protocol::Sparkplug => sparkplug::meaning(of, element)?,
        Protocol::Senml => senml::meaning(of, element)?,
        Protocol::Influx => influx(element, used),
        Protocol::CloudEvents => cloudevents::meaning(of, element, used)?,
        Protocol::Raw => Meaning {
            kind: Some(OPAQUE),
            measurements: Some(Vec::new()),
            tags: vec![of.raw()],
            ..Meaning::default()
        },
    }))
}

/// One line of the line protocol.
fn influx<'n, 'a>(line: &'n Node<'a>, used: &[&Node<'_>]) -> Meaning<'n, 'a> {
    let mut tags = Vec::new();
    if let Some(Node::Map(members)) = line.child("tags") {
        for (name, node) in members {
            if let Node::Text(text) = node
                && !super::measure::is_used(used, node)
            {
                tags.push((Arc::from(name.as_ref()), Arc::from(text.as_ref())));
            }
        }
    }
    Meaning {
        part: line.child("fields"),
        prefix: text_at(line, "measurement"),
        tags,
        ..Meaning::default()
    }
}

/// A member that is a text.
fn text_at<'n>(node: &'n Node<'_>, name: &str) -> Option<&'n str> {
    match node.child(name) {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}
