//! Sparkplug B (Eclipse Sparkplug 3.0): births, data and deaths of nodes and their
//! devices, and the state of hosts. Commands are for devices and no telemetry.
//!
//! Events hold every metric by its full name, whatever the message called it. A
//! message is identified by its topic, its sequence number, its time and its bytes;
//! the sequence number alone begins again after 256 messages, and a node that is
//! born again keeps its `bdSeq`.

use std::sync::Arc;

use super::{
    BIRTH, Id, Meaning, STATE,
    births::{Born, Metric},
    home::presence,
};
use crate::{
    event::{Measurement, Quality, Value},
    normalise::{
        Class, Message, Node, Reject,
        decode::{self, Format, quoted, sparkplug::is_value},
        measure,
        timestamp::{self, Said, Unit},
    },
};

/// What a topic says.
struct Topic<'t> {
    kind: &'t str,
    /// `group/node`.
    node: String,
    device: Option<&'t str>,
}

const NAMESPACE: &str = "spBv1.0";

fn topic(topic: &str) -> Result<Topic<'_>, Reject> {
    let levels: Vec<&str> = topic.splitn(6, '/').collect();
    let topic = match levels[..] {
        [NAMESPACE, "STATE", host] if !host.is_empty() => Topic {
            kind: "STATE",
            node: format!("STATE/{host}"),
            device: None,
        },
        [
            NAMESPACE,
            group,
            kind @ ("NBIRTH" | "NDATA" | "NDEATH" | "NCMD"),
            node,
        ] if !group.is_empty() && !node.is_empty() => Topic {
            kind,
            node: format!("{group}/{node}"),
            device: None,
        },
        [
            NAMESPACE,
            group,
            kind @ ("DBIRTH" | "DDATA" | "DDEATH" | "DCMD"),
            node,
            device,
        ] if !group.is_empty() && !node.is_empty() && !device.is_empty() => Topic {
            kind,
            node: format!("{group}/{node}"),
            device: Some(device),
        },
        _ => {
            let reason = "the topic is not one of Sparkplug B";
            return Err(Reject::new(Class::Unmapped, reason));
        }
    };
    Ok(topic)
}

/// The tree of a payload; `None` for commands.
pub(super) fn read<'a>(message: &Message<'a>) -> Result<Option<Node<'a>>, Reject> {
    let format = match topic(message.topic)?.kind {
        "NCMD" | "DCMD" => return Ok(None),
        "STATE" => Format::Json,
        _ => Format::Sparkplug,
    };
    decode::decode(format, message.payload).map(Some)
}

