//! The way in: every publish becomes events, or a quarantined message, in one
//! group of the journal.
//!
//! Promises: a publish is [`Verdict::Accepted`] only once everything that came of
//! it is on disk, and [`Verdict::Duplicate`] only if all of it was on disk before.
//! Nothing is dropped: what no mapping takes, what cannot be decoded, and what
//! would swell beyond bounds is quarantined as it came, with the reason.
//!
//! Three exceptions, acknowledged and counted, and not kept. What is given up by its class
//! while room is short, where the operator has said so. What left this gateway as an
//! event, and came back from another, is kept already, and is [`Verdict::Returned`], so
//! that it is not shown once more. And an empty payload
//! with the RETAIN flag is not data: it tells the broker to forget a retained message
//! (MQTT 5, section 3.3.1.3). Any other empty payload is quarantined.
//!
//! Entries are appended in the order of the batch. What a message becomes may be
//! many times its size, so a batch is turned into entries piece by piece, each
//! piece kept before the next is begun, and only so many pieces at a time.

mod aside;
mod duplicates;
mod lessons;
mod metrics;
mod preparing;
mod raw;
mod routing;
mod timing;
mod topics;
mod verdicts;

use std::{
    collections::HashMap,
    future::ready,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
    time::Duration,
};

use penstock_broker::{Admission, Admitted, Publish, Publisher, Receipt, Verdict};
use tokio::sync::{Notify, Semaphore};

pub use duplicates::{Duplicates, Report};
pub use metrics::Metrics;
use preparing::{Group, Preparing};
pub use raw::Raw;
use routing::Comes;
pub use routing::{Lane, Lanes, Routing, Takes};
pub use timing::DeviceClock;
use timing::Timing;
pub(crate) use timing::mark_unset;
use topics::Topics;
use verdicts::verdicts;

use crate::{
    class::Class,
    clock::{Believed, Clock},
    event::{Event, Marks, Timestamp},
    gateway_id::GatewayId,
    normalise::{Births, Mapping, Reject},
    record::{DestinationId, Routes},
    rules::RuleSet,
    store::{self, Entry, NewEvent},
};

/// Groups that are built, or wait for room in the journal's queue, at a time. With
/// [`normalise::stored_bytes_max`](crate::normalise::stored_bytes_max) this bounds what entries take before they are in that queue.
const PREPARING_MAX: usize = 16;

/// How often to look whether batches that began before a change have ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long they are waited for.
const FORMER_MAX: Duration = Duration::from_secs(10);

/// How messages become events.
#[derive(Debug, Clone)]
pub struct Config {
    /// In order; the first that takes a topic is used.
    pub mappings: Vec<Mapping>,
    /// The gateway's own site, for mappings that capture none.
    pub site: Option<Arc<str>>,
    /// An event is late when its time is longer ago than this at receipt.
    pub late_after: Duration,
    /// A clock that nothing has set is believed when the machine is up for so long.
    pub clock_wait: Duration,
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
            clock_wait: Believed::WAIT,
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
    /// To be held until the entries are with the journal.
    pub going: Going,
}

/// Events of a kept message, made again.
#[derive(Debug)]
pub struct Renormalised {
    /// To be appended.
    pub events: Vec<NewEvent>,
    /// To be held until they are with the journal.
    pub going: Going,
}

/// An event that the gateway made itself.
#[derive(Debug)]
pub struct Made {
    /// To be appended.
    pub event: NewEvent,
    /// To be held until it is with the journal.
    pub going: Going,
}

/// Where entries go by. While it is held, a change of where events go knows that some are
/// on their way that know nothing of it.
#[derive(Debug, Clone)]
pub struct Going {
    _by: Arc<Routing>,
}

/// Takes what devices publish.
#[derive(Debug)]
pub struct Ingest {
    topics: Topics,
    /// Who this gateway is, where its messages may come back to it.
    gateway: Option<GatewayId>,
    /// Where events go now. Each batch goes by what it began with.
    routing: RwLock<Arc<Routing>>,
    /// What they went by that began before, as long as some are not with the journal yet:
    /// one for each change that a batch is older than.
    former: Mutex<Vec<Weak<Routing>>>,
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
            gateway: None,
            routing: RwLock::new(Arc::new(Routing {
                routes,
                ..Routing::default()
            })),
            former: Mutex::default(),
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
    pub fn sending_originals(self, destinations: Routes) -> Self {
        self.change_routing(|routing| routing.originals = destinations);
        self
    }

    /// Whether a destination gets messages as they came.
    pub fn sends_original_to(&self, destination: DestinationId) -> bool {
        self.routing().originals.contains(destination)
    }

