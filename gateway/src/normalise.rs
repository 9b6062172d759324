//! Device messages to canonical events.
//!
//! Promises: pure functions. Nothing under here reads the clock, draws random
//! numbers, or touches a socket or a file; time and randomness arrive with the
//! message, and the same input gives the same output. Nothing is dropped without
//! a word: what does not become a measurement, an attribute or a tag of an event
//! is either something that the mapping excludes, a null, or it is rejected with
//! a reason.
//!
//! **What is a measurement.** Every leaf of the payload, its names joined with
//! dots, except what the event carries already: the device, the time, the
//! sequence number and a single id are attributes, the boot id is the tag `boot`,
//! and a time that cannot be believed is the tag `devicetime`. A mapping with
//! `values` takes only these.
//!
//! **Batches.** An array of objects is split, and so is the array that `split`
//! names; each element is an event with a key of its own. Pointers look into the
//! element first, then into the payload around it. Members around a split array
//! become tags. Elements that cannot be used are handed back together, in a
//! payload of the same shape in which null stands for every good one.

pub mod decode;
mod identity;
pub mod mapping;
mod measure;
pub mod pointer;
pub mod reject;
pub mod template;
pub mod timestamp;
pub mod topic;

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use decode::{Format, Node, Without};
pub use mapping::{Mapping, Resolved};
pub use reject::{Class, Reject};

use crate::{
    dedup::key,
    event::{Event, Key, TimeSource, Timestamp, message::VIA_PROPERTY},
};
use mapping::{Device, Tag};
use timestamp::Said;

/// A device's name has at most so many bytes.
pub const DEVICE_BYTES_MAX: usize = 256;

/// A site or a type has at most so many bytes. Escaped three times as long, and with
/// the device, they still fit into one string of MQTT, and into its topics.
pub const NAME_BYTES_MAX: usize = 4_096;

/// One message as it came, with the instant and the randomness that belong to it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// The topic.
    pub topic: &'a Arc<str>,
    /// Who sent it.
    pub client_id: &'a Arc<str>,
    /// The user that the client was let in as; `None` for an anonymous one.
    pub identity: Option<&'a str>,
    /// The payload.
    pub payload: &'a [u8],
    /// The MQTT 5 content type.
    pub content_type: Option<&'a str>,
    /// The MQTT 5 user properties.
    pub user: &'a [(Arc<str>, Arc<str>)],
    /// When it was received.
    pub received: Timestamp,
    /// Random, for events that nothing identifies.
    pub nonce: [u8; 16],
}

impl<'a> Message<'a> {
    /// The first user property of a name, unless it is empty.
    fn property(&self, name: &str) -> Option<&'a Arc<str>> {
        self.user
            .iter()
            .find(|(n, _)| **n == *name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
    }
}

/// What became of one message.
#[derive(Debug, Default)]
pub struct Normalised {
    /// The events, in the order of the payload. Those whose id comes from nowhere
    /// are not to be deduplicated.
    pub events: Vec<Event>,
    /// What is wrong with the rest of a batch.
    pub rejected: Option<Rejected>,
}

/// The elements of a batch that could not be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Why, of the first of them, with its number and how many there are.
    pub reject: Reject,
    /// Their numbers and reasons.
    pub elements: Vec<(usize, Reject)>,
    /// A payload with only these, to be tried again.
    pub payload: Vec<u8>,
}

/// Buffers kept from message to message.
#[derive(Debug, Default)]
pub struct Scratch {
    parts: key::Parts,
    name: String,
}

