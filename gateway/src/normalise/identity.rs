//! What makes an event this event; see `dedup::key` for the bytes.
//!
//! In the order of preference: the configured MQTT 5 user property; the id that a
//! `CloudEvent` has for this purpose; the configured fields; the protocol's own
//! identity; device, topic, boot id and sequence number, together with the content;
//! the content alone, where the device's clock tells readings apart; nothing. A device
//! that names itself in the payload only claims to be that device, so its keys and ids
//! also hold the client identifier; and a user who is not that device has keys of its
//! own: nobody can suppress what another will send.

use std::{collections::HashMap, sync::Arc};

use super::{
    Named, Node, Normaliser, Place,
    decode::Float,
    mapping::{Dedup, Mapping, Scope, Sequence, Tag},
    protocol::{Id, Meaning},
    timestamp::Said,
};
use crate::{
    dedup::key,
    event::{IdSource, Key, Timestamp},
};

/// Longer ids are part of the key, but not of the event.
pub(super) const ID_BYTES_MAX: usize = 256;

/// Who an event is.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) key: Key,
    pub(super) id: Option<Arc<str>>,
    pub(super) source: IdSource,
    pub(super) sequence: Option<u64>,
}

/// How often each key was in this batch so far: two equal elements are two
/// readings, and counting them apart gives the same keys however they are batched.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    seen: HashMap<Key, u64>,
}

impl Repeats {
    /// How often `key` was before.
    fn before(&mut self, key: Key) -> u64 {
        let count = self.seen.entry(key).or_insert(0);
        *count += 1;
        *count - 1
    }
}

/// Identifies one event.
pub(super) fn identify<'n, 'a>(
    of: &mut Normaliser<'_>,
    place: &Place<'n, 'a>,
    device: &Named,
    time: Said,
    meaning: &Meaning<'_, '_>,
    used: &mut Vec<&'n Node<'a>>,
    tags: &mut Vec<Tag>,
) -> Identity {
    let (at, fine) = match time {
        Said::Plausible { at, fine } if !meaning.relative => (Some(at), fine),
        _ => (None, false),
    };
    let own = |source| meaning.id.as_ref().filter(|id| id.source == source);
    let counter = of
        .mapping
        .sequence
        .as_ref()
        .and_then(|s| counter(s, place, used, tags));
    let sequence = counter.as_ref().map(|counter| counter.sequence);
    let found = if of.mapping.dedup == Dedup::None {
        None
    } else {
        explicit(of, place, device)
            .or_else(|| {
                let id = meaning.named.as_ref()?;
                Some(named(of, place, IdSource::Explicit, device, id, None))
            })
            .or_else(|| Some(protocol(of, place, device, own(IdSource::Explicit)?)))
            .or_else(|| field(of, place, device, used))
            .or_else(|| Some(protocol(of, place, device, own(IdSource::Protocol)?)))
            .or_else(|| counted(of, place, device, at, counter.as_ref()))
            .or_else(|| content(of, place, device, at, fine))
    };
    let (key, id, source) = found.unwrap_or_else(|| {
        let index = place.index.map_or(0, |index| index as u64);
        let key = match of.message.delivery {
            Some(delivery) => key::delivered(delivery, index),
            None => key::random(of.message.received, of.message.nonce, index),
        };
        (key, None, IdSource::None)
    });
    Identity {
        key,
        id,
        source,
        sequence,
    }
}

type Known = (Key, Option<Arc<str>>, IdSource);

/// By what the protocol gives. Elements that share it are told apart by their number.
fn protocol(of: &mut Normaliser<'_>, place: &Place<'_, '_>, device: &Named, id: &Id) -> Known {
    let index = place.index.filter(|_| id.shared);
    let index = index.map(|index| index.to_string());
    let payload = of.message.payload;
    let parts = start(of, id.source, device);
    for part in &id.parts {
        parts.bytes(part);
    }
    parts.optional(index.as_deref().map(str::as_bytes));
    let key = match id.repeats {
        true => said(parts, payload, place),
        false => parts.key(),
    };
    (key, None, id.source)
}

fn explicit(of: &mut Normaliser<'_>, place: &Place<'_, '_>, device: &Named) -> Option<Known> {
    let id = of.message.property(of.mapping.id_property.as_deref()?)?;
    let index = place.index;
    Some(named(of, place, IdSource::Explicit, device, id, index))
}

