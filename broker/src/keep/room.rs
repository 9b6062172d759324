//! Whether there is room for what somebody is about to publish.
//!
//! On a disk that is known to be full there is none, whatever a full queue does: what
//! the gateway has, and nobody can keep, is a message that its device sends again after
//! the next reconnect. Whoever asks when nothing has been tried for a while goes ahead,
//! so that room is found again.
//!
//! The same holds for what is to be retained, whose store has bounds of its own: at QoS 0
//! it need not be retained, so only what is acknowledged is refused for that.
//!
//! Asked before the gateway has it, because afterwards it is too late to refuse it. The
//! answer is of now: what comes in between may take the room, and then the publisher is
//! held. A shared subscription has room where one of its members has: which of them is
//! next changes with the asking.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{QueueFull, RetainedFull, SessionId, job::Answer, stage::PLACE_BYTES, writer::Writer};
use crate::{
    Protocol, Publish, QoS,
    fanout::{self, Message, Owner, Planned},
};

/// How long nobody else finds out whether the disk still is full: those that wait for
/// room ask more often.
const FOUND_OUT: Duration = if cfg!(test) {
    Duration::from_secs(3600)
} else {
    Duration::from_secs(2)
};

/// A publish that somebody wants to have room for.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    topic: Arc<str>,
    qos: QoS,
    /// Of its topic and payload.
    bytes: u64,
    /// What is to be retained of it, in bytes; none where it clears its topic.
    retained: Option<usize>,
    /// Whose it would be.
    by: Owner,
    /// Its publisher can hear that it is too large to be retained.
    can_hear: bool,
    /// Its place among those that are handed over together.
    pub(crate) at: usize,
}

impl Wish {
    pub(crate) fn new(publish: &Publish, at: usize, by: Owner, protocol: Protocol) -> Self {
        Self {
            topic: Arc::clone(&publish.topic),
            qos: publish.qos,
            bytes: (publish.topic.len() + publish.payload.len()) as u64,
            retained: publish.retain.then(|| match publish.payload.is_empty() {
                true => 0,
                false => Message::len_of(publish),
            }),
            by,
            can_hear: protocol == Protocol::V5,
            at,
        }
    }
}

/// What there is room for so far.
#[derive(Debug, Default)]
struct Plan {
    /// Messages and bytes of each queue.
    queues: HashMap<SessionId, (u64, u64)>,
    /// What live members of each shared subscription get.
    live: HashMap<Arc<str>, Planned>,
    retained: fanout::Plan,
}

impl Writer {
    /// The place of the first that there is no room for, if there is one.
    pub(super) fn room(&mut self, wishes: &[Wish]) -> Answer {
        if self.is_known_full() {
            self.shared.is_short_of_room();
            return Answer::Room(wishes.first().map(|wish| wish.at));
        }
        let refuses = self.shared.config.queue_full == QueueFull::Refuse;
        let mut plan = Plan::default();
        for wish in wishes.iter().filter(|wish| wish.qos > QoS::AtMostOnce) {
            if !self.plan_retained(wish, &mut plan) {
                self.cannot_retain();
                return Answer::Room(Some(wish.at));
            }
            if refuses && !self.plan(wish, &mut plan) {
                return Answer::Room(Some(wish.at));
            }
        }
        Answer::Room(None)
    }

    /// Whether it would be retained, if it is to be.
    fn plan_retained(&self, wish: &Wish, plan: &mut Plan) -> bool {
        let retained = &self.shared.retained;
        let refuses = self.shared.config.retained_full == RetainedFull::Refuse;
        wish.retained.is_none_or(|len| {
            let is_heard = wish.can_hear && refuses && retained.is_too_large(len);
            !is_heard && retained.plan(&mut plan.retained, &wish.topic, len, Some(wish.by))
        })
    }

    /// Whether the disk was full when it was tried last, and somebody else tries again.
    fn is_known_full(&mut self) -> bool {
        if !self.full {
            return false;
        }
        let now = Instant::now();
        let is_tried = |tried| now.duration_since(tried) < FOUND_OUT;
        if self.tried.is_some_and(is_tried) {
            return true;
        }
        self.tried = Some(now);
        false
    }

    /// Whether queues have room for one more, behind what is planned.
    fn plan(&self, wish: &Wish, plan: &mut Plan) -> bool {
        let mut sessions = Vec::new();
        let filters = self.shared.filters();
        filters.visit(&wish.topic, &mut |key, sub| {
            if sub.qos > QoS::AtMostOnce {
                sessions.push(SessionId::of_key(key));
            }
            false
        });
        drop(filters);
        sessions.sort_unstable();
        sessions.dedup();
        for id in sessions {
            if !self.fits(id, wish.bytes, plan) {
                return false;
            }
            plan.queue(id, wish.bytes);
        }
        let groups = self.shared.groups().of(&wish.topic);
        groups.iter().all(|name| self.plan_share(name, wish, plan))
    }

    /// The same of a shared subscription.
    fn plan_share(&self, name: &Arc<str>, wish: &Wish, plan: &mut Plan) -> bool {
        let groups = self.shared.groups();
        if !groups.serves(name) {
            return true;
        }
        let load = |id| {
            let session = self.state.sessions.get(&id)?;
            let is_full = !self.fits(id, wish.bytes, plan);
            Some((is_full, session.feed.is_none(), session.count))
        };
        let member = groups.find(name, load).map(|(id, _)| id);
        let member = member.filter(|id| self.fits(*id, wish.bytes, plan));
        drop(groups);
        let session = member.and_then(|id| self.state.sessions.get(&id));
        let live = plan.live.entry(Arc::clone(name)).or_default();
        let bytes = usize::try_from(wish.bytes).unwrap_or(usize::MAX);
        match member {
            Some(id) if session.is_some_and(|one| one.is_prompt()) => plan.queue(id, wish.bytes),
            _ if self.shared.live.has_room(name, bytes, *live) => live.add(bytes),
            Some(id) => plan.queue(id, wish.bytes),
            None => return false,
        }
        true
    }

    /// Whether a queue has room for one more, behind what is planned.
    fn fits(&self, id: SessionId, bytes: u64, plan: &Plan) -> bool {
        let (count, planned) = plan.queues.get(&id).copied().unwrap_or_default();
        let has = self.state.sessions.get(&id).map_or(0, |one| one.count);
        let more = planned + bytes;
        has + count < self.shared.config.queue_messages_max
            && !self.is_full(id, more)
            && self.may_have(id, more, more + PLACE_BYTES)
    }
}

impl Plan {
    fn queue(&mut self, id: SessionId, more: u64) {
        let (count, bytes) = self.queues.entry(id).or_default();
        *count += 1;
        *bytes += more + PLACE_BYTES;
    }
}
