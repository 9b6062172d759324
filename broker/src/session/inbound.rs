//! Publishes from one client: gathered, admitted in order, acknowledged in order.
//!
//! ```text
//! take ─▶ gathering ─ submit ─▶ admitting ─▶ pending (receipts) ─ keeper ─ settle ─▶ acknowledgement, fan-out
//! ```
//!
//! The keeper comes in where something of a batch is to be retained, is owed to a
//! persistent session, or belongs to a QoS 2 exchange of one; then it is on disk before
//! the acknowledgement. Nothing of the rest waits for it but what is behind.
//!
//! Bounds: a batch has at most [`BATCH_MAX`] publishes; at most one batch waits
//! for room at the gateway; publishes without a verdict are at most the receive
//! maximum and hold at most [`BYTES_MAX`] and one packet, their properties and our
//! own entries counted, and less when all
//! connections together hold too much ([`crate::budget`]). Beyond them
//! [`Inbound::is_blocked`] and the session stops reading, so that TCP pushes back.
//!
//! A publish to a topic that is reserved or too long is refused (0x90) where the
//! client can hear of it. For 3.1.1 clients, and at QoS 0, it goes to the gateway
//! like any other, which sets it aside; subscribers never see it.
//!
//! A publish that its client has no right to is refused too (0x87), and the gateway
//! never sees it. At QoS 0 it is dropped and counted; a 3.1.1 client at QoS 1 and 2
//! is disconnected before it comes here, unless the operator wants it acknowledged.
//!
//! A publish that finds no room: MQTT 5 clients hear it in the acknowledgement
//! (0x97); for 3.1.1 clients, and at QoS 0, which have no way to hear of it, the
//! publish is held and asked about again, everything behind it waiting. What the
//! gateway has already, and only the keeper has no room for, is held for all of them:
//! 0x97 would be a lie, and the client's next try another event. So that MQTT 5 clients
//! hear it all the same, the keeper is asked for room before the gateway where it is
//! likely to have none (`hand_over`).

mod batch;
mod hand_over;
mod settle;

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use tokio::time::{Duration, Sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    durable::Durable,
    exchanges::{self, Exchanges, Stage},
    keeping::Keeping,
    wire::Wire,
};
use crate::{
    Admitted, Protocol, Publish, Publisher, QoS, Verdict,
    budget::Share,
    fanout::Owner,
    keep::{EXCHANGES_MAX, Entered, SessionId, Token, Wanted},
    packet::{self, Ack, Error, Kind, encode, is_v5, reason},
};
use batch::{Batch, Entry, Keep};

/// Most publishes handed over at once.
const BATCH_MAX: usize = 256;
/// Bytes of unsettled publishes beyond which nothing more is taken.
const BYTES_MAX: usize = 256 * 1024;
/// What an open QoS 2 exchange takes.
const EXCHANGE_BYTES: usize = 16;
/// What a publish takes here beside its frame: its entry and its copies, all of
/// which share what is large.
const ENTRY_BYTES: usize = size_of::<Entry>() + 2 * size_of::<Publish>();
/// Why a publish is refused that its client has no right to.
pub(super) const NOT_AUTHORIZED: &str = "not authorised for this topic";
/// The first pause before asking again about a publish that found no room.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// A batch that waits for room; `None` stands for the front of `pending`.
struct Admitting<'s> {
    future: Admitted<'s>,
    batch: Option<Batch>,
}

/// What a persistent session has to say to the keeper of its exchanges.
#[derive(Debug)]
struct Tokens {
    session: SessionId,
    /// To be noted before the next batch is handed over.
    begun: Vec<(u16, Token)>,
    /// Ended with a refusal.
    abandoned: Vec<(u16, Token)>,
}

/// A publish was lost by the gateway: the session must end without a word.
#[derive(Debug)]
pub(super) struct Lost;

pub(super) struct Inbound<'s> {
    context: &'s Context,
    publisher: &'s Arc<Publisher>,
    session: u64,
    reason_text_max: usize,
    gathering: Batch,
    to_admit: Vec<Publish>,
    /// How many the last batch had: a device's batches are alike.
    batch_len: usize,
    /// Taken since the last submit, by QoS.
    taken: [usize; 3],
    /// Bytes of their payloads.
    taken_bytes: usize,
    admitting: Option<Admitting<'s>>,
    pending: VecDeque<Batch>,
    /// Entries and bytes that are not settled, wherever they are.
    held: usize,
    share: Share,
    /// QoS 1 and 2 exchanges that are not over.
    open: usize,
    exchanges: Exchanges,
    /// There in a persistent session.
    durable: Option<Box<Tokens>>,
    /// The keeper has the front of `pending`.
    keeping: Option<Keeping>,
    /// Ends the keeper's asking for room.
    give_up: Option<CancellationToken>,
    /// What exchanges beyond the receive maximum hold.
    exchange_share: Share,
    /// When the front of `pending`, which found no room, is asked about again.
    retry: Option<Pin<Box<Sleep>>>,
    /// A publish found no room; until `pending` is empty nothing is taken.
    retrying: bool,
    pause: Duration,
}