/// What a payload says.
pub(super) fn meaning<'n, 'a>(
    message: &Message<'_>,
    payload: &'n Node<'a>,
) -> Result<Meaning<'n, 'a>, Reject> {
    let topic = topic(message.topic)?;
    let time = match payload.child("timestamp") {
        Some(time) => timestamp::read(time, Unit::Millis, None, message.received)?,
        None => Said::Nothing,
    };
    let mut meaning = Meaning {
        device: Some(match topic.device {
            Some(device) => format!("{}/{device}", topic.node),
            None => topic.node.clone(),
        }),
        time: Some(time),
        id: id(message, payload, time),
        ..Meaning::default()
    };
    if time == Said::Implausible
        && let Some(said) = payload
            .child("timestamp")
            .and_then(crate::normalise::identity::text)
    {
        meaning.tags.push(("devicetime".into(), said.into()));
    }
    if topic.kind == "STATE" {
        let online = match payload.child("online") {
            Some(Node::Bool(online)) => *online,
            _ => {
                let reason = "a host's state says whether it is \"online\"";
                return Err(Reject::new(Class::Missing, reason));
            }
        };
        meaning.kind = Some(STATE);
        meaning.measurements = Some(vec![presence(online)]);
        return Ok(meaning);
    }
    match payload.child("seq") {
        None if topic.kind == "NDEATH" => {}
        None => return Err(Reject::new(Class::Missing, "there is no sequence number")),
        Some(Node::Int(0..=255)) => {}
        Some(_) => {
            let reason = "the sequence number is not between 0 and 255";
            return Err(Reject::new(Class::Range, reason));
        }
    }
    let metrics = match payload.child("metrics") {
        Some(Node::Array(metrics)) => &metrics[..],
        _ => &[],
    };
    if topic.kind.ends_with("DEATH") {
        if topic.device.is_none() {
            message.births.death(message.client_id, &topic.node);
        }
        meaning.kind = Some(STATE);
        meaning.measurements = Some(vec![presence(false)]);
        return Ok(meaning);
    }
    let birth = topic.kind.ends_with("BIRTH");
    if birth {
        meaning.kind = Some(BIRTH);
    }
    let known = message.births.get(message.client_id, &topic.node);
    let resolver = Resolver {
        message,
        device: topic.device.unwrap_or_default(),
        time,
        // Its aliases are those of messages after it.
        known: known.as_deref().filter(|known| {
            let sent = payload.child("timestamp");
            !matches!(sent, Some(Node::Int(sent)) if u64::try_from(*sent).is_ok_and(|sent| sent < known.at))
        }),
        birth,
    };
    let mut born = Vec::new();
    let mut measurements = Vec::with_capacity(metrics.len());
    for metric in metrics {
        let named = resolver.named(metric)?;
        if birth {
            let alias = match metric.child("alias") {
                Some(Node::Int(alias)) => u64::try_from(*alias).ok(),
                Some(Node::UInt(alias)) => Some(*alias),
                _ => None,
            };
            born.push((alias, named.clone()));
        }
        // They are the protocol's own.
        let own = *named.name == *"bdSeq"
            || named.name.starts_with("Node Control/")
            || named.name.starts_with("Device Control/");
        if !(birth && own) {
            measurements.push(resolver.measurement(&named, metric)?);
        }
        if metric.child("historical") == Some(&Node::Bool(true)) && meaning.tags.is_empty() {
            meaning.tags.push(("historical".into(), "true".into()));
        }
    }
    if birth {
        let at = match payload.child("timestamp") {
            Some(Node::Int(at)) => u64::try_from(*at).unwrap_or_default(),
            _ => 0,
        };
        match topic.device {
            None => message
                .births
                .node(message.client_id, &topic.node, at, born),
            Some(_) => message
                .births
                .device(message.client_id, &topic.node, at, born),
        }
    }
    meaning.measurements = Some(measurements);
    Ok(meaning)
}

/// Only with a time to believe: without one the same bytes come again after 256
/// messages, or after a restart.
fn id(message: &Message<'_>, payload: &Node<'_>, time: Said) -> Option<Id> {
    let Said::Plausible { at, .. } = time else {
        return None;
    };
    let seq = match payload.child("seq") {
        Some(Node::Int(seq)) => seq.to_be_bytes(),
        _ => [0xff; 8],
    };
    Some(Id::protocol(&[
        message.topic.as_bytes(),
        &seq,
        &at.as_nanos().to_be_bytes(),
        message.payload,
    ]))
}

struct Resolver<'m> {
    message: &'m Message<'m>,
    device: &'m str,
    time: Said,
    known: Option<&'m Born>,
    birth: bool,
}

