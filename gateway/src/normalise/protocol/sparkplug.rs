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
    births::{Metric, Metrics},
    home::presence,
};
use crate::{
    event::{Measurement, Quality, Value},
    normalise::{
        Class, DEVICE_BYTES_MAX, Message, Node, Reject,
        decode::{
            self, Format, quoted,
            sparkplug::{UNSUPPORTED, is_value},
        },
        identity, measure,
        timestamp::{self, Said, Unit},
    },
};

/// What a topic says.
struct Topic<'t> {
    kind: &'t str,
    /// `group/node`.
    node: String,
    device: Option<&'t str>,
    /// The node with what is before the namespace, where another broker's topics have
    /// something before them.
    born_as: String,
}

impl Topic<'_> {
    fn is_birth(&self) -> bool {
        self.kind.ends_with("BIRTH")
    }
}

const NAMESPACE: &str = "spBv1.0";

fn topic(topic: &str) -> Result<Topic<'_>, Reject> {
    let before: usize = topic
        .split('/')
        .take_while(|level| *level != NAMESPACE)
        .map(|level| level.len() + 1)
        .sum();
    let (before, topic) = topic.split_at_checked(before).unwrap_or(("", topic));
    let levels: Vec<&str> = topic.splitn(6, '/').collect();
    let (kind, node, device) = match levels[..] {
        [NAMESPACE, "STATE", host] if !host.is_empty() => ("STATE", format!("STATE/{host}"), None),
        [
            NAMESPACE,
            group,
            kind @ ("NBIRTH" | "NDATA" | "NDEATH" | "NCMD"),
            node,
        ] if !group.is_empty() && !node.is_empty() => (kind, format!("{group}/{node}"), None),
        [
            NAMESPACE,
            group,
            kind @ ("DBIRTH" | "DDATA" | "DDEATH" | "DCMD"),
            node,
            device,
        ] if !group.is_empty() && !node.is_empty() && !device.is_empty() => {
            (kind, format!("{group}/{node}"), Some(device))
        }
        _ => {
            let reason = "the topic is not one of Sparkplug B";
            return Err(Reject::new(Class::Unmapped, reason));
        }
    };
    Ok(Topic {
        kind,
        born_as: format!("{before}{node}"),
        node,
        device,
    })
}

/// A birth ends what the one before it said, whatever becomes of it: the old names
/// would be wrong for what comes after it.
pub(super) fn begin(message: &Message<'_>) {
    if let Ok(topic) = topic(message.topic)
        && topic.is_birth()
    {
        let births = message.births;
        births.forget(message.client_id, &topic.born_as, topic.device);
    }
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
    let device = match topic.device {
        Some(device) => format!("{}/{device}", topic.node),
        None => topic.node.clone(),
    };
    // Before anything is kept under this name.
    if device.len() > DEVICE_BYTES_MAX {
        let reason = format!("the device's name has more than {DEVICE_BYTES_MAX} bytes");
        return Err(Reject::new(Class::Limit, reason));
    }
    let mut meaning = Meaning {
        device: Some(device),
        time: Some(time),
        id: id(message, payload, time),
        ..Meaning::default()
    };
    if time == Said::Implausible
        && let Some(said) = payload.child("timestamp").and_then(identity::text)
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
    if payload.child("body").is_some() {
        let reason =
            "what is in the body of a Sparkplug payload, such as compressed metrics, is not read";
        return Err(Reject::new(Class::Unsupported, reason));
    }
    match payload.child("seq") {
        // Of a birth it is 0, which some libraries leave out.
        None if matches!(topic.kind, "NDEATH" | "NBIRTH") => {}
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
            let bd_seq = bd_seq(metrics);
            let births = message.births;
            births.death(message.client_id, &topic.born_as, bd_seq);
        }
        meaning.kind = Some(STATE);
        meaning.measurements = Some(vec![presence(false)]);
        return Ok(meaning);
    }
    if topic.is_birth() {
        meaning.kind = Some(BIRTH);
    }
    let sent = match payload.child("timestamp") {
        Some(Node::Int(sent)) => u64::try_from(*sent).ok(),
        _ => None,
    };
    let known = message.births.get(
        message.client_id,
        &topic.born_as,
        topic.device,
        message.received,
    );
    let resolver = Resolver {
        message,
        // Its aliases are those of messages after it.
        known: known.filter(|known| sent.is_none_or(|sent| sent >= known.sent)),
        birth: topic.is_birth(),
    };
    let mut named = Vec::with_capacity(metrics.len());
    for metric in metrics {
        named.push(resolver.named(metric)?);
    }
    if topic.is_birth() {
        // Also when a value cannot be used: the names are right all the same.
        let metrics_of = metrics.iter().map(alias).zip(named.iter().cloned());
        let born = Metrics::new(
            message.received,
            sent.unwrap_or_default(),
            metrics_of.collect(),
        );
        let (client_id, node) = (message.client_id, &topic.born_as);
        match topic.device {
            None => (message.births).node(client_id, node, bd_seq(metrics), born),
            Some(device) => message.births.device(client_id, node, device, born),
        }
    }
    let mut measurements = Vec::with_capacity(metrics.len());
    let mut historical = Vec::new();
    for (metric, named) in metrics.iter().zip(&named) {
        // They are the protocol's own.
        let own = *named.name == *BD_SEQ
            || named.name.starts_with("Node Control/")
            || named.name.starts_with("Device Control/");
        if topic.is_birth() && own {
            continue;
        }
        measurements.push(resolver.measurement(named, metric)?);
        if metric.child("historical") == Some(&Node::Bool(true)) {
            historical.push(&named.name);
        }
    }
    if historical.len() == measurements.len() && !historical.is_empty() {
        meaning.tags.push(("historical".into(), "true".into()));
    } else {
        let tags = historical.into_iter();
        let tags = tags.map(|name| (format!("{name}.historical").into(), "true".into()));
        meaning.tags.extend(tags);
    }
    // Without a time of its own, a payload is as old as the first of its metrics. That
    // tells no two payloads apart: a metric's time may be that of its last change.
    let first = measurements.iter().find_map(|measurement| measurement.time);
    if let (Said::Nothing, Some(at)) = (time, first) {
        meaning.time = Some(Said::Plausible { at, fine: false });
        meaning.relative = true;
    }
    if let Some(Said::Plausible { at, .. }) = meaning.time {
        for measurement in &mut measurements {
            measurement.time = measurement.time.filter(|own| *own != at);
        }
    }
    meaning.measurements = Some(measurements);
    Ok(meaning)
}