impl<'s> Inbound<'s> {
    pub(super) fn new(
        context: &'s Context,
        publisher: &'s Arc<Publisher>,
        session: u64,
        reason_text_max: usize,
        entered: Option<&Entered>,
    ) -> Self {
        Self {
            context,
            publisher,
            session,
            reason_text_max,
            gathering: Batch::default(),
            to_admit: Vec::new(),
            batch_len: 0,
            taken: [0; 3],
            taken_bytes: 0,
            admitting: None,
            pending: VecDeque::new(),
            held: 0,
            share: Share::new(&context.budget),
            open: 0,
            exchanges: entered.map_or_else(Exchanges::default, |entered| {
                Exchanges::resume(&entered.exchanges)
            }),
            durable: entered.map(|entered| {
                Box::new(Tokens {
                    session: entered.session,
                    begun: Vec::new(),
                    abandoned: Vec::new(),
                })
            }),
            keeping: None,
            give_up: None,
            exchange_share: Share::new(&context.kept_budget),
            retry: None,
            retrying: false,
            pause: PAUSE_MIN,
        }
    }

    fn is_v5(&self) -> bool {
        is_v5(self.publisher.protocol)
    }

    fn receive_max(&self) -> usize {
        self.context.config.receive_max.into()
    }

    /// No more publishes now; other packets may pass.
    pub(super) fn is_blocked(&self) -> bool {
        self.admitting.is_some()
            || self.retrying
            || self.held >= self.receive_max()
            || self.share.held() >= BYTES_MAX
            || self.share.is_exhausted()
    }

    /// Whether a QoS 1 or 2 publish would be one more than we announced.
    pub(super) fn is_exceeded(&self) -> bool {
        self.is_v5() && self.open >= self.receive_max()
    }

    /// QoS 1 and 2 exchanges that are not over.
    pub(super) fn in_flight(&self) -> usize {
        self.open
    }