impl Resolver<'_> {
    /// A metric's name and type, from the message itself or from the birth.
    fn named(&self, metric: &Node<'_>) -> Result<Metric, Reject> {
        let own = match metric.child("datatype") {
            Some(Node::Int(own)) => u64::try_from(*own).ok(),
            _ => None,
        };
        let name = super::text_at(metric, "name").filter(|name| !name.is_empty());
        let alias = match metric.child("alias") {
            Some(Node::Int(alias)) => u64::try_from(*alias).ok(),
            Some(Node::UInt(alias)) => Some(*alias),
            _ => None,
        };
        match (name, alias) {
            (Some(name), _) => {
                let birth = || self.known?.datatype(self.device, name);
                Ok(Metric {
                    device: self.device.into(),
                    name: name.into(),
                    datatype: own.or_else(|| if self.birth { None } else { birth() }),
                })
            }
            (None, _) if self.birth => {
                let reason = "a metric of a birth has no name";
                Err(Reject::new(Class::Missing, reason))
            }
            (None, Some(alias)) => {
                let known = self.known.and_then(|known| known.by_alias(alias));
                let known = known.filter(|metric| *metric.device == *self.device);
                let known = known.ok_or_else(|| {
                    let reason = format!(
                        "metric {alias} has no name, and no birth that says which it is was seen"
                    );
                    Reject::new(Class::State, reason)
                })?;
                Ok(Metric {
                    datatype: own.or(known.datatype),
                    ..known.clone()
                })
            }
            (None, None) => {
                let reason = "a metric has neither a name nor an alias";
                Err(Reject::new(Class::Missing, reason))
            }
        }
    }

    fn measurement(&self, named: &Metric, metric: &Node<'_>) -> Result<Measurement, Reject> {
        if named.name.len() > measure::NAME_BYTES_MAX {
            return Err(measure::name_too_long());
        }
        let Node::Map(members) = metric else {
            return Err(Reject::new(Class::Syntax, "a metric is an object"));
        };
        let null = metric.child("null") == Some(&Node::Bool(true));
        let given = members.iter().find(|(name, _)| is_value(name));
        let value = match given {
            Some((field, node)) if !null => typed(named, field, node)?,
            _ => Value::Null,
        };
        let at = match metric.child("timestamp") {
            Some(at) => timestamp::read(at, Unit::Millis, None, self.message.received)?,
            None => Said::Nothing,
        };
        let (Said::Plausible { at: of_event, .. }, Said::Plausible { at, .. }) = (self.time, at)
        else {
            return Ok(self.finished(named, value, metric, None));
        };
        let time = Some(at).filter(|at| *at != of_event);
        Ok(self.finished(named, value, metric, time))
    }

    fn finished(
        &self,
        named: &Metric,
        value: Value,
        metric: &Node<'_>,
        time: Option<crate::event::Timestamp>,
    ) -> Measurement {
        let property = |name: &str| metric.child("properties")?.child(name);
        // Sparkplug 3.0, section 6.4.11: 192 is good, 0 bad, 500 stale.
        let quality = match property("Quality") {
            _ if value == Value::Null => Quality::Bad,
            None | Some(Node::Int(192) | Node::Null) => Quality::Good,
            Some(Node::Int(0)) => Quality::Bad,
            Some(_) => Quality::Uncertain,
        };
        let unit = match property("engUnit").or_else(|| property("Engineering Units")) {
            Some(Node::Text(unit)) if !unit.is_empty() => Some(Arc::from(unit.as_ref())),
            _ => None,
        };
        Measurement {
            name: named.name.clone(),
            value,
            unit,
            quality,
            time,
        }
    }
}

/// A value of its type (section 6.4.16): integers up to 32 bits come as two's
/// complement in an unsigned field, and only the type says so.
fn typed(named: &Metric, field: &str, node: &Node<'_>) -> Result<Value, Reject> {
    let bits = match node {
        Node::Int(n) => n.cast_unsigned(),
        Node::UInt(n) => *n,
        other => return Ok(other.to_value()),
    };
    let range = || {
        let reason = format!("the value of {} does not fit its type", quoted(&named.name));
        Reject::new(Class::Range, reason)
    };
    let unsigned = |most: u64| {
        let fits = Some(bits).filter(|bits| *bits <= most);
        fits.map(Value::from).ok_or_else(range)
    };
    // Sent as so many bits, or extended to 32 or 64.
    let signed = |width: u32| {
        let high = bits >> (width - 1);
        let ones = u64::MAX >> (width - 1);
        let extended = [ones, u64::from(u32::MAX) >> (width - 1), 1];
        let shift = 64 - width;
        (high == 0 || extended.contains(&high))
            .then(|| Value::Int((bits << shift).cast_signed() >> shift))
            .ok_or_else(range)
    };
    match named.datatype {
        Some(1) => signed(8),
        Some(2) => signed(16),
        Some(3) => signed(32),
        Some(4) => Ok(Value::Int(bits.cast_signed())),
        Some(5) => unsigned(u64::from(u8::MAX)),
        Some(6) => unsigned(u64::from(u16::MAX)),
        Some(7) => unsigned(u64::from(u32::MAX)),
        Some(8 | 13) => Ok(Value::from(bits)),
        _ => {
            let half = if field == "int" { 1 << 31 } else { 1 << 63 };
            if bits < half {
                return Ok(Value::from(bits));
            }
            let reason = format!(
                "{} may be negative, and no birth that says its type was seen",
                quoted(&named.name)
            );
            Err(Reject::new(Class::State, reason))
        }
    }
}
