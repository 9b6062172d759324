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
//! subscribes to. Durable sessions and retained messages that survive a restart are
//! not here yet.

mod message;
mod outbox;
mod retained;
mod shared;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use tokio::sync::{Notify, futures::Notified};

pub(crate) use message::Message;
pub(crate) use outbox::{Delivery, Outbox};
pub(crate) use shared::Claim;

use crate::{
    Publish, QoS, RetainedInfo, budget::Budget, filters::Filters, metrics::Counters,
    packet::SendRetained,
};
use retained::Retained;
use shared::Shared;

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
    /// Messages with lower numbers were before it. Set by [`Fanout::subscribe`].
    pub(crate) since: u64,
}

/// The live subscriptions and the retained messages.
#[derive(Debug)]
pub(crate) struct Fanout {
    filters: RwLock<Filters<Subscription>>,
    /// Changes with every change of `filters`; never 0.
    version: AtomicU64,
    /// Told of every change of `filters`.
    changed: Notify,
    /// What all subscriptions take, in the estimate of [`weight`]: as much as the
    /// budget allows besides.
    weight: AtomicUsize,
    /// The number of the next message.
    number: AtomicU64,
    retained: Mutex<Retained>,
    shared: Shared,
    carrier: Arc<dyn Carrier>,
    counters: Arc<Counters>,
    /// What all messages on their way to subscribers may take.
    budget: Arc<Budget>,
    started: Instant,
}