    /// Everything that was taken has its verdict and is acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        self.gathering.entries.is_empty() && self.admitting.is_none() && self.pending.is_empty()
    }

    /// Takes a PUBLISH. `wanted`: who subscribes to its topic.
    pub(super) fn take(
        &mut self,
        packet: packet::Inbound,
        wanted: Wanted,
        wire: &mut Wire,
    ) -> Result<(), Error> {
        let packet::Inbound {
            id,
            mut publish,
            refused,
            denied,
            excess,
            bytes,
            ..
        } = packet;
        let counters = &self.context.counters;
        let retained = &self.context.fanout.keeper().shared().retained;
        if publish.retain && self.is_v5() && retained.is_off() {
            return Err(Error {
                reason: reason::RETAIN_NOT_SUPPORTED,
                what: "a retained message, though CONNACK says that nothing is retained",
            });
        }
        if publish.qos != QoS::AtMostOnce {
            if self.is_resent(id, &publish) {
                counters.resent.add(1);
                if publish.qos == QoS::ExactlyOnce
                    && self.exchanges.stage(id) == Some(Stage::Received)
                {
                    encode::ack(wire.output(), self.protocol(), Kind::PubRec, id, 0, None);
                }
                return Ok(());
            }
            // Clients of 3.1.1 have no receive maximum, but what we remember is bounded.
            let is_new = self.exchanges.stage(id).is_none();
            let one_more = publish.qos == QoS::ExactlyOnce
                && (!self.remember(usize::from(is_new)) || is_new && self.has_too_many());
            if self.is_exceeded() || one_more {
                return Err(Error {
                    reason: reason::RECEIVE_MAXIMUM_EXCEEDED,
                    what: "more publishes in flight than the receive maximum",
                });
            }
            self.open += 1;
        }
        self.taken[publish.qos as usize] += 1;
        self.taken_bytes += publish.payload.len();
        if refused {
            counters.topics_refused.add(1);
        }
        let qos = publish.qos;
        let may_be_held = !self.is_v5() || qos == QoS::AtMostOnce;
        // Of what is answered here nothing needs to be known on disk.
        let is_admitted = !denied && !excess && (!refused || may_be_held);
        if qos == QoS::ExactlyOnce {
            let is_durable = is_admitted && self.durable.is_some();
            if let Some((token, is_new)) = self.exchanges.begin(id, is_durable) {
                publish.delivery = Some(exchanges::delivery(&token, &publish));
                if is_new && let Some(durable) = &mut self.durable {
                    durable.begun.push((id, token));
                }
            }
        }
        if self.gathering.entries.is_empty() {
            self.gathering.entries.reserve(self.batch_len);
            self.to_admit.reserve(self.batch_len);
        }
        let bytes = bytes + ENTRY_BYTES;
        let taken = !refused && !denied && !excess;
        let retain = publish.retain && qos != QoS::AtMostOnce;
        let owed = publish.retain || wanted.kept && qos != QoS::AtMostOnce;
        let is_kept = taken && owed || is_admitted && publish.delivery.is_some();
        let wanted = (wanted.live || owed) && taken;
        let mut entry = Entry {
            id,
            qos,
            wanted,
            keep: if is_kept { Keep::Wanted } else { Keep::Nothing },
            publish: None,
            verdict: None,
        };
        self.gathering.is_kept |= is_kept;
        self.gathering.retains |= retain;
        if denied {
            counters.publishes_denied.add(1);
            entry.verdict = Some(Verdict::Refused {
                reason: reason::NOT_AUTHORIZED,
                text: NOT_AUTHORIZED,
            });
        } else if excess {
            entry.verdict = Some(Verdict::Refused {
                reason: reason::NOT_WILLING,
                text: packet::TOO_MANY_PAIRS,
            });
        } else if refused && !may_be_held {
            entry.verdict = Some(Verdict::Refused {
                reason: reason::TOPIC_NAME_INVALID,
                text: "this topic is reserved or too long",
            });
        } else if wanted || may_be_held {
            entry.publish = Some(publish.clone());
            self.to_admit.push(publish);
        } else {
            self.to_admit.push(publish);
        }
        self.gathering.entries.push_back(entry);
        self.gathering.bytes += bytes;
        self.held += 1;
        self.share.add(bytes);
        if self.gathering.entries.len() >= BATCH_MAX {
            self.submit();
        }
        Ok(())
    }

    /// Whether there is room for `more` QoS 2 exchanges. Those beyond the receive
    /// maximum count in the budget of what sessions keep.
    fn remember(&mut self, more: usize) -> bool {
        let beyond = (self.exchanges.len() + more).saturating_sub(self.receive_max());
        if beyond == 0 && self.exchange_share.held() == 0 {
            return true;
        }
        self.exchange_share.try_set(beyond * EXCHANGE_BYTES)
    }

    /// Whether a client of 3.1.1 leaves so many QoS 2 exchanges open that the keeper
    /// notes no more. One of v5 is told so.
    fn has_too_many(&self) -> bool {
        !self.is_v5() && self.durable.is_some() && self.exchanges.len() >= EXCHANGES_MAX
    }

    /// Ends a QoS 2 exchange.
    fn forget(&mut self, id: u16) -> Option<exchanges::Over> {
        let over = self.exchanges.end(id, 2 * self.receive_max());
        // Fewer always fit.
        self.remember(0);
        over
    }

    /// Whether this very publish is being handled already: a QoS 2 identifier
    /// whose exchange is open, or a QoS 1 publish sent again, flagged so, with
    /// the same content, before its acknowledgement.
    fn is_resent(&self, id: u16, publish: &Publish) -> bool {
        if publish.qos == QoS::ExactlyOnce {
            let stage = self.exchanges.stage(id);
            return stage.is_some_and(|stage| stage != Stage::Begun);
        }
        let same = |entry: &Entry| {
            entry.id == id
                && entry.qos == publish.qos
                && entry.publish.as_ref().is_some_and(|known| {
                    known.topic == publish.topic && known.payload == publish.payload
                })
        };
        let admitting = self
            .admitting
            .as_ref()
            .and_then(|waiting| waiting.batch.as_ref());
        publish.dup
            && self
                .pending
                .iter()
                .chain(admitting)
                .chain([&self.gathering])
                .any(|batch| batch.entries.iter().any(same))
    }

    /// Exchanges that ended with a refusal since the last call.
    pub(super) fn take_abandoned(&mut self) -> Vec<(u16, Token)> {
        let durable = self.durable.as_mut();
        durable.map_or_else(Vec::new, |durable| std::mem::take(&mut durable.abandoned))
    }

    /// Takes a PUBREL and answers it; in a persistent session once it is on disk.
    pub(super) fn release(&mut self, ack: Ack, wire: &mut Wire, durable: Option<&mut Durable>) {
        let mut code = reason::SUCCESS;
        if self.exchanges.stage(ack.id) == Some(Stage::Received) {
            let over = self.forget(ack.id);
            self.open -= usize::from(over.is_some_and(|over| over.was_open));
            let token = over.and_then(|over| over.token);
            if let (Some(token), Some(durable)) = (token, durable) {
                durable.release(ack.id, token, true);
                return;
            }
        } else {
            code = reason::PACKET_ID_NOT_FOUND;
        }
        encode::ack(
            wire.output(),
            self.protocol(),
            Kind::PubComp,
            ack.id,
            code,
            None,
        );
    }

    fn protocol(&self) -> Protocol {
        self.publisher.protocol
    }
}

/// Whose share of what is retained a client's messages count in.
fn owner(context: &Context, publisher: &Publisher) -> Owner {
    let retained = &context.fanout.keeper().shared().retained;
    retained.owner(&publisher.client_id, publisher.identity.as_deref())
}
