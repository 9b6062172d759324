//! What the writer is asked to do, and what it answers.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;

use super::{Errand, Feed, Ran, Wish, bring::Bringing, will::WillId};
use crate::{
    QoS,
    fanout::{Homeless, Message, Outbox, Owner},
};

/// A persistent session; never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) i64);

impl SessionId {
    pub(crate) fn key(self) -> u64 {
        self.0.cast_unsigned()
    }

    pub(crate) fn of_key(key: u64) -> Self {
        Self(key.cast_signed())
    }
}

/// What tells one inbound QoS 2 exchange from every other.
pub(crate) type Token = [u8; 16];

/// Why something was not done. Nothing of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There is no room: the disk, or a queue whose operator chose to refuse.
    Full,
    /// There are as many sessions as there may be.
    TooMany,
    /// The user has as many as one may have.
    TooManyOfUser,
    /// The session is gone: expired, or removed by the operator.
    Gone,
    /// The writer has stopped; whether it was done is not known.
    Stopped,
}

/// A client connects.
#[derive(Debug)]
pub(crate) struct Enter {
    pub(crate) client: Arc<str>,
    pub(crate) user: Option<Arc<str>>,
    /// What was there before is to be forgotten.
    pub(crate) clean: bool,
    /// Granted; 0 ends the session with the connection.
    pub(crate) expiry_secs: u32,
    /// Where live messages of the connection go; it is woken for kept ones too.
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) will: Option<(Message, u32)>,
}

/// The session that a client has entered.
#[derive(Debug)]
pub(crate) struct Entered {
    pub(crate) session: SessionId,
    /// It was there before.
    pub(crate) present: bool,
    /// Its expiry before this connection, if it was there.
    pub(crate) expiry_before: Option<u32>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) subscriptions: Vec<Add>,
    /// QoS 2 exchanges that the client has begun, and whether it has its PUBREC.
    pub(crate) exchanges: Vec<(u16, Token, bool)>,
    /// Messages its queue had no room for since it last heard of it.
    pub(crate) dropped: u64,
}

/// A connection ends.
#[derive(Debug)]
pub(crate) struct Leave {
    pub(crate) session: SessionId,
    /// The last place whose message was sent.
    pub(crate) sent: i64,
    /// The session's expiry from here, if DISCONNECT changed it.
    pub(crate) expiry_secs: Option<u32>,
    /// The will is not to be published.
    pub(crate) forget_will: bool,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Add {
    pub(crate) filter: Arc<str>,
    pub(crate) subscription: Sub,
    /// Bring the retained messages; never with what a session had before.
    pub(crate) retained: crate::packet::SendRetained,
}

/// What a persistent subscription says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sub {
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) id: Option<u32>,
}

/// One publish that was admitted.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    /// `None` where only the exchange is to be noted.
    pub(crate) message: Option<Message>,
    /// The publisher's persistent session.
    pub(crate) from: Option<SessionId>,
    /// The exchange that is received with it, noted before or not.
    pub(crate) exchange: Option<(u16, Token)>,
    /// Whose share of what is retained it counts in.
    pub(crate) by: Option<Owner>,
}

/// What became of an [`Op`].
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    /// Done; the message, if there was one, as live subscribers are to see it.
    Done(Option<Message>),
    /// There was no room, for it or for one before it in the same list.
    Refused,
}

/// What became of a will.
#[derive(Debug)]
pub(crate) enum Told {
    /// It is on disk; the message as live subscribers are to see it.
    Kept(Option<Message>),
    /// It is retained in memory, and will be on disk when there is room.
    Owed(Message),
}

/// What one turn of a connected session asks for; one at a time for each session.
#[derive(Debug, Default, Clone)]
pub(crate) struct Turn {
    /// Places that are over: acknowledged, completed, expired.
    pub(crate) done: Vec<i64>,
    /// Places whose PUBREC came.
    pub(crate) received: Vec<i64>,
    /// Inbound exchanges whose PUBREL came.
    pub(crate) released: Vec<(u16, Token)>,
    pub(crate) subscribe: Vec<Add>,
    pub(crate) unsubscribe: Vec<Arc<str>>,
    /// Subscriptions whose QoS the client has no right to any more: with them what is
    /// queued for them, but for what may have been sent.
    pub(crate) lower: Vec<Arc<str>>,
    /// The feed is empty and the queue may have more.
    pub(crate) page: bool,
    /// So many of [`Entered::dropped`] the client has heard of.
    pub(crate) heard: u64,
}

impl Turn {
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty()
            && self.received.is_empty()
            && self.released.is_empty()
            && self.subscribe.is_empty()
            && self.unsubscribe.is_empty()
            && self.lower.is_empty()
            && !self.page
            && self.heard == 0
    }
}

/// What a turn has come to.
#[derive(Debug)]
pub(crate) struct Decided {
    /// Messages from this number on are matched with the subscriptions as they are now.
    pub(crate) number: u64,
    /// There, where what a SUBSCRIBE brings is still being queued.
    pub(crate) rest: Option<Rest>,
}

/// Says when all that a SUBSCRIBE brings is queued. Dropped, it is not brought.
#[derive(Debug)]
pub(crate) struct Rest(pub(super) oneshot::Receiver<Result<Answer, Refused>>);

impl Rest {
    pub(crate) async fn brought(self) -> Result<(), Refused> {
        self.0.await.unwrap_or(Err(Refused::Stopped)).map(drop)
    }
}

