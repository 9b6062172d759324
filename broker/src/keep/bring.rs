//! Retained messages for those who subscribe, some at a time.
//!
//! A SUBSCRIBE may name a hundred filters that all match a hundred thousand retained
//! messages. What it brings is queued in slices, between which others have their turn:
//! users first, however many sessions each has, and then the sessions of one.
//! The subscriptions are in force from the first, and SUBACK comes after the last. What
//! is retained later than the subscription came to the queue as a live message, and is
//! left out. Messages are queued as long as the session's queue has room, and never at
//! the cost of others; beyond that they are dropped, and counted. A client that is gone
//! before SUBACK subscribes again, so what nobody waits for any more is left where it is.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Add, Refused, SessionId,
    job::{Answer, Decided, Rest, Sub},
    queue::Target,
    writer::{Reply, Writer},
};
use crate::{
    QoS,
    fanout::{Message, Slice},
    packet::SendRetained,
    topic::shared_filter,
};

/// Retained messages queued in one commit.
const PLACES: usize = if cfg!(test) { 2 } else { 256 };
/// Topics looked at in one commit.
const TOPICS: usize = if cfg!(test) { 16 } else { 16_384 };
/// How long a full disk is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A SUBSCRIBE whose retained messages are on their way.
#[derive(Debug)]
pub(super) struct Bringing {
    session: SessionId,
    /// Whose session it is.
    user: Option<Arc<str>>,
    /// Those that bring some, once each.
    filters: Vec<(Arc<str>, Sub)>,
    /// Retained messages with higher numbers came later.
    since: u64,
    /// What is answered: [`Answer::Decided`].
    decided: u64,
    at: Cursor,
    /// The disk is full since then.
    full: Option<Instant>,
    reply: Option<Reply>,
}

/// How far it has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Cursor {
    filter: usize,
    /// The last topic that was looked at.
    topic: Option<Arc<str>>,
}

impl Bringing {
    pub(super) fn new(session: SessionId, user: Option<Arc<str>>, since: u64) -> Self {
        Self {
            session,
            user,
            filters: Vec::new(),
            since,
            decided: 0,
            at: Cursor::default(),
            full: None,
            reply: None,
        }
    }

    /// A subscription was added; `is_new` says whether it replaced none.
    pub(super) fn add(&mut self, add: &Add, is_new: bool) {
        let wanted = match add.retained {
            SendRetained::Always => true,
            SendRetained::IfNew => is_new,
            SendRetained::Never => false,
        };
        // Nobody could say which member of a shared subscription they are for.
        let is_shared = shared_filter(&add.filter).is_some();
        if wanted && !is_shared && add.subscription.qos > QoS::AtMostOnce {
            self.filters
                .push((Arc::clone(&add.filter), add.subscription));
        }
    }

    fn is_owed(&self, message: &Message) -> bool {
        message.qos() > QoS::AtMostOnce && message.number() < self.since
    }

    /// What is answered at once, and it waits for who is to hear when it is done.
    pub(super) fn begun(mut self) -> (Answer, Self) {
        let (reply, rest) = oneshot::channel();
        self.reply = Some(reply);
        let decided = Decided {
            number: self.decided,
            rest: Some(Rest(rest)),
        };
        (Answer::Begun(decided), self)
    }

    /// Where it goes on behind a slice that ended at `topic`, or with its filter.
    fn after(&self, from: &Cursor, topic: Option<Arc<str>>) -> Option<Cursor> {
        let filter = from.filter + usize::from(topic.is_none());
        (filter < self.filters.len()).then_some(Cursor { filter, topic })
    }

    /// Nobody waits for it any more: the connection is gone.
    fn is_abandoned(&self) -> bool {
        self.reply.as_ref().is_none_or(Reply::is_closed)
    }

    fn answer(&mut self, answer: Result<Answer, Refused>) {
        if let Some(reply) = self.reply.take() {
            // Whoever no longer waits does not need to know.
            drop(reply.send(answer));
        }
    }
}

/// Those under way: one list for each user that has some.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    users: VecDeque<OfUser>,
}

type OfUser = (Option<Arc<str>>, VecDeque<Bringing>);

/// The list of a user that has none yet.
fn alone(bringing: Bringing) -> OfUser {
    (bringing.user.clone(), VecDeque::from([bringing]))
}

impl UnderWay {
    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Adds one behind all others of its user.
    pub(super) fn push(&mut self, bringing: Bringing) {
        let known = self
            .users
            .iter_mut()
            .find(|(user, _)| *user == bringing.user);
        match known {
            Some((_, list)) => list.push_back(bringing),
            None => self.users.push_back(alone(bringing)),
        }
    }

    /// Puts back what was taken just now.
    fn put_back(&mut self, bringing: Bringing) {
        match self.users.front_mut() {
            Some((user, list)) if *user == bringing.user => list.push_front(bringing),
            _ => self.users.push_front(alone(bringing)),
        }
    }

    /// Takes the one whose turn it is.
    fn take(&mut self) -> Option<Bringing> {
        let (_, list) = self.users.front_mut()?;
        let first = list.pop_front();
        if list.is_empty() {
            self.users.pop_front();
        }
        first
    }

