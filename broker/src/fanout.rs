//! Live fan-out: committed messages to the sessions that subscribe now.
//!
//! ```text
//! session ─ after the receipt ─▶ Fanout::publish ─▶ Carrier (rumqttd's router)
//!                                                        │
//!             Outbox of each matching session ◀── Fanout::deliver
//! ```
//!
//! A topic that nobody subscribes to is never encoded and never enters the
//! carrier. Matching, authorisation and every per-subscriber bound are here;
//! the carrier moves opaque frames in order. A subscriber that is slow loses
//! messages from its own [`Outbox`], counted, and delays nobody.
//!
//! Where subscriptions of one session overlap, the session gets one copy, at
//! the highest QoS granted, with every subscription identifier. Shared
//! subscriptions are apart: one member of a group gets each message, whatever else it
//! subscribes to.
//!
//! What is retained, and what persistent sessions get at QoS 1 and 2, is the
//! keeper's (`keep`): it is on disk before it is shown here. A persistent session
//! gets only its QoS 0 messages from here, and its share of shared subscriptions.

mod message;
mod outbox;
mod retained;
mod shared;
mod show;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex, futures::Notified},
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;

pub(crate) use message::{Expired, Message};
pub(crate) use outbox::{Delivery, Outbox};
pub(crate) use retained::{How, Owned, Owner, Plan, Retained, Slice};
pub(crate) use shared::{Claim, Groups, Homeless, Planned};
pub(crate) use show::Room;

use crate::{
    Publish, QoS,
    filters::Filters,
    keep::{self, Keeper, Refused, Wanted},
    metrics::Counters,
    packet::SendRetained,
};

/// Moves frames from publishing sessions to [`Fanout::deliver`], in the order
/// given. May lose some, and then counts them; must not block and must bound
/// what it holds.
pub(crate) trait Carrier: std::fmt::Debug + Send + Sync {
    /// Hands frames over.
    fn carry(&self, frames: Vec<Bytes>);

    /// Moves frames to `deliver` for as long as it is polled.
    fn run<'a>(&'a self, deliver: &'a (dyn Fn(Bytes) + Sync)) -> Running<'a>;
}

/// A future that does not end by itself.
pub(crate) type Running<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// One subscription of one session.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) id: Option<u32>,
    /// It is kept: what it gets at QoS 1 and 2 comes through the session's queue.
    pub(crate) kept: Option<Queued>,
    /// Messages with lower numbers were before it. Set by [`Fanout::subscribe`].
    pub(crate) since: u64,
}

/// Replaced subscriptions that are remembered for messages on their way. Each took a
/// commit of the keeper, and a message is on its way for less than one.
const REPLACED_MAX: usize = 16;

/// Which messages the keeper has matched with a kept subscription, and which with those
/// that it replaced: what it had put into the queue, or not, by the time that a message
/// comes here must neither be shown nor left out here.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    since: u64,
    /// From which number on others were in force before, and their QoS; the last at the end.
    replaced: Vec<(u64, QoS)>,
}

impl Queued {
    /// The keeper has the subscription for messages from number `since` on.
    pub(crate) fn from(since: u64) -> Self {
        Self {
            since,
            replaced: Vec::new(),
        }
    }

    /// It has taken the place of another; `before` and `now` are their QoS.
    fn replaces(&mut self, other: &Self, before: QoS, now: QoS) {
        self.replaced.clone_from(&other.replaced);
        if before == now {
            self.since = other.since;
            return;
        }
        if self.replaced.len() == REPLACED_MAX {
            self.replaced.remove(0);
        }
        self.replaced.push((other.since, before));
    }

    /// The QoS of a message before it; before the first nothing was queued.
    fn qos_before(&self, number: u64) -> QoS {
        let replaced = self.replaced.iter().rev();
        let in_force = replaced.copied().find(|(since, _)| number >= *since);
        in_force.map_or(QoS::AtMostOnce, |(_, qos)| qos)
    }
}

