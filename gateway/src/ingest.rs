//! The way in: every publish becomes events, or a quarantined message, in one
//! group of the journal.
//!
//! Promises: a publish is [`Verdict::Accepted`] only once everything that came of
//! it is on disk, and [`Verdict::Duplicate`] only if all of it was on disk before.
//! Nothing is dropped: what no mapping takes, what cannot be decoded, and what
//! would swell beyond bounds is quarantined as it came, with the reason.
//!
//! Two exceptions, acknowledged and counted, and not kept. What left this gateway as an
//! event, and came back from another, is kept already, and is [`Verdict::Returned`], so
//! that it is not shown once more. And an empty payload
//! with the RETAIN flag is not data: it tells the broker to forget a retained message
//! (MQTT 5, section 3.3.1.3). Any other empty payload is quarantined.
//!
//! Entries are appended in the order of the batch. What a message becomes may be
//! many times its size, so a batch is turned into entries piece by piece, each
//! piece kept before the next is begun, and only so many pieces at a time.

#[cfg(feature = "mqtt")]
mod aside;
mod duplicates;
mod lessons;
mod metrics;
mod raw;
mod timing;
mod topics;
mod verdicts;

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::Bytes;
use penstock_broker::{Admission, Admitted, Properties, Publish, Publisher, Receipt, Verdict};
use rand::RngExt as _;
use tokio::sync::{Notify, Semaphore};

use duplicates::Sent;
pub use duplicates::{Duplicates, Report};
use lessons::Lessons;
pub use metrics::Metrics;
use metrics::Taken;
pub use raw::Raw;
pub use timing::DeviceClock;
use timing::Timing;
use topics::Topics;
use verdicts::verdicts;

use crate::{
    clock::{Booted, Clock},
    event::{
        Event, IdSource, Timestamp,
        message::{VIA_PROPERTY, is_gateway},
    },
    gateway_id::GatewayId,
    normalise::{
        self, Births, Class, Mapping, Message, Normalised, Reject, Scratch, mapping::Keep,
    },
    record::{DestinationId, Routes},
    rules::{self, RuleSet},
    store::{self, Entry, NewEvent, NewOriginal},
};

/// Bytes of entries that are built before they are appended, about: one message
/// more may begin below it.
const GROUP_BYTES: usize = 1024 * 1024;

/// What an entry takes beside its body or payload, about.
const ENTRY_BYTES: usize = 128;

/// Gateways that are remembered of a message's way.
const HOPS_MAX: usize = 16;

/// Groups that are built, or wait for room in the journal's queue, at a time. With
/// [`stored_bytes_max`] this bounds what entries take before they are in that queue.
const PREPARING_MAX: usize = 16;

/// What one message may become, as stored events: a small payload of many
/// elements on a long topic could fill memory and disk otherwise.
fn stored_bytes_max(payload_bytes: usize) -> usize {
    let swollen = payload_bytes.saturating_mul(128);
    // An event takes some hundred bytes however little it says, an element perhaps
    // three. Whatever the broker takes may be kept as one event.
    swollen
        .clamp(256 * 1024, 2 * 1024 * 1024)
        .saturating_add(payload_bytes)
}

/// How messages become events.
#[derive(Debug, Clone)]
pub struct Config {
    /// In order; the first that takes a topic is used.
    pub mappings: Vec<Mapping>,
    /// The gateway's own site, for mappings that capture none.
    pub site: Option<Arc<str>>,
    /// An event is late when its time is longer ago than this at receipt.
    pub late_after: Duration,
}

impl Config {
    /// `late_after` where not configured.
    pub const LATE_AFTER: Duration = Duration::from_mins(10);
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mappings: Mapping::defaults(),
            site: None,
            late_after: Self::LATE_AFTER,
        }
    }
}

/// What a message out of quarantine becomes.
#[derive(Debug)]
pub struct Retried {
    /// To be appended, together.
    pub entries: Vec<Entry>,
    /// What is to be counted once that is done.
    pub counts: Metrics,
}

