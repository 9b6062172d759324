//! One element of a message, and the event that it is: who measured, when, what
//! makes it this event, and what it says.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use base64::Engine as _;

use super::{
    Class, DEVICE_BYTES_MAX, Mapping, Message, NAME_BYTES_MAX, Node, Reject, Resolved, Scratch,
    condition,
    decode::{Format, Without},
    expression::{Budget, Whole},
    identity,
    mapping::{Device, KIND_DEFAULT, Tag},
    measure, pointer,
    protocol::{self, Kind, Meaning, Protocol},
    schema::{self, Judged},
    timestamp::{self, Said},
};
use crate::{
    dedup::key,
    event::{
        Event, Key, Marks, TimeSource,
        message::{RULES_TAG, VIA_PROPERTY},
    },
};

/// What is around the elements of a batch. Everything that each element repeats is
/// worked out once, or a payload of a megabyte could cost gigabytes.
#[derive(Debug)]
pub(super) struct Header<'n, 'a> {
    pub(super) root: &'n Node<'a>,
    array: &'n [Node<'a>],
    /// What the mapping's pointers find in it.
    found: Vec<Around<'n, 'a>>,
    /// Its leaves, as tags, unless excluded.
    tags: Vec<(&'n Node<'a>, Tag)>,
    /// Hash of the payload without the array.
    digest: OnceCell<Key>,
    /// Whether something of the payload may be missing in the elements.
    lenient: bool,
}

/// Something around the elements, and what it is as text.
#[derive(Debug)]
struct Around<'n, 'a> {
    pointer: &'n pointer::Pointer,
    node: &'n Node<'a>,
    text: OnceCell<Option<Arc<str>>>,
}

impl<'n, 'a> Header<'n, 'a> {
    pub(super) fn new(
        mapping: &'n Mapping,
        root: &'n Node<'a>,
        split: &'n Node<'a>,
        array: &'n [Node<'a>],
    ) -> Result<Self, Reject> {
        let tags = measure::header_tags(mapping, root, split, array.len())?;
        let found = mapping
            .pointers()
            .filter_map(|pointer| {
                Some(Around {
                    pointer,
                    node: pointer.find(root)?,
                    text: OnceCell::new(),
                })
            })
            .collect();
        Ok(Self {
            root,
            array,
            found,
            tags,
            digest: OnceCell::new(),
            lenient: !mapping.lenient.is_strict(),
        })
    }

    /// What one of the mapping's own pointers names.
    fn find(&self, pointer: &pointer::Pointer) -> Option<&'n Node<'a>> {
        let mut found = self.found.iter();
        found
            .find(|around| std::ptr::eq(around.pointer, pointer))
            .map(|around| around.node)
    }

    /// What every element's identity holds, as text: of the client, of the message, and of
    /// the fields around the elements.
    pub(super) fn identifying_bytes(&self, mapping: &Mapping, message: &Message<'_>) -> usize {
        let explicit = mapping.id_property.as_deref();
        let explicit = explicit.and_then(|name| message.property(name));
        let fields = self.found.iter().filter(|around| {
            let mut id = mapping.id.iter();
            id.any(|pointer| std::ptr::eq(pointer, around.pointer))
        });
        let fields = fields.map(|around| match around.node {
            Node::Text(text) => text.len(),
            _ => 0,
        });
        message.client_id.len() + explicit.map_or(0, |id| id.len()) + fields.sum::<usize>()
    }

    /// What is around the elements. What was left out of one of them for being lenient
    /// tells it from another all the same, so then it is the whole payload.
    pub(super) fn digest(&self, payload: &[u8]) -> Key {
        *self.digest.get_or_init(|| {
            let around = Without {
                node: self.root,
                array: self.array,
                keep: None,
            };
            key::digest(|out| {
                ciborium::into_writer(&around, &mut *out).expect("writing to memory cannot fail");
                if self.lenient {
                    out.extend_from_slice(payload);
                }
            })
        })
    }
}