fn field<'n, 'a>(
    of: &mut Normaliser<'_>,
    place: &Place<'n, 'a>,
    device: &Named,
    used: &mut Vec<&'n Node<'a>>,
) -> Option<Known> {
    let pointers = &of.mapping.id;
    if pointers.is_empty() {
        return None;
    }
    let mut found = Vec::with_capacity(pointers.len());
    for pointer in pointers {
        let at = place.find(pointer)?;
        found.push((at, text(at.node).filter(|text| !text.is_empty())?));
    }
    let index = place
        .index
        .filter(|_| found.iter().all(|(at, _)| at.shared));
    if let [(at, id)] = &found[..] {
        if id.len() <= ID_BYTES_MAX {
            used.push(at.node);
        }
        return Some(named(of, place, IdSource::Field, device, id, index));
    }
    let parts = start(of, IdSource::Field, device);
    for (_, text) in &found {
        parts.bytes(text.as_bytes());
    }
    parts.optional(
        index
            .map(|index| index.to_string())
            .as_deref()
            .map(str::as_bytes),
    );
    let key = parts.key();
    let (key, _) = numbered(of, place, IdSource::Field, device, key);
    Some((key, None, IdSource::Field))
}

/// Whether the fields of an element's id, its own and not those around it, are
/// those of another element too: then it takes the other to number this one, and
/// the batch must not be taken apart.
pub(super) fn field_repeats(
    mapping: &Mapping,
    elements: &[Node<'_>],
    wanted: impl Fn(usize) -> bool,
) -> bool {
    if mapping.id.is_empty() || mapping.dedup == Dedup::None {
        return false;
    }
    let own = |element: &Node<'_>| -> Vec<Option<String>> {
        let pointers = mapping.id.iter();
        pointers.map(|at| text(at.find(element)?)).collect()
    };
    let mut count: HashMap<Vec<Option<String>>, usize> = HashMap::new();
    for element in elements.iter().filter(|e| **e != Node::Null) {
        *count.entry(own(element)).or_default() += 1;
    }
    elements.iter().enumerate().any(|(index, element)| {
        let id = wanted(index).then(|| own(element));
        id.is_some_and(|id| id.iter().any(Option::is_some) && count[&id] > 1)
    })
}

/// The key of an element whose key may repeat in its batch, with the number of
/// the repeat in it; and that number, 0 for the first.
fn numbered(
    of: &mut Normaliser<'_>,
    place: &Place<'_, '_>,
    source: IdSource,
    device: &Named,
    key: Key,
) -> (Key, u64) {
    if place.index.is_none() {
        return (key, 0);
    }
    match of.repeats.before(key) {
        0 => (key, 0),
        before => {
            let parts = start(of, source, device);
            (parts.bytes(&key.0).number(before).key(), before)
        }
    }
}

/// An identity with a text of its own: the event's id.
fn named(
    of: &mut Normaliser<'_>,
    place: &Place<'_, '_>,
    source: IdSource,
    device: &Named,
    id: &str,
    index: Option<usize>,
) -> Known {
    let index = index.map(|index| index.to_string());
    let parts = start(of, source, device);
    parts
        .bytes(id.as_bytes())
        .optional(index.as_deref().map(str::as_bytes));
    let key = parts.key();
    let (key, before) = numbered(of, place, source, device, key);
    let mut text = String::with_capacity(id.len());
    if device.claimed {
        // No colon of the client's, so that no other client and id read the same.
        text.push_str(&of.message.client_id.replace('%', "%25").replace(':', "%3A"));
        text.push(':');
    }
    text.push_str(id);
    if let Some(index) = &index {
        text.push('/');
        text.push_str(index);
    }
    if before > 0 {
        text.push('.');
        text.push_str(itoa::Buffer::new().format(before + 1));
    }
    let id = (text.len() <= ID_BYTES_MAX).then(|| Arc::from(text));
    (key, id, source)
}

/// A device's counter in one event.
struct Counter {
    sequence: u64,
    boot: Option<Arc<str>>,
    shared: bool,
}