    /// The same, and the next turn is another user's.
    fn take_in_turn(&mut self) -> Option<Bringing> {
        let first = self.take()?;
        if let Some((user, _)) = self.users.front()
            && *user == first.user
        {
            self.users.rotate_left(1);
        }
        Some(first)
    }

    fn retain(&mut self, stays: impl Fn(&Bringing) -> bool) {
        self.users.retain_mut(|(_, list)| {
            list.retain(&stays);
            !list.is_empty()
        });
    }
}

impl Writer {
    /// Brings the first slice; the answer, if that was all.
    pub(super) fn begin_bringing(&mut self, mut bringing: Bringing) -> rusqlite::Result<Answer> {
        bringing.decided = self.shared.decided();
        Ok(match self.slice(&bringing)? {
            Some(at) => {
                bringing.at = at;
                Answer::Later(Box::new(bringing))
            }
            None => Answer::Decided(bringing.decided),
        })
    }

    /// Brings one more slice of the SUBSCRIBE whose turn it is.
    pub(super) fn bring(&mut self) -> rusqlite::Result<()> {
        self.bringing.retain(|bringing| !bringing.is_abandoned());
        let Some(bringing) = self.bringing.take() else {
            return Ok(());
        };
        let slice = self.slice(&bringing);
        self.bringing.put_back(bringing);
        self.brought = Some(slice?);
        Ok(())
    }

    /// The commit with the slice is durable.
    pub(super) fn brought(&mut self) {
        let Some(at) = self.brought.take() else {
            return;
        };
        let Some(mut bringing) = self.bringing.take_in_turn() else {
            return;
        };
        bringing.full = None;
        match at {
            Some(at) => {
                bringing.at = at;
                self.bringing.push(bringing);
            }
            None if self.state.sessions.contains_key(&bringing.session) => {
                let decided = bringing.decided;
                bringing.answer(Ok(Answer::Decided(decided)));
            }
            None => bringing.answer(Err(Refused::Gone)),
        }
    }

    /// The disk is full. Those who have waited for long enough go without the rest.
    pub(super) fn bring_later(&mut self) {
        self.brought = None;
        let now = Instant::now();
        let all = std::mem::take(&mut self.bringing).users.into_iter();
        for mut bringing in all.flat_map(|(_, list)| list) {
            let since = *bringing.full.get_or_insert(now);
            if now.duration_since(since) < PATIENCE {
                self.bringing.push(bringing);
                continue;
            }
            let mut at = Some(bringing.at.clone());
            while let Some(from) = at {
                self.count_all_dropped(&bringing, &from);
                at = bringing.after(&from, None);
            }
            self.state.unsaved.insert(bringing.session, false);
            self.state.committed(&self.shared);
            let decided = bringing.decided;
            bringing.answer(Ok(Answer::Decided(decided)));
        }
    }

    /// Queues what comes next, as far as there is room; where it goes on, if it does.
    fn slice(&mut self, bringing: &Bringing) -> rusqlite::Result<Option<Cursor>> {
        let id = bringing.session;
        let (mut topics, mut places) = (TOPICS, PLACES);
        let mut at = Some(bringing.at.clone());
        while let Some(from) = &at
            && topics > 0
            && places > 0
            && self.state.sessions.contains_key(&id)
        {
            let Some((_, sub)) = bringing.filters.get(from.filter) else {
                return Ok(None);
            };
            let slice = self.owed(bringing, from, topics, places);
            // What finds no room takes none, so a full queue does not wait for many commits.
            let mut queued = 0;
            for message in &slice.found {
                if !self.has_room(id, message.len() as u64) {
                    self.count_dropped(id);
                    continue;
                }
                let target = Target {
                    session: id,
                    qos: sub.qos.min(message.qos()),
                    retain: true,
                    ids: sub.id.into_iter().collect(),
                    share: None,
                };
                self.enqueue(message, vec![target])?;
                queued += 1;
            }
            topics = topics.saturating_sub(slice.looked_at.max(1));
            places = places.saturating_sub(queued);
            at = bringing.after(from, slice.after);
        }
        Ok(at.filter(|_| self.state.sessions.contains_key(&id)))
    }

    /// What a filter brings, from a place on.
    fn owed(&self, bringing: &Bringing, at: &Cursor, topics: usize, places: usize) -> Slice {
        let Some((filter, _)) = bringing.filters.get(at.filter) else {
            return Slice::default();
        };
        let retained = self.shared.retained.lock();
        let is_owed = |message: &Message| bringing.is_owed(message);
        retained.slice(filter, at.topic.as_deref(), topics, places, is_owed)
    }

    /// Counts what a filter would bring, from a place on, as dropped.
    fn count_all_dropped(&mut self, bringing: &Bringing, at: &Cursor) {
        let Some((filter, _)) = bringing.filters.get(at.filter) else {
            return;
        };
        let is_owed = |message: &Message| bringing.is_owed(message);
        let retained = self.shared.retained.lock();
        let count = retained.count(filter, at.topic.as_deref(), is_owed);
        drop(retained);
        self.count_many_dropped(bringing.session, count);
    }
}