/// Turns one message into events.
///
/// # Errors
/// When nothing of the message can be used; the whole of it is to be quarantined.
pub fn normalise(
    mapping: &Mapping,
    resolved: &Resolved,
    message: &Message<'_>,
    scratch: &mut Scratch,
) -> Result<Normalised, Reject> {
    for (what, name) in [
        ("site", resolved.site.as_ref()),
        ("type", Some(&resolved.kind)),
    ] {
        if name.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            let reason = format!("the {what} has more than {NAME_BYTES_MAX} bytes");
            return Err(Reject::new(Class::Limit, reason));
        }
    }
    let format = mapping
        .format
        .resolve(message.content_type, message.payload);
    let root = decode::decode(format, message.payload)?;
    let mut normaliser = Normaliser {
        mapping,
        resolved,
        message,
        scratch,
        repeats: identity::Repeats::default(),
    };
    let Some(elements) = split(mapping, &root)? else {
        if root == Node::Null {
            return Err(Reject::new(Class::Empty, "the payload is null"));
        }
        let event = normaliser.event(&Place {
            element: &root,
            header: None,
            index: None,
        })?;
        return Ok(Normalised {
            events: vec![event],
            rejected: None,
        });
    };
    if elements.is_empty() {
        return Err(Reject::new(Class::Empty, "the array has no elements"));
    }
    let header = Header::new(mapping, &root, elements)?;
    let mut events = Vec::with_capacity(elements.len());
    let mut bad = Vec::new();
    for (index, element) in elements.iter().enumerate() {
        // Null stands for an element that was used before; see `Rejected`.
        if *element == Node::Null {
            continue;
        }
        let place = Place {
            element,
            header: Some(&header),
            index: Some(index),
        };
        match normaliser.event(&place) {
            Ok(event) => events.push(event),
            Err(reject) => bad.push((index, reject)),
        }
    }
    let Some((index, first)) = bad.first() else {
        if events.is_empty() {
            return Err(Reject::new(Class::Empty, "the array has only nulls"));
        }
        return Ok(Normalised {
            events,
            rejected: None,
        });
    };
    let reason = format!(
        "element {index}: {}{}",
        first.reason,
        match bad.len() {
            1 => String::new(),
            count => format!(" ({count} of {} elements cannot be used)", elements.len()),
        }
    );
    let reject = Reject::new(first.class, reason);
    let keep = |index: usize| {
        bad.binary_search_by_key(&index, |(index, _)| *index)
            .is_ok()
    };
    if events.is_empty() || identity::field_repeats(mapping, elements, keep) {
        return Err(reject);
    }
    let left = Without {
        node: &root,
        array: elements,
        keep: Some(&keep),
    };
    let mut payload = Vec::new();
    if format == Format::Cbor {
        ciborium::into_writer(&left, &mut payload).expect("writing to memory cannot fail");
    } else {
        left.to_json(&mut payload);
    }
    Ok(Normalised {
        events,
        rejected: Some(Rejected {
            reject,
            elements: bad,
            payload,
        }),
    })
}

/// The array whose elements are events of their own, where there is one.
fn split<'n, 'a>(mapping: &Mapping, root: &'n Node<'a>) -> Result<Option<&'n [Node<'a>]>, Reject> {
    if let Some(pointer) = &mapping.split {
        return match pointer.find(root) {
            Some(Node::Array(elements)) => Ok(Some(elements)),
            Some(other) => Err(Reject::new(
                Class::Type,
                format!(
                    "there should be an array to split at \"{pointer}\", not {}",
                    other.kind()
                ),
            )),
            None => Err(Reject::new(
                Class::Type,
                format!("there is no array to split at \"{pointer}\""),
            )),
        };
    }
    let Node::Array(elements) = root else {
        return Ok(None);
    };
    let objects = elements
        .iter()
        .filter(|e| matches!(e, Node::Map(_)))
        .count();
    let nulls = elements.iter().filter(|e| matches!(e, Node::Null)).count();
    if objects + nulls == elements.len() {
        Ok(Some(elements))
    } else if objects == 0 {
        Ok(None)
    } else {
        Err(Reject::new(
            Class::Type,
            "the array holds objects and other things",
        ))
    }
}

/// What is around the elements of a batch. Everything that each element repeats is
/// worked out once, or a payload of a megabyte could cost gigabytes.
#[derive(Debug)]
struct Header<'n, 'a> {
    root: &'n Node<'a>,
    array: &'n [Node<'a>],
    /// What the mapping's pointers find in it.
    found: Vec<(&'n pointer::Pointer, &'n Node<'a>)>,
    /// Its leaves, as tags, unless excluded.
    tags: Vec<(&'n Node<'a>, Tag)>,
    /// Hash of the payload without the array.
    digest: OnceCell<Key>,
}