fn counter<'n, 'a>(
    sequence: &Sequence,
    place: &Place<'n, 'a>,
    used: &mut Vec<&'n Node<'a>>,
    tags: &mut Vec<Tag>,
) -> Option<Counter> {
    let boot = sequence.boot.as_ref().and_then(|boot| {
        let found = place.find(boot)?;
        let boot = place.text(found).filter(|text| !text.is_empty())?;
        used.push(found.node);
        tags.push(("boot".into(), boot.clone()));
        Some(boot)
    });
    let found = place.find(&sequence.at)?;
    let number = match found.node {
        Node::Int(n) => u64::try_from(*n).ok()?,
        Node::UInt(n) => *n,
        Node::Text(text) => text.parse().ok()?,
        _ => return None,
    };
    used.push(found.node);
    Some(Counter {
        sequence: number,
        boot,
        shared: found.shared,
    })
}

/// By device, topic, boot id and number, and the device's time where there is one;
/// and by what it says, because some devices always say 0, or begin again at 256.
/// What is resent is the same bytes, or in a batch the same element.
fn counted(
    of: &mut Normaliser<'_>,
    place: &Place<'_, '_>,
    device: &Named,
    at: Option<Timestamp>,
    counter: Option<&Counter>,
) -> Option<Known> {
    let counter = counter?;
    let persistent = of
        .mapping
        .sequence
        .as_ref()
        .is_some_and(|sequence| sequence.persistent);
    if counter.boot.is_none() && at.is_none() && !persistent {
        // A restart begins at 0 again.
        return None;
    }
    let index = place
        .index
        .filter(|_| counter.shared)
        .map(|index| index.to_string());
    let message = of.message;
    let parts = start(of, IdSource::Sequence, device);
    parts
        .bytes(message.topic.as_bytes())
        .optional(counter.boot.as_deref().map(str::as_bytes))
        .number(counter.sequence)
        .time(at)
        .optional(index.as_deref().map(str::as_bytes));
    let key = said(parts, message.payload, place);
    let (key, _) = numbered(of, place, IdSource::Sequence, device, key);
    Some((key, None, IdSource::Sequence))
}

/// By what it says, with everything around it.
fn content(
    of: &mut Normaliser<'_>,
    place: &Place<'_, '_>,
    device: &Named,
    at: Option<Timestamp>,
    fine: bool,
) -> Option<Known> {
    if !fine && of.mapping.dedup != Dedup::Content {
        return None;
    }
    let message = of.message;
    let parts = start(of, IdSource::Content, device);
    parts.bytes(message.topic.as_bytes()).time(at);
    let key = said(parts, message.payload, place);
    let (key, _) = numbered(of, place, IdSource::Content, device, key);
    Some((key, None, IdSource::Content))
}

/// The key of the parts so far and of what the message, or its element, says.
fn said(parts: &mut key::Parts, payload: &[u8], place: &Place<'_, '_>) -> Key {
    match place.header {
        // The bytes as sent, not as we would write them.
        None => parts.bytes(payload).key(),
        Some(header) => parts
            .bytes(&header.digest(payload).0)
            .written(|out| {
                ciborium::into_writer(place.element, out).expect("writing to memory cannot fail");
            })
            .key(),
    }
}

fn start<'p>(of: &'p mut Normaliser<'_>, source: IdSource, device: &Named) -> &'p mut key::Parts {
    let client = device.claimed.then_some(&**of.message.client_id);
    // Where the user is the device, its name is in the key already. No user has an
    // empty name.
    let user = match of.mapping.dedup_scope {
        Scope::Device => None,
        Scope::User => of.message.identity,
        Scope::Asked => of.message.identity.or(Some("")),
    };
    let user = user.filter(|user| **user != *device.name);
    of.scratch
        .parts
        .start(source, of.resolved.site.as_deref(), &device.name)
        .from_whom(client, user)
}

/// A node as the text of a name or an id.
pub(super) fn text(node: &Node<'_>) -> Option<String> {
    match node {
        Node::Text(text) => Some(text.as_ref().to_owned()),
        Node::Int(n) => Some(n.to_string()),
        Node::UInt(n) => Some(n.to_string()),
        Node::Float(Float {
            literal: Some(literal),
            ..
        }) => Some(literal.as_ref().to_owned()),
        Node::Float(Float { value, .. }) if value.is_finite() => Some(value.to_string()),
        _ => None,
    }
}
