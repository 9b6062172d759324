//! What the gateway says itself, to everybody who wants it.
//!
//! Nobody is told that a queue is full, so nobody is refused: a full queue loses the
//! message, counted, and only that queue does. A full disk is waited for where the
//! message can wait. Where it cannot ([`Room::Now`]), those who are connected see it
//! all the same, and what persistent sessions and new subscribers miss is counted. A will
//! that is to be retained is owed then ([`Room::Owe`]): new subscribers see it at once, and
//! it comes to disk when there is room.
//!
//! `$SYS` is apart: the broker says it again by itself, so it is kept in memory only
//! and goes to those who are connected, at QoS 0. It never waits for the disk, nor in
//! the queue of a client that is away.

use tokio::time::{Duration, sleep};

use super::Fanout;
use crate::{
    Publish, QoS,
    errand::Addressee,
    fanout::{How, Message},
    keep::{Errand, Kept, Op, Ran, Refused, SessionId, Token, Told, WillId},
    local::NOBODY,
};

/// Between asking whether there is room on disk.
const PAUSE: Duration = Duration::from_millis(250);

/// What to do while there is no room on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Wait until there is.
    Wait,
    /// Go on without the disk.
    Now,
    /// The same with a will, which may have a place in the keeper's file; what of it is
    /// to be retained is written later.
    Owe(Option<WillId>),
}

impl Fanout {
    /// Shows committed messages to everybody who wants them, in order: keeps what is
    /// to be kept, and then shows all to live subscribers.
    ///
    /// # Errors
    /// When nothing could be kept: live subscribers have seen all of it.
    pub(crate) async fn show(
        &self,
        publisher: u64,
        from: Option<SessionId>,
        publishes: &[Publish],
        room: Room,
    ) -> Result<(), Refused> {
        let mut ops = Vec::new();
        let mut live = Vec::new();
        for publish in publishes {
            if publish.topic.starts_with("$SYS/") {
                live.extend(self.say(publisher, publish));
                continue;
            }
            let wanted = self.wanted(&publish.topic);
            let is_kept = publish.retain || wanted.kept;
            if is_kept || wanted.live {
                let message = self.message(publisher, publish);
                // What is kept is shown after the commit, and what comes after behind it.
                if is_kept || !ops.is_empty() {
                    ops.push(Op {
                        message: Some(message),
                        from,
                        exchange: None,
                        by: None,
                    });
                } else {
                    live.push(message);
                }
            }
        }
        self.carry(live);
        if ops.is_empty() {
            return Ok(());
        }
        let kept = loop {
            match self.tell(&ops, room).await {
                Err(Refused::Full) if room == Room::Wait => sleep(PAUSE).await,
                kept => break kept,
            }
        };
        match kept {
            Ok(kept) => {
                let done = kept.into_iter().filter_map(|one| match one {
                    Kept::Done(message) => message,
                    Kept::Refused => None,
                });
                self.carry_wanted(done);
                Ok(())
            }
            Err(refused) => {
                let missed = |op: &&Op| {
                    let message = op.message.as_ref();
                    message.is_some_and(|one| one.retain() || self.wanted(one.topic_str()).kept)
                };
                let count = ops.iter().filter(missed).count();
                self.counters.dropped_kept_disk_full.add(count);
                self.carry_wanted(ops.into_iter().filter_map(|op| op.message));
                Err(refused)
            }
        }
    }

    /// Queues a message of the gateway for a client, once, and shows it to live
    /// subscribers.
    ///
    /// # Errors
    /// When nothing could be kept: nobody has seen it.
    pub(crate) async fn errand(
        &self,
        publish: &Publish,
        token: Token,
        to: &Addressee,
    ) -> Result<Ran, Refused> {
        let errand = Errand {
            message: self.message(NOBODY, publish),
            token,
            to: to.clone(),
        };
        let ran = self.keeper.errand(errand).await?;
        if let Ran::Queued(message) = &ran {
            self.carry_wanted(std::iter::once(message.clone()));
        }
        Ok(ran)
    }

    /// Retains a message of the gateway, and shows it; or neither. Whether that was done.
    pub(crate) async fn retain_own(&self, publish: &Publish) -> bool {
        let op = Op {
            message: Some(self.message(NOBODY, publish)),
            from: None,
            exchange: None,
            by: None,
        };
        match self.keeper.retain(op).await {
            Ok(message) => {
                self.carry_wanted(message.into_iter());
                true
            }
            Err(_) => false,
        }
    }

    async fn tell(&self, ops: &[Op], room: Room) -> Result<Vec<Kept>, Refused> {
        let (Room::Owe(will), [op]) = (room, ops) else {
            return self.keeper.tell(ops.to_vec()).await;
        };
        let (message, is_missed) = match self.keeper.will(op.clone(), will).await? {
            Told::Kept(message) => (message, false),
            Told::Owed(message) => {
                let is_missed = self.wanted(message.topic_str()).kept;
                (Some(message), is_missed)
            }
        };
        if is_missed {
            self.counters.dropped_kept_disk_full.add(1);
        }
        Ok(vec![Kept::Done(message)])
    }

    fn carry_wanted(&self, messages: impl Iterator<Item = Message>) {
        let wanted = messages.filter(|message| self.is_wanted(message.topic_str()));
        self.carry(wanted.collect());
    }

    /// The message of a `$SYS` topic for those who are connected, retained if it is to be.
    fn say(&self, publisher: u64, publish: &Publish) -> Option<Message> {
        let at_most_once = Publish {
            qos: QoS::AtMostOnce,
            ..publish.clone()
        };
        let mut message = self.message(publisher, &at_most_once);
        if publish.retain {
            let retained = &self.kept().retained;
            let change = retained.change(&message, None);
            if change.how == How::Refused {
                self.counters.retained_refused.add(1);
            }
            retained.count(&self.counters);
            message = change.message;
        }
        self.is_wanted(&publish.topic).then_some(message)
    }
}