/// Where an event is in its message.
#[derive(Debug)]
pub(super) struct Place<'n, 'a> {
    pub(super) element: &'n Node<'a>,
    pub(super) header: Option<&'n Header<'n, 'a>>,
    pub(super) index: Option<usize>,
    /// The whole payload, as expressions see it.
    pub(super) whole: &'n Whole<'n, 'a>,
}

/// Something that a pointer of the mapping found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'n, 'a> {
    pub(super) node: &'n Node<'a>,
    /// Around the elements, so that all of them share it.
    pub(super) shared: bool,
}

impl<'n, 'a> Place<'n, 'a> {
    /// What a pointer names: in the element, else around it.
    pub(super) fn find(&self, pointer: &pointer::Pointer) -> Option<Found<'n, 'a>> {
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

    /// What was found, as text: one text for all elements that share it.
    pub(super) fn text(&self, found: Found<'n, 'a>) -> Option<Arc<str>> {
        let around = self.header.filter(|_| found.shared).and_then(|header| {
            let mut all = header.found.iter();
            all.find(|around| std::ptr::eq(around.node, found.node))
        });
        let text = || identity::text(found.node).map(Arc::from);
        match around {
            Some(around) => around.text.get_or_init(text).clone(),
            None => text(),
        }
    }
}

/// Turns the elements of one message into events.
pub(super) struct Normaliser<'m> {
    pub(super) mapping: &'m Mapping,
    pub(super) format: Format,
    pub(super) protocol: Protocol,
    pub(super) resolved: &'m Resolved,
    pub(super) message: &'m Message<'m>,
    pub(super) scratch: &'m mut Scratch,
    pub(super) repeats: identity::Repeats,
    /// What expressions may still cost.
    pub(super) budget: Budget,
    /// Elements that the mapping drops, so far.
    pub(super) dropped: usize,
    /// Events that are not as their schema says, so far.
    pub(super) mismatched: usize,
    /// The payload in base64, once for all the events that hold it.
    pub(super) raw: OnceCell<Arc<str>>,
}