impl Subscription {
    /// The QoS that counts for a message: of a kept one that of the time when the keeper
    /// matched it.
    fn qos_for(&self, message: &Message) -> QoS {
        match &self.kept {
            Some(queued) if message.number() < queued.since => queued.qos_before(message.number()),
            _ => self.qos,
        }
    }
}

/// The live subscriptions.
#[derive(Debug)]
pub(crate) struct Fanout {
    filters: RwLock<Filters<Subscription>>,
    /// Changes with every change of `filters`; never 0.
    version: AtomicU64,
    /// What live subscriptions take, in the estimate of [`weight`]: with those that are
    /// kept as much as the budget allows besides.
    weight: AtomicUsize,
    carrier: Arc<dyn Carrier>,
    counters: Arc<Counters>,
    keeper: Keeper,
    /// Held while something is given back: what is in hand is not in any list.
    giving_back: Mutex<()>,
    /// Nothing that is given back waits for room any more.
    ending: CancellationToken,
}

impl Fanout {
    pub(crate) fn new(carrier: Arc<dyn Carrier>, counters: Arc<Counters>, keeper: Keeper) -> Self {
        Self {
            filters: RwLock::default(),
            version: AtomicU64::new(1),
            weight: AtomicUsize::new(0),
            carrier,
            counters,
            keeper,
            giving_back: Mutex::const_new(()),
            ending: CancellationToken::new(),
        }
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    fn shared(&self) -> &Groups {
        &self.kept().live
    }

    fn kept(&self) -> &keep::Shared {
        self.keeper.shared()
    }

    /// Changes whenever an answer of [`Fanout::wanted`] may change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Relaxed) + self.kept().version()
    }

    /// Who wants the messages of a topic.
    pub(crate) fn wanted(&self, topic: &str) -> Wanted {
        Wanted {
            live: self.is_wanted(topic),
            kept: self.kept().is_wanted(topic),
        }
    }

    /// What all subscriptions take, estimated.
    pub(crate) fn weight(&self) -> usize {
        self.weight.load(Relaxed) + self.kept().weight()
    }

    /// Whether somebody subscribes to `topic` now.
    pub(crate) fn is_wanted(&self, topic: &str) -> bool {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.len() > 0 && filters.visit(topic, &mut |_, _| true)
            || self.shared().is_wanted(topic)
    }

    /// Whether a session for which `is` says so subscribes to `topic` now, by itself.
    pub(crate) fn is_wanted_by(&self, topic: &str, is: impl Fn(u64) -> bool) -> bool {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.len() > 0 && filters.visit(topic, &mut |session, _| is(session))
    }

    /// Whether somebody subscribes to `topic` or to anything below it now.
    pub(crate) fn is_wanted_below(&self, topic: &str) -> bool {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.len() > 0 && filters.reaches_below(topic)
            || self.shared().is_wanted_below(topic)
            || self.kept().is_wanted_below(topic)
    }

