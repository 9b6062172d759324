//! One group: the entries of publishes that are appended together, built of what the
//! mappings and rules make of each message.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use bytes::Bytes;
use penstock_broker::{Properties, Publish, Publisher};
use rand::RngExt as _;

use super::{
    duplicates::Sent,
    lessons::Lessons,
    metrics::{Metrics, Taken},
    raw::Raw,
    routing::{Comes, Routing},
    timing::{self, Timing},
    topics::{self, Topics},
};
use crate::{
    class,
    clock::Booted,
    event::{
        Event, IdSource, Timestamp,
        message::{VIA_PROPERTY, is_gateway},
    },
    gateway_id::GatewayId,
    normalise::{
        self, Births, Class, Message, Normalised, Reject, Scratch, mapping::Keep, stored_bytes_max,
    },
    record::Routes,
    rules::{self, RuleSet},
    store::{Entry, NewEvent, NewOriginal, Sheddable},
};

/// Bytes of entries that are built before they are appended, about: one message
/// more may begin below it.
const GROUP_BYTES: usize = 1024 * 1024;

/// What an entry takes beside its body or payload, about.
const ENTRY_BYTES: usize = 128;

/// Gateways that are remembered of a message's way.
const HOPS_MAX: usize = 16;

/// Through which other gateways a message came, for those that it goes to from here:
/// the last ones, because only the first can be a device's invention.
pub(super) fn via(
    user: &[(Arc<str>, Arc<str>)],
    is_own: impl Fn(&str) -> bool,
) -> Option<Arc<str>> {
    let via = user
        .iter()
        .filter(|(name, value)| **name == *VIA_PROPERTY && is_gateway(value) && !is_own(value));
    let mut last: Vec<&str> = via
        .rev()
        .map(|(_, value)| &**value)
        .take(HOPS_MAX)
        .collect();
    last.reverse();
    (!last.is_empty()).then(|| last.join(" ").into())
}

/// What is appended together.
pub(super) struct Group {
    pub(super) entries: Vec<Entry>,
    /// Whose each entry is, where it is an event.
    pub(super) sent: Vec<Option<Sent>>,
    /// Entries of each publish.
    pub(super) counts: Vec<usize>,
    /// Publishes that came back, by index.
    pub(super) returned: Vec<usize>,
    pub(super) lessons: Lessons,
}

/// Builds one group.
pub(super) struct Preparing<'i> {
    /// The user that the client was let in as.
    identity: Option<Arc<str>>,
    /// The remote broker that the messages come from.
    pub(super) origin: Option<Arc<str>>,
    topics: &'i Topics,
    /// Where events may go.
    routes: Routes,
    rules: &'i RuleSet,
    matching: rules::Scratch,
    pub(super) gateway: Option<&'i GatewayId>,
    /// Destinations that get messages as they came.
    pub(super) originals: Routes,
    /// Where events go by their classes.
    pub(super) routing: Option<&'i Routing>,
    /// Whether they come now.
    comes: Comes,
    /// When the events are made again.
    pub(super) corrected: Option<Timestamp>,
    timing: Option<&'i Timing>,
    /// This start of the machine, while the time is not known.
    booted: Option<&'i Booted>,
    pub(super) metrics: &'i Metrics,
    births: &'i Births,
    scratch: Scratch,
    /// Where events are encoded, before they are copied to just their size.
    body: Vec<u8>,
    pub(super) entries: Vec<Entry>,
    /// Whose each entry is, where it is an event.
    sent: Vec<Option<Sent>>,
    /// What they take, about.
    bytes: usize,
    /// Entries of each publish.
    pub(super) counts: Vec<usize>,
    returned: Vec<usize>,
    lessons: Lessons,
    /// The mapping of the last topic: a device mostly stays on one.
    last: Option<topics::Found>,
}

impl<'i> Preparing<'i> {
    pub(super) fn new(
        topics: &'i Topics,
        routes: Routes,
        rules: &'i RuleSet,
        metrics: &'i Metrics,
        births: &'i Births,
    ) -> Self {
        Self {
            identity: None,
            origin: None,
            topics,
            routes,
            rules,
            matching: rules.scratch(),
            gateway: None,
            originals: Routes::NONE,
            routing: None,
            comes: Comes::Now,
            corrected: None,
            timing: None,
            booted: None,
            metrics,
            births,
            scratch: Scratch::default(),
            body: Vec::new(),
            entries: Vec::new(),
            sent: Vec::new(),
            bytes: 0,
            counts: Vec::new(),
            returned: Vec::new(),
            lessons: Lessons::default(),
            last: None,
        }
    }

    /// What an origin gives us it has looked at itself, and marked as having been here.
    pub(super) fn known_as(
        mut self,
        gateway: Option<&'i GatewayId>,
        publisher: &Publisher,
    ) -> Self {
        self.gateway = gateway;
        self.origin.clone_from(&publisher.origin);
        self.identity.clone_from(&publisher.identity);
        self
    }

