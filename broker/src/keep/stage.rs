//! The sessions as the writer knows them, and how to take a commit back.
//!
//! What a job changes in memory is changed at once, because the next job of the
//! same commit has to see it. Each change leaves the way back in [`State::undo`],
//! in case that the commit fails.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{
    Feed, Item, SessionId, Shared,
    account::Survey,
    job::Sub,
    owed::{Debts, Paid},
    share::Offer,
};
use crate::{
    QoS,
    fanout::{Owned, Planned},
};

/// What a place in a queue takes beside its message, for the bounds.
pub(super) const PLACE_BYTES: u64 = 64;

/// One persistent session.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) client: Arc<str>,
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// The place of the next message.
    pub(super) next: i64,
    /// Places that may have been sent by an earlier connection.
    pub(super) sent_before: i64,
    /// Places that are in the feed, or were.
    pub(super) loaded: i64,
    /// Up to here there was no place that could be dropped when that was asked last.
    pub(super) kept_up_to: i64,
    /// The queue has more than the feed.
    pub(super) behind: bool,
    /// Inbound QoS 2 exchanges that are not over.
    pub(super) exchanges: usize,
    /// There while its client is connected.
    pub(super) feed: Option<Arc<Feed>>,
    /// When it expires.
    pub(super) due: Option<Instant>,
    pub(super) row: Row,
    /// As it is in the file.
    pub(super) stored: Row,
}

impl Session {
    /// Whether its client is connected and keeps up: its queue has no more than its feed.
    pub(super) fn is_prompt(&self) -> bool {
        self.feed.is_some() && !self.behind
    }

    /// Whether it may have a place that cannot have been sent. Only the file knows.
    pub(super) fn may_have_droppable(&self) -> bool {
        self.next - 1 > self.row.given.max(self.kept_up_to)
    }
}

/// What the session's row says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Whose session it is, if its client said who it is.
    pub(super) user: Option<Arc<str>>,
    pub(super) expiry_secs: u32,
    pub(super) ended_ms: Option<i64>,
    /// Places that may have been sent.
    pub(super) given: i64,
    pub(super) dropped: u64,
}

/// The way back from one change.
#[derive(Debug)]
enum Undo {
    Session(SessionId, Option<Box<Session>>),
    Subscription(SessionId, Arc<str>, Option<Sub>),
    Retained(Arc<str>, Option<Owned>),
    /// What was to be emptied of a session that is over.
    Leftover(SessionId, Option<i64>),
    Paid(Paid),
}

/// What one commit adds to the counters; nothing of it if it fails.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Messages without room.
    pub(super) dropped: usize,
    /// Messages of shared subscriptions that nobody is left for.
    pub(super) dropped_shared: usize,
    pub(super) sessions_expired: usize,
    pub(super) retained_expired: usize,
    pub(super) retained_refused: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) sessions: HashMap<SessionId, Session>,
    /// Sessions without a connection, by when they expire.
    pub(super) due: BTreeSet<(Instant, SessionId)>,
    pub(super) total_bytes: u64,
    pub(super) total_count: u64,
    /// Of what the file had at the start, what is not in `total_bytes` yet.
    pub(super) survey: Survey,
    /// Sessions that are over and whose queues are not empty yet, each with the places
    /// that may have been sent.
    pub(super) leftovers: BTreeMap<SessionId, i64>,
    /// Sessions whose rows could not be written when they changed, and whether their
    /// wills are to be forgotten.
    pub(super) unsaved: HashMap<SessionId, bool>,
    /// Retained messages that are not in the file.
    pub(super) debts: Debts,
    /// Those of them that this commit writes.
    saved: Vec<SessionId>,
    before: (u64, u64, Survey),
    undo: Vec<Undo>,
    touched: HashSet<SessionId>,
    /// To be handed over after the commit.
    deliveries: Vec<(Arc<Feed>, Item)>,
    /// For live members of shared subscriptions, after the commit.
    offers: Vec<Offer>,
    /// What those are for each shared subscription: it is not in their memory yet.
    planned: HashMap<Arc<str>, Planned>,
    /// Feeds whose sessions were removed.
    ended: Vec<Arc<Feed>>,
    pub(super) counts: Counts,
}

