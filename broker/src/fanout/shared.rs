//! Shared subscriptions: each message to one member of a group (MQTT 5, section 4.8.2).
//!
//! ```text
//! message ─▶ Group::offer ─▶ a member with room, the one with least in flight ─▶ its Outbox
//!                    └─▶ waiting, while no member has room ◀── Claim dropped unsettled
//! ```
//!
//! A member is given no more than its window at a time, so that a slow one holds up
//! little. What it was given stays with it as a [`Claim`] until it is settled. A claim
//! that ends unsettled, because its session did, gives its message back, to go to
//! another member in its old place; a QoS 2 message that was sent is settled, for it
//! must not reach a second client.
//!
//! A group holds at most the queue of one subscriber for each member, within the
//! budget of all queues; beyond it the newest message is dropped and counted. It ends
//! with its last member, and what waits then is dropped and counted too.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::{Delivery, Message, Subscription};
use crate::{
    QoS,
    budget::{Budget, Share},
    filters::Filters,
    keep,
    metrics::Counters,
};

/// What a message takes in a group beside itself.
const ENTRY_BYTES: usize = 128;

/// All groups.
#[derive(Debug)]
pub(super) struct Shared {
    groups: RwLock<Groups>,
    members: AtomicUsize,
    counters: Arc<Counters>,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Groups {
    /// By `$share/{name}/{filter}`.
    by_name: HashMap<Arc<str>, Arc<Group>>,
    by_topic: Filters<Arc<Group>>,
    last_key: u64,
}

#[derive(Debug)]
pub(crate) struct Group {
    /// `$share/{name}/{filter}`.
    name: Arc<str>,
    /// Among the groups with the same filter.
    key: u64,
    /// Messages with lower numbers were before it.
    since: u64,
    state: Mutex<State>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
struct State {
    /// By a number of their own: a session that leaves and comes again is another.
    members: HashMap<u64, Member>,
    /// The number of each session that is a member.
    sessions: HashMap<u64, u64>,
    last_member: u64,
    /// Members with room: by what they have in flight, then by who was given something
    /// longest ago.
    free: BTreeSet<(usize, u64, u64)>,
    last_turn: u64,
    /// In the order of their numbers.
    waiting: VecDeque<Message>,
    /// Messages that wait or are claimed, and their bytes.
    held: usize,
    bytes: usize,
    /// What all members' queues may hold.
    bytes_max: usize,
    share: Share,
}

#[derive(Debug)]
struct Member {
    subscription: Subscription,
    claims: usize,
    /// When it was given something last.
    turn: u64,
}

/// A message that a member was given. Gives it back when dropped unsettled.
#[derive(Debug)]
pub(crate) struct Claim {
    group: Arc<Group>,
    member: u64,
    message: Message,
    settled: bool,
}

impl Claim {
    /// The message goes to nobody else, whatever becomes of the member.
    pub(crate) fn settle(&mut self) {
        self.settled = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let message = (!self.settled).then(|| self.message.clone());
        self.group.end(self.member, self.message.len(), message);
    }
}

impl Shared {
    pub(super) fn new(counters: Arc<Counters>, budget: Arc<Budget>) -> Self {
        Self {
            groups: RwLock::default(),
            members: AtomicUsize::new(0),
            counters,
            budget,
        }
    }

    /// The QoS of a membership, if there is one.
    pub(super) fn qos_of(&self, name: &str, session: u64) -> Option<QoS> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let state = groups.by_name.get(name)?.lock();
        let member = state.members.get(state.sessions.get(&session)?)?;
        Some(member.subscription.qos)
    }

    /// Subscriptions that there are.
    pub(super) fn len(&self) -> usize {
        self.members.load(Relaxed)
    }

    pub(super) fn is_wanted(&self, topic: &str) -> bool {
        self.len() > 0 && self.read(|groups| groups.by_topic.visit(topic, &mut |_, _| true))
    }

