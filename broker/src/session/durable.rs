//! The side of a session that outlives its connection.
//!
//! What the client did since the last commit is gathered in a [`Turn`]; one is with
//! the keeper at a time, and its answers (SUBACK, PUBREL, PUBCOMP) are written once it
//! is on disk. Acknowledgements that promise nothing, PUBACK and PUBCOMP from the
//! client, ride along: one that is lost costs a message that is sent again.

use std::{
    collections::HashMap,
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::Arc,
};

use futures_util::FutureExt;

use crate::{
    keep::{Add, Entered, Feed, Item, Keeper, Leave, Refused, SessionId, Token, Turn, packet_id},
    packet::Unsubscribe,
};

/// Places that are over and not yet with the keeper, beyond which nothing is sent.
const DONE_MAX: usize = 1024;

/// What the client owes us for a place, or we owe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// PUBACK.
    Acknowledged,
    /// PUBREC.
    Received,
    /// PUBREC came, and is not on disk yet.
    Noting,
    /// PUBCOMP.
    Completed,
}

/// A SUBSCRIBE or UNSUBSCRIBE that is answered once it is on disk.
#[derive(Debug)]
pub(super) enum Pending {
    Subscribe {
        id: u16,
        codes: Vec<u8>,
        adds: Vec<Add>,
    },
    Unsubscribe(Unsubscribe),
}

/// What a turn is owed once it is on disk.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// PUBRELs.
    pub(super) release: Vec<u16>,
    /// PUBCOMPs.
    pub(super) complete: Vec<u16>,
    pub(super) pending: Option<Pending>,
}

struct Asked {
    future: Pin<Box<dyn Future<Output = Result<(), Refused>> + Send>>,
    received: Vec<i64>,
    complete: Vec<u16>,
    pending: Option<Pending>,
}

/// [`Durable::progress`], for ever where there is none.
pub(super) async fn progress(durable: &mut Option<Box<Durable>>) {
    match durable {
        Some(durable) => durable.progress().await,
        None => pending().await,
    }
}

/// See the module.
pub(super) struct Durable {
    keeper: Keeper,
    session: SessionId,
    feed: Arc<Feed>,
    turn: Turn,
    complete: Vec<u16>,
    pending: Option<Pending>,
    asked: Option<Asked>,
    settled: Option<(Asked, Result<(), Refused>)>,
    in_flight: HashMap<u16, (i64, Owed)>,
    /// The last place that was sent.
    sent: i64,
    /// Taken from the feed, waiting for room in the window.
    held: Option<Item>,
}

impl Durable {
    pub(super) fn new(keeper: &Keeper, entered: &Entered) -> Self {
        Self {
            keeper: keeper.clone(),
            session: entered.session,
            feed: Arc::clone(&entered.feed),
            turn: Turn::default(),
            complete: Vec::new(),
            pending: None,
            asked: None,
            settled: None,
            in_flight: HashMap::new(),
            sent: 0,
            held: None,
        }
    }

    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// The session was removed under us.
    pub(super) fn is_gone(&self) -> bool {
        self.feed.is_gone()
    }

    /// A SUBSCRIBE or UNSUBSCRIBE is not answered yet: nothing may be taken.
    pub(super) fn is_waiting(&self) -> bool {
        let pending = |asked: &Asked| asked.pending.is_some();
        self.pending.is_some() || self.asked.as_ref().is_some_and(pending) || self.settled.is_some()
    }

    pub(super) fn subscribe(&mut self, id: u16, codes: Vec<u8>, adds: Vec<Add>) {
        self.turn.subscribe.clone_from(&adds);
        self.pending = Some(Pending::Subscribe { id, codes, adds });
    }

    pub(super) fn unsubscribe(&mut self, packet: Unsubscribe) {
        self.turn.unsubscribe.clone_from(&packet.filters);
        self.pending = Some(Pending::Unsubscribe(packet));
    }

    /// An inbound exchange is over; with `answer`, PUBCOMP is owed for it.
    pub(super) fn release(&mut self, id: u16, token: Token, answer: bool) {
        self.turn.released.push((id, token));
        if answer {
            self.complete.push(id);
        }
    }

