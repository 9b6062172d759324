//! `CloudEvents` 1.0 over MQTT: structured and batched in JSON, binary by MQTT 5
//! user properties. The three forms of one event have one key.
//!
//! `source` and `id` are the identity: consumers may assume that events equal in
//! both are one event. The device is the `subject`, or else the `source`.

use std::{borrow::Cow, sync::Arc};

use base64::Engine as _;

use super::{Id, Kind, Meaning};
use crate::{
    event::{IdSource, Measurement},
    normalise::{
        Class, Message, Node, Normaliser, Reject,
        decode::{self, Format, quoted},
        identity::text,
        measure,
        timestamp::{self, Said, Unit},
    },
};

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

/// The tree of a message: an event as its JSON form has it, or an array of them.
pub(super) fn read<'a>(message: &Message<'a>) -> Result<Node<'a>, Reject> {
    let content_type = message.content_type.unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    match essence.strip_prefix("application/cloudevents") {
        Some("" | "+json") => return decode::decode(Format::Json, message.payload),
        Some("-batch" | "-batch+json") => {
            let root = decode::decode(Format::Json, message.payload)?;
            return match root {
                Node::Array(_) => Ok(root),
                _ => Err(Reject::new(
                    Class::Type,
                    "a batch of CloudEvents is an array",
                )),
            };
        }
        Some(_) => {
            let reason = format!("CloudEvents as {} are not read", quoted(&essence));
            return Err(Reject::new(Class::Unsupported, reason));
        }
        None => {}
    }
    if message.property("specversion").is_none() {
        // What MQTT 3.1.1 cannot say otherwise.
        return decode::decode(Format::Json, message.payload);
    }
    binary(message, &essence)
}

fn binary<'a>(message: &Message<'a>, essence: &str) -> Result<Node<'a>, Reject> {
    let attribute = |name: &str| {
        name.bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    let mut members: Vec<(Cow<'a, str>, Node<'a>)> = Vec::new();
    for (name, value) in message.user {
        if !attribute(name) || matches!(&**name, "data" | "datacontenttype") {
            continue;
        }
        if members.iter().any(|(other, _)| **other == **name) {
            let reason = format!("the attribute {} is there twice", quoted(name));
            return Err(Reject::new(Class::DuplicateKey, reason));
        }
        members.push((Cow::Borrowed(name), Node::Text(Cow::Borrowed(value))));
    }
    let declared = match essence {
        "" => message.property("datacontenttype").map_or("", |text| text),
        essence => essence,
    };
    if !message.payload.is_empty() {
        members.push(("data".into(), data(declared, message.payload)?));
    }
    Ok(Node::Map(members))
}

/// Data that is not JSON yet, by its media type; of an unknown type the bytes.
fn data<'d>(content_type: &str, bytes: &'d [u8]) -> Result<Node<'d>, Reject> {
    match decode::declared(content_type) {
        Some(format @ (Format::Json | Format::Cbor | Format::MsgPack)) => {
            decode::decode(format, bytes)
        }
        _ if content_type.starts_with("text/") => decode::decode(Format::Scalar, bytes),
        _ if content_type.is_empty() => decode::decode(decode::sniff(bytes), bytes),
        _ => Ok(Node::Bytes(Cow::Borrowed(bytes))),
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
            &mut String::new(),
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
            take(&data(&content_type, &bytes)?)
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
