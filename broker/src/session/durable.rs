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
    QoS,
    auth::Rights,
    keep::{
        Add, Decided, Entered, Feed, Item, Keeper, Leave, PLACE_IDS, Refused, Rest, SessionId,
        Token, Turn, packet_id,
    },
    packet::Unsubscribe,
};

/// Places that are over and not yet with the keeper, beyond which nothing is sent.
const DONE_MAX: usize = 1024;
/// PUBRECs for places that are still to be sent again.
const EARLY_MAX: usize = 1024;

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
        /// The filters of the packet, and a reason code for each.
        filters: Vec<Arc<str>>,
        codes: Vec<u8>,
        adds: Vec<Add>,
    },
    /// What it brings was still to be queued.
    Brought {
        id: u16,
        codes: Vec<u8>,
    },
    /// Some filters were kept, and cannot be had.
    TakeBack {
        id: u16,
        codes: Vec<u8>,
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
    /// From which number on messages are matched with the subscriptions as they are now.
    pub(super) decided: u64,
    /// There, where what a SUBSCRIBE brings is still being queued.
    pub(super) rest: Option<Rest>,
}

struct Asked {
    future: Pin<Box<dyn Future<Output = Result<Decided, Refused>> + Send>>,
    /// It may take as long as what a SUBSCRIBE brings.
    brings: bool,
    done: Vec<i64>,
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
    settled: Option<(Asked, Result<Decided, Refused>)>,
    in_flight: HashMap<u16, (i64, Owed)>,
    /// The last place that was sent.
    sent: i64,
    /// Taken from the feed, waiting for room in the window.
    held: Option<Item>,
    /// There may still be places that were queued before this connection.
    has_backlog: bool,
    /// What the client may read of them, if not everything.
    rights: Option<Arc<Rights>>,
    /// PUBRECs of an earlier connection's messages that came before those were sent
    /// again, and what they said.
    early: HashMap<u16, u8>,
    /// Messages that CONNACK said were dropped, until the client shows that it has it.
    told: u64,
}