impl Fanout {
    pub(crate) fn new(
        carrier: Arc<dyn Carrier>,
        counters: Arc<Counters>,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            filters: RwLock::default(),
            version: AtomicU64::new(1),
            changed: Notify::new(),
            weight: AtomicUsize::new(0),
            number: AtomicU64::new(1),
            retained: Mutex::default(),
            shared: Shared::new(Arc::clone(&counters), Arc::clone(&budget)),
            carrier,
            counters,
            budget,
            started: Instant::now(),
        }
    }

    /// Changes whenever an answer of [`Fanout::is_wanted`] may change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// What all subscriptions take, estimated.
    pub(crate) fn weight(&self) -> usize {
        self.weight.load(Relaxed)
    }

    /// Whether somebody subscribes to `topic` now.
    pub(crate) fn is_wanted(&self, topic: &str) -> bool {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.len() > 0 && filters.visit(topic, &mut |_, _| true) || self.shared.is_wanted(topic)
    }

    /// Whether somebody subscribes to `topic` or to anything below it now.
    pub(crate) fn is_wanted_below(&self, topic: &str) -> bool {
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.len() > 0 && filters.reaches_below(topic) || self.shared.is_wanted_below(topic)
    }

    /// Resolves when subscriptions have changed since this was called.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Shows committed messages of session `publisher` to live subscribers, and
    /// keeps those that are to be retained.
    pub(crate) fn publish(&self, publisher: u64, publishes: &[Publish]) {
        if publishes.is_empty() {
            return;
        }
        let now_ms = self.now_ms();
        let message = |publish| {
            let number = self.number.fetch_add(1, Relaxed);
            Message::new(publish, publisher, now_ms, number, &self.budget)
        };
        let mut frames = Vec::with_capacity(publishes.len());
        for publish in publishes {
            if !publish.retain {
                frames.push(message(publish).into());
                continue;
            }
            let message = {
                // Numbered under the lock: see `subscribe`.
                let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
                let message = message(publish);
                self.retain(&mut retained, publish, &message);
                message
            };
            if self.is_wanted(&publish.topic) {
                frames.push(message.into());
            }
        }
        if !frames.is_empty() {
            self.carrier.carry(frames);
        }
    }

    fn retain(&self, retained: &mut Retained, publish: &Publish, message: &Message) {
        if publish.payload.is_empty() {
            retained.clear(&publish.topic);
        } else if !retained.keep(&publish.topic, message.clone()) {
            self.counters.retained_refused.add(1);
        }
        self.counters.retained.set(retained.len());
    }

    /// Runs the carrier; must be polled for live messages to arrive.
    pub(crate) async fn run(self: Arc<Self>) {
        self.carrier.run(&|frame| self.deliver(frame)).await;
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
            if !own && subscription.since <= message.number() {
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
            let granted = same
                .iter()
                .map(|(_, one)| one.qos)
                .max()
                .unwrap_or(first.qos);
            let delivery = Delivery {
                qos: granted.min(message.qos()),
                retain: message.retain() && same.iter().any(|(_, one)| one.retain_as_published),
                subscription_ids: same.iter().filter_map(|(_, one)| one.id).collect(),
                message: message.clone(),
                claim: None,
            };
            if !first.outbox.push(delivery) {
                self.counters.dropped_queue_full.add(1);
            }
        }
        drop(filters);
        self.shared.offer(&message);
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
        if self.weight.fetch_add(bytes, Relaxed) + bytes > self.budget.max() {
            self.weight.fetch_sub(bytes, Relaxed);
            return Err(Full);
        }
        let number = self.number.load(Relaxed);
        if self
            .shared
            .join(name, filter, session, subscription, number)
        {
            self.weight.fetch_sub(bytes, Relaxed);
        }
        self.note_change();
        Ok(())
    }

    /// Ends a membership; whether there was one.
    pub(crate) fn unshare(&self, session: u64, name: &str, filter: &str) -> bool {
        let left = self.shared.leave(name, filter, session);
        if left {
            self.weight.fetch_sub(shared_weight(name, filter), Relaxed);
            self.note_change();
        }
        left
    }

    fn note_change(&self) {
        self.version.fetch_add(1, Relaxed);
        self.changed.notify_waiters();
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        self.count(&filters);
    }

    fn count(&self, filters: &Filters<Subscription>) {
        let all = filters.len() + self.shared.len();
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
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        subscription.since = self.number.load(Relaxed);
        let replaced = self.insert(session, filter, subscription)?;
        if when == SendRetained::Never || when == SendRetained::IfNew && replaced {
            return Ok(0);
        }
        for message in retained.matching(filter) {
            let delivery = Delivery {
                qos: qos.min(message.qos()),
                retain: true,
                subscription_ids: id.into_iter().collect(),
                message: message.clone(),
                claim: None,
            };
            if !outbox.push_retained(delivery, retained::COUNT_MAX) {
                self.counters.dropped_queue_full.add(1);
            }
        }
        Ok(retained.len())
    }

    /// Whether the subscription replaced one.
    fn insert(&self, session: u64, filter: &str, subscription: Subscription) -> Result<bool, Full> {
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        if self.weight.load(Relaxed) + weight(filter) > self.budget.max() {
            return Err(Full);
        }
        let replaced = filters.insert(filter, session, subscription, |old, new| {
            // What was on its way to the old one is on its way to the new one.
            new.since = old.since;
        });
        if !replaced {
            self.weight.fetch_add(weight(filter), Relaxed);
        }
        self.version.fetch_add(1, Relaxed);
        self.changed.notify_waiters();
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
            self.changed.notify_waiters();
            self.count(&filters);
        }
        removed
    }

    /// The retained messages, by topic.
    pub(crate) fn retained(&self) -> Vec<RetainedInfo> {
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        let info = |message: &Message| RetainedInfo {
            topic: message.topic_str().to_owned(),
            qos: message.qos() as u8,
            payload_bytes: message.payload().len(),
        };
        retained.all().map(info).collect()
    }

    /// Forgets the retained message of a topic; whether there was one.
    pub(crate) fn clear_retained(&self, topic: &str) -> bool {
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        let cleared = retained.clear(topic);
        self.counters.retained.set(retained.len());
        cleared
    }

    /// The QoS of a subscription, if there is one.
    pub(crate) fn qos_of(&self, session: u64, filter: &str) -> Option<QoS> {
        if let Some(qos) = self.shared.qos_of(filter, session) {
            return Some(qos);
        }
        let filters = self.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.get(filter, session).map(|one| one.qos)
    }

    /// What is left of a message's lifetime; `Err` when it is over.
    pub(crate) fn lifetime_left(&self, message: &Message) -> Result<Option<u32>, Expired> {
        let Some(secs) = message.expiry_secs() else {
            return Ok(None);
        };
        let waited = self.now_ms().saturating_sub(message.taken_ms()) / 1000;
        match u64::from(secs).checked_sub(waited) {
            Some(left) if left > 0 => Ok(u32::try_from(left).ok()),
            _ => Err(Expired),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// All subscriptions together are too large.
#[derive(Debug)]
pub(crate) struct Full;

/// A message outlived its expiry interval.
#[derive(Debug)]
pub(crate) struct Expired;

/// What a subscription may cost in the trie if it shares no branch.
fn weight(filter: &str) -> usize {
    filter.len() + 256 * (1 + memchr::memchr_iter(b'/', filter.as_bytes()).count())
}

/// What a membership of a shared subscription may cost, if it is the first.
fn shared_weight(name: &str, filter: &str) -> usize {
    name.len() + 512 + weight(filter)
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::embedded::{Embedded, Watch};

    fn publish(topic: &str, payload: &str) -> Publish {
        Publish {
            topic: Arc::from(topic),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            properties: None,
        }
    }

    async fn next(outbox: &Outbox) -> Vec<u8> {
        let wait = async {
            loop {
                if let Some(delivery) = outbox.pop() {
                    return delivery.message.payload().to_vec();
                }
                outbox.filled().await;
            }
        };
        timeout(Duration::from_secs(20), wait)
            .await
            .expect("a message arrives")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn subscribers_go_on_when_the_router_dies() {
        let watch = Watch {
            every: Duration::from_millis(20),
            patience: Duration::from_millis(400),
        };
        let counters = Arc::<Counters>::default();
        let embedded = Arc::new(Embedded::new(watch, Arc::clone(&counters)));
        let carrier: Arc<dyn Carrier> = embedded.clone();
        let budget = Arc::new(Budget::of(1_000_000));
        let fanout = Arc::new(Fanout::new(
            carrier,
            Arc::clone(&counters),
            Arc::clone(&budget),
        ));
        let task = tokio::spawn(Arc::clone(&fanout).run());
        let outbox = Arc::new(Outbox::new(1_000_000, 64, &budget));
        let subscription = Subscription {
            outbox: Arc::clone(&outbox),
            qos: QoS::AtMostOnce,
            no_local: false,
            retain_as_published: false,
            id: None,
            since: 0,
        };
        fanout
            .subscribe(1, "a/+", subscription, SendRetained::Never)
            .unwrap();
        for round in 0..4 {
            for n in 0..10 {
                fanout.publish(2, &[publish("a/b", &format!("{round} {n}"))]);
            }
            for n in 0..10 {
                assert_eq!(next(&outbox).await, format!("{round} {n}").into_bytes());
            }
            embedded.poison();
        }
        assert!(counters.router_restarts.get() >= 3);
        assert_eq!(counters.dropped_router.get(), 0);
        task.abort();
    }

    #[test]
    fn a_message_without_subscribers_never_enters_the_carrier() {
        #[derive(Debug)]
        struct Never;
        impl Carrier for Never {
            fn carry(&self, frames: Vec<Bytes>) {
                panic!("{} frames", frames.len());
            }
            fn run<'a>(&'a self, _: &'a (dyn Fn(Bytes) + Sync)) -> Running<'a> {
                Box::pin(std::future::pending())
            }
        }
        let fanout = Fanout::new(
            Arc::new(Never),
            Arc::default(),
            Arc::new(Budget::of(1_000_000)),
        );
        let mut retained = publish("a", "x");
        retained.retain = true;
        assert!(!fanout.is_wanted("a"));
        fanout.publish(1, &[retained]);
    }
}
