//! Whether there is room for what somebody is about to publish.
//!
//! Asked before the gateway has it, because afterwards it is too late to refuse it. The
//! answer is of now: what comes in between may take the room, and then the publisher is
//! held. Shared subscriptions are not looked at: which member is next changes with the asking.

use std::{collections::HashMap, sync::Arc};

use super::{QueueFull, SessionId, job::Answer, stage::PLACE_BYTES, writer::Writer};
use crate::{Publish, QoS};

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
    pub(super) fn room(&self, wishes: &[Wish]) -> Answer {
        if self.shared.config.queue_full != QueueFull::Refuse {
            return Answer::Room(None);
        }
        let mut planned: HashMap<SessionId, (u64, u64)> = HashMap::new();
        let none = wishes.iter().find(|wish| !self.plan(wish, &mut planned));
        Answer::Room(none.map(|wish| wish.at))
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
