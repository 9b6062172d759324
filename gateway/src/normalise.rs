//! Device messages to canonical events.
//!
//! Promises: nothing under here reads the clock, draws random numbers, or touches a
//! socket or a file; time and randomness arrive with the message. The same input
//! gives the same output, with one exception: what Sparkplug nodes said at their
//! birth is kept from message to message, in [`Births`], which arrives with the
//! message too.
//! Nothing is dropped without a word: what does not become a measurement, an
//! attribute or a tag of an event is either something that the mapping excludes, a
//! null, or it is rejected with a reason.
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

pub mod condition;
pub mod decode;
mod element;
#[cfg(feature = "cel")]
pub mod expression;
#[cfg(not(feature = "cel"))]
#[path = "normalise/expression_absent.rs"]
pub mod expression;
mod identity;
pub mod mapping;
mod measure;
pub mod pointer;
pub mod preset;
pub mod protocol;
pub mod reject;
mod room;
pub mod schema;
pub mod template;
pub mod timestamp;
pub mod topic;
pub mod units;

use std::{borrow::Cow, cell::RefCell, sync::Arc};

use decode::{Compression, Format, Node, Without};
pub use mapping::{Mapping, Resolved};
pub use protocol::births::{Births, Heard};
pub use reject::{Class, Reject};
pub(crate) use room::stored_bytes_max;

use crate::{
    dedup::key,
    event::{Event, Timestamp},
};
use element::{Header, Named, Normaliser, Place};
use expression::{Budget, Whole};
use mapping::BadElement;
use protocol::{Protocol, cloudevents};
use room::Room;

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
    /// What makes it the same message when its QoS 2 exchange goes on after a crash.
    pub delivery: Option<[u8; 16]>,
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
    /// How many elements, or whole messages, are understood and are no data.
    pub nothing: usize,
    /// How many the mapping drops.
    pub dropped: usize,
    /// How many events are not as their schema says, and are events all the same.
    pub mismatched: usize,
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
    /// What was done, where somebody asked.
    steps: Option<Vec<String>>,
    heard: RefCell<Option<Heard>>,
}

impl Scratch {
    /// Buffers that also keep what is done step by step, for a person to read.
    pub fn explaining() -> Self {
        Self {
            steps: Some(Vec::new()),
            ..Self::default()
        }
    }

    /// What was done, step by step.
    pub fn steps(&self) -> &[String] {
        self.steps.as_deref().unwrap_or_default()
    }

    fn step(&mut self, what: impl FnOnce() -> String) {
        if let Some(steps) = &mut self.steps {
            steps.push(what());
        }
    }

    /// What the last message said of its Sparkplug node, also one that was rejected: to
    /// be [learned](Births::learn) once it is kept.
    pub fn take_heard(&mut self) -> Option<Heard> {
        self.heard.get_mut().take()
    }
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
    scratch.heard.get_mut().take();
    protocol::begin(mapping, message);
    for (what, name) in [
        ("site", resolved.site.as_ref()),
        ("type", Some(&resolved.kind)),
    ] {
        if name.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            let reason = format!("the {what} has more than {NAME_BYTES_MAX} bytes");
            return Err(Reject::new(Class::Limit, reason));
        }
    }
    let mut room = Room::new(message.payload.len());
    let payload = match mapping.format {
        // Bytes that nobody here understands stay as they are, unless the operator says.
        Format::Raw if mapping.compression == Compression::Auto => Cow::Borrowed(message.payload),
        _ => decode::inflate(
            mapping.compression,
            message.payload,
            mapping.lenient,
            &mapping.dictionaries,
        )?,
    };
    let payload = match protocol::inflated(mapping, message.topic, &payload)? {
        Some(inflated) => Cow::Owned(inflated),
        None => payload,
    };
    let message = &Message {
        payload: &payload,
        ..*message
    };
    let format = mapping
        .format
        .resolve(message.content_type, message.payload);
    let format = match format {
        // A mapping that says what to take from the payload says how it is meant; a
        // content type does not make it mean nothing.
        Format::SenmlJson if takes_apart(mapping) => Format::Json,
        Format::SenmlCbor if takes_apart(mapping) => Format::Cbor,
        format => format,
    };
    let protocol = Protocol::of(mapping, format);
    let is_text = protocol::is_text(protocol, format, message);
    let read_from = decode::readable(is_text, message.payload, mapping.lenient);
    let read = Message {
        payload: &read_from,
        ..*message
    };
    let Some(root) = protocol::read(protocol, format, mapping, &read)? else {
        return Ok(Normalised {
            nothing: 1,
            ..Normalised::default()
        });
    };
    let protocol = match cloudevents::is_penstock(&root) && !takes_apart(mapping) {
        // What another gateway sends is what it was there.
        true if mapping.format == Format::Auto && protocol == Protocol::None => {
            Protocol::CloudEvents
        }
        _ => protocol,
    };
    let mut normaliser = Normaliser {
        mapping,
        format,
        protocol,
        resolved,
        message,
        scratch,
        repeats: identity::Repeats::default(),
        budget: Budget::default(),
        dropped: 0,
        mismatched: 0,
        raw: std::cell::OnceCell::new(),
    };
    let array = match protocol::elements(protocol, &root)? {
        Some(array) => array,
        None => split(mapping, &root)?,
    };
    let whole = Whole::new(&root);
    let Some(array @ Node::Array(elements)) = array else {
        if root == Node::Null {
            return Err(Reject::new(Class::Empty, "the payload is null"));
        }
        let event = normaliser.event(&Place {
            element: &root,
            header: None,
            index: None,
            whole: &whole,
        })?;
        if let Some(event) = &event {
            room.take(event)?;
        }
        return Ok(Normalised {
            nothing: usize::from(event.is_none()) - normaliser.dropped,
            dropped: normaliser.dropped,
            mismatched: normaliser.mismatched,
            events: event.into_iter().collect(),
            rejected: None,
        });
    };
    if elements.is_empty() {
        return Err(Reject::new(Class::Empty, "the array has no elements"));
    }
    let header = Header::new(mapping, &root, array, elements)?;
    room.repeats(header.identifying_bytes(mapping, message), elements.len())?;
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
            whole: &whole,
        };
        match normaliser.event(&place) {
            Ok(Some(event)) => {
                room.take(&event)?;
                events.push(event);
            }
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
            nothing: nothing - normaliser.dropped,
            dropped: normaliser.dropped,
            mismatched: normaliser.mismatched,
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
        || (format == Format::CloudEvents && cloudevents::is_cbor(message))
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
        nothing: nothing - normaliser.dropped,
        dropped: normaliser.dropped,
        mismatched: normaliser.mismatched,
    })
}

/// Whether a mapping looks for itself into what it does not name the format of.
fn takes_apart(mapping: &Mapping) -> bool {
    mapping.format == Format::Auto
        && (!mapping.values.is_empty() || mapping.split.is_some() || mapping.flatten.is_some())
}

/// Whether what is left of a batch can be written as a payload that is read again
/// as this one was.
fn can_be_taken_apart(mapping: &Mapping, format: Format) -> bool {
    mapping.bad_element == BadElement::Skip
        && matches!(format, Format::Json | Format::Cbor | Format::CloudEvents)
        && matches!(mapping.compression, Compression::Auto | Compression::None)
        // What was taken leniently is not written again as it was.
        && mapping.lenient.is_strict()
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

#[cfg(test)]
mod tests;