    /// Resolves when subscriptions, kept or live, have changed since this was called.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.kept().subscribed.notified()
    }

    /// A committed message of session `publisher`, on its way to subscribers.
    pub(crate) fn message(&self, publisher: u64, publish: &Publish) -> Message {
        let kept = self.kept();
        let number = kept.retained.number();
        Message::new(
            publish,
            publisher,
            kept.clock.now_ms(),
            number,
            &kept.budget,
        )
    }

    /// Shows messages to live subscribers, in order.
    pub(crate) fn carry(&self, messages: Vec<Message>) {
        if !messages.is_empty() {
            self.carrier
                .carry(messages.into_iter().map(Bytes::from).collect());
        }
    }

    /// Runs the carrier; must be polled for live messages to arrive.
    pub(crate) async fn run(self: Arc<Self>) {
        let deliver = |frame| self.deliver(frame);
        tokio::join!(self.carrier.run(&deliver), self.give_back());
    }

    /// Gives what no live member of a shared subscription takes to persistent ones.
    async fn give_back(&self) {
        loop {
            let filled = self.shared().filled();
            self.give_all_back().await;
            filled.await;
        }
    }

    /// Gives back what there is at the end, and what is in hand: what there is no room
    /// for on disk is dropped, and counted.
    pub(crate) async fn give_rest_back(&self) {
        self.ending.cancel();
        self.give_all_back().await;
    }

    /// Gives back all that there is now, and waits while there is no room on disk.
    async fn give_all_back(&self) {
        const AT_ONCE: usize = 256;
        const PAUSE: Duration = Duration::from_millis(250);
        loop {
            let _giving_back = self.giving_back.lock().await;
            let mut homeless = self.shared().returned(AT_ONCE);
            let count = homeless.len();
            if count == 0 {
                return;
            }
            homeless.retain(|(name, _)| self.kept().serves(name));
            self.counters.dropped_shared.add(count - homeless.len());
            if homeless.is_empty() {
                continue;
            }
            while let Err(refused) = self.keeper.take_back(homeless.clone()).await {
                if refused != Refused::Full || self.ending.is_cancelled() {
                    self.counters.dropped_shared.add(homeless.len());
                    break;
                }
                // To be tried once more at the end.
                self.ending.run_until_cancelled(sleep(PAUSE)).await;
            }
        }
    }

    /// Puts a frame into the outbox of every session that subscribes to it.
    fn deliver(&self, frame: Bytes) {
        let Some(message) = Message::from_frame(frame) else {
            return;
        };
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        let mut matched: Vec<(u64, &Subscription)> = Vec::new();
        filters.visit(message.topic_str(), &mut |session, subscription| {
            let own = subscription.no_local && session == message.publisher();
            if !own {
                matched.push((session, subscription));
            }
            false
        });
        // Stable, so that identifiers keep the trie's order.
        matched.sort_by_key(|(session, _)| *session);
        for same in matched.chunk_by(|one, other| one.0 == other.0) {
            let Some((_, first)) = same.first() else {
                continue;
            };
            let qos = |one: &Subscription| one.qos_for(&message).min(message.qos());
            let is_queued = |one: &Subscription| qos(one) > QoS::AtMostOnce;
            if first.kept.is_some() && same.iter().any(|(_, one)| is_queued(one)) {
                continue;
            }
            let live = || {
                let all = same.iter().map(|(_, one)| one);
                all.filter(|one| one.since <= message.number())
            };
            let Some(qos) = live().map(|one| qos(one)).max() else {
                continue;
            };
            let delivery = Delivery {
                qos,
                retain: message.retain() && live().any(|one| one.retain_as_published),
                subscription_ids: live().filter_map(|one| one.id).collect(),
                message: message.clone(),
                claim: None,
            };
            if !first.outbox.push(delivery) {
                self.counters.dropped_queue_full.add(1);
            }
        }
        drop(filters);
        if !message.is_handed_out() {
            self.shared().offer(&message);
        }
    }

    /// Adds or replaces a membership of the shared subscription `name`, which is
    /// `$share/{group}/{filter}`. `Err` when all subscriptions together are too large.
    pub(crate) fn share(
        &self,
        session: u64,
        name: &str,
        filter: &str,
        subscription: Subscription,
    ) -> Result<(), Full> {
        let bytes = shared_weight(name, filter);
        let kept = self.kept();
        let is_known = self.shared().qos_of(name, session).is_some();
        let weight = self.weight.fetch_add(bytes, Relaxed) + bytes + kept.weight();
        if weight > kept.budget.max() && !is_known {
            self.weight.fetch_sub(bytes, Relaxed);
            return Err(Full);
        }
        let number = self.kept().retained.number();
        if self
            .shared()
            .join(name, filter, session, subscription, number)
        {
            self.weight.fetch_sub(bytes, Relaxed);
        }
        self.note_change();
        Ok(())
    }

    /// Ends a membership; whether there was one.
    pub(crate) fn unshare(&self, session: u64, name: &str, filter: &str) -> bool {
        let left = self.shared().leave(name, filter, session);
        if left {
            self.weight.fetch_sub(shared_weight(name, filter), Relaxed);
            self.note_change();
        }
        left
    }

    fn note_change(&self) {
        self.version.fetch_add(1, Relaxed);
        self.kept().subscribed.notify_waiters();
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        self.count(&filters);
    }

    fn count(&self, filters: &Filters<Subscription>) {
        let all = filters.len() + self.shared().len();
        self.counters.subscriptions.set(all);
    }

    /// Adds or replaces a subscription, and queues the retained messages that
    /// it asks for; returns how many it looked at, as a measure of the work.
    /// `Err` when all subscriptions together are too large.
    ///
    /// A message is either retained already and numbered below the new
    /// subscription, or later and live: numbers are given and read under the
    /// lock of the retained messages, so it comes once.
    pub(crate) fn subscribe(
        &self,
        session: u64,
        filter: &str,
        mut subscription: Subscription,
        when: SendRetained,
    ) -> Result<usize, Full> {
        let outbox = Arc::clone(&subscription.outbox);
        let (qos, id) = (subscription.qos, subscription.id);
        let kept = subscription.kept.is_some();
        let retained = self.kept().retained.lock();
        subscription.since = self.kept().retained.number();
        let replaced = self.insert(session, filter, subscription)?;
        if when == SendRetained::Never || when == SendRetained::IfNew && replaced {
            return Ok(0);
        }
        let count_max = self.kept().retained.count_max(&retained);
        for message in retained.matching(filter) {
            let qos = qos.min(message.qos());
            if kept && qos > QoS::AtMostOnce {
                continue;
            }
            let delivery = Delivery {
                qos,
                retain: true,
                subscription_ids: id.into_iter().collect(),
                message: message.clone(),
                claim: None,
            };
            if !outbox.push_retained(delivery, count_max) {
                self.counters.dropped_queue_full.add(1);
            }
        }
        Ok(retained.len())
    }

    /// Whether the subscription replaced one.
    fn insert(&self, session: u64, filter: &str, subscription: Subscription) -> Result<bool, Full> {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        let is_full = self.weight() + weight(filter) > self.kept().budget.max();
        // One that is replaced takes no more than before.
        if is_full && filters.get(filter, session).is_none() {
            return Err(Full);
        }
        let replaced = filters.insert(filter, session, subscription, |old, new| {
            // What was on its way to the old one is on its way to the new one.
            new.since = old.since;
            if let (Some(queued), Some(other)) = (&mut new.kept, &old.kept) {
                queued.replaces(other, old.qos, new.qos);
            }
        });
        if !replaced {
            self.weight.fetch_add(weight(filter), Relaxed);
        }
        self.version.fetch_add(1, Relaxed);
        self.kept().subscribed.notify_waiters();
        self.count(&filters);
        Ok(replaced)
    }

    /// Ends a subscription; whether there was one.
    pub(crate) fn unsubscribe(&self, session: u64, filter: &str) -> bool {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        let removed = filters.remove(filter, session).is_some();
        if removed {
            self.weight.fetch_sub(weight(filter), Relaxed);
            self.version.fetch_add(1, Relaxed);
            self.kept().subscribed.notify_waiters();
            self.count(&filters);
        }
        removed
    }

    /// The QoS of a subscription, if there is one.
    pub(crate) fn qos_of(&self, session: u64, filter: &str) -> Option<QoS> {
        if let Some(qos) = self.shared().qos_of(filter, session) {
            return Some(qos);
        }
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.get(filter, session).map(|one| one.qos)
    }

    /// What is left of a message's lifetime; `Err` when it is over.
    pub(crate) fn lifetime_left(&self, message: &Message) -> Result<Option<u32>, Expired> {
        message.lifetime_left(self.kept().clock.now_ms())
    }
}

/// All subscriptions together are too large.
#[derive(Debug)]
pub(crate) struct Full;

/// What a subscription may cost in the trie if it shares no branch.
pub(crate) fn weight(filter: &str) -> usize {
    filter.len() + 256 * (1 + memchr::memchr_iter(b'/', filter.as_bytes()).count())
}

/// What a membership of a shared subscription may cost, if it is the first.
pub(crate) fn shared_weight(name: &str, filter: &str) -> usize {
    name.len() + 512 + weight(filter)
}
