//! What is found in homes: Zigbee2MQTT, Shelly, Homie, Home Assistant, and wills.

use std::sync::Arc;

use super::{METADATA, Meaning, STATE, text_at};
use crate::{
    event::{Measurement, Quality, Value},
    normalise::{
        Class, Node, Normaliser, Reject,
        decode::quoted,
        identity::text,
        measure::{self, NAME_BYTES_MAX},
    },
};

/// Zigbee2MQTT publishes the whole known state of a device. What is below `bridge`
/// is about itself, and what ends with `availability` says whether a device is there.
pub(super) fn zigbee2mqtt<'n, 'a>(
    of: &Normaliser<'_>,
    element: &'n Node<'a>,
) -> Result<Meaning<'n, 'a>, Reject> {
    let topic = of.message.topic;
    if topic.ends_with("/availability") {
        return will(element);
    }
    // The base topic may have several levels: the mapping says where devices begin.
    let device = of.resolved.device.as_deref().unwrap_or_default();
    let of_bridge = device.starts_with("bridge/") || topic.split('/').nth(1) == Some("bridge");
    Ok(Meaning {
        kind: of_bridge.then_some(METADATA),
        ..Meaning::default()
    })
}

/// A notification of a Shelly: what has changed, component by component. A
/// component's number is in its name already.
pub(super) fn shelly<'n, 'a>(
    element: &'n Node<'a>,
    used: &mut Vec<&'n Node<'a>>,
) -> Result<Meaning<'n, 'a>, Reject> {
    match text_at(element, "method") {
        Some("NotifyStatus" | "NotifyFullStatus" | "NotifyEvent") => {}
        Some(other) => {
            let reason = format!("{} is not a notification of a Shelly", quoted(other));
            return Err(Reject::new(Class::Unsupported, reason));
        }
        None => {
            let reason = "a Shelly's answer to a command, not a notification";
            return Err(Reject::new(Class::Unsupported, reason));
        }
    }
    if let Some(Node::Map(components)) = element.child("params") {
        let ids = components.iter().filter_map(|(_, node)| node.child("id"));
        used.extend(ids);
    }
    Ok(Meaning::default())
}

/// Whether a client is there: a word, or `{"state": "online"}`.
pub(super) fn will<'n, 'a>(element: &'n Node<'a>) -> Result<Meaning<'n, 'a>, Reject> {
    let state = element.child("state").unwrap_or(element);
    let is = |text: &str, words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    let online = match state {
        Node::Bool(online) => Some(*online),
        Node::Int(1) => Some(true),
        Node::Int(0) => Some(false),
        Node::Text(text) if is(text, &["online", "connected"]) => Some(true),
        Node::Text(text) if is(text, &["offline", "disconnected", "lost"]) => Some(false),
        _ => None,
    };
    let online = online.ok_or_else(|| {
        let given = match state {
            Node::Text(text) => quoted(text),
            other => other.kind().to_owned(),
        };
        let reason = format!("{given} is neither \"online\" nor \"offline\"");
        Reject::new(Class::Type, reason)
    })?;
    Ok(Meaning {
        kind: Some(STATE),
        measurements: Some(vec![presence(online)]),
        ..Meaning::default()
    })
}

/// Whether something is there, as a measurement.
pub(super) fn presence(online: bool) -> Measurement {
    Measurement {
        name: "online".into(),
        value: Value::Bool(online),
        unit: None,
        quality: Quality::Good,
        time: None,
    }
}

/// Attributes of Homie begin with `$`: they describe a device, or say how it is; what is
/// below one, such as `$alert/{id}`, belongs to it.
pub(super) fn homie<'n, 'a>(of: &Normaliser<'_>) -> Result<Meaning<'n, 'a>, Reject> {
    if (of.resolved.bare.as_ref()).is_some_and(|name| name.len() > NAME_BYTES_MAX) {
        return Err(measure::name_too_long());
    }
    let mut levels = of.message.topic.split('/').rev();
    let kind = match levels.next() {
        Some("$state") => Some(STATE),
        Some(last) if last.starts_with('$') => Some(METADATA),
        _ => levels
            .next()
            .filter(|level| level.starts_with('$'))
            .map(|_| METADATA),
    };
    Ok(Meaning {
        kind,
        ..Meaning::default()
    })
}

/// A discovery document names its device by the first of its identifiers. It is
/// kept whole, as it came.
pub(super) fn discovery<'n, 'a>(
    of: &Normaliser<'_>,
    element: &'n Node<'a>,
) -> Result<Meaning<'n, 'a>, Reject> {
    let Node::Map(_) = element else {
        let reason = format!("a discovery document is an object, not {}", element.kind());
        return Err(Reject::new(Class::Type, reason));
    };
    let device = |name| element.child(name);
    let identifiers = device("device")
        .and_then(|device| device.child("identifiers").or_else(|| device.child("ids")))
        .or_else(|| {
            device("dev").and_then(|dev| dev.child("ids").or_else(|| dev.child("identifiers")))
        });
    let first = match identifiers {
        Some(Node::Array(list)) => list.first(),
        other => other,
    };
    let name = first
        .and_then(text)
        .or_else(|| element.child("unique_id").and_then(text))
        .or_else(|| element.child("uniq_id").and_then(text));
    Ok(Meaning {
        device: name,
        claimed: true,
        kind: Some(METADATA),
        measurements: Some(Vec::new()),
        tags: vec![of.raw(), (Arc::from("rawtype"), "application/json".into())],
        ..Meaning::default()
    })
}