/// A will whose connection is gone.
#[derive(Debug, Clone)]
pub(crate) struct KeptWill {
    pub(crate) id: WillId,
    pub(crate) client: Arc<str>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) message: Message,
    /// When to publish it, in milliseconds from now.
    pub(crate) due_in_ms: u64,
}

/// A persistent session, for whoever looks in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SessionInfo {
    /// The client identifier.
    pub client_id: String,
    /// The user name it connected with, if any.
    pub user: Option<String>,
    /// Whether a connection has it now.
    pub connected: bool,
    /// How long it outlives its connection, in seconds.
    pub expiry_secs: u32,
    /// When its connection ended, in milliseconds since 1970.
    pub ended_ms: Option<i64>,
    /// Messages in its queue, those in flight included.
    pub queued: u64,
    /// Bytes in its queue.
    pub queued_bytes: u64,
    /// Messages it did not get because its queue was full, since it last heard of it.
    pub dropped: u64,
}

/// A subscription of a persistent session, for whoever looks in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SubscriptionInfo {
    /// The client identifier.
    pub client_id: String,
    /// The topic filter.
    pub filter: String,
    /// The highest QoS it gets.
    pub qos: u8,
    /// Its own messages do not come back.
    pub no_local: bool,
    /// RETAIN flags stay as they were published.
    pub retain_as_published: bool,
    /// The subscription identifier, if any.
    pub identifier: Option<u32>,
}

/// A retained message, for whoever looks in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RetainedInfo {
    /// The topic.
    pub topic: String,
    /// The QoS it was published with.
    pub qos: u8,
    /// The size of its payload.
    pub payload_bytes: usize,
}

/// One thing to do.
#[derive(Debug)]
pub(super) enum Work {
    Enter(Enter),
    Leave(Leave),
    Publish(Vec<Op>),
    /// The same, but a full queue refuses nothing.
    Tell(Vec<Op>),
    /// The same of a will; what of it is to be retained is owed where the disk is full.
    Will(Op, Option<WillId>),
    /// A message of the gateway, once.
    Errand(Errand),
    /// The tokens of errands that are not over.
    Errands,
    ErrandsAreOver(Vec<Token>),
    /// Whether there is room.
    Room(Vec<Wish>),
    Begin(SessionId, Vec<(u16, Token)>),
    Turn(SessionId, Turn),
    /// Of shared subscriptions, back from their live members.
    TakeBack(Vec<Homeless>),
    /// The will that the session's last connection left.
    DueWill(SessionId),
    /// Whether the will is still to be published.
    IsWillDue(WillId),
    /// The wills are published.
    WillsAreOver(Vec<WillId>),
    /// Removes what is kept for a client.
    Remove(Arc<str>),
    ClearRetained(Arc<str>),
    Sessions,
    Subscriptions,
    Wills,
    Close,
}

impl Work {
    /// Whether it needs room.
    pub(super) fn grows(&self) -> bool {
        match self {
            Self::Enter(_)
            | Self::Publish(_)
            | Self::Tell(_)
            | Self::Will(..)
            | Self::Errand(_)
            | Self::Room(_)
            | Self::Begin(..)
            | Self::TakeBack(_) => true,
            Self::Turn(_, turn) => !turn.subscribe.is_empty(),
            _ => false,
        }
    }

    /// Whether it is only to find out something: a full disk can be read.
    pub(super) const fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::DueWill(_)
                | Self::IsWillDue(_)
                | Self::Errands
                | Self::Sessions
                | Self::Subscriptions
                | Self::Wills
        )
    }

    /// Whether it shows that there is room, once it is done.
    pub(super) fn tries(&self) -> bool {
        self.grows() && !matches!(self, Self::Room(_))
    }

    /// Whether it has shown that. What was refused has written nothing.
    pub(super) fn has_grown(&self, answer: &Result<Answer, Refused>) -> bool {
        let is_done = match answer {
            Ok(Answer::Kept(kept)) => kept.iter().any(|one| matches!(one, Kept::Done(_))),
            Ok(Answer::Errand(ran)) => matches!(ran, Ran::Queued(_)),
            Ok(_) => true,
            Err(_) => false,
        };
        is_done && self.tries()
    }

    /// Whether it is about a session, which is gone with a damaged file.
    pub(super) fn is_of_a_session(&self) -> bool {
        matches!(
            self,
            Self::Enter(_) | Self::Leave(_) | Self::Begin(..) | Self::Turn(..)
        )
    }
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    /// There is more to do before it is answered.
    Later(Box<Bringing>),
    /// Whether there was something to do it to.
    Was(bool),
    Entered(Box<Entered>),
    Kept(Vec<Kept>),
    Errand(Ran),
    Errands(Vec<Token>),
    /// There was no room, and the message is retained in memory only.
    Owed(Message),
    /// Messages from this number on are matched with the subscriptions as they are now.
    Decided(u64),
    /// The same, and there is more to bring.
    Begun(Decided),
    /// The first that there is no room for.
    Room(Option<usize>),
    Sessions(Vec<SessionInfo>),
    Subscriptions(Vec<SubscriptionInfo>),
    Wills(Vec<KeptWill>),
    Due(Option<WillId>),
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) work: Work,
    pub(super) reply: oneshot::Sender<Result<Answer, Refused>>,
    /// Since when the disk has no room for it.
    pub(super) full_since: Option<Instant>,
}
