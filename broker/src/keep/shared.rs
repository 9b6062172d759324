//! What sessions may look at without asking the writer.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::{Config, QueueFull, SessionId, group::Groups, job::Sub};
use crate::{
    QoS,
    budget::Budget,
    clock::{Clock, is_plausible},
    errand::Addressee,
    fanout::{self, Message, Retained},
    filters::Filters,
    metrics::Counters,
    topic::shared_filter,
};

/// How long room that was missing is believed to be missing.
const SHORT_MS: u64 = 10_000;

/// What a subscription may take in memory, as `fanout` estimates it.
pub(crate) fn weight(filter: &str) -> usize {
    match shared_filter(filter) {
        Some(Ok(inner)) => fanout::shared_weight(filter, inner),
        _ => fanout::weight(filter),
    }
}

/// Who wants the messages of a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Somebody subscribes to it now.
    pub(crate) live: bool,
    /// A persistent session does.
    pub(crate) kept: bool,
}

/// A client's session, and the user whose it is.
type Known = (SessionId, Option<Arc<str>>);

/// The clients that have sessions.
#[derive(Debug, Default)]
struct Clients {
    by_id: HashMap<Arc<str>, Known>,
    by_session: HashMap<SessionId, Arc<str>>,
    /// How many sessions each user has; those of clients that did not say who they are
    /// count as one user's.
    by_user: HashMap<Option<Arc<str>>, usize>,
}

impl Clients {
    fn insert(&mut self, client: &Arc<str>, session: SessionId, user: Option<&Arc<str>>) {
        self.remove(client);
        *self.by_user.entry(user.cloned()).or_default() += 1;
        let known = (session, user.cloned());
        self.by_id.insert(Arc::clone(client), known);
        self.by_session.insert(session, Arc::clone(client));
    }

    fn remove(&mut self, client: &str) {
        let Some((session, user)) = self.by_id.remove(client) else {
            return;
        };
        self.by_session.remove(&session);
        if let Entry::Occupied(mut count) = self.by_user.entry(user) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Written by the writer only.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    /// What everything that waits for subscribers may take.
    pub(crate) budget: Arc<Budget>,
    pub(crate) retained: Retained,
    /// Shared subscriptions, as far as their members are connected.
    pub(crate) live: fanout::Groups,
    /// The wall clock at the broker's start, as far as it is known.
    started_ms: AtomicI64,
    filters: RwLock<Filters<Sub>>,
    /// What `filters` and `groups` take, in the estimate of [`weight`].
    weight: AtomicUsize,
    groups: RwLock<Groups>,
    /// Changes with every change of `filters` and `groups`.
    version: AtomicU64,
    /// The number from which on messages are matched with `filters` as they are.
    decided: AtomicU64,
    /// Until when the disk may have no room, by `clock`.
    short_until_ms: AtomicU64,
    /// Told of every change of subscriptions, kept or live.
    pub(crate) subscribed: Notify,
    clients: RwLock<Clients>,
}

impl Shared {
    pub(super) fn new(config: Config, counters: Arc<Counters>, budget: Arc<Budget>) -> Self {
        let retained = Retained::new(&config);
        Self {
            config,
            clock: Clock::start(),
            live: fanout::Groups::new(Arc::clone(&counters), Arc::clone(&budget)),
            counters,
            budget,
            retained,
            started_ms: AtomicI64::new(0),
            filters: RwLock::default(),
            weight: AtomicUsize::new(0),
            groups: RwLock::default(),
            version: AtomicU64::new(0),
            decided: AtomicU64::new(0),
            short_until_ms: AtomicU64::new(0),
            subscribed: Notify::new(),
            clients: RwLock::default(),
        }
    }

    /// The wall clock as it was at the broker's start, and the time that has passed since:
    /// what is kept must not grow old by a step of the clock. Where the clock could not
    /// be right at the start, it counts from when it can.
    pub(super) fn wall_ms(&self) -> i64 {
        let now_ms = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let mut started = self.started_ms.load(Relaxed);
        if !is_plausible(started) {
            started = Clock::wall_ms().saturating_sub(now_ms);
            self.started_ms.store(started, Relaxed);
        }
        started.saturating_add(now_ms)
    }

    /// When a message was taken, by that clock.
    pub(super) fn kept_ms(&self, message: &Message) -> i64 {
        let waited = self.clock.now_ms().saturating_sub(message.taken_ms());
        let waited = i64::try_from(waited).unwrap_or(i64::MAX);
        self.wall_ms().saturating_sub(waited)
    }

    /// Whether subscriptions of that weight have room: half of what all subscriptions
    /// may take, because those of clients that are connected count there once more.
    pub(crate) fn has_room_for(&self, weight: usize) -> bool {
        weight == 0 || self.weight() + weight <= self.budget.max() / 2
    }

    /// What the subscriptions of persistent sessions take in memory, estimated.
    pub(crate) fn weight(&self) -> usize {
        self.weight.load(Relaxed)
    }

    /// Changes whenever an answer of [`Shared::is_wanted`] may change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// The number from which on messages are matched with the filters as they are now,
    /// while those with lower ones were matched with what there was before. For the
    /// writer, which sees to that.
    pub(super) fn decided(&self) -> u64 {
        self.decided.load(Relaxed)
    }

    /// There was no room on disk just now.
    pub(super) fn is_short_of_room(&self) {
        let until = self.clock.now_ms() + SHORT_MS;
        self.short_until_ms.store(until, Relaxed);
    }