    /// Who this gateway is among others, where that is known.
    pub(crate) const fn gateway(&self) -> Option<&GatewayId> {
        self.gateway.as_ref()
    }

    /// The gateway's own site, of devices whose mapping captures none.
    pub(crate) const fn site(&self) -> Option<&Arc<str>> {
        self.topics.site()
    }

    /// Now, by the clock that messages are stamped with.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Keeps events that come from an origin away from the destinations that are
    /// the same place.
    #[must_use]
    pub fn not_back(self, routes: HashMap<Arc<str>, Routes>) -> Self {
        self.change_routing(|routing| routing.not_back = routes);
        self
    }

    /// Puts rules in force for every batch that begins from now on.
    pub fn set_rules(&self, rules: RuleSet) {
        let rules = Arc::new(rules);
        self.change_routing(|routing| routing.rules = rules);
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<RuleSet> {
        self.routing().rules.clone()
    }

    /// Changes where events go, for every batch that begins from now on. Lanes of what is
    /// live that are open stay so.
    pub fn exchange_routing(&self, to: Routing) {
        self.change_routing(|routing| {
            let live = routing.live.intersection(to.all_lanes());
            *routing = Routing { live, ..to };
        });
    }

    /// Opens these lanes of what is live, and shuts the others.
    pub fn set_live(&self, lanes: Routes) {
        self.change_routing(|routing| routing.live = lanes);
    }

    /// Waits until all that went by anything else than what is in force is with the
    /// journal, for some time: one that finds no room in the journal may wait for long. Says
    /// whether that is so.
    pub async fn settled(&self) -> bool {
        let deadline = tokio::time::Instant::now() + FORMER_MAX;
        while !self.is_settled() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        true
    }

    /// Whether all that goes by anything else than what is in force is with the journal.
    pub fn is_settled(&self) -> bool {
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        former.retain(|routing| routing.strong_count() > 0);
        former.is_empty()
    }

    /// Changes where events go before there are any.
    #[must_use]
    pub fn routing_by(self, to: Routing) -> Self {
        self.change_routing(|routing| *routing = to);
        self
    }

    /// Routes nothing more to these destinations.
    pub fn set_draining(&self, destinations: Routes) {
        self.change_routing(|routing| routing.draining = destinations);
    }

    fn change_routing(&self, change: impl FnOnce(&mut Routing)) {
        let mut routing = self.routing.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Routing::clone(&routing);
        change(&mut changed);
        let former = std::mem::replace(&mut *routing, Arc::new(changed));
        drop(routing);
        let former = Arc::downgrade(&former);
        let mut all = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|routing| routing.strong_count() > 0);
        all.push(former);
    }

    fn routing(&self) -> Arc<Routing> {
        let routing = self.routing.read().unwrap_or_else(PoisonError::into_inner);
        routing.clone()
    }

    /// Whether a stored event would go to a destination if it came now. One that rules
    /// cannot be asked about would.
    pub fn would_send(&self, event: &Event, destination: DestinationId) -> bool {
        self.routing().would_send(event, destination)
    }