    pub(super) const fn sending_originals(mut self, destinations: Routes) -> Self {
        self.originals = destinations;
        self
    }

    pub(super) const fn routed_by(mut self, routing: &'i Routing) -> Self {
        self.routing = Some(routing);
        self
    }

    pub(super) fn timed_by(mut self, timing: &'i Arc<Timing>, booted: Option<&'i Booted>) -> Self {
        self.timing = Some(timing);
        self.lessons = Lessons::timed_by(timing);
        self.booted = booted;
        self
    }

    /// Marks what is odd about the times of a message's events.
    fn mark(&mut self, events: &mut [Event], booted: Option<&Booted>) {
        for event in &mut *events {
            event.corrected = self.corrected;
            timing::mark_unset(event, booted);
            if let Some(timing) = self.timing {
                timing.mark_late(event);
            }
        }
        // What is made again says nothing about the order in which it came.
        if self.corrected.is_none() {
            self.lessons.watch(events, self.entries.len());
        }
    }

    /// Entries of the first of these publishes, as far as [`GROUP_BYTES`] go, and
    /// how many each of them has.
    pub(super) fn group(
        mut self,
        client_id: &Arc<str>,
        publishes: &mut impl Iterator<Item = Publish>,
        received: Timestamp,
    ) -> Group {
        while self.bytes < GROUP_BYTES
            && let Some(publish) = publishes.next()
        {
            self.publish(client_id, &publish, received);
        }
        self.rules.give_back(self.matching);
        Group {
            entries: self.entries,
            sent: self.sent,
            counts: self.counts,
            returned: self.returned,
            lessons: self.lessons,
        }
    }

    pub(super) fn publish(&mut self, client_id: &Arc<str>, publish: &Publish, received: Timestamp) {
        let before = self.entries.len();
        if publish.retain && publish.payload.is_empty() {
            self.metrics.cleared();
            self.counts.push(0);
            return;
        }
        let properties = publish.properties.as_deref();
        if properties.is_some_and(|known| self.is_circle(known)) {
            self.metrics.circle();
            self.returned.push(self.counts.len());
            self.counts.push(0);
            return;
        }
        let raw = Raw {
            topic: publish.topic.clone(),
            client_id: client_id.clone(),
            identity: self.identity.clone(),
            origin: self.origin.clone(),
            payload: publish.payload.clone(),
            content_type: properties.and_then(|p| p.content_type.clone()),
            user: properties
                .map_or(&[][..], |p: &Properties| &p.user)
                .to_vec(),
            received,
            delivery: publish.delivery,
            nonce: rand::rng().random(),
            booted: self.booted.cloned(),
        };
        let made = self.message(&raw);
        if let Some(heard) = self.scratch.take_heard() {
            self.lessons.hear(self.counts.len(), heard);
        }
        if let Err(reject) = made {
            self.lessons.take_back(self.entries.len());
            self.quarantine(&raw, reject, raw.payload.clone());
        }
        self.counts.push(self.entries.len() - before);
    }

    fn is_own(&self, name: &str) -> bool {
        self.gateway.is_some_and(|own| **own.as_str() == *name)
    }

    /// Whether the message has been through this gateway before.
    fn is_circle(&self, properties: &Properties) -> bool {
        let mut user = properties.user.iter();
        self.origin.is_none()
            && user.any(|(name, value)| **name == *VIA_PROPERTY && self.is_own(value))
    }

    /// Whether an event that the rules send nowhere is held. Not where there was nowhere
    /// to send it in the first place, or where the event itself is kept already.
    const fn may_be_held(&self) -> bool {
        self.routes.0 != Routes::NONE.0 && self.corrected.is_none()
    }

    pub(super) fn retry(mut self, raw: &Raw) -> Result<Vec<Entry>, Reject> {
        self.comes = Comes::Again;
        let done = self.message(raw);
        self.rules.give_back(self.matching);
        // What is tried again says nothing about the order in which it came either.
        self.lessons.count(self.metrics);
        done.map(|()| self.entries)
    }

