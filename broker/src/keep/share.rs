//! Who of a shared subscription gets a message of QoS 1 or 2 (MQTT 5, section 4.8.2).
//!
//! In this order: a persistent member that is connected and keeps up; a live member, if
//! one is there and the group has room in memory; a persistent member that is connected
//! and behind; one that is away; and those whose queues have no room last. So one that never comes back, or takes nothing, silences
//! nobody, and where nobody is there the message waits on disk. A message for a persistent
//! member goes into its queue with the commit; one for a live member is handed to
//! `fanout::Groups` after it, by name, by the writer itself: no group gets it from both,
//! and where the live members are gone by then it comes back.
//!
//! When a session ends, what is left of its share goes the same way, not what it may
//! have been sent at QoS 2, which no second client may get. What live members leave
//! behind comes back here ([`Writer::take_back`]).

use std::sync::Arc;

use super::{SessionId, job::Answer, queue::Target, stage::Session, writer::Writer};
use crate::{
    QoS,
    fanout::{Groups, Homeless, Message},
};

/// A message for live members, to be offered after the commit.
#[derive(Debug)]
pub(super) enum Offer {
    /// To the members of every group but these.
    AllBut(Message, Vec<Arc<str>>),
    /// To the members of one group.
    One(Arc<str>, Message),
}

impl Offer {
    pub(super) fn make(&self, groups: &Groups) {
        match self {
            Self::AllBut(message, but) => groups.offer_but(message, but),
            Self::One(name, message) => groups.offer_to(name, message),
        }
    }
}

/// Who of a shared subscription gets a message.
enum Taker {
    Persistent(Target),
    Live,
}

/// The groups with persistent members that a message is for.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// A persistent member gets it.
    served: Vec<Arc<str>>,
    /// A live member does.
    live: Vec<Arc<str>>,
}

impl Writer {
    /// Adds to the targets of a message the members of shared subscriptions that get
    /// it. `None` where no group has persistent members, and the message reaches live
    /// ones like any subscriber.
    pub(super) fn share_out(
        &mut self,
        message: &Message,
        targets: &mut Vec<Target>,
    ) -> Option<Shares> {
        if message.qos() == QoS::AtMostOnce {
            return None;
        }
        let mut names = self.shared.groups().of(message.topic_str());
        names.retain(|name| self.shared.groups().serves(name));
        if names.is_empty() {
            return None;
        }
        let mut shares = Shares::default();
        for name in names {
            match self.taker(&name, message) {
                Some(Taker::Persistent(target)) => {
                    shares.served.push(name);
                    targets.push(target);
                }
                Some(Taker::Live) => shares.live.push(name),
                None => {}
            }
        }
        Some(shares)
    }

    /// Offers a message to live members once the commit is durable: of the groups that
    /// were decided to, whoever is a member by then, and of those without persistent
    /// members. The message for everybody else.
    pub(super) fn hand_out(&mut self, message: &Message, shares: Shares) -> Message {
        let Shares { served, live } = shares;
        for name in &live {
            let offer = Offer::One(Arc::clone(name), message.clone());
            self.state.offer(offer);
        }
        let but = served.into_iter().chain(live).collect();
        self.state.offer(Offer::AllBut(message.clone(), but));
        message.handed_out(&self.shared.budget)
    }

    /// Who gets a message, if anybody can.
    fn taker(&self, name: &Arc<str>, message: &Message) -> Option<Taker> {
        let bytes = message.len() as u64;
        let prompt = self.choose(name, message, |id, session| {
            session.is_prompt() && !self.lacks_room(id, bytes)
        });
        if let Some(target) = prompt {
            return Some(Taker::Persistent(target));
        }
        let planned = self.state.planned(name);
        if self.shared.live.has_room(name, message.len(), planned) {
            return Some(Taker::Live);
        }
        self.any_member(name, message).map(Taker::Persistent)
    }

    fn any_member(&self, name: &Arc<str>, message: &Message) -> Option<Target> {
        self.choose(name, message, |_, _| true)
    }

    fn choose(
        &self,
        name: &Arc<str>,
        message: &Message,
        is_in_question: impl Fn(SessionId, &Session) -> bool,
    ) -> Option<Target> {
        let load = |id| {
            let session = self.state.sessions.get(&id)?;
            let is_full = self.lacks_room(id, message.len() as u64);
            let load = (is_full, session.feed.is_none(), session.count);
            is_in_question(id, session).then_some(load)
        };
        let (session, sub) = self.shared.groups_mut().choose(name, load)?;
        Some(Target {
            session,
            qos: sub.qos.min(message.qos()),
            retain: message.retain() && sub.retain_as_published,
            ids: sub.id.into_iter().collect(),
            share: Some(Arc::clone(name)),
        })
    }

    /// Who is to get what a session that ends was owed of a shared subscription: the
    /// persistent member, or `None` if a live one is offered it, or nobody is left.
    pub(super) fn heir(&mut self, name: &Arc<str>, message: &Message) -> Option<Target> {
        match self.taker(name, message) {
            Some(Taker::Persistent(target)) => return Some(target),
            Some(Taker::Live) => {
                // Behind what waits there.
                let number = self.shared.retained.number();
                let message = message.renumbered(number, &self.shared.budget);
                let offer = Offer::One(Arc::clone(name), message);
                self.state.offer(offer);
            }
            None => self.state.counts.dropped_shared += 1,
        }
        None
    }

    /// Takes what live members left behind, or had no room for, for persistent ones.
    pub(super) fn take_back(&mut self, homeless: &[Homeless]) -> rusqlite::Result<Answer> {
        for (name, message) in homeless {
            let Some(target) = self.any_member(name, message) else {
                self.state.counts.dropped_shared += 1;
                continue;
            };
            let mut targets = vec![target];
            self.make_room(&mut targets, message.len() as u64, false)?;
            self.enqueue(message, targets)?;
        }
        Ok(Answer::Done)
    }
}