impl<'n, 'a> Header<'n, 'a> {
    fn new(
        mapping: &'n Mapping,
        root: &'n Node<'a>,
        array: &'n [Node<'a>],
    ) -> Result<Self, Reject> {
        let tags = measure::header_tags(mapping, root, array)?;
        let found = mapping
            .pointers()
            .filter_map(|pointer| Some((pointer, pointer.find(root)?)))
            .collect();
        Ok(Self {
            root,
            array,
            found,
            tags,
            digest: OnceCell::new(),
        })
    }

    /// What one of the mapping's own pointers names.
    fn find(&self, pointer: &pointer::Pointer) -> Option<&'n Node<'a>> {
        let found = self.found.iter().find(|(p, _)| std::ptr::eq(*p, pointer));
        found.map(|(_, node)| *node)
    }

    fn digest(&self) -> Key {
        *self.digest.get_or_init(|| {
            let around = Without {
                node: self.root,
                array: self.array,
                keep: None,
            };
            key::digest(|out| {
                ciborium::into_writer(&around, out).expect("writing to memory cannot fail");
            })
        })
    }
}

/// Where an event is in its message.
#[derive(Debug)]
struct Place<'n, 'a> {
    element: &'n Node<'a>,
    header: Option<&'n Header<'n, 'a>>,
    index: Option<usize>,
}

/// Something that a pointer of the mapping found.
#[derive(Debug, Clone, Copy)]
struct Found<'n, 'a> {
    node: &'n Node<'a>,
    /// Around the elements, so that all of them share it.
    shared: bool,
}

impl<'n, 'a> Place<'n, 'a> {
    /// What a pointer names: in the element, else around it.
    fn find(&self, pointer: &pointer::Pointer) -> Option<Found<'n, 'a>> {
        if let Some(node) = pointer.find(self.element) {
            return Some(Found {
                node,
                shared: false,
            });
        }
        let header = self.header.filter(|_| !pointer.is_root())?;
        let node = header.find(pointer)?;
        Some(Found { node, shared: true })
    }
}

struct Normaliser<'m> {
    mapping: &'m Mapping,
    resolved: &'m Resolved,
    message: &'m Message<'m>,
    scratch: &'m mut Scratch,
    repeats: identity::Repeats,
}

