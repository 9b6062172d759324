//! `CloudEvents` 1.0 over MQTT: structured and batched in JSON, binary by MQTT 5
//! user properties. The three forms of one event have one key.
//!
//! `source` and `id` are the identity: consumers may assume that events equal in
//! both are one event. The device is the `subject`, or else the `source`. What another
//! gateway of this kind sends is [read back](penstock) as it was there.

mod penstock;

use std::{borrow::Cow, sync::Arc};

use base64::Engine as _;

use super::{Id, Kind, Meaning};
use crate::{
    event::{IdSource, Measurement},
    normalise::{
        Class, Message, Node, Normaliser, Reject, Scratch,
        decode::{self, Fault, Format, Lenient, quoted},
        identity::text,
        measure,
        timestamp::{self, Said, Unit},
    },
};
pub(in crate::normalise) use penstock::is_event as is_penstock;

/// Attributes with a place of their own in an event.
const KNOWN: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "traceparent",
    "data",
    "data_base64",
];

/// The media type of a message, without what is said beside it.
fn essence(message: &Message<'_>) -> String {
    let content_type = message.content_type.unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.to_ascii_lowercase()
}

/// What an event looks like in a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Cbor,
    Binary,
    Unknown,
}

fn form(message: &Message<'_>, essence: &str) -> Form {
    match essence.strip_prefix("application/cloudevents") {
        Some("" | "+json" | "-batch" | "-batch+json") => Form::Json,
        Some("+cbor" | "-batch+cbor") => Form::Cbor,
        Some(_) => Form::Unknown,
        None if message.property("specversion").is_some() => Form::Binary,
        // What MQTT 3.1.1 cannot say otherwise.
        None => Form::Json,
    }
}

/// Whether the event is in CBOR.
pub(in crate::normalise) fn is_cbor(message: &Message<'_>) -> bool {
    form(message, &essence(message)) == Form::Cbor
}

/// Whether the payload is text, all of it.
pub(super) fn is_text(message: &Message<'_>) -> bool {
    let essence = essence(message);
    match form(message, &essence) {
        Form::Json => true,
        Form::Cbor | Form::Unknown => false,
        Form::Binary => {
            let declared = declared(message, &essence);
            format_of(declared, message.payload).is_some_and(Format::is_text)
        }
    }
}

/// The tree of a message: an event as its JSON form has it, or an array of them.
pub(super) fn read<'a>(message: &Message<'a>, lenient: Lenient) -> Result<Node<'a>, Reject> {
    let essence = essence(message);
    let format = match form(message, &essence) {
        Form::Json => Format::Json,
        Form::Cbor => Format::Cbor,
        Form::Binary => return binary(message, &essence, lenient),
        Form::Unknown => {
            let reason = format!("CloudEvents as {} are not read", quoted(&essence));
            return Err(Reject::new(Class::Unsupported, reason));
        }
    };
    let root = decode::decode_leniently(format, message.payload, lenient)?;
    match root {
        root if !essence.contains("-batch") => Ok(root),
        root @ Node::Array(_) => Ok(root),
        _ => {
            let reason = "a batch of CloudEvents is an array";
            Err(Reject::new(Class::Type, reason))
        }
    }
}

fn binary<'a>(message: &Message<'a>, essence: &str, lenient: Lenient) -> Result<Node<'a>, Reject> {
    let attribute = |name: &str| {
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let mut members: Vec<(Cow<'a, str>, Node<'a>)> = Vec::new();
    for (name, value) in message.user {
        if !attribute(name) || matches!(&**name, "data" | "datacontenttype") {
            continue;
        }
        if let Some(n) = members.iter().position(|(other, _)| **other == **name) {
            if lenient.allows(Fault::DuplicateKeys) {
                members[n].1 = Node::Text(Cow::Borrowed(value));
                continue;
            }
            let reason = format!("the attribute {} is there twice", quoted(name));
            return Err(Reject::new(Class::DuplicateKey, reason));
        }
        members.push((Cow::Borrowed(name), Node::Text(Cow::Borrowed(value))));
    }
    if !message.payload.is_empty() {
        let declared = declared(message, essence);
        let data = data(declared, message.payload, lenient)?;
        members.push(("data".into(), data));
    }
    Ok(Node::Map(members))
}

/// What the data of a message in the binary form is said to be.
fn declared<'m>(message: &Message<'m>, essence: &'m str) -> &'m str {
    match essence {
        "" => message.property("datacontenttype").map_or("", |text| text),
        essence => essence,
    }
}

/// The format of data that is not JSON yet, by its media type; of an unknown type none.
fn format_of(content_type: &str, bytes: &[u8]) -> Option<Format> {
    match decode::declared(content_type) {
        Some(format @ (Format::Json | Format::Cbor | Format::MsgPack)) => Some(format),
        _ if content_type.starts_with("text/") => Some(Format::Scalar),
        _ if content_type.is_empty() => Some(decode::sniff(bytes)),
        _ => None,
    }
}

/// Data that is not JSON yet; of an unknown type the bytes.
fn data<'d>(content_type: &str, bytes: &'d [u8], lenient: Lenient) -> Result<Node<'d>, Reject> {
    match format_of(content_type, bytes) {
        Some(format) => decode::decode_leniently(format, bytes, lenient),
        None => Ok(Node::Bytes(Cow::Borrowed(bytes))),
    }
}

