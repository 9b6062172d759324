//! OPC UA `PubSub` in JSON (OPC 10000-14, section 7.2.5): network messages with
//! data set messages, or data set messages alone.

use super::{Id, METADATA, Meaning};
use crate::{
    event::{IdSource, Measurement, Quality},
    normalise::{
        Class, Node, Normaliser, Place, Reject,
        identity::text,
        measure,
        timestamp::{self, Said, Unit},
    },
};

/// The data set messages of a network message.
pub(super) fn elements<'n, 'a>(root: &'n Node<'a>) -> Result<Option<&'n Node<'a>>, Reject> {
    let wrong = |reason: &'static str| Err(Reject::new(Class::Type, reason));
    match root {
        // One event that holds it whole.
        Node::Map(_) if is_metadata(root) => Ok(None),
        Node::Map(_) => match root.child("Messages") {
            Some(messages @ Node::Array(_)) => Ok(Some(messages)),
            // A single one, without the array.
            Some(messages @ Node::Map(_)) if messages.child("Payload").is_some() => Ok(None),
            Some(_) => wrong("\"Messages\" of an OPC UA message is not an array"),
            None => Ok(None),
        },
        // A null stands for a message that was used before.
        Node::Array(items)
            if (items.iter()).all(|item| matches!(item, Node::Map(_) | Node::Null)) =>
        {
            Ok(Some(root))
        }
        _ => wrong("not an OPC UA network message"),
    }
}

/// Whether a network message describes, and holds no data.
fn is_metadata(root: &Node<'_>) -> bool {
    match root.child("MessageType") {
        Some(Node::Text(kind)) => kind.starts_with("ua-") && kind != "ua-data",
        _ => false,
    }
}

/// One data set message; one without a payload, a keep-alive, says nothing.
pub(super) fn meaning<'n, 'a>(
    of: &Normaliser<'_>,
    place: &Place<'n, 'a>,
    used: &mut Vec<&'n Node<'a>>,
) -> Result<Option<Meaning<'n, 'a>>, Reject> {
    let root = place.header.map_or(place.element, |header| header.root);
    if is_metadata(root) {
        return Ok(Some(Meaning {
            device: root.child("PublisherId").and_then(text),
            claimed: true,
            kind: Some(METADATA),
            measurements: Some(Vec::new()),
            tags: vec![of.raw()],
            ..Meaning::default()
        }));
    }
    let single = root.child("Messages").filter(|_| place.header.is_none());
    let message = single.unwrap_or(place.element);
    let Some(payload) = message.child("Payload") else {
        return match message {
            Node::Map(_)
                if message.child("DataSetWriterId").is_some() || place.header.is_some() =>
            {
                Ok(None)
            }
            _ => Err(Reject::new(Class::Type, "not an OPC UA data set message")),
        };
    };
    let Node::Map(fields) = payload else {
        let reason = format!("an OPC UA payload is an object, not {}", payload.kind());
        return Err(Reject::new(Class::Type, reason));
    };
    // Pointers look into the message, and into what it carries.
    let exclude = of.mapping.exclude.iter();
    used.extend(exclude.filter_map(|at| at.find(payload)));
    let mut measurements = Vec::with_capacity(fields.len());
    if of.mapping.values.is_empty() {
        for (name, node) in fields {
            if !measure::is_used(used, node) {
                field(of, name, node, used, &mut measurements)?;
            }
        }
    }
    let publisher = root.child("PublisherId").and_then(text);
    let writer = message
        .child("DataSetWriterId")
        .or_else(|| message.child("DataSetWriterName"))
        .and_then(text);
    let device = match (publisher, writer) {
        (Some(publisher), Some(writer)) => Some(format!("{publisher}/{writer}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => None,
    };
    let id = root
        .child("MessageId")
        .and_then(text)
        .filter(|id| !id.is_empty());
    // Of a single one the mapping's pointers see the network message around it.
    let own = of.mapping.time.as_ref().zip(single);
    let own = own.and_then(|(time, single)| Some((time, time.at.find(single)?)));
    let time = match own {
        Some((time, node)) => Some(timestamp::read(
            node,
            time.unit,
            time.zone.as_ref(),
            of.message.received,
        )?),
        None => None,
    };
    let said = own.and_then(|(_, node)| text(node));
    let said = said.filter(|_| time == Some(Said::Implausible));
    Ok(Some(Meaning {
        time,
        tags: said
            .map(|said| ("devicetime".into(), said.into()))
            .into_iter()
            .collect(),
        claimed: device.is_some(),
        device,
        id: id.map(|id| Id {
            source: IdSource::Protocol,
            parts: vec![id.into_bytes().into()],
            shared: true,
            // It should be unique in the world. Publishers count, and from 1 again
            // after a restart.
            repeats: true,
        }),
        measurements: of.mapping.values.is_empty().then_some(measurements),
        ..Meaning::default()
    }))
}

/// One field: a bare value, a variant, or a value with its status and time.
fn field(
    of: &Normaliser<'_>,
    name: &str,
    node: &Node<'_>,
    used: &[&Node<'_>],
    into: &mut Vec<Measurement>,
) -> Result<(), Reject> {
    let is_data_value = is_data_value(node);
    let part = |name: &str| node.child(name).filter(|_| is_data_value);
    let value = match part("Value") {
        Some(value) => value,
        None if is_data_value => &Node::Null,
        None => node,
    };
    let value = match (
        value.child("Body"),
        value.child("Type").or_else(|| value.child("UaType")),
    ) {
        (Some(body), Some(_)) => body,
        _ => value,
    };
    let quality = part("StatusCode").map_or(Quality::Good, quality);
    let time = match part("SourceTimestamp") {
        Some(time) => match timestamp::read(time, Unit::Rfc3339, None, of.message.received)? {
            Said::Plausible { at, .. } => Some(at),
            Said::Nothing | Said::Implausible => None,
        },
        None => None,
    };
    let from = into.len();
    measure::leaves(name, value, used, into)?;
    if into.len() == from && is_data_value {
        // A value that could not be read is worth knowing of.
        let mut measurement = measure::measurement(name.into(), None, &Node::Null);
        measurement.quality = Quality::Bad;
        into.push(measurement);
    }
    for measurement in &mut into[from..] {
        if measurement.quality == Quality::Good {
            measurement.quality = quality;
        }
        measurement.time = time;
    }
    Ok(())
}

/// Whether a field is a value with its status and time, and not a structure of the
/// user's that has a member of such a name too (OPC 10000-6, section 5.4.2.18).
fn is_data_value(node: &Node<'_>) -> bool {
    const TELLING: [&str; 3] = ["Value", "StatusCode", "SourceTimestamp"];
    const OTHERS: [&str; 6] = [
        "Status",
        "SourcePicoseconds",
        "ServerTimestamp",
        "ServerPicoseconds",
        "UaType",
        "Dimensions",
    ];
    let Node::Map(members) = node else {
        return false;
    };
    let mut names = members.iter().map(|(name, _)| name.as_ref());
    names.clone().any(|name| TELLING.contains(&name))
        && names.all(|name| TELLING.contains(&name) || OTHERS.contains(&name))
}

/// The two highest bits of a status code (OPC 10000-4, section 7.39.1).
fn quality(status: &Node<'_>) -> Quality {
    let code = match status.child("Code").unwrap_or(status) {
        Node::Int(code) => *code,
        // An object without a code is "good", which is left out.
        Node::Map(_) | Node::Null => 0,
        _ => return Quality::Uncertain,
    };
    match code >> 30 & 3 {
        0 => Quality::Good,
        1 => Quality::Uncertain,
        _ => Quality::Bad,
    }
}