    pub(super) fn is_wanted_below(&self, topic: &str) -> bool {
        self.len() > 0 && self.read(|groups| groups.by_topic.reaches_below(topic))
    }

    /// Gives a message to one member of each group that it is for, but for those whose
    /// persistent members have it in a queue.
    pub(super) fn offer(&self, message: &Message, kept: &keep::Shared) {
        if self.len() == 0 {
            return;
        }
        self.read(|groups| {
            groups.by_topic.visit(message.topic_str(), &mut |_, group| {
                let served =
                    message.qos() > QoS::AtMostOnce && kept.serves(&group.name, message.number());
                if group.since <= message.number() && !served {
                    group.offer(message);
                }
                false
            })
        });
    }

    /// Adds a member to the group `name`, which is `$share/{group}/{filter}`, or
    /// replaces its subscription; whether it was there. `number` is that of the next
    /// message.
    pub(super) fn join(
        &self,
        name: &str,
        filter: &str,
        session: u64,
        subscription: Subscription,
        number: u64,
    ) -> bool {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let group = match groups.by_name.get(name) {
            Some(group) => Arc::clone(group),
            None => {
                groups.last_key += 1;
                let name: Arc<str> = Arc::from(name);
                let group = Arc::new(Group {
                    name: Arc::clone(&name),
                    key: groups.last_key,
                    since: number,
                    state: Mutex::new(State {
                        members: HashMap::new(),
                        sessions: HashMap::new(),
                        last_member: 0,
                        free: BTreeSet::new(),
                        last_turn: 0,
                        waiting: VecDeque::new(),
                        held: 0,
                        bytes: 0,
                        bytes_max: 0,
                        share: Share::new(&self.budget),
                    }),
                    counters: Arc::clone(&self.counters),
                });
                groups.by_name.insert(name, Arc::clone(&group));
                groups
                    .by_topic
                    .insert(filter, group.key, Arc::clone(&group), |_, _| {});
                group
            }
        };
        let mut state = group.lock();
        let known = state.sessions.get(&session).copied();
        let replaced = known.is_some();
        // Kept until the lock is gone: the last of an outbox gives its claims back.
        let before = match known {
            Some(number) => state.replace(number, subscription),
            None => {
                state.add(session, subscription);
                self.members.fetch_add(1, Relaxed);
                None
            }
        };
        group.hand_out(&mut state);
        drop(state);
        drop(before);
        replaced
    }

    /// Takes a member out of the group `name`; whether it was in it.
    pub(super) fn leave(&self, name: &str, filter: &str, session: u64) -> bool {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let Some(group) = groups.by_name.get(name).cloned() else {
            return false;
        };
        let mut state = group.lock();
        let Some(member) = state.remove(session) else {
            return false;
        };
        self.members.fetch_sub(1, Relaxed);
        if state.members.is_empty() {
            groups.by_name.remove(name);
            groups.by_topic.remove(filter, group.key);
            let State { waiting, .. } = &mut *state;
            let lost = std::mem::take(waiting);
            self.counters.dropped_shared.add(lost.len());
            state.forget(lost.iter().map(Message::len));
        }
        drop((state, groups));
        drop(member);
        true
    }