/// One event.
pub(super) fn meaning<'n, 'a>(
    of: &Normaliser<'_>,
    event: &'n Node<'a>,
    used: &[&Node<'_>],
) -> Result<Meaning<'n, 'a>, Reject> {
    let Node::Map(members) = event else {
        let reason = format!("a CloudEvent is an object, not {}", event.kind());
        return Err(Reject::new(Class::Type, reason));
    };
    let version = required(event, "specversion")?;
    if version != "1.0" {
        let reason = format!("CloudEvents {} is not known", quoted(version));
        return Err(Reject::new(Class::Unsupported, reason));
    }
    let (id, source) = (required(event, "id")?, required(event, "source")?);
    let kind = required(event, "type")?;
    let subject = optional(event, "subject")?;
    let received = of.message.received;
    let time = match event.child("time") {
        Some(time) => timestamp::read(time, Unit::Rfc3339, None, received)?,
        None => Said::Nothing,
    };
    // With any other format the sender's content type is all that makes it a
    // CloudEvent, and who may publish here may not speak for every device.
    let names_device = of.mapping.format == Format::CloudEvents && !of.mapping.own_device;
    if let Some(meaning) = penstock::meaning(of, event, names_device)? {
        return Ok(meaning);
    }
    let mut meaning = Meaning {
        device: names_device.then(|| subject.unwrap_or(source).to_owned()),
        claimed: names_device,
        kind: Some(Kind::Type(kind.into())),
        time: Some(time),
        id: Some(Id {
            source: IdSource::Explicit,
            parts: vec![source.as_bytes().into(), id.as_bytes().into()],
            shared: false,
            repeats: false,
        }),
        measurements: Some(measurements(of, event, used)?),
        traceparent: optional(event, "traceparent")?.map(Arc::from),
        // The event's own id and source are made of the device's name.
        tags: vec![
            ("ceid".into(), id.into()),
            ("cesource".into(), source.into()),
        ],
        ..Meaning::default()
    };
    if let Some(subject) = subject.filter(|_| !names_device) {
        meaning.tags.push(("cesubject".into(), subject.into()));
    }
    if time == Said::Implausible
        && let Some(said) = event.child("time").and_then(text)
    {
        meaning.tags.push(("devicetime".into(), said.into()));
    }
    for (name, node) in members {
        if KNOWN.contains(&name.as_ref()) || *node == Node::Null {
            continue;
        }
        let value = match node {
            Node::Bool(boolean) => Some(boolean.to_string()),
            node => text(node),
        };
        let value = value.ok_or_else(|| {
            let reason = format!("the attribute {} is {}", quoted(name), node.kind());
            Reject::new(Class::Type, reason)
        })?;
        meaning.tags.push((name.as_ref().into(), value.into()));
    }
    Ok(meaning)
}

/// What the data holds; the mapping's pointers look into it. What they exclude they
/// may also name from the whole event.
fn measurements(
    of: &Normaliser<'_>,
    event: &Node<'_>,
    used: &[&Node<'_>],
) -> Result<Vec<Measurement>, Reject> {
    let content_type = optional(event, "datacontenttype")?.unwrap_or_default();
    let take = |data: &Node<'_>| {
        let bare = of.resolved.bare.as_deref();
        let exclude = of.mapping.exclude.iter();
        let excluded = exclude.filter_map(|at| at.find(data));
        let used: Vec<&Node<'_>> = used.iter().copied().chain(excluded).collect();
        measure::measurements(
            of.mapping,
            bare,
            data,
            None,
            None,
            &used,
            &mut Scratch::default(),
        )
    };
    match (event.child("data"), event.child("data_base64")) {
        (Some(_), Some(_)) => {
            let reason = "a CloudEvent has either \"data\" or \"data_base64\"";
            Err(Reject::new(Class::Syntax, reason))
        }
        (Some(data), None) => take(data),
        (None, Some(Node::Text(encoded))) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.as_bytes());
            let bytes =
                bytes.map_err(|_| Reject::new(Class::Syntax, "\"data_base64\" is not base64"))?;
            if bytes.is_empty() {
                return Ok(Vec::new());
            }
            // Who writes base64 means bytes, unless the type says what they are.
            let content_type = match content_type {
                "" => "application/octet-stream".to_owned(),
                said => said.to_ascii_lowercase(),
            };
            let lenient = of.mapping.lenient;
            let is_text = format_of(&content_type, &bytes).is_some_and(Format::is_text);
            let bytes = decode::readable(is_text, &bytes, lenient);
            take(&data(&content_type, &bytes, lenient)?)
        }
        (None, Some(other)) => {
            let reason = format!("\"data_base64\" is {}", other.kind());
            Err(Reject::new(Class::Type, reason))
        }
        (None, None) => Ok(Vec::new()),
    }
}

fn required<'n>(event: &'n Node<'_>, name: &str) -> Result<&'n str, Reject> {
    optional(event, name)?.ok_or_else(|| {
        let reason = format!("the CloudEvent has no {name:?}");
        Reject::new(Class::Missing, reason)
    })
}

fn optional<'n>(event: &'n Node<'_>, name: &str) -> Result<Option<&'n str>, Reject> {
    match event.child(name) {
        None | Some(Node::Null) => Ok(None),
        Some(Node::Text(text)) => Ok(Some(text.as_ref()).filter(|text| !text.is_empty())),
        Some(other) => {
            let reason = format!("{name:?} of the CloudEvent is {}", other.kind());
            Err(Reject::new(Class::Type, reason))
        }
    }
}