    /// Adds the events of a message, and what is left of a batch; or nothing.
    fn message(&mut self, raw: &Raw) -> Result<(), Reject> {
        let found = match &self.last {
            Some(found) if *found.topic == *raw.topic => found,
            _ => self.last.insert(
                self.topics
                    .find(&raw.topic)
                    .ok_or_else(|| Reject::new(Class::Unmapped, "no mapping takes the topic"))?,
            ),
        };
        let message = Message {
            topic: &raw.topic,
            client_id: &raw.client_id,
            identity: raw.identity.as_deref(),
            payload: &raw.payload,
            content_type: raw.content_type.as_deref(),
            user: &raw.user,
            received: raw.received,
            nonce: raw.nonce,
            delivery: raw.delivery,
            births: self.births,
        };
        let mapping = self.topics.mapping(found);
        let number = found.mapping;
        let Normalised {
            mut events,
            rejected,
            nothing,
            dropped,
            mismatched,
        } = normalise::normalise(mapping, &found.resolved, &message, &mut self.scratch)?;
        self.metrics.not_data_seen(nothing);
        self.metrics.dropped_by_mapping(dropped);
        self.metrics.mismatched_seen(mismatched);
        if let Some(via) = via(&raw.user, |name| self.is_own(name)) {
            for event in &mut events {
                event.tags.push((VIA_PROPERTY.into(), via.clone()));
            }
        }
        self.mark(&mut events, raw.booted.as_ref());
        let original = (mapping.raw == Keep::Always && self.corrected.is_none())
            .then(|| raw.original().to_cbor());
        let before = self.entries.len();
        let stored_bytes_max = stored_bytes_max(raw.payload.len());
        let mut stored_bytes = 0;
        let mut taken = Taken::default();
        self.matching.begin_message();
        for event in &events {
            let mut entry = self.entry(event, raw.payload.len() / events.len());
            let mut class = class::Class::Normal;
            if !self.rules.is_empty() {
                match self.rules.route(event, self.routes, &mut self.matching) {
                    Ok(routed) => {
                        // What is done about it beside is done once, and does not keep it.
                        let sent = routed.routes.without(self.rules.acting());
                        (entry.routes, class) = (routed.routes, routed.class);
                        if sent == Routes::NONE && self.may_be_held() {
                            entry.routes = routed.routes.union(Routes::NOWHERE);
                        }
                        taken.count(routed.matched, sent);
                    }
                    Err(error) => {
                        self.entries.truncate(before);
                        return Err(Reject::new(Class::Limit, error.to_string()));
                    }
                }
            }
            if let Some(routing) = self.routing {
                entry.routes = routing.by_lanes(entry.routes, class, self.comes);
            }
            entry.shed = self.sheddable(event, entry.routes, class);
            entry.dedup |= raw.delivery.is_some() || self.corrected.is_some();
            entry.original = original.as_ref().map(|bytes| NewOriginal {
                bytes: bytes.clone(),
                is_first: self.entries.len() == before,
                once: self.originals,
            });
            stored_bytes += entry.body.len() + ENTRY_BYTES;
            if stored_bytes > stored_bytes_max {
                self.entries.truncate(before);
                return Err(Reject::new(
                    Class::Limit,
                    format!(
                        "as {} events it has more than {stored_bytes_max} bytes",
                        events.len()
                    ),
                ));
            }
            self.entries.push(Entry::Event(entry));
        }
        self.bytes += stored_bytes + original.map_or(0, |bytes| bytes.len());
        self.metrics.routed(&taken);
        for event in &events {
            self.metrics.event(event.id_source);
            self.sent.push(Some(Sent {
                device: event.device.clone(),
                source: event.id_source,
                mapping: number,
            }));
        }
        if let Some(rejected) = rejected {
            let payload = rejected.payload.into_boxed_slice().into();
            self.quarantine(raw, rejected.reject, payload);
        }
        Ok(())
    }

    /// What an event may be given up as while room is short. Not what rules act on: an alarm
    /// or a window would take it that the device is silent. Nor what goes to who gets messages
    /// as they came: he gets no event that tells of a gap. Nor what is made again.
    fn sheddable(&self, event: &Event, routes: Routes, class: class::Class) -> Option<Sheddable> {
        let acted_on = routes.intersection(self.rules.acting()) != Routes::NONE;
        let is_untold = routes.intersection(self.originals) != Routes::NONE;
        if acted_on || is_untold || class == class::Class::Critical || self.corrected.is_some() {
            return None;
        }
        let mut series = DefaultHasher::new();
        (&*event.device, &*event.topic).hash(&mut series);
        Some(Sheddable {
            class,
            series: series.finish(),
        })
    }

    fn entry(&mut self, event: &Event, payload_bytes: usize) -> NewEvent {
        self.body.clear();
        // What the attributes take beside the payload, about.
        self.body.reserve(payload_bytes + 192);
        event.to_cbor(&mut self.body);
        NewEvent {
            key: event.attributes().delivery_key(),
            dedup: event.id_source != IdSource::None,
            device: event.device.clone(),
            received: event.received,
            routes: self.routes,
            // Kept in memory until it is delivered, and counted by its length.
            body: Bytes::copy_from_slice(&self.body),
            original: None,
            shed: None,
        }
    }

    fn quarantine(&mut self, raw: &Raw, reject: Reject, payload: Bytes) {
        self.metrics.rejected(reject.class);
        let kept = raw.quarantined(reject, payload);
        let properties_bytes = kept.properties.as_ref().map_or(0, Bytes::len);
        self.bytes += kept.payload.len() + properties_bytes + ENTRY_BYTES;
        self.sent.push(None);
        self.entries.push(Entry::Quarantine(kept));
    }
}