    /// The next item, if `has_room` for it.
    pub(super) fn next(&mut self, has_room: impl Fn(u16) -> bool) -> Option<Item> {
        let item = match self.held.take() {
            Some(item) => item,
            None => match self.feed.pop() {
                Some(item) => item,
                None => {
                    self.turn.page |= self.feed.wants_more();
                    return None;
                }
            },
        };
        let id = packet_id(item.position);
        let waits = self.in_flight.contains_key(&id) || self.turn.done.len() >= DONE_MAX;
        if waits || !has_room(id) {
            self.held = Some(item);
            return None;
        }
        self.sent = item.position;
        Some(item)
    }

    /// What is sent and not acknowledged.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn owed(&self, id: u16) -> Option<Owed> {
        self.in_flight.get(&id).map(|(_, owed)| *owed)
    }

    pub(super) fn sent(&mut self, position: i64, owed: Owed) {
        self.in_flight.insert(packet_id(position), (position, owed));
    }

    /// The place is over, sent or not.
    pub(super) fn over(&mut self, position: i64) {
        self.turn.done.push(position);
    }

    /// The client has acknowledged for good.
    pub(super) fn done(&mut self, id: u16) {
        if let Some((position, _)) = self.in_flight.remove(&id) {
            self.turn.done.push(position);
        }
    }

    /// PUBREC came.
    pub(super) fn received(&mut self, id: u16) {
        if let Some((position, owed)) = self.in_flight.get_mut(&id) {
            *owed = Owed::Noting;
            self.turn.received.push(*position);
        }
    }

    /// Hands over what was gathered, unless a turn is with the keeper.
    pub(super) fn submit(&mut self) {
        if self.asked.is_some() || self.settled.is_some() || self.turn.is_empty() {
            return;
        }
        let turn = std::mem::take(&mut self.turn);
        let keeper = self.keeper.clone();
        let session = self.session;
        self.asked = Some(Asked {
            received: turn.received.clone(),
            complete: std::mem::take(&mut self.complete),
            pending: self.pending.take(),
            future: Box::pin(async move { keeper.turn(session, turn).await }),
        });
        self.progress().now_or_never();
    }

    /// Resolves when the keeper has answered. Nothing is lost when it is dropped.
    pub(super) async fn progress(&mut self) {
        if self.settled.is_some() {
            return;
        }
        let Some(asked) = self.asked.as_mut() else {
            return pending().await;
        };
        let result = poll_fn(|context| asked.future.as_mut().poll(context)).await;
        if let Some(asked) = self.asked.take() {
            self.settled = Some((asked, result));
        }
    }

    /// What may be answered now.
    pub(super) fn answers(&mut self) -> Option<Result<Answers, (Refused, Answers)>> {
        let (asked, result) = self.settled.take()?;
        let mut answers = Answers {
            release: Vec::new(),
            complete: asked.complete,
            pending: asked.pending,
        };
        for position in &asked.received {
            let id = packet_id(*position);
            if let Some((_, owed)) = self.in_flight.get_mut(&id) {
                *owed = Owed::Completed;
                answers.release.push(id);
            }
        }
        Some(match result {
            Ok(()) => Ok(answers),
            Err(refused) => Err((refused, answers)),
        })
    }

    /// Ends the connection's part in the session.
    pub(super) async fn leave(mut self: Box<Self>, expiry_secs: Option<u32>, forget_will: bool) {
        if self.asked.is_some() {
            self.progress().await;
            self.settled = None;
        }
        // What it does not take is sent, or asked for, again.
        if !self.turn.is_empty() {
            self.turn.page = false;
            self.turn.subscribe.clear();
            let turn = std::mem::take(&mut self.turn);
            self.keeper.turn(self.session, turn).await.ok();
        }
        let leave = Leave {
            session: self.session,
            sent: self.sent,
            expiry_secs,
            forget_will,
        };
        self.keeper.leave(leave).await.ok();
    }
}