impl Normaliser<'_> {
    /// The payload, for events that say nothing else of it.
    pub(super) fn raw(&self) -> Tag {
        let text = self.raw.get_or_init(|| {
            let engine = base64::engine::general_purpose::STANDARD;
            engine.encode(self.message.payload).into()
        });
        ("raw".into(), text.clone())
    }

    /// The event of an element; `None` where it is understood and is not data.
    pub(super) fn event(&mut self, place: &Place<'_, '_>) -> Result<Option<Event>, Reject> {
        // What the event carries elsewhere, by address.
        let mut used: Vec<&Node<'_>> = Vec::with_capacity(8);
        used.extend(
            self.mapping
                .exclude
                .iter()
                .filter_map(|at| Some(place.find(at)?.node)),
        );

        if condition::dropped(self, place)? {
            self.dropped += 1;
            return Ok(None);
        }
        condition::required(self, place)?;
        let mut tags = self.resolved.tags.clone();
        let named = self.named(place, &mut used)?;
        let Some(mut meaning) = protocol::meaning(self, self.protocol, place, &mut used)? else {
            return Ok(None);
        };
        let device = self.device(place, named, &mut meaning, &mut used)?;
        let time = match meaning.time {
            Some(time) => self.believed(time)?,
            None => {
                let said = self.time(place, &mut used, &mut tags)?;
                self.believed(said)?
            }
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
            // Only the gateway says which way a message came, and what rules made.
            if [VIA_PROPERTY, RULES_TAG].contains(&&**name) {
                *name = format!("said.{name}").into();
            }
        }
        number_repeated(&mut tags);
        let mut measurements = match meaning.measurements {
            Some(measurements) => measurements,
            None => measure::measurements(
                self.mapping,
                self.resolved.bare.as_deref(),
                place.element,
                meaning.part,
                meaning.prefix,
                &used,
                self.scratch,
            )?,
        };
        measure::prefer(&self.mapping.units, &mut measurements, self.scratch)?;
        condition::derive(self, place, &device.name, &mut measurements)?;
        let kind = match meaning.kind {
            Some(Kind::Message(kind)) => kind.into(),
            Some(Kind::Type(kind)) if *self.resolved.kind == *KIND_DEFAULT => kind,
            _ => self.resolved.kind.clone(),
        };
        if kind.len() > NAME_BYTES_MAX {
            let reason = format!("the type has more than {NAME_BYTES_MAX} bytes");
            return Err(Reject::new(Class::Limit, reason));
        }

        self.judged(&kind, place, &mut tags)?;

        let (at, time_source) = match time {
            Said::Plausible { at, .. } if meaning.time_of_receipt => (at, TimeSource::Received),
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
            sequence: meaning.sequence.or(identity.sequence),
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
            marks: match time {
                Said::Implausible => Marks::IMPLAUSIBLE,
                Said::Nothing | Said::Plausible { .. } => Marks::NONE,
            },
            corrected: None,
            replayed: None,
        }))
    }

    /// Whether the payload is as the schema of the event's type says.
    fn judged(
        &mut self,
        kind: &str,
        place: &Place<'_, '_>,
        tags: &mut Vec<Tag>,
    ) -> Result<(), Reject> {
        let schemas = &self.mapping.schemas;
        if !schemas.has(kind) {
            return Ok(());
        }
        let judged = schemas.judge(kind, place.element)?;
        self.scratch.step(|| match &judged {
            Judged::Fine => format!("as the schema of {kind} says"),
            Judged::Mismatch(_) => format!("not as the schema of {kind} says"),
        });
        if let Judged::Mismatch(wrong) = judged {
            self.mismatched += 1;
            tags.extend(wrong.map(|wrong| (schema::TAG.into(), wrong.into())));
            number_repeated(tags);
        }
        Ok(())
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
        let name = place.text(found).ok_or_else(|| {
            let reason = format!("the device in the tag is {}", found.node.kind());
            Reject::new(Class::Type, reason)
        })?;
        Ok(Some(name))
    }

    /// Who measured: as the payload's tag says, the mapping where it was asked, the
    /// protocol, or else the mapping.
    fn device<'n, 'a>(
        &self,
        place: &Place<'n, 'a>,
        named: Option<Arc<str>>,
        meaning: &mut Meaning<'_, '_>,
        used: &mut Vec<&'n Node<'a>>,
    ) -> Result<Named, Reject> {
        let own = self.mapping.own_device;
        let (name, claimed) = match (named, meaning.device.take().filter(|_| !own)) {
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
                place.text(found).ok_or_else(|| {
                    let kind = found.node.kind();
                    Reject::new(
                        Class::Type,
                        format!("the device at \"{pointer}\" is {kind}"),
                    )
                })?
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
            let text = place.text(found).unwrap_or_else(|| "NaN".into());
            tags.push(("devicetime".into(), text));
        }
        Ok(said)
    }

    /// Refuses no time, and one that cannot be believed, where the mapping wants one.
    fn believed(&self, said: Said) -> Result<Said, Reject> {
        if !self.mapping.require_time {
            return Ok(said);
        }
        match (said, &self.mapping.time) {
            (Said::Nothing, Some(time)) => Err(Reject::new(
                Class::Missing,
                format!("there is no time at \"{}\"", time.at),
            )),
            (Said::Nothing, None) => Err(Reject::new(Class::Missing, "there is no time")),
            (Said::Implausible, _) => {
                let reason = "the time is before 2015 or more than a day ahead";
                Err(Reject::new(Class::Range, reason))
            }
            _ => Ok(said),
        }
    }
}

/// A device's name.
pub(super) struct Named {
    pub(super) name: Arc<str>,
    /// The payload says so, which anybody could.
    pub(super) claimed: bool,
}

/// Gives a tag whose name is taken a number: tags are a JSON object at destinations.
pub(super) fn number_repeated(tags: &mut [Tag]) {
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
