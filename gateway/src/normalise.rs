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
pub mod preset;
pub mod protocol;
pub mod reject;
pub mod template;
pub mod timestamp;
pub mod topic;

use std::{
    borrow::Cow,
    cell::OnceCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use decode::{Compression, Format, Node, Without};
pub use mapping::{Mapping, Resolved};
pub use protocol::births::Births;
pub use reject::{Class, Reject};

use crate::{
    dedup::key,
    event::{Event, Key, TimeSource, Timestamp, message::VIA_PROPERTY},
};
use mapping::{BadElement, Device, KIND_DEFAULT, Tag};
use protocol::{Kind, Meaning, Protocol};
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
    /// What Sparkplug nodes said before.
    pub births: &'a Births,
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
    let payload = match mapping.format {
        // Bytes that nobody here understands stay as they are, unless the operator says.
        Format::Raw if mapping.compression == Compression::Auto => Cow::Borrowed(message.payload),
        _ => decode::inflate(mapping.compression, message.payload)?,
    };
    let message = &Message {
        payload: &payload,
        ..*message
    };
    let format = mapping
        .format
        .resolve(message.content_type, message.payload);
    let protocol = Protocol::of(mapping, format);
    let Some(root) = protocol::read(protocol, format, mapping, message)? else {
        return Ok(Normalised::default());
    };
    let mut normaliser = Normaliser {
        mapping,
        protocol,
        resolved,
        message,
        scratch,
        repeats: identity::Repeats::default(),
    };
    let array = match protocol::elements(protocol, &root)? {
        Some(array) => array,
        None => split(mapping, &root)?,
    };
    let Some(array @ Node::Array(elements)) = array else {
        if root == Node::Null {
            return Err(Reject::new(Class::Empty, "the payload is null"));
        }
        let event = normaliser.event(&Place {
            element: &root,
            header: None,
            index: None,
        })?;
        return Ok(Normalised {
            events: event.into_iter().collect(),
            rejected: None,
        });
    };
    if elements.is_empty() {
        return Err(Reject::new(Class::Empty, "the array has no elements"));
    }
    let header = Header::new(mapping, &root, array, elements)?;
    let mut nothing = 0;
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
            Ok(Some(event)) => events.push(event),
            Ok(None) => nothing += 1,
            Err(reject) => bad.push((index, reject)),
        }
    }
    let Some((index, first)) = bad.first() else {
        if events.is_empty() && nothing == 0 {
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
    if events.is_empty()
        || !can_be_taken_apart(mapping, format)
        || identity::field_repeats(mapping, elements, keep)
    {
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

/// Whether what is left of a batch can be written as a payload that is read again
/// as this one was.
fn can_be_taken_apart(mapping: &Mapping, format: Format) -> bool {
    mapping.bad_element == BadElement::Skip
        && matches!(format, Format::Json | Format::Cbor | Format::CloudEvents)
        && matches!(mapping.compression, Compression::Auto | Compression::None)
}

/// The array whose elements are events of their own, where there is one.
fn split<'n, 'a>(mapping: &Mapping, root: &'n Node<'a>) -> Result<Option<&'n Node<'a>>, Reject> {
    if let Some(pointer) = &mapping.split {
        return match pointer.find(root) {
            Some(array @ Node::Array(_)) => Ok(Some(array)),
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
        Ok(Some(root))
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
        split: &'n Node<'a>,
        array: &'n [Node<'a>],
    ) -> Result<Self, Reject> {
        let tags = measure::header_tags(mapping, root, split, array.len())?;
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
    protocol: Protocol,
    resolved: &'m Resolved,
    message: &'m Message<'m>,
    scratch: &'m mut Scratch,
    repeats: identity::Repeats,
}

impl Normaliser<'_> {
    /// The event of an element; `None` where it is understood and is not data.
    fn event(&mut self, place: &Place<'_, '_>) -> Result<Option<Event>, Reject> {
        // What the event carries elsewhere, by address.
        let mut used: Vec<&Node<'_>> = Vec::with_capacity(8);
        used.extend(
            self.mapping
                .exclude
                .iter()
                .filter_map(|at| Some(place.find(at)?.node)),
        );

        for pointer in &self.mapping.require {
            let found = place.find(pointer);
            if found.is_none_or(|found| *found.node == Node::Null) {
                let reason = format!("there is nothing at \"{pointer}\"");
                return Err(Reject::new(Class::Missing, reason));
            }
        }
        let mut tags = self.resolved.tags.clone();
        let named = self.named(place, &mut used)?;
        let Some(mut meaning) = protocol::meaning(self, self.protocol, place, &mut used)? else {
            return Ok(None);
        };
        let device = self.device(place, named, &mut meaning, &mut used)?;
        let time = match meaning.time {
            Some(time) => self.believed(time)?,
            None => self.time(place, &mut used, &mut tags)?,
        };
        let identity =
            identity::identify(self, place, &device, time, &meaning, &mut used, &mut tags);
        tags.append(&mut meaning.tags);
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
        let measurements = match meaning.measurements {
            Some(measurements) => measurements,
            None => measure::measurements(
                self.mapping,
                self.resolved.bare.as_deref(),
                place.element,
                meaning.part,
                meaning.prefix,
                &used,
                &mut self.scratch.name,
            )?,
        };
        let kind = match meaning.kind {
            Some(Kind::Message(kind)) => kind.into(),
            Some(Kind::Type(kind)) if *self.resolved.kind == *KIND_DEFAULT => kind,
            _ => self.resolved.kind.clone(),
        };
        if kind.len() > NAME_BYTES_MAX {
            let reason = format!("the type has more than {NAME_BYTES_MAX} bytes");
            return Err(Reject::new(Class::Limit, reason));
        }

        let (at, time_source) = match time {
            Said::Plausible { at, .. } => (at, TimeSource::Device),
            Said::Nothing | Said::Implausible => (self.message.received, TimeSource::Received),
        };
        Ok(Some(Event {
            key: identity.key,
            id: identity.id,
            id_source: identity.source,
            kind,
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
                .or(meaning.traceparent.as_ref())
                .filter(|t| is_traceparent(t))
                .cloned(),
            measurements,
            tags,
        }))
    }

    /// The device that the payload's own tag names.
    fn named<'n, 'a>(
        &self,
        place: &Place<'n, 'a>,
        used: &mut Vec<&'n Node<'a>>,
    ) -> Result<Option<Arc<str>>, Reject> {
        let tag = self.mapping.device_tag.as_ref();
        let Some(found) = tag.and_then(|pointer| place.find(pointer)) else {
            return Ok(None);
        };
        used.push(found.node);
        let name = identity::text(found.node).ok_or_else(|| {
            let reason = format!("the device in the tag is {}", found.node.kind());
            Reject::new(Class::Type, reason)
        })?;
        Ok(Some(name.into()))
    }

    /// Who measured: as the payload's tag says, the protocol, or the mapping.
    fn device<'n, 'a>(
        &self,
        place: &Place<'n, 'a>,
        named: Option<Arc<str>>,
        meaning: &mut Meaning<'_, '_>,
        used: &mut Vec<&'n Node<'a>>,
    ) -> Result<Named, Reject> {
        let (name, claimed) = match (named, meaning.device.take()) {
            (Some(name), _) => (name, true),
            (None, Some(name)) => (name.into(), meaning.claimed),
            (None, None) => {
                let claimed = matches!(self.mapping.device, Device::At(_));
                (self.device_of_mapping(place, used)?, claimed)
            }
        };
        if name.is_empty() {
            return Err(Reject::new(Class::Missing, "the device's name is empty"));
        }
        if name.len() > DEVICE_BYTES_MAX {
            let reason = format!("the device's name has more than {DEVICE_BYTES_MAX} bytes");
            return Err(Reject::new(Class::Limit, reason));
        }
        Ok(Named { name, claimed })
    }

    fn device_of_mapping<'n, 'a>(
        &self,
        place: &Place<'n, 'a>,
        used: &mut Vec<&'n Node<'a>>,
    ) -> Result<Arc<str>, Reject> {
        Ok(match (&self.mapping.device, &self.resolved.device) {
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
                timestamp::read(
                    found.node,
                    time.unit,
                    time.zone.as_ref(),
                    self.message.received,
                )?
            }
        };
        if let (Said::Implausible, Some(found)) = (said, found) {
            let text = identity::text(found.node).unwrap_or_else(|| "NaN".to_owned());
            tags.push(("devicetime".into(), text.into()));
        }
        self.believed(said)
    }

    /// Refuses no time, and one that cannot be believed, where the mapping wants one.
    fn believed(&self, said: Said) -> Result<Said, Reject> {
        let time = self.mapping.time.as_ref().filter(|time| time.required);
        match (said, time) {
            (Said::Nothing, Some(time)) => Err(Reject::new(
                Class::Missing,
                format!("there is no time at \"{}\"", time.at),
            )),
            (Said::Implausible, Some(_)) => {
                let reason = "the time is before 2015 or more than a day ahead";
                Err(Reject::new(Class::Range, reason))
            }
            _ => Ok(said),
        }
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