impl Normaliser<'_> {
    fn event(&mut self, place: &Place<'_, '_>) -> Result<Event, Reject> {
        // What the event carries elsewhere, by address.
        let mut used: Vec<&Node<'_>> = Vec::with_capacity(8);
        used.extend(
            self.mapping
                .exclude
                .iter()
                .filter_map(|at| Some(place.find(at)?.node)),
        );

        let mut tags = self.resolved.tags.clone();
        let device = self.device(place, &mut used)?;
        let time = self.time(place, &mut used, &mut tags)?;
        let identity = identity::identify(self, place, &device, time, &mut used, &mut tags);
        if let Some(header) = place.header {
            let unused = header
                .tags
                .iter()
                .filter(|(node, _)| !measure::is_used(&used, node));
            tags.extend(unused.map(|(_, tag)| tag.clone()));
        }
        for (name, _) in &mut tags {
            // Only the gateway says which way a message came.
            if **name == *VIA_PROPERTY {
                *name = format!("said.{VIA_PROPERTY}").into();
            }
        }
        number_repeated(&mut tags);
        let measurements =
            measure::measurements(self.mapping, place.element, &used, &mut self.scratch.name)?;

        let (at, time_source) = match time {
            Said::Plausible { at, .. } => (at, TimeSource::Device),
            Said::Nothing | Said::Implausible => (self.message.received, TimeSource::Received),
        };
        Ok(Event {
            key: identity.key,
            id: identity.id,
            id_source: identity.source,
            kind: self.resolved.kind.clone(),
            device: device.name,
            site: self.resolved.site.clone(),
            time: at,
            time_source,
            received: self.message.received,
            sequence: identity.sequence,
            partition_key: None,
            topic: self.message.topic.clone(),
            traceparent: self
                .message
                .property("traceparent")
                .filter(|t| is_traceparent(t))
                .cloned(),
            measurements,
            tags,
        })
    }

    fn device<'n, 'a>(
        &self,
        place: &Place<'n, 'a>,
        used: &mut Vec<&'n Node<'a>>,
    ) -> Result<Named, Reject> {
        let name = match (&self.mapping.device, &self.resolved.device) {
            (Device::At(pointer), _) => {
                let found = place.find(pointer).ok_or_else(|| {
                    Reject::new(
                        Class::Missing,
                        format!("there is no device at \"{pointer}\""),
                    )
                })?;
                used.push(found.node);
                Arc::from(identity::text(found.node).ok_or_else(|| {
                    let kind = found.node.kind();
                    Reject::new(
                        Class::Type,
                        format!("the device at \"{pointer}\" is {kind}"),
                    )
                })?)
            }
            (Device::Text(_), Some(name)) => name.clone(),
            (Device::Text(text), None) if text.names_user() && self.message.identity.is_none() => {
                return Err(Reject::new(
                    Class::Missing,
                    "the device is the user, and the client is anonymous",
                ));
            }
            (Device::Text(_), None) => self
                .mapping
                .device(
                    self.message.topic,
                    self.message.client_id,
                    self.message.identity.unwrap_or_default(),
                )
                .ok_or_else(|| {
                    Reject::new(Class::Unmapped, "the mapping does not take this topic")
                })?,
        };
        if name.is_empty() {
            return Err(Reject::new(Class::Missing, "the device's name is empty"));
        }
        if name.len() > DEVICE_BYTES_MAX {
            let reason = format!("the device's name has more than {DEVICE_BYTES_MAX} bytes");
            return Err(Reject::new(Class::Limit, reason));
        }
        Ok(Named {
            name,
            claimed: matches!(self.mapping.device, Device::At(_)),
        })
    }

    fn time<'n, 'a>(
        &self,
        place: &Place<'n, 'a>,
        used: &mut Vec<&'n Node<'a>>,
        tags: &mut Vec<Tag>,
    ) -> Result<Said, Reject> {
        let Some(time) = &self.mapping.time else {
            return Ok(Said::Nothing);
        };
        let found = place
            .find(&time.at)
            .filter(|found| *found.node != Node::Null);
        let fallback = || {
            let pointer = time.fallback.as_ref()?;
            let node = match place.header {
                Some(header) => header.find(pointer)?,
                None => pointer.find(place.element)?,
            };
            Some(Found { node, shared: true })
        };
        let found = found.or_else(fallback);
        let said = match found {
            None => Said::Nothing,
            Some(found) => {
                used.push(found.node);
                timestamp::read(found.node, time.unit, self.message.received)?
            }
        };
        match (said, found) {
            (Said::Nothing, _) if time.required => {
                return Err(Reject::new(
                    Class::Missing,
                    format!("there is no time at \"{}\"", time.at),
                ));
            }
            (Said::Implausible, _) if time.required => {
                let reason = "the time is before 2015 or more than a day ahead";
                return Err(Reject::new(Class::Range, reason));
            }
            (Said::Implausible, Some(found)) => {
                let text = identity::text(found.node).unwrap_or_else(|| "NaN".to_owned());
                tags.push(("devicetime".into(), text.into()));
            }
            _ => {}
        }
        Ok(said)
    }
}

/// A device's name.
struct Named {
    name: Arc<str>,
    /// The payload says so, which anybody could.
    claimed: bool,
}

/// Gives a tag whose name is taken a number: tags are a JSON object at destinations.
fn number_repeated(tags: &mut [Tag]) {
    let mut seen = HashSet::new();
    if tags.len() < 2 || tags.iter().all(|(name, _)| seen.insert(name.clone())) {
        return;
    }
    let mut seen = HashSet::with_capacity(tags.len());
    // Where to go on, or many tags of one name would each try all the numbers.
    let mut next = HashMap::new();
    for (name, _) in tags {
        if seen.insert(name.clone()) {
            continue;
        }
        let first = name.clone();
        let number = next.entry(first.clone()).or_insert(2_usize);
        while !seen.insert(name.clone()) {
            *name = format!("{first}.{number}").into();
            *number += 1;
        }
    }
}

/// The shape of a W3C trace context: `00-{32 hex}-{16 hex}-{2 hex}`.
fn is_traceparent(text: &str) -> bool {
    text.len() == 55
        && text.bytes().enumerate().all(|(n, byte)| match n {
            2 | 35 | 52 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

#[cfg(test)]
mod tests;
