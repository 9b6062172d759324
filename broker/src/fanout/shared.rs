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
//! Members whose sessions outlive their connections get messages of QoS 1 and 2 from
//! their queues on disk, so here they get those of QoS 0 only; the others are the
//! workers, who get everything. Which of the two a message of QoS 1 or 2 is for the
//! keeper decides when it commits it (`keep::share`), and hands it over here.
//!
//! A group holds at most the queue of one subscriber for each member, within the
//! budget of all queues. It ends with its last member. What no worker is left for, or
//! no room, is given back to the keeper, for a persistent member; where there is none
//! it is dropped and counted ([`Groups::returned`]).

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::{Notify, futures::Notified};

use super::{Delivery, Message, Subscription};
use crate::{
    QoS,
    budget::{Budget, Share},
    filters::Filters,
    metrics::Counters,
};

/// What a message takes in a group beside itself.
const ENTRY_BYTES: usize = 128;

/// All groups.
#[derive(Debug)]
pub(crate) struct Groups {
    groups: RwLock<Known>,
    members: AtomicUsize,
    returned: Arc<Returned>,
    counters: Arc<Counters>,
    budget: Arc<Budget>,
}

#[derive(Debug, Default)]
struct Known {
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
    returned: Arc<Returned>,
    counters: Arc<Counters>,
}

/// Messages of QoS 1 and 2 that no worker of their group takes, until the keeper has
/// been asked about them.
#[derive(Debug)]
struct Returned {
    list: Mutex<(VecDeque<Homeless>, Share)>,
    filled: Notify,
    counters: Arc<Counters>,
}

/// A message and the name of the group that it is for.
pub(crate) type Homeless = (Arc<str>, Message);

/// What a group is to get and does not have yet.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Planned {
    count: usize,
    bytes: usize,
}

impl Planned {
    /// One message more.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }
}

impl Returned {
    fn push(&self, name: &Arc<str>, messages: impl IntoIterator<Item = Message>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, share) = &mut *list;
        for message in messages {
            // Nobody is there who could take it at QoS 0 later.
            if message.qos() == QoS::AtMostOnce || !share.try_set((waiting.len() + 1) * ENTRY_BYTES)
            {
                self.counters.dropped_shared.add(1);
            } else {
                waiting.push_back((Arc::clone(name), message));
            }
        }
        drop(list);
        self.filled.notify_one();
    }
}

#[derive(Debug)]
struct State {
    /// By a number of their own: a session that leaves and comes again is another.
    members: HashMap<u64, Member>,
    /// The number of each session that is a member.
    sessions: HashMap<u64, u64>,
    last_member: u64,
    /// Members who take everything.
    workers: usize,
    /// Workers with room: by what they have in flight, then by who was given something
    /// longest ago.
    free: Free,
    /// The same of those who get messages of QoS 0 only.
    free_for_qos_0: Free,
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

/// Claims, turn and number of members.
type Free = BTreeSet<(usize, u64, u64)>;

#[derive(Debug)]
struct Member {
    subscription: Subscription,
    claims: usize,
    /// When it was given something last.
    turn: u64,
}

impl Member {
    /// Whether it gets messages of QoS 1 and 2 from here.
    fn is_worker(&self) -> bool {
        is_worker(&self.subscription)
    }
}

fn is_worker(subscription: &Subscription) -> bool {
    subscription.kept.is_none() || subscription.qos == QoS::AtMostOnce
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

impl Groups {
    pub(crate) fn new(counters: Arc<Counters>, budget: Arc<Budget>) -> Self {
        let returned = Returned {
            list: Mutex::new((VecDeque::new(), Share::new(&budget))),
            filled: Notify::new(),
            counters: Arc::clone(&counters),
        };
        Self {
            groups: RwLock::default(),
            members: AtomicUsize::new(0),
            returned: Arc::new(returned),
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

    /// Gives a message to one member of each group that it is for.
    pub(super) fn offer(&self, message: &Message) {
        self.offer_but(message, &[]);
    }

    /// The same, but for the groups named.
    pub(crate) fn offer_but(&self, message: &Message, but: &[Arc<str>]) {
        if self.len() == 0 {
            return;
        }
        self.read(|groups| {
            groups.by_topic.visit(message.topic_str(), &mut |_, group| {
                if group.since <= message.number() && !but.contains(&group.name) {
                    group.offer(message);
                }
                false
            })
        });
    }

    /// Gives a message of QoS 1 or 2 to a worker of one group, or back where there is
    /// none.
    pub(crate) fn offer_to(&self, name: &Arc<str>, message: &Message) {
        match self.group(name) {
            Some(group) => group.offer(message),
            None => self.returned.push(name, [message.clone()]),
        }
    }

    /// Whether the group has a worker, and room for a message behind what is planned.
    pub(crate) fn has_room(&self, name: &str, bytes: usize, planned: Planned) -> bool {
        self.group(name).is_some_and(|group| {
            let state = group.lock();
            state.workers > 0 && state.has_room(bytes, planned)
        })
    }

    /// Resolves when something was returned since this was called.
    pub(super) fn filled(&self) -> Notified<'_> {
        self.returned.filled.notified()
    }

    /// What no worker took, the oldest first, at most `count`.
    pub(crate) fn returned(&self, count: usize) -> Vec<Homeless> {
        let list = &self.returned.list;
        let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
        let (waiting, share) = &mut *list;
        let count = count.min(waiting.len());
        share.sub(count * ENTRY_BYTES);
        waiting.drain(..count).collect()
    }

    fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.read(|groups| groups.by_name.get(name).cloned())
    }

    /// Adds a member to the group `name`, which is `$share/{group}/{filter}`, or
    /// replaces its subscription; whether it was there. `number` is that of the next
    /// message.
    pub(crate) fn join(
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
                        workers: 0,
                        free: Free::new(),
                        free_for_qos_0: Free::new(),
                        last_turn: 0,
                        waiting: VecDeque::new(),
                        held: 0,
                        bytes: 0,
                        bytes_max: 0,
                        share: Share::new(&self.budget),
                    }),
                    returned: Arc::clone(&self.returned),
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
        group.give_back(&mut state);
        group.hand_out(&mut state);
        drop(state);
        drop(before);
        replaced
    }