/// Takes what devices publish.
#[derive(Debug)]
pub struct Ingest {
    topics: Topics,
    routes: Routes,
    /// Who this gateway is, where its messages may come back to it.
    gateway: Option<GatewayId>,
    /// Destinations that get messages as they came.
    originals: Routes,
    /// Destinations that do not get what comes from an origin.
    not_back: HashMap<Arc<str>, Routes>,
    /// The rules in force. Each batch goes by those that it began with.
    rules: RwLock<Arc<RuleSet>>,
    store: store::Handle,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    duplicates: Arc<Duplicates>,
    /// What Sparkplug nodes said at their birth.
    births: Births,
    /// Somebody of those should be asked to be born again.
    rebirths: Arc<Notify>,
    /// What devices' clocks are like.
    timing: Arc<Timing>,
    /// A permit for each of [`PREPARING_MAX`].
    preparing: Semaphore,
}

impl Ingest {
    /// Builds the stage. Every event goes to all of `routes`, until there are
    /// [rules](Self::set_rules).
    pub fn new(
        config: Config,
        routes: Routes,
        store: store::Handle,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            timing: Arc::new(Timing::new(config.late_after)),
            duplicates: Arc::new(Duplicates::new(&config.mappings, clock.now())),
            topics: Topics::new(config),
            routes,
            gateway: None,
            originals: Routes::NONE,
            not_back: HashMap::new(),
            rules: RwLock::default(),
            store,
            clock,
            metrics: Arc::default(),
            births: Births::default(),
            rebirths: Arc::default(),
            preparing: Semaphore::new(PREPARING_MAX),
        }
    }

    /// Takes no messages that have been through this gateway before: they are
    /// acknowledged and counted, because they are kept already.
    #[must_use]
    pub fn known_as(mut self, gateway: GatewayId) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Sends these destinations messages as they came, each once, however many events
    /// it became.
    #[must_use]
    pub const fn sending_originals(mut self, destinations: Routes) -> Self {
        self.originals = destinations;
        self
    }

    /// Whether a destination gets messages as they came.
    pub const fn sends_original_to(&self, destination: DestinationId) -> bool {
        self.originals.contains(destination)
    }

    /// Now, by the clock that messages are stamped with.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Keeps events that come from an origin away from the destinations that are
    /// the same place.
    #[must_use]
    pub fn not_back(mut self, routes: HashMap<Arc<str>, Routes>) -> Self {
        self.not_back = routes;
        self
    }

    /// Puts rules in force for every batch that begins from now on.
    pub fn set_rules(&self, rules: RuleSet) {
        let rules = Arc::new(rules);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    fn rules(&self) -> Arc<RuleSet> {
        self.rules
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where events from an origin may go; from none, those of devices.
    fn routes_of(&self, origin: Option<&Arc<str>>) -> Routes {
        let same = origin.and_then(|origin| self.not_back.get(origin));
        same.map_or(self.routes, |same| self.routes.without(*same))
    }

    /// Whether events of a message may go to a destination, whatever the rules say: not
    /// back to where it came from.
    pub fn may_go_to(&self, raw: &Raw, destination: DestinationId) -> bool {
        self.routes_of(raw.origin.as_ref()).contains(destination)
    }

    /// How often devices sent the same thing again.
    pub fn duplicates(&self) -> &Duplicates {
        &self.duplicates
    }

    /// What was taken so far.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Waits until Sparkplug nodes should be asked to be born again: the topics of their
    /// commands. One caller at a time.
    pub async fn rebirths(&self) -> Vec<Arc<str>> {
        loop {
            let topics = self.births.rebirths().take();
            if !topics.is_empty() {
                self.metrics.rebirths_asked(topics.len());
                return topics;
            }
            self.rebirths.notified().await;
        }
    }

    /// What the clocks of devices look like from here, those that are off the most first;
    /// at most `count`, and how many devices are known.
    pub fn clocks(&self, count: usize) -> (Vec<DeviceClock>, usize) {
        self.timing.clocks(count)
    }

    /// Tries a quarantined message again with the mappings of today. The entries
    /// are to be appended, and the message to be taken out of quarantine, together; then
    /// it is to be [counted](Self::count).
    ///
    /// # Errors
    /// When it still cannot be used.
    pub fn retry(&self, raw: &Raw) -> Result<Retried, Reject> {
        let routes = self.routes_of(raw.origin.as_ref());
        let (rules, metrics) = (self.rules(), Metrics::default());
        let births = self.births.only_read();
        let mut preparing = Preparing::new(&self.topics, routes, &rules, &metrics, &births);
        preparing.gateway = self.gateway.as_ref();
        preparing.originals = self.originals;
        let entries = preparing.timed_by(&self.timing, None).retry(raw)?;
        Ok(Retried {
            entries,
            counts: metrics,
        })
    }

    /// Counts what was tried again, now that it has left quarantine.
    pub fn count(&self, counts: &Metrics) {
        self.metrics.add(counts);
    }

    /// Makes the events of a kept message again with the mappings and rules of today:
    /// under the keys that they had, marked as corrections made at `at`. Those that the
    /// rules send nowhere are not among them. Destinations that get the message itself
    /// get no correction: what came has not changed. Keeps and counts nothing. `booted` is
    /// what was said of the machine's start where the message came before the clock was set.
    ///
    /// # Errors
    /// When the message cannot be used today.
    pub fn renormalise(
        &self,
        raw: &Raw,
        at: Timestamp,
        booted: Option<&Booted>,
    ) -> Result<Vec<NewEvent>, Reject> {
        let routes = self.routes_of(raw.origin.as_ref()).without(self.originals);
        let (rules, metrics) = (self.rules(), Metrics::default());
        let births = self.births.only_read();
        let mut preparing = Preparing::new(&self.topics, routes, &rules, &metrics, &births);
        preparing.gateway = self.gateway.as_ref();
        preparing.corrected = Some(at);
        let preparing = preparing.timed_by(&self.timing, booted);
        let entries = preparing.retry(raw)?.into_iter();
        let events = entries.filter_map(|entry| match entry {
            Entry::Event(event) => Some(event),
            // The rest of a batch is in quarantine since it came.
            Entry::Quarantine(_) => None,
        });
        Ok(events.collect())
    }
}

impl Admission for Ingest {
    #[expect(
        clippy::async_yields_async,
        reason = "the caller awaits the receipt later"
    )]
    fn admit<'a>(&'a self, publisher: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        Box::pin(async move {
            let turn = store::Turn::of(publisher);
            let routes = self.routes_of(publisher.origin.as_ref());
            let rules = self.rules();
            let births = match publisher.origin {
                None => self.births.clone(),
                // Nodes at another broker do not hear what is said here.
                Some(_) => self.births.silent(),
            };
            let received = self.clock.now();
            let unset = received.is_unset();
            let booted = unset.then(|| self.clock.booted()).flatten();
            let mut settled = Vec::new();
            let mut batch = batch.into_iter();
            loop {
                // Until there is a permit, nothing takes more than it did as a publish.
                let permit = self.preparing.acquire().await.ok();
                let Group {
                    entries,
                    sent,
                    counts,
                    returned,
                    lessons,
                } = Preparing::new(&self.topics, routes, &rules, &self.metrics, &births)
                    .known_as(self.gateway.as_ref(), publisher)
                    .sending_originals(self.originals)
                    .timed_by(&self.timing, booted.as_ref())
                    .group(&publisher.client_id, &mut batch, received);
                let appended = if entries.is_empty() {
                    None
                } else {
                    Some(self.store.append_in_turn(entries, turn.clone()).await)
                };
                drop(permit);
                let duplicates = self.duplicates.clone();
                let (births, metrics) = (births.clone(), self.metrics.clone());
                let (client_id, asking) = (publisher.client_id.clone(), self.rebirths.clone());
                let own = async move {
                    let appended = match appended {
                        None => Some(Vec::new()),
                        Some(Ok(receipt)) => receipt.await.ok(),
                        Some(Err(store::Stopped)) => None,
                    };
                    let mut verdicts = verdicts(&counts, appended.as_deref());
                    let appended = appended.unwrap_or_default();
                    duplicates.count(&sent, &appended);
                    lessons.learn(&births, &client_id, &verdicts, &appended, &metrics);
                    if births.rebirths().is_wanted() {
                        asking.notify_one();
                    }
                    for index in returned {
                        if let Some(verdict @ Verdict::Accepted) = verdicts.get_mut(index) {
                            *verdict = Verdict::Returned;
                        }
                    }
                    verdicts
                };
                if batch.len() == 0 {
                    let receipt: Receipt = Box::pin(async move {
                        settled.extend(own.await);
                        settled
                    });
                    return receipt;
                }
                settled.extend(own.await);
                // Nothing may be kept that came after what is not.
                if let Some(verdict @ (Verdict::Busy | Verdict::Lost)) = settled.last().cloned() {
                    settled.resize(settled.len() + batch.len(), verdict);
                    let receipt: Receipt = Box::pin(ready(settled));
                    return receipt;
                }
            }
        })
    }
}

