//! Who of a shared subscription gets a message of QoS 1 or 2 (MQTT 5, section 4.8.2).
//!
//! In this order: a persistent member that is connected; a live member, if one is
//! there and the group has room in memory; a persistent member that is away. So one
//! that never comes back silences nobody, and where nobody is there the message waits
//! on disk. A message for a persistent member goes into its queue with the commit; one
//! for a live member is handed to `fanout::Groups` after it, by the writer itself, so
//! that no group gets it from both.
//!
//! When a session ends, what is left of its share goes the same way, not what it may
//! have been sent at QoS 2, which no second client may get. What live members leave
//! behind comes back here ([`Writer::take_back`]).

use std::sync::Arc;

use super::{job::Answer, queue::Target, writer::Writer};
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

impl Writer {
    /// Adds to the targets of a message the members of shared subscriptions that get
    /// it. The groups that have it then; `None` where no group has persistent members,
    /// and the message reaches live ones like any subscriber.
    pub(super) fn share_out(
        &mut self,
        message: &Message,
        targets: &mut Vec<Target>,
    ) -> Option<Vec<Arc<str>>> {
        if message.qos() == QoS::AtMostOnce {
            return None;
        }
        let mut names = self.shared.groups().of(message.topic_str());
        names.retain(|name| self.shared.groups().serves(name));
        if names.is_empty() {
            return None;
        }
        let mut served = Vec::new();
        for name in names {
            if let Some(target) = self.member(&name, message) {
                served.push(name);
                targets.push(target);
            }
        }
        Some(served)
    }

    /// Offers a message to live members of every group but those that have it, once
    /// the commit is durable; the message for everybody else.
    pub(super) fn hand_out(&mut self, message: &Message, served: Vec<Arc<str>>) -> Message {
        let offer = Offer::AllBut(message.clone(), served);
        self.state.offers.push(offer);
        message.handed_out(&self.shared.budget)
    }

    /// The persistent member that gets a message; `None` where a live one does.
    fn member(&self, name: &Arc<str>, message: &Message) -> Option<Target> {
        self.connected_member(name, message).or_else(|| {
            let live = self.shared.live.has_room(name, message.len());
            (!live).then(|| self.any_member(name, message))?
        })
    }

    fn connected_member(&self, name: &Arc<str>, message: &Message) -> Option<Target> {
        self.choose(name, message, |is_away| !is_away)
    }

    fn any_member(&self, name: &Arc<str>, message: &Message) -> Option<Target> {
        self.choose(name, message, |_| true)
    }

    fn choose(
        &self,
        name: &Arc<str>,
        message: &Message,
        is_in_question: impl Fn(bool) -> bool,
    ) -> Option<Target> {
        let load = |id| {
            let session = self.state.sessions.get(&id)?;
            let is_away = session.feed.is_none();
            is_in_question(is_away).then_some((is_away, session.count))
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
        let member = self.member(name, message);
        if member.is_none() {
            if self.shared.live.has_room(name, message.len()) {
                // Behind what waits there.
                let number = self.shared.retained.number();
                let message = message.renumbered(number, &self.shared.budget);
                self.state
                    .offers
                    .push(Offer::One(Arc::clone(name), message));
            } else {
                self.state.counts.dropped_shared += 1;
            }
        }
        member
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
