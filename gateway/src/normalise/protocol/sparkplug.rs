//! Sparkplug B (Eclipse Sparkplug 3.0): births, data and deaths of nodes and their
//! devices, and the state of hosts. Commands are for devices and no telemetry.
//!
//! Events hold every metric by its full name, whatever the message called it. A
//! message is identified by its topic, its sequence number, its time and its bytes;
//! the sequence number alone begins again after 256 messages, and a node that is
//! born again keeps its `bdSeq`.
//!
//! A node of which something was missed is asked to be born again (section 5.4: the
//! command `Node Control/Rebirth`): its numbers have a gap, or a message of it needs a
//! birth that was not seen.

pub(super) mod life;
mod metric;
mod value;

use super::{
    BIRTH, Id, Meaning, STATE,
    births::{Heard, Metrics, Number},
    home::presence,
};
use crate::{
    event::IdSource,
    normalise::{
        Class, DEVICE_BYTES_MAX, Message, Node, Normaliser, Reject,
        decode::{self, Format, Lenient},
        identity,
        timestamp::{self, Said, Unit},
    },
};
use metric::Resolver;

/// What a topic says.
struct Topic<'t> {
    kind: &'t str,
    /// `group/node`.
    node: String,
    device: Option<&'t str>,
    /// The node with what is before the namespace, where another broker's topics have
    /// something before them.
    born_as: String,
    /// Whether the node listens where it is asked: behind the prefix of another broker
    /// it does not.
    is_here: bool,
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
        is_here: before.is_empty(),
    })
}

/// Where a node, `group/node`, listens to commands.
pub(super) fn commands(node: &str) -> Option<String> {
    let (group, node) = node.split_once('/')?;
    Some(format!("{NAMESPACE}/{group}/NCMD/{node}"))
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

/// What is within a compressed payload; `None` where it is not compressed.
pub(super) fn inflated(
    topic_name: &str,
    payload: &[u8],
    lenient: Lenient,
) -> Result<Option<Vec<u8>>, Reject> {
    match topic(topic_name)?.kind {
        "NCMD" | "DCMD" | "STATE" => Ok(None),
        _ => decode::sparkplug::inflated(payload, lenient),
    }
}

/// The tree of a payload; `None` for commands.
pub(super) fn read<'a>(
    message: &Message<'a>,
    lenient: Lenient,
) -> Result<Option<Node<'a>>, Reject> {
    let format = match topic(message.topic)?.kind {
        "NCMD" | "DCMD" => return Ok(None),
        "STATE" => Format::Json,
        _ => Format::Sparkplug,
    };
    decode::decode_leniently(format, message.payload, lenient).map(Some)
}

/// Whether a payload is text, all of it.
pub(super) fn is_text(message: &Message<'_>) -> bool {
    topic(message.topic).is_ok_and(|topic| topic.kind == "STATE")
}

/// What a payload says.
pub(super) fn meaning<'n, 'a>(
    of: &Normaliser<'_>,
    payload: &'n Node<'a>,
) -> Result<Meaning<'n, 'a>, Reject> {
    let topic = topic(of.message.topic)?;
    let said = said(of, &topic, payload);
    let missed = match &said {
        Ok((_, missed)) => *missed,
        Err(reject) => reject.class == Class::State,
    };
    if let Some(heard) = &mut *of.scratch.heard.borrow_mut() {
        heard.missed = missed;
    }
    said.map(|(meaning, _)| meaning)
}