impl State {
    /// The session, to be changed.
    pub(super) fn change(&mut self, id: SessionId) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&id)?;
        if self.touched.insert(id) {
            let before = Some(Box::new(session.clone()));
            self.undo.push(Undo::Session(id, before));
        }
        Some(session)
    }

    pub(super) fn add(&mut self, id: SessionId, session: Session) {
        self.touched.insert(id);
        self.undo.push(Undo::Session(id, None));
        self.sessions.insert(id, session);
    }

    pub(super) fn remove(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            if let Some(due) = session.due {
                self.due.remove(&(due, id));
            }
            if let Some(feed) = &session.feed {
                self.ended.push(Arc::clone(feed));
            }
            if self.touched.insert(id) {
                self.undo.push(Undo::Session(id, Some(Box::new(session))));
            }
        }
    }

    /// Sets when a session expires.
    pub(super) fn set_due(&mut self, id: SessionId, due: Option<Instant>) {
        let Some(session) = self.change(id) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut session.due, due) {
            self.due.remove(&(before, id));
        }
        self.due.extend(due.map(|due| (due, id)));
    }

    /// Forgets every session, and ends those that are connected. The file is gone, too.
    pub(super) fn end_all(&mut self) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            if let Some(feed) = session.feed {
                feed.end();
            }
        }
        let mut debts = std::mem::take(&mut self.debts);
        debts.without_file();
        *self = Self {
            debts,
            ..Self::default()
        };
    }

    pub(super) fn subscription_was(
        &mut self,
        id: SessionId,
        filter: &Arc<str>,
        before: Option<Sub>,
    ) {
        let undo = Undo::Subscription(id, Arc::clone(filter), before);
        self.undo.push(undo);
    }

    pub(super) fn retained_was(&mut self, topic: Arc<str>, before: Option<Owned>) {
        self.undo.push(Undo::Retained(topic, before));
    }

    /// This commit pays what was owed.
    pub(super) fn paid(&mut self, paid: Paid) {
        self.undo.push(Undo::Paid(paid));
    }

    /// The queue of a session that is over is to be emptied, or is: `None`.
    pub(super) fn set_leftover(&mut self, id: SessionId, given: Option<i64>) {
        let before = match given {
            Some(given) => self.leftovers.insert(id, given),
            None => self.leftovers.remove(&id),
        };
        self.undo.push(Undo::Leftover(id, before));
    }

    /// An item that has room in its feed.
    pub(super) fn deliver(&mut self, feed: &Arc<Feed>, item: Item) {
        self.deliveries.push((Arc::clone(feed), item));
    }

    /// Lowers the QoS of places that are in a feed, or will be.
    pub(super) fn lower(&mut self, feed: &Arc<Feed>, places: &[(i64, QoS)]) {
        feed.lower(places);
        let coming = self.deliveries.iter_mut();
        for (_, item) in coming.filter(|(to, _)| Arc::ptr_eq(to, feed)) {
            item.lower(places);
        }
    }

    /// A message for live members of shared subscriptions.
    pub(super) fn offer(&mut self, offer: Offer) {
        if let Offer::One(name, message) = &offer {
            let planned = self.planned.entry(Arc::clone(name)).or_default();
            planned.add(message.len());
        }
        self.offers.push(offer);
    }

    /// What live members of a shared subscription get with this commit.
    pub(super) fn planned(&self, name: &str) -> Planned {
        self.planned.get(name).copied().unwrap_or_default()
    }

    /// Sessions that were changed.
    pub(super) fn touched(&self) -> Vec<SessionId> {
        self.touched.iter().copied().collect()
    }

    /// The file has what it had when it was read: what differs is to be written.
    pub(super) fn not_saved(&mut self) {
        for undo in &self.undo {
            if let Undo::Session(id, Some(before)) = undo
                && let Some(session) = self.sessions.get_mut(id)
            {
                session.stored = before.stored.clone();
                self.unsaved.insert(*id, false);
            }
        }
    }

    /// What could not be written of a session is, with this commit.
    pub(super) fn saved(&mut self, id: SessionId) {
        if self.unsaved.contains_key(&id) {
            self.saved.push(id);
        }
    }

    /// Begins a commit.
    pub(super) fn begin(&mut self) {
        self.before = (self.total_bytes, self.total_count, self.survey);
    }

    /// The commit is durable: hands over what it brings.
    pub(super) fn committed(&mut self, shared: &Shared) {
        self.undo.clear();
        self.touched.clear();
        for id in self.saved.drain(..) {
            self.unsaved.remove(&id);
        }
        for (feed, item) in self.deliveries.drain(..) {
            if feed.push(item) {
                feed.wake();
            }
        }
        self.planned.clear();
        for offer in self.offers.drain(..) {
            offer.make(&shared.live);
        }
        for feed in self.ended.drain(..) {
            feed.end();
        }
        let counters = &shared.counters;
        let counts = std::mem::take(&mut self.counts);
        counters.dropped_shared.add(counts.dropped_shared);
        counters.dropped_kept_queue_full.add(counts.dropped);
        counters.sessions_expired.add(counts.sessions_expired);
        counters.dropped_expired.add(counts.retained_expired);
        counters.retained_refused.add(counts.retained_refused);
        counters.queued_messages.set_u64(self.total_count);
        counters.queued_bytes.set_u64(self.total_bytes);
        self.count_retained(shared);
    }

    /// Retained messages, and those of them that are not in the file.
    pub(super) fn count_retained(&self, shared: &Shared) {
        shared.retained.count(&shared.counters);
        shared.counters.retained_owed.set(self.debts.len());
    }

    /// The commit failed: nothing of it was.
    pub(super) fn roll_back(&mut self, shared: &Shared) {
        (self.total_bytes, self.total_count, self.survey) = self.before;
        self.touched.clear();
        self.saved.clear();
        self.ended.clear();
        self.offers.clear();
        self.planned.clear();
        self.counts = Counts::default();
        for (feed, item) in self.deliveries.drain(..) {
            feed.give_back(&item);
        }
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            match undo {
                Undo::Session(id, before) => self.put_back(id, before, shared),
                Undo::Subscription(id, filter, Some(before)) => {
                    shared.insert(id, &filter, before);
                }
                Undo::Subscription(id, filter, None) => {
                    shared.remove(id, &filter);
                }
                Undo::Retained(topic, before) => shared.retained.restore(&topic, before),
                Undo::Leftover(id, Some(given)) => {
                    self.leftovers.insert(id, given);
                }
                Undo::Leftover(id, None) => {
                    self.leftovers.remove(&id);
                }
                Undo::Paid(paid) => self.debts.restore(paid),
            }
        }
        self.count_retained(shared);
    }

    fn put_back(&mut self, id: SessionId, before: Option<Box<Session>>, shared: &Shared) {
        if let Some(now) = self.sessions.remove(&id) {
            if let Some(due) = now.due {
                self.due.remove(&(due, id));
            }
            shared.forget(&now.client);
        }
        if let Some(session) = before {
            self.due.extend(session.due.map(|due| (due, id)));
            if let Some(feed) = &session.feed {
                feed.set_behind(session.behind);
            }
            shared.know(&session.client, id, session.row.user.as_ref());
            self.sessions.insert(id, *session);
        }
    }
}