impl Durable {
    /// `rights`: those of the client, where it may not have everything.
    pub(super) fn new(keeper: &Keeper, entered: &Entered, rights: Option<Arc<Rights>>) -> Self {
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
            has_backlog: entered.present,
            rights,
            early: HashMap::new(),
            told: entered.dropped,
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

    pub(super) fn subscribe(
        &mut self,
        id: u16,
        filters: Vec<Arc<str>>,
        codes: Vec<u8>,
        adds: Vec<Add>,
    ) {
        self.turn.subscribe.clone_from(&adds);
        self.pending = Some(Pending::Subscribe {
            id,
            filters,
            codes,
            adds,
        });
    }

    /// Ends subscriptions that were kept a moment ago, before SUBACK says so.
    pub(super) fn take_back(&mut self, id: u16, codes: Vec<u8>, filters: Vec<Arc<str>>) {
        self.turn.unsubscribe = filters;
        self.pending = Some(Pending::TakeBack { id, codes });
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

    /// The client has sent something, so it has read CONNACK.
    pub(super) fn is_heard(&mut self) {
        self.turn.heard += std::mem::take(&mut self.told);
    }

    /// The next item, if the window `has_room` for it.
    pub(super) fn next(&mut self, has_room: bool) -> Option<Item> {
        let item = match self.held.take() {
            Some(item) => item,
            None => match self.feed.pop() {
                Some(item) => item,
                None => {
                    self.turn.page |= self.feed.wants_more();
                    // A page that was asked for may still come.
                    self.has_backlog &= self.asked.is_some() || !self.feed.is_drained();
                    return None;
                }
            },
        };
        let id = packet_id(item.position);
        let waits = self.in_flight.contains_key(&id) || self.turn.done.len() >= DONE_MAX;
        if waits || !has_room {
            self.held = Some(item);
            return None;
        }
        self.sent = item.position;
        Some(item)
    }

    /// Whether the client may have a message of the queue. What was queued while it was
    /// away may be of a right that it has lost since.
    pub(super) fn may_read(&self, topic: &str) -> bool {
        let rights = self.rights.as_ref().filter(|_| self.has_backlog);
        rights.is_none_or(|rights| rights.may_read(topic))
    }

    /// PUBREC came for what is not in flight; whether it may be for a place that is still
    /// to be sent again.
    pub(super) fn is_early(&mut self, id: u16, code: u8) -> bool {
        let may_be = self.has_backlog && id <= PLACE_IDS && self.early.len() < EARLY_MAX;
        if may_be {
            self.early.insert(id, code);
        }
        may_be
    }

    /// Whether PUBREC for an item that may have been sent before came already. Then
    /// nothing is to be sent.
    pub(super) fn was_early(&mut self, item: &Item) -> bool {
        let id = packet_id(item.position);
        if !item.dup || item.qos != QoS::ExactlyOnce {
            return false;
        }
        match self.early.remove(&id) {
            None => return false,
            // The client refused it: the exchange is over.
            Some(0x80..) => self.over(item.position),
            Some(_) => {
                self.sent(item.position, Owed::Received);
                self.received(id);
            }
        }
        true
    }

    /// Of those that came early, the ones that were for nothing, once that is known.
    pub(super) fn strays(&mut self) -> Vec<u16> {
        if self.has_backlog || self.early.is_empty() {
            return Vec::new();
        }
        let early = std::mem::take(&mut self.early).into_iter();
        let received = early.filter(|(_, code)| *code < 0x80);
        received.map(|(id, _)| id).collect()
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
        let mut turn = std::mem::take(&mut self.turn);
        if !(turn.subscribe.is_empty() || turn.received.is_empty() && turn.released.is_empty()) {
            // What there may be no room for is refused alone: it comes next.
            self.turn.subscribe = std::mem::take(&mut turn.subscribe);
        }
        let pending = match self.turn.subscribe.is_empty() {
            true => self.pending.take(),
            false => None,
        };
        let keeper = self.keeper.clone();
        let session = self.session;
        self.asked = Some(Asked {
            brings: !turn.subscribe.is_empty(),
            done: turn.done.clone(),
            received: turn.received.clone(),
            complete: std::mem::take(&mut self.complete),
            pending,
            future: Box::pin(async move { keeper.begin_turn(session, turn).await }),
        });
        self.progress().now_or_never();
    }

    /// Waits for the rest of what a SUBSCRIBE brings; `pending` is answered then.
    pub(super) fn wait_for(&mut self, rest: Rest, pending: Option<Pending>) {
        let all = |()| Decided {
            number: 0,
            rest: None,
        };
        self.asked = Some(Asked {
            brings: true,
            done: Vec::new(),
            received: Vec::new(),
            complete: Vec::new(),
            pending,
            future: Box::pin(async move { rest.brought().await.map(all) }),
        });
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
        if matches!(result, Err(Refused::Full)) {
            // There may be room for it next time.
            self.turn.done.extend(asked.done);
        }
        let mut answers = Answers {
            release: Vec::new(),
            complete: asked.complete,
            pending: asked.pending,
            decided: 0,
            rest: None,
        };
        for position in &asked.received {
            let id = packet_id(*position);
            if let Some((_, owed)) = self.in_flight.get_mut(&id) {
                *owed = Owed::Completed;
                answers.release.push(id);
            }
        }
        Some(match result {
            Ok(Decided { number, rest }) => Ok(Answers {
                decided: number,
                rest,
                ..answers
            }),
            Err(refused) => Err((refused, answers)),
        })
    }

    /// Ends the connection's part in the session.
    pub(super) async fn leave(mut self: Box<Self>, expiry_secs: Option<u32>, forget_will: bool) {
        // What a SUBSCRIBE brings may take its time, and nobody waits for its SUBACK now.
        if self.asked.take_if(|asked| asked.brings).is_none() && self.asked.is_some() {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::{
        Publish,
        budget::Budget,
        fanout::{Message, Outbox},
        keep::{self, Enter, Op, Sub},
        packet::SendRetained,
    };

    const LONG: Duration = Duration::from_secs(20);

    /// A session with room for so many bytes of subscriptions.
    async fn enter(bytes: usize) -> (Keeper, Box<Durable>) {
        let budget = Arc::new(Budget::of(bytes));
        let config = keep::Config::default();
        let keeper = Keeper::open(config, Arc::default(), Arc::clone(&budget)).unwrap();
        let enter = Enter {
            client: Arc::from("d"),
            user: None,
            clean: false,
            expiry_secs: 100,
            outbox: Arc::new(Outbox::new(1 << 20, 64, &budget)),
            will: None,
        };
        let entered = keeper.enter(enter).await.unwrap();
        let durable = Box::new(Durable::new(&keeper, &entered, None));
        (keeper, durable)
    }

    fn add(filter: &str, retained: SendRetained) -> Add {
        Add {
            filter: Arc::from(filter),
            subscription: Sub {
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                id: None,
            },
            retained,
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_does_not_wait_for_what_its_subscribe_brings() {
        let (keeper, mut durable) = enter(1 << 10).await;
        durable.asked = Some(Asked {
            future: Box::pin(pending()),
            brings: true,
            done: Vec::new(),
            received: Vec::new(),
            complete: Vec::new(),
            pending: Some(Pending::Subscribe {
                id: 1,
                filters: Vec::new(),
                codes: Vec::new(),
                adds: Vec::new(),
            }),
        });
        timeout(LONG, durable.leave(None, true))
            .await
            .expect("it leaves");
        assert!(!keeper.sessions().await[0].connected);
    }

    #[tokio::test]
    async fn a_subscribe_without_room_refuses_nothing_else() {
        let (_keeper, mut durable) = enter(1 << 10).await;
        durable.sent(1, Owed::Received);
        durable.received(packet_id(1));
        let add = add(&"x".repeat(60_000), SendRetained::Never);
        let filters = vec![Arc::clone(&add.filter)];
        durable.subscribe(7, filters, vec![1], vec![add]);
        durable.submit();
        durable.progress().await;
        let noted = durable.answers().unwrap().expect("PUBREC is noted");
        assert_eq!(noted.release, [packet_id(1)]);
        assert!(noted.pending.is_none() && durable.is_waiting());
        durable.submit();
        durable.progress().await;
        let (refused, answers) = durable.answers().unwrap().unwrap_err();
        assert_eq!(refused, Refused::Full);
        assert!(matches!(
            answers.pending,
            Some(Pending::Subscribe { id: 7, .. })
        ));
    }

    #[tokio::test]
    async fn what_a_subscribe_changes_is_in_force_before_all_that_it_brings_is_there() {
        const COUNT: u64 = 20;
        let (keeper, mut durable) = enter(1 << 20).await;
        for n in 0..COUNT {
            let publish = Publish {
                topic: Arc::from(format!("t/{n}")),
                payload: Bytes::from_static(b"x"),
                qos: QoS::AtLeastOnce,
                retain: true,
                dup: false,
                properties: None,
                delivery: None,
            };
            let budget = &keeper.shared().budget;
            let op = Op {
                message: Some(Message::new(&publish, 0, 0, 0, budget)),
                from: None,
                exchange: None,
                by: None,
            };
            keeper.publish(vec![op]).await.unwrap();
        }
        let add = add("#", SendRetained::Always);
        let filters = vec![Arc::clone(&add.filter)];
        durable.subscribe(7, filters, vec![1], vec![add]);
        durable.submit();
        durable.progress().await;
        let begun = durable.answers().unwrap().unwrap();
        assert!(matches!(begun.pending, Some(Pending::Subscribe { .. })));
        let rest = begun.rest.expect("there is more to bring");
        let codes = vec![1];
        durable.wait_for(rest, Some(Pending::Brought { id: 7, codes }));
        assert!(durable.is_waiting(), "SUBACK comes when all is there");
        durable.progress().await;
        let done = durable.answers().unwrap().unwrap();
        assert!(matches!(done.pending, Some(Pending::Brought { .. })));
        assert_eq!(keeper.sessions().await[0].queued, COUNT);
    }
}