    /// Takes a member out of the group `name`; whether it was in it.
    pub(crate) fn leave(&self, name: &str, filter: &str, session: u64) -> bool {
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
        }
        group.give_back(&mut state);
        drop((state, groups));
        drop(member);
        true
    }

    fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.groups.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Group {
    fn offer(self: &Arc<Self>, message: &Message) {
        let mut state = self.lock();
        let is_taken = message.qos() == QoS::AtMostOnce || state.workers > 0;
        if is_taken && state.take(message.len()) {
            state.waiting.push_back(message.clone());
            self.hand_out(&mut state);
        } else if message.qos() == QoS::AtMostOnce {
            self.counters.dropped_queue_full.add(1);
        } else {
            drop(state);
            self.returned.push(&self.name, [message.clone()]);
        }
    }

    /// A claim of a member is over; `message` is what it gives back.
    fn end(self: &Arc<Self>, member: u64, bytes: usize, message: Option<Message>) {
        let mut state = self.lock();
        state.change(member, |member| member.claims -= 1);
        match message {
            Some(message) => {
                let number = message.number();
                let place = state.waiting.partition_point(|one| one.number() < number);
                state.waiting.insert(place, message);
                self.give_back(&mut state);
            }
            None => state.forget([bytes]),
        }
        self.hand_out(&mut state);
    }

    /// Takes out what no member of the group can get any more.
    fn give_back(&self, state: &mut State) {
        if state.workers > 0 || state.waiting.is_empty() {
            return;
        }
        let is_empty = state.members.is_empty();
        let stays = |one: &Message| !is_empty && one.qos() == QoS::AtMostOnce;
        let (stay, back): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(stays);
        state.waiting = stay;
        state.forget(back.iter().map(Message::len));
        self.returned.push(&self.name, back);
    }

    /// Gives what waits to members, as long as one has room.
    fn hand_out(self: &Arc<Self>, state: &mut State) {
        while let Some(qos) = state.waiting.front().map(Message::qos)
            && let Some(number) = state.choose(qos)
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
        self.workers += usize::from(is_worker(&subscription));
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
        self.workers += usize::from(is_worker(&subscription));
        self.change(number, |member| {
            before = Some(std::mem::replace(&mut member.subscription, subscription));
        });
        if let Some(known) = &before {
            self.bytes_max -= known.outbox.bytes_max();
            self.workers -= usize::from(is_worker(known));
        }
        before
    }

    fn remove(&mut self, session: u64) -> Option<Member> {
        let number = self.sessions.remove(&session)?;
        self.take_from_free(number);
        let member = self.members.remove(&number)?;
        self.bytes_max -= member.subscription.outbox.bytes_max();
        self.workers -= usize::from(member.is_worker());
        Some(member)
    }

    /// Changes a member, and where it stands among those with room; whether there is one.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Member)) -> bool {
        self.take_from_free(number);
        let Some(member) = self.members.get_mut(&number) else {
            return false;
        };
        change(member);
        if member.claims < member.subscription.outbox.window() {
            let place = (member.claims, member.turn, number);
            match member.is_worker() {
                true => self.free.insert(place),
                false => self.free_for_qos_0.insert(place),
            };
        }
        true
    }

    fn take_from_free(&mut self, number: u64) {
        if let Some(member) = self.members.get(&number) {
            let place = (member.claims, member.turn, number);
            self.free.remove(&place);
            self.free_for_qos_0.remove(&place);
        }
    }

    /// The member with room that has least in flight; in turn among equals.
    fn choose(&mut self, qos: QoS) -> Option<u64> {
        let Self {
            members,
            free,
            free_for_qos_0,
            ..
        } = self;
        let first_open = |free: &mut Free| {
            loop {
                let first = *free.first()?;
                let open = |member: &Member| !member.subscription.outbox.is_closed();
                if members.get(&first.2).is_some_and(open) {
                    return Some(first);
                }
                // It is about to leave.
                free.pop_first();
            }
        };
        let worker = first_open(free);
        let other = (qos == QoS::AtMostOnce)
            .then(|| first_open(free_for_qos_0))
            .flatten();
        let (.., number) = worker.into_iter().chain(other).min()?;
        Some(number)
    }

    /// Whether there is room for a message; if so, it counts.
    fn take(&mut self, bytes: usize) -> bool {
        if !self.has_room(bytes, Planned::default()) {
            return false;
        }
        self.held += 1;
        self.bytes += bytes;
        self.share.set(self.held * ENTRY_BYTES);
        true
    }

    fn has_room(&self, bytes: usize, planned: Planned) -> bool {
        let held = self.held + planned.count;
        let all = self.bytes + planned.bytes + bytes + (held + 1) * ENTRY_BYTES;
        // One message always fits, or large ones would never arrive.
        let full = all > self.bytes_max && held > 0;
        !full && self.share.budget().has_room_for(all)
    }

    fn forget(&mut self, messages: impl IntoIterator<Item = usize>) {
        for bytes in messages {
            self.held -= 1;
            self.bytes -= bytes;
        }
        self.share.set(self.held * ENTRY_BYTES);
    }
}