    /// Whether what is to be kept is likely to find no room, so that it is worth asking
    /// first. Where the operator wants publishers to be refused it always is.
    pub(crate) fn may_have_no_room(&self) -> bool {
        let until_ms = self.short_until_ms.load(Relaxed);
        self.config.queue_full == QueueFull::Refuse
            || until_ms > 0 && until_ms > self.clock.now_ms()
    }

    /// Whether a persistent session subscribes to `topic`.
    pub(crate) fn is_wanted(&self, topic: &str) -> bool {
        let filters = self.filters();
        filters.len() > 0 && filters.visit(topic, &mut |_, _| true)
            || self.groups().is_wanted(topic)
    }

    /// Whether a persistent session of an addressee subscribes to `topic` at QoS 1 or 2,
    /// by itself.
    pub(crate) fn is_kept_for(&self, topic: &str, to: &Addressee) -> bool {
        let filters = self.filters();
        if filters.len() == 0 {
            return false;
        }
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        filters.visit(topic, &mut |key, sub| {
            let client = clients.by_session.get(&SessionId::of_key(key));
            let known = client.and_then(|client| Some((client, clients.by_id.get(client)?)));
            sub.qos > QoS::AtMostOnce
                && known.is_some_and(|(client, (_, user))| to.is(client, user.as_deref()))
        })
    }

    /// Whether one subscribes to `topic` or to anything below it.
    pub(crate) fn is_wanted_below(&self, topic: &str) -> bool {
        let filters = self.filters();
        filters.len() > 0 && filters.reaches_below(topic) || self.groups().is_wanted_below(topic)
    }

    /// Whether a shared subscription has persistent members for QoS 1 and 2.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.groups().serves(name)
    }

    pub(super) fn groups(&self) -> RwLockReadGuard<'_, Groups> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn groups_mut(&self) -> RwLockWriteGuard<'_, Groups> {
        self.groups.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something is kept for the client.
    pub(crate) fn knows(&self, client: &str) -> bool {
        self.session(client).is_some()
    }

    pub(super) fn session(&self, client: &str) -> Option<SessionId> {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.by_id.get(client).map(|(session, _)| *session)
    }

    /// Whether what is kept for the client is another user's. What an anonymous client
    /// left behind anybody may take.
    pub(crate) fn is_anothers(&self, client: &str, user: Option<&Arc<str>>) -> bool {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        let known = clients.by_id.get(client);
        let owner = known.and_then(|(_, owner)| owner.as_ref());
        owner.is_some() && owner != user
    }

    pub(super) fn filters(&self) -> RwLockReadGuard<'_, Filters<Sub>> {
        self.filters.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_filter(&self, session: SessionId, filter: &str) -> bool {
        match shared_filter(filter) {
            Some(_) => self.groups().has(session, filter),
            None => self.filters().get(filter, session.key()).is_some(),
        }
    }

    /// Adds or replaces a subscription; what it replaced.
    pub(super) fn insert(&self, session: SessionId, filter: &str, sub: Sub) -> Option<Sub> {
        let before = self.put(session, filter, sub);
        if before.is_none() {
            self.weight.fetch_add(weight(filter), Relaxed);
        }
        before
    }

    pub(super) fn remove(&self, session: SessionId, filter: &str) -> Option<Sub> {
        let removed = self.take(session, filter);
        if removed.is_some() {
            self.weight.fetch_sub(weight(filter), Relaxed);
        }
        removed
    }

    fn put(&self, session: SessionId, filter: &str, sub: Sub) -> Option<Sub> {
        if let Some(Ok(inner)) = shared_filter(filter) {
            let before = self.groups_mut().insert(session, filter, inner, sub);
            self.changed(&self.filters());
            return before;
        }
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = None;
        filters.insert(filter, session.key(), sub, |old, _| before = Some(*old));
        self.decided.store(self.retained.number(), Relaxed);
        self.changed(&filters);
        before
    }

    fn take(&self, session: SessionId, filter: &str) -> Option<Sub> {
        if let Some(Ok(inner)) = shared_filter(filter) {
            let removed = self.groups_mut().remove(session, filter, inner);
            self.changed(&self.filters());
            return removed;
        }
        let mut filters = self.filters.write().unwrap_or_else(PoisonError::into_inner);
        let removed = filters.remove(filter, session.key());
        self.decided.store(self.retained.number(), Relaxed);
        self.changed(&filters);
        removed
    }

    fn changed(&self, filters: &Filters<Sub>) {
        self.version.fetch_add(1, Relaxed);
        self.subscribed.notify_waiters();
        let all = filters.len() + self.groups().len();
        self.counters.subscriptions_kept.set(all);
    }

    pub(super) fn know(&self, client: &Arc<str>, session: SessionId, user: Option<&Arc<str>>) {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        clients.insert(client, session, user);
        self.counters.sessions_kept.set(clients.by_id.len());
    }

    pub(super) fn forget(&self, client: &str) {
        let mut clients = self.clients.write().unwrap_or_else(PoisonError::into_inner);
        clients.remove(client);
        self.counters.sessions_kept.set(clients.by_id.len());
    }

    /// Sessions that a user has.
    pub(super) fn sessions_of(&self, user: Option<&Arc<str>>) -> usize {
        let clients = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        clients.by_user.get(&user.cloned()).copied().unwrap_or(0)
    }

    /// Forgets everything; what is retained too.
    pub(super) fn clear(&self) {
        *self.filters.write().unwrap_or_else(PoisonError::into_inner) = Filters::default();
        *self.groups_mut() = Groups::default();
        self.weight.store(0, Relaxed);
        self.changed(&self.filters());
        *self.clients.write().unwrap_or_else(PoisonError::into_inner) = Clients::default();
        self.counters.sessions_kept.set(0);
        self.retained.clear_all();
    }
}
