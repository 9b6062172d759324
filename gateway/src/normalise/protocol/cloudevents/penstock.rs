//! Events that another gateway of this kind sent: the measurements are what they were
//! there, with their units, qualities and times, and the event has the id that it had.
//!
//! Who may say for which device is the same as of any `CloudEvent`, and the key is of
//! this gateway, with the client in it where the device is only claimed: nobody can
//! suppress what another will send by sending its id first.

use std::sync::Arc;

use base64::Engine as _;

use super::{
    super::{Kind, Meaning, text_at},
    optional,
};
use crate::{
    event::{
        Key, Measurement, Quality, Timestamp, Value, delivery_key, json,
        message::{CBOR_MEDIA_TYPE, KEY_PROPERTY, escape},
        source,
    },
    normalise::{
        Node, Normaliser, Reject,
        identity::text,
        measure::{self, NAME_BYTES_MAX},
        timestamp::{self, Said, Unit},
    },
};

/// Attributes with a place of their own in an event that is read back.
const KNOWN: [&str; 13] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "traceparent",
    "data",
    "eventkey",
    "timesource",
    "sequence",
    "device",
];

/// Whether this is such an event, or a batch of them.
pub(in crate::normalise) fn is_event(root: &Node<'_>) -> bool {
    let one = |event: &Node<'_>| {
        let is = |name: &str, value: &str| text_at(event, name) == Some(value);
        is("specversion", "1.0")
            && key(event).is_some()
            && text_at(event, "device").is_some()
            && (is("timesource", "device") || is("timesource", "received"))
            && matches!(
                event.child("data").and_then(|data| data.child("m")),
                Some(Node::Array(_))
            )
    };
    match root {
        // A null stands for an event that was used before.
        Node::Array(events) => {
            let mut others = events
                .iter()
                .filter(|event| **event != Node::Null)
                .peekable();
            others.peek().is_some() && others.all(one)
        }
        event => one(event),
    }
}

/// The key by which the gateway that sent an event would have it told from others: a
/// correction is another event than what it corrects.
fn key(event: &Node<'_>) -> Option<Key> {
    let hex = text_at(event, "eventkey").filter(|key| key.len() == 32)?;
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut key = Key([0; 16]);
    for (byte, digits) in key.0.iter_mut().zip(hex.as_bytes().as_chunks().0) {
        let [high, low] = digits.map(digit);
        *byte = u8::try_from(high? << 4 | low?).ok()?;
    }
    let corrected = match text_at(event, "correctedtime") {
        None => None,
        Some(at) => {
            let at = at.parse::<jiff::Timestamp>().ok()?;
            Some(Timestamp::from_nanos(
                i64::try_from(at.as_nanosecond()).ok()?,
            ))
        }
    };
    Some(delivery_key(key, corrected))
}

/// What such an event says; `None` where it is another one, or where the mapping looks
/// for itself into the data.
pub(super) fn meaning<'n, 'a>(
    of: &Normaliser<'_>,
    event: &'n Node<'a>,
    names_device: bool,
) -> Result<Option<Meaning<'n, 'a>>, Reject> {
    let mapping = of.mapping;
    if !mapping.values.is_empty() || mapping.flatten.is_some() || !is_event(event) {
        return Ok(None);
    }
    let Some(measured) = measurements(of, event) else {
        return Ok(None);
    };
    let (Some(key), Some(device)) = (key(event), text_at(event, "device")) else {
        return Ok(None);
    };
    let key = key.to_string();
    let in_topic = is_escaped_in_topic(of, event, device);
    let named = names_device || (in_topic && !mapping.own_device);
    let time = match event.child("time") {
        Some(time) => timestamp::read(time, Unit::Rfc3339, None, of.message.received)?,
        None => Said::Nothing,
    };
    let mut meaning = Meaning {
        device: named.then(|| device.to_owned()),
        claimed: named,
        kind: text_at(event, "type").map(|kind| Kind::Type(kind.into())),
        time: Some(time),
        time_of_receipt: text_at(event, "timesource") == Some("received"),
        named: Some(key.as_str().into()),
        sequence: text_at(event, "sequence").and_then(|digits| digits.parse().ok()),
        measurements: Some(measured),
        traceparent: optional(event, "traceparent")?.map(Arc::from),
        ..Meaning::default()
    };
    tags(of, event, &key, device, &mut meaning);
    if time == Said::Implausible
        && let Some(said) = event.child("time").and_then(text)
    {
        meaning.tags.push(("devicetime".into(), said.into()));
    }
    Ok(Some(meaning))
}