const BD_SEQ: &str = "bdSeq";

/// The number of a node's session, in its birth and in its death.
fn bd_seq(metrics: &[Node<'_>]) -> Option<u64> {
    let of_session = |metric: &&Node<'_>| super::text_at(metric, "name") == Some(BD_SEQ);
    let metric = metrics.iter().find(of_session)?;
    unsigned(metric.child("long").or_else(|| metric.child("int"))?)
}

fn alias(metric: &Node<'_>) -> Option<u64> {
    unsigned(metric.child("alias")?)
}

fn unsigned(node: &Node<'_>) -> Option<u64> {
    match node {
        Node::Int(n) => u64::try_from(*n).ok(),
        Node::UInt(n) => Some(*n),
        _ => None,
    }
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
    known: Option<Arc<Metrics>>,
    birth: bool,
}

impl Resolver<'_> {
    /// A metric's name and type, from the message itself or from the birth.
    fn named(&self, metric: &Node<'_>) -> Result<Metric, Reject> {
        let own = metric.child("datatype").and_then(unsigned);
        let name = super::text_at(metric, "name").filter(|name| !name.is_empty());
        let known = self.known.as_deref();
        match (name, alias(metric)) {
            (Some(name), _) if name.len() > measure::NAME_BYTES_MAX => {
                Err(measure::name_too_long())
            }
            (Some(name), _) => Ok(Metric {
                name: name.into(),
                datatype: match self.birth {
                    true => own,
                    false => own.or_else(|| known?.datatype(name)),
                },
            }),
            (None, _) if self.birth => {
                let reason = "a metric of a birth has no name";
                Err(Reject::new(Class::Missing, reason))
            }
            (None, Some(alias)) => {
                let known = known.and_then(|known| known.by_alias(alias));
                let known = known.ok_or_else(|| {
                    let reason = format!(
                        "metric {alias} has no name, and no birth that says which it is was seen"
                    );
                    Reject::new(Class::State, reason)
                })?;
                Ok(Metric {
                    name: known.name.clone(),
                    datatype: own.or(known.datatype),
                })
            }
            (None, None) => {
                let reason = "a metric has neither a name nor an alias";
                Err(Reject::new(Class::Missing, reason))
            }
        }
    }

    fn measurement(&self, named: &Metric, metric: &Node<'_>) -> Result<Measurement, Reject> {
        let Node::Map(members) = metric else {
            return Err(Reject::new(Class::Syntax, "a metric is an object"));
        };
        if metric.child(UNSUPPORTED).is_some() {
            let reason = "data sets, templates and extensions are not supported";
            return Err(Reject::new(Class::Unsupported, reason));
        }
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
        let time = match at {
            Said::Plausible { at, .. } => Some(at),
            Said::Nothing | Said::Implausible => None,
        };
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
        Ok(Measurement {
            name: named.name.clone(),
            value,
            unit,
            quality,
            time,
        })
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
