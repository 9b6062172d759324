//! Whether there is room for what somebody is about to publish.
//!
//! On a disk that is known to be full there is none, whatever a full queue does: what
//! the gateway has, and nobody can keep, is a message that its device sends again after
//! the next reconnect. Whoever asks when nothing has been tried for a while goes ahead,
//! so that room is found again.
//!
//! Asked before the gateway has it, because afterwards it is too late to refuse it. The
//! answer is of now: what comes in between may take the room, and then the publisher is
//! held. Shared subscriptions are not looked at: which member is next changes with the asking.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{QueueFull, SessionId, job::Answer, stage::PLACE_BYTES, writer::Writer};
use crate::{Publish, QoS};

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
    /// Its place among those that are handed over together.
    pub(crate) at: usize,
}

impl Wish {
    pub(crate) fn new(publish: &Publish, at: usize) -> Self {
        Self {
            topic: Arc::clone(&publish.topic),
            qos: publish.qos,
            bytes: (publish.topic.len() + publish.payload.len()) as u64,
            at,
        }
    }
}

impl Writer {
    /// The place of the first that there is no room for, if there is one.
    pub(super) fn room(&mut self, wishes: &[Wish]) -> Answer {
        if self.is_known_full() {
            self.shared.is_short_of_room();
            return Answer::Room(wishes.first().map(|wish| wish.at));
        }
        if self.shared.config.queue_full != QueueFull::Refuse {
            return Answer::Room(None);
        }
        let mut planned: HashMap<SessionId, (u64, u64)> = HashMap::new();
        let none = wishes.iter().find(|wish| !self.plan(wish, &mut planned));
        Answer::Room(none.map(|wish| wish.at))
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

    /// Whether there is room for one more, behind what is `planned`.
    fn plan(&self, wish: &Wish, planned: &mut HashMap<SessionId, (u64, u64)>) -> bool {
        if wish.qos == QoS::AtMostOnce {
            return true;
        }
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
        let count_max = self.shared.config.queue_messages_max;
        sessions.into_iter().all(|id| {
            let (count, bytes) = planned.entry(id).or_default();
            let has = self.state.sessions.get(&id).map_or(0, |one| one.count);
            let more = *bytes + wish.bytes;
            *count += 1;
            *bytes = more + PLACE_BYTES;
            has + *count <= count_max && !self.is_full(id, more) && self.may_have(id, more, *bytes)
        })
    }
}