/// Whether a gateway named the topic after the device: then the topic is authority enough
/// for the name that is escaped in it. A device may be called like an escaped name; what
/// it sends itself, however much it looks like an event, is its own, so only what says
/// all that a gateway says of such an event counts.
fn is_escaped_in_topic(of: &Normaliser<'_>, event: &Node<'_>, device: &str) -> bool {
    let message = of.message;
    let essence = super::essence(message);
    let written = match essence.as_str() {
        // MQTT 3.1.1 says nothing beside the payload; where anything is said, the key is.
        "" => message.user.is_empty() || message.property(KEY_PROPERTY).is_some(),
        json::MEDIA_TYPE | json::BATCH_MEDIA_TYPE | CBOR_MEDIA_TYPE => true,
        _ => false,
    };
    let site = text_at(event, "site");
    let consistent = text_at(event, "subject") == Some(device)
        && text_at(event, "source") == Some(&source(site, device));
    let mut escaped = String::new();
    escape(device, &mut escaped);
    let level = of.resolved.device.as_deref();
    written && consistent && escaped != device && level == Some(&escaped)
}

/// The event's own tags, and what its attributes say of where it comes from: what the
/// first gateway said of that stays.
fn tags(
    of: &Normaliser<'_>,
    event: &Node<'_>,
    key: &str,
    device: &str,
    meaning: &mut Meaning<'_, '_>,
) {
    let tags = &mut meaning.tags;
    if let Some(Node::Map(own)) = event.child("data").and_then(|data| data.child("tags")) {
        let own = own.iter();
        tags.extend(
            own.filter_map(|(name, node)| Some((name.as_ref().into(), text(node)?.into()))),
        );
    }
    let mut said: Vec<(&str, String)> = Vec::new();
    for (name, tag) in [
        ("id", "ceid"),
        ("source", "cesource"),
        ("subject", "cesubject"),
    ] {
        said.extend(text_at(event, name).map(|text| (tag, text.to_owned())));
    }
    if let Node::Map(members) = event {
        let others = members
            .iter()
            .filter(|(name, _)| !KNOWN.contains(&name.as_ref()));
        said.extend(others.filter_map(|(name, node)| Some((name.as_ref(), text(node)?))));
    }
    for (name, value) in said {
        let is_device = meaning.device.as_deref().or(of.resolved.device.as_deref()) == Some(device);
        let carried = match name {
            "ceid" => value == key,
            "cesubject" => value == device && is_device,
            "partitionkey" => value == device,
            "site" => of.resolved.site.as_deref() == Some(&*value),
            _ => false,
        };
        if !carried && !tags.iter().any(|(known, _)| **known == *name) {
            tags.push((name.into(), value.into()));
        }
    }
}

/// What was measured, but for what the mapping excludes; `None` where it is not written
/// as a gateway writes it.
fn measurements(of: &Normaliser<'_>, event: &Node<'_>) -> Option<Vec<Measurement>> {
    let Node::Array(all) = event.child("data")?.child("m")? else {
        return None;
    };
    let excluded = of.mapping.exclude.iter();
    let excluded: Vec<String> = excluded
        .map(|at| at.to_string().trim_start_matches('/').replace('/', "."))
        .collect();
    let is_excluded = |name: &str| {
        excluded.iter().any(|within| {
            let rest = name.strip_prefix(within.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let mut taken = Vec::with_capacity(all.len());
    for one in all {
        let measurement = measurement(of, one)?;
        if !is_excluded(&measurement.name) {
            taken.push(measurement);
        }
    }
    Some(taken)
}

fn measurement(of: &Normaliser<'_>, node: &Node<'_>) -> Option<Measurement> {
    let name = text_at(node, "n").filter(|name| name.len() <= NAME_BYTES_MAX)?;
    let value = value(node.child("v")?)?;
    let unit = match node.child("u") {
        None => None,
        Some(unit) => Some(measure::unit(&text(unit)?).ok()?),
    };
    let quality = match node.child("q") {
        None => Quality::Good,
        Some(Node::Text(word)) => {
            let mut words = Quality::WORDS.iter();
            words.find(|(known, _)| known == word)?.1
        }
        Some(_) => return None,
    };
    let time = match node.child("t") {
        None => None,
        Some(at) => match timestamp::read(at, Unit::Rfc3339, None, of.message.received).ok()? {
            Said::Plausible { at, .. } => Some(at),
            Said::Nothing | Said::Implausible => None,
        },
    };
    Some(Measurement {
        name: name.into(),
        value,
        unit,
        quality,
        time,
    })
}

/// A value; bytes are written as `{"b64": ...}`.
fn value(node: &Node<'_>) -> Option<Value> {
    match node {
        Node::Map(members) if members.len() == 1 && members[0].0 == "b64" => {
            let Node::Text(encoded) = &members[0].1 else {
                return None;
            };
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded.as_bytes());
            bytes.ok().map(Value::Bytes)
        }
        Node::Map(members) => {
            let members = members.iter();
            let members =
                members.map(|(name, node)| Some((name.as_ref().to_owned(), value(node)?)));
            members.collect::<Option<_>>().map(Value::Map)
        }
        Node::Array(items) => items
            .iter()
            .map(value)
            .collect::<Option<_>>()
            .map(Value::Array),
        node => Some(node.to_value()),
    }
}