    /// Whether events of a message may go to a destination, whatever the rules say: not
    /// back to where it came from.
    pub fn may_go_to(&self, raw: &Raw, destination: DestinationId) -> bool {
        let routing = self.routing();
        let named = routing.named(destination);
        routing.of(raw.origin.as_ref()).contains(named)
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

    /// Whether the birth of a Sparkplug node is known that no death has ended.
    pub fn is_born(&self, client_id: &str, node: &str) -> bool {
        self.births.is_born(client_id, node)
    }

    /// The number of the session of a Sparkplug node that is born.
    pub fn sparkplug_session(&self, client_id: &str, node: &str) -> Option<Option<u64>> {
        self.births.session(client_id, node)
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
        let (routing, metrics) = (self.routing(), Metrics::default());
        let routes = routing.of(raw.origin.as_ref());
        let births = self.births.only_read();
        let mut preparing = Preparing::new(&self.topics, routes, &routing.rules, &metrics, &births);
        preparing.gateway = self.gateway.as_ref();
        preparing.originals = routing.originals;
        preparing.routing = Some(&routing);
        let entries = preparing.timed_by(&self.timing, None).retry(raw)?;
        Ok(Retried {
            entries,
            counts: metrics,
            going: Going { _by: routing },
        })
    }

    /// An event that the gateway made itself, on its way into the journal. It goes where
    /// the rules say; with more to compare than is allowed for a message, everywhere.
    /// The destinations of the rule that made it get it too. Destinations that get messages
    /// as they came get none: nothing came.
    ///
    /// One of a time that is not known yet is marked as those of devices are.
    pub fn made(&self, event: &Event, rule: Option<&str>) -> Made {
        if event.received.is_unset() && !event.marks.contains(Marks::CLOCK_UNSET) {
            let mut marked = event.clone();
            mark_unset(&mut marked, self.clock.booted().as_ref());
            return self.made(&marked, rule);
        }
        let routing = self.routing();
        let (rules, originals) = (&routing.rules, routing.originals);
        let open = routing.of(None).without(originals);
        let mut matching = rules.scratch();
        matching.begin_message();
        let (routes, class) = match rules.is_empty() {
            true => (open, Class::Normal),
            false => rules
                .route(event, open, &mut matching)
                .map_or((open, Class::Normal), |routed| {
                    (routed.routes, routed.class)
                }),
        };
        let class = class.max(
            rule.and_then(|rule| rules.class_of(rule))
                .unwrap_or(Class::Low),
        );
        rules.give_back(matching);
        let also = rule.map_or(Routes::NONE, |rule| rules.windowed(rule));
        let routes = routes.union(also.without(originals));
        let sent = routes.without(rules.acting());
        let nowhere = sent == Routes::NONE && open != Routes::NONE;
        let mut body = Vec::with_capacity(512);
        event.to_cbor(&mut body);
        let event = NewEvent {
            key: event.attributes().delivery_key(),
            dedup: true,
            device: event.device.clone(),
            received: event.received,
            routes: match nowhere {
                true => routes.union(Routes::NOWHERE),
                false => routing.by_lanes(routes, class, Comes::Now),
            },
            body: body.into(),
            original: None,
            shed: None,
        };
        Made {
            event,
            going: Going { _by: routing },
        }
    }

    /// An event that the gateway made itself for certain destinations; it goes where the rules
    /// say, too. It comes to each place once: not beside a lane, nor by one beside the rest.
    pub fn made_for(&self, event: &Event, routes: Routes) -> Made {
        let mut made = self.made(event, None);
        let routing = self.routing();
        let routes = routing.to_tell(routes);
        if routes != Routes::NONE {
            let others = routing.elsewhere(made.event.routes, routes);
            made.event.routes = routes.union(others.without(Routes::NOWHERE));
        }
        made
    }

    /// Counts what was tried again, now that it has left quarantine.
    pub fn count(&self, counts: &Metrics) {
        self.metrics.add(counts);
    }

    /// Makes the events of a kept message again with the mappings and rules of today:
    /// under the keys that they had, marked as corrections made at `at`. Those that the
    /// rules send nowhere are not among them. Destinations that get the message itself
    /// get no correction: what came has not changed. Keeps and counts nothing.
    ///
    /// # Errors
    /// When the message cannot be used today.
    pub fn renormalise(&self, raw: &Raw, at: Timestamp) -> Result<Renormalised, Reject> {
        let (routing, metrics) = (self.routing(), Metrics::default());
        let routes = routing.of(raw.origin.as_ref()).without(routing.originals);
        let births = self.births.only_read();
        let mut preparing = Preparing::new(&self.topics, routes, &routing.rules, &metrics, &births);
        preparing.gateway = self.gateway.as_ref();
        preparing.corrected = Some(at);
        preparing.routing = Some(&routing);
        let preparing = preparing.timed_by(&self.timing, None);
        let entries = preparing.retry(raw)?.into_iter();
        let events = entries.filter_map(|entry| match entry {
            Entry::Event(event) => Some(event),
            // The rest of a batch is in quarantine since it came.
            Entry::Quarantine(_) => None,
        });
        Ok(Renormalised {
            events: events.collect(),
            going: Going { _by: routing },
        })
    }
}

impl Admission for Ingest {
    fn admit<'a>(&'a self, publisher: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        self.admit_in(publisher, batch, store::Turn::of(publisher))
    }
}

impl Ingest {
    /// The same for a part of what was handed over together, in its turn.
    #[expect(
        clippy::async_yields_async,
        reason = "the caller awaits the receipt later"
    )]
    pub(crate) fn admit_in<'a>(
        &'a self,
        publisher: &'a Arc<Publisher>,
        batch: Vec<Publish>,
        turn: store::Turn,
    ) -> Admitted<'a> {
        Box::pin(async move {
            let routing = self.routing();
            let routes = routing.of(publisher.origin.as_ref());
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
                } = Preparing::new(&self.topics, routes, &routing.rules, &self.metrics, &births)
                    .known_as(self.gateway.as_ref(), publisher)
                    .sending_originals(routing.originals)
                    .routed_by(&routing)
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

#[cfg(test)]
mod tests;