/// What a payload says, and whether a birth was missed that it needs.
fn said<'n, 'a>(
    of: &Normaliser<'_>,
    topic: &Topic<'_>,
    payload: &'n Node<'a>,
) -> Result<(Meaning<'n, 'a>, bool), Reject> {
    let message = of.message;
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
        return Ok((meaning, false));
    }
    if payload.child("body").is_some() {
        let reason = "what is in the body of a Sparkplug payload is not read";
        return Err(Reject::new(Class::Unsupported, reason));
    }
    let seq = match payload.child("seq") {
        // Some libraries leave 0 out. Of a birth that costs nothing: what stands in it
        // is known all the same.
        None if topic.is_birth() => Some(0),
        None if topic.kind == "NDEATH" => None,
        None => return Err(Reject::new(Class::Missing, "there is no sequence number")),
        Some(Node::Int(seq)) if u8::try_from(*seq).is_ok() => u8::try_from(*seq).ok(),
        Some(_) => {
            let reason = "the sequence number is not between 0 and 255";
            return Err(Reject::new(Class::Range, reason));
        }
    };
    let births = message.births;
    let (client_id, node) = (message.client_id, &*topic.born_as);
    let number = match topic.kind {
        // The node begins to count, or has ended.
        "NBIRTH" => Some(Number::First(seq.unwrap_or(0))),
        "NDEATH" => None,
        _ => seq.map(Number::Next),
    };
    *of.scratch.heard.borrow_mut() = Some(Heard {
        node: topic.born_as.clone(),
        number,
        missed: false,
        may_be_asked: topic.is_here && of.mapping.rebirth,
        received: message.received,
    });
    let metrics = match payload.child("metrics") {
        Some(Node::Array(metrics)) => &metrics[..],
        _ => &[],
    };
    if topic.kind.ends_with("DEATH") {
        if topic.device.is_none() {
            births.death(client_id, node, bd_seq(metrics));
        }
        meaning.kind = Some(STATE);
        meaning.measurements = Some(vec![presence(false)]);
        return Ok((meaning, false));
    }
    if topic.is_birth() {
        meaning.kind = Some(BIRTH);
    }
    let sent = match payload.child("timestamp") {
        Some(Node::Int(sent)) => u64::try_from(*sent).ok(),
        _ => None,
    };
    let known = births.get(client_id, node, topic.device, message.received);
    let untyped = |metric: &Node<'_>| metric.child("datatype").is_none();
    if births.is_only_read()
        && (known.as_ref()).is_none_or(|known| sent.is_some_and(|sent| sent < known.sent))
        && !topic.is_birth()
        && metrics.iter().any(untyped)
    {
        let reason = "the birth that says what types its metrics have is not known";
        return Err(Reject::new(Class::State, reason));
    }
    // Also where all metrics have names: what types they have is in the birth.
    let missed = known.is_none() && !topic.is_birth();
    let resolver = Resolver {
        message,
        // Its aliases are those of messages after it.
        known: known.filter(|known| sent.is_none_or(|sent| sent >= known.sent)),
        birth: topic.is_birth(),
        lenient: of.mapping.lenient,
    };
    let mut named = Vec::with_capacity(metrics.len());
    for metric in metrics {
        named.push(resolver.named(metric, None)?);
    }
    if topic.is_birth() {
        // Also when a value cannot be used: the names are right all the same.
        let mut described = Vec::with_capacity(metrics.len());
        for (metric, named) in metrics.iter().zip(&named) {
            resolver.describe(metric, named, &mut described)?;
        }
        let born = Metrics::new(message.received, sent.unwrap_or_default(), described);
        match topic.device {
            None => births.node(client_id, node, bd_seq(metrics), born),
            Some(device) => births.device(client_id, node, device, born),
        }
    }
    let mut taken = metric::Taken::default();
    for (metric, named) in metrics.iter().zip(&named) {
        // They are the protocol's own.
        let own = *named.name == *BD_SEQ
            || named.name.starts_with("Node Control/")
            || named.name.starts_with("Device Control/");
        if topic.is_birth() && own {
            continue;
        }
        resolver.measurement(named, metric, &mut taken)?;
    }
    let mut measurements = taken.measurements;
    meaning.tags.append(&mut taken.tags);
    if taken.historical.len() == measurements.len() && !measurements.is_empty() {
        meaning.tags.push(("historical".into(), "true".into()));
    } else {
        let tags = taken.historical.into_iter();
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
    Ok((meaning, missed))
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
    let parts = [message.topic.as_bytes(), &seq, &at.as_nanos().to_be_bytes()];
    Some(Id {
        source: IdSource::Protocol,
        parts: parts.map(Box::from).into(),
        shared: false,
        // Its bytes are a part of it.
        repeats: true,
    })
}