    fn read<T>(&self, look: impl FnOnce(&Groups) -> T) -> T {
        look(&self.groups.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Group {
    fn offer(self: &Arc<Self>, message: &Message) {
        let mut state = self.lock();
        if !state.take(message.len()) {
            self.counters.dropped_queue_full.add(1);
            return;
        }
        state.waiting.push_back(message.clone());
        self.hand_out(&mut state);
    }

    /// A claim of a member is over; `message` is what it gives back.
    fn end(self: &Arc<Self>, member: u64, bytes: usize, message: Option<Message>) {
        let mut state = self.lock();
        state.change(member, |member| member.claims -= 1);
        match message {
            Some(message) if !state.members.is_empty() => {
                let number = message.number();
                let place = state.waiting.partition_point(|one| one.number() < number);
                state.waiting.insert(place, message);
            }
            Some(_) => {
                self.counters.dropped_shared.add(1);
                state.forget([bytes]);
            }
            None => state.forget([bytes]),
        }
        self.hand_out(&mut state);
    }

    /// Gives what waits to members, as long as one has room.
    fn hand_out(self: &Arc<Self>, state: &mut State) {
        while !state.waiting.is_empty()
            && let Some(number) = state.choose()
            && let Some(message) = state.waiting.pop_front()
        {
            state.last_turn += 1;
            let turn = state.last_turn;
            let given = state.change(number, |member| {
                member.claims += 1;
                member.turn = turn;
                let Subscription {
                    outbox,
                    qos,
                    retain_as_published,
                    id,
                    ..
                } = &member.subscription;
                outbox.push_claimed(Delivery {
                    qos: (*qos).min(message.qos()),
                    retain: message.retain() && *retain_as_published,
                    subscription_ids: id.iter().copied().collect(),
                    message: message.clone(),
                    claim: Some(Claim {
                        group: Arc::clone(self),
                        member: number,
                        message,
                        settled: false,
                    }),
                });
            });
            debug_assert!(given, "a member with room is a member");
        }
        if state.waiting.is_empty() && state.waiting.capacity() > 256 {
            state.waiting = VecDeque::new();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, session: u64, subscription: Subscription) {
        self.last_member += 1;
        let number = self.last_member;
        self.bytes_max += subscription.outbox.bytes_max();
        self.sessions.insert(session, number);
        let member = Member {
            subscription,
            claims: 0,
            turn: 0,
        };
        self.members.insert(number, member);
        self.change(number, |_| {});
    }

    /// Gives a member another subscription; the one it had.
    fn replace(&mut self, number: u64, subscription: Subscription) -> Option<Subscription> {
        let mut before = None;
        self.bytes_max += subscription.outbox.bytes_max();
        self.change(number, |member| {
            before = Some(std::mem::replace(&mut member.subscription, subscription));
        });
        let known = before.as_ref().map_or(0, |one| one.outbox.bytes_max());
        self.bytes_max -= known;
        before
    }

    fn remove(&mut self, session: u64) -> Option<Member> {
        let number = self.sessions.remove(&session)?;
        let member = self.members.remove(&number)?;
        self.free.remove(&(member.claims, member.turn, number));
        self.bytes_max -= member.subscription.outbox.bytes_max();
        Some(member)
    }

    /// Changes a member, and where it stands among those with room; whether there is one.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Member)) -> bool {
        let Some(member) = self.members.get_mut(&number) else {
            return false;
        };
        self.free.remove(&(member.claims, member.turn, number));
        change(member);
        if member.claims < member.subscription.outbox.window() {
            self.free.insert((member.claims, member.turn, number));
        }
        true
    }

    /// The member with room that has least in flight; in turn among equals.
    fn choose(&mut self) -> Option<u64> {
        loop {
            let (.., number) = *self.free.first()?;
            let open = |member: &Member| !member.subscription.outbox.is_closed();
            if self.members.get(&number).is_some_and(open) {
                return Some(number);
            }
            // It is about to leave.
            self.free.pop_first();
        }
    }

    /// Whether there is room for a message; if so, it counts.
    fn take(&mut self, bytes: usize) -> bool {
        let all = self.bytes + bytes + (self.held + 1) * ENTRY_BYTES;
        // One message always fits, or large ones would never arrive.
        let full = all > self.bytes_max && self.held > 0;
        if full || !self.share.budget().has_room_for(all) {
            return false;
        }
        self.held += 1;
        self.bytes += bytes;
        self.share.set(self.held * ENTRY_BYTES);
        true
    }

    fn forget(&mut self, messages: impl IntoIterator<Item = usize>) {
        for bytes in messages {
            self.held -= 1;
            self.bytes -= bytes;
        }
        self.share.set(self.held * ENTRY_BYTES);
    }
}