/// Through which other gateways a message came, for those that it goes to from here:
/// the last ones, because only the first can be a device's invention.
fn via(user: &[(Arc<str>, Arc<str>)], is_own: impl Fn(&str) -> bool) -> Option<Arc<str>> {
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
struct Group {
    entries: Vec<Entry>,
    /// Whose each entry is, where it is an event.
    sent: Vec<Option<Sent>>,
    /// Entries of each publish.
    counts: Vec<usize>,
    /// Publishes that came back, by index.
    returned: Vec<usize>,
    lessons: Lessons,
}

/// Builds one group.
struct Preparing<'i> {
    /// The user that the client was let in as.
    identity: Option<Arc<str>>,
    /// The remote broker that the messages come from.
    origin: Option<Arc<str>>,
    topics: &'i Topics,
    /// Where events may go.
    routes: Routes,
    rules: &'i RuleSet,
    matching: rules::Scratch,
    gateway: Option<&'i GatewayId>,
    /// Destinations that get messages as they came.
    originals: Routes,
    /// When the events are made again.
    corrected: Option<Timestamp>,
    timing: Option<&'i Timing>,
    /// This start of the machine, while the time is not known.
    booted: Option<&'i Booted>,
    metrics: &'i Metrics,
    births: &'i Births,
    scratch: Scratch,
    /// Where events are encoded, before they are copied to just their size.
    body: Vec<u8>,
    entries: Vec<Entry>,
    /// Whose each entry is, where it is an event.
    sent: Vec<Option<Sent>>,
    /// What they take, about.
    bytes: usize,
    /// Entries of each publish.
    counts: Vec<usize>,
    returned: Vec<usize>,
    lessons: Lessons,
    /// The mapping of the last topic: a device mostly stays on one.
    last: Option<topics::Found>,
}

impl<'i> Preparing<'i> {
    fn new(
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
    fn known_as(mut self, gateway: Option<&'i GatewayId>, publisher: &Publisher) -> Self {
        self.gateway = gateway;
        self.origin.clone_from(&publisher.origin);
        self.identity.clone_from(&publisher.identity);
        self
    }

    const fn sending_originals(mut self, destinations: Routes) -> Self {
        self.originals = destinations;
        self
    }

    fn timed_by(mut self, timing: &'i Arc<Timing>, booted: Option<&'i Booted>) -> Self {
        self.timing = Some(timing);
        self.lessons = Lessons::timed_by(timing);
        self.booted = booted;
        self
    }

    /// Marks what is odd about the times of a message's events.
    fn mark(&mut self, events: &mut [Event]) {
        for event in &mut *events {
            event.corrected = self.corrected;
            timing::mark_unset(event, self.booted);
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
    fn group(
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

    fn publish(&mut self, client_id: &Arc<str>, publish: &Publish, received: Timestamp) {
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

    fn retry(mut self, raw: &Raw) -> Result<Vec<Entry>, Reject> {
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
        self.mark(&mut events);
        let original = (mapping.raw == Keep::Always && self.corrected.is_none())
            .then(|| raw.original().to_cbor());
        let before = self.entries.len();
        let stored_bytes_max = stored_bytes_max(raw.payload.len());
        let mut stored_bytes = 0;
        let mut taken = Taken::default();
        self.matching.begin_message();
        for event in &events {
            let mut entry = self.entry(event, raw.payload.len() / events.len());
            if !self.rules.is_empty() {
                match self.rules.route(event, self.routes, &mut self.matching) {
                    Ok(routed) => {
                        entry.routes = routed.routes;
                        if routed.routes == Routes::NONE && self.may_be_held() {
                            entry.routes = Routes::NOWHERE;
                        }
                        taken.count(routed);
                    }
                    Err(error) => {
                        self.entries.truncate(before);
                        return Err(Reject::new(Class::Limit, error.to_string()));
                    }
                }
            }
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

#[cfg(test)]
mod tests;
