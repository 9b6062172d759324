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
//! publish is held and asked about again, everything behind it waiting.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn, ready},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};

use futures_util::FutureExt;
use tokio::time::{Duration, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    durable::Durable,
    exchanges::{self, Exchanges, Stage},
    keeping::{self, Keeping},
    wire::Wire,
};
use crate::{
    Admitted, Protocol, Publish, Publisher, QoS, Receipt, Verdict,
    budget::Share,
    fanout::Message,
    keep::{Entered, Kept, Op, Refused, SessionId, Token, Wanted},
    packet::{self, Ack, Error, Kind, encode, is_v5, reason},
};

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
/// Pauses between asking about a publish that found no room.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One publish on its way to its acknowledgement.
#[derive(Debug)]
struct Entry {
    id: u16,
    qos: QoS,
    /// Somebody subscribes to the topic, or it is to be retained.
    wanted: bool,
    keep: Keep,
    /// Kept only where it may be needed again.
    publish: Option<Publish>,
    verdict: Option<Verdict>,
}

/// What the keeper has to do with a publish.
#[derive(Debug)]
enum Keep {
    Nothing,
    /// It is to keep it.
    Wanted,
    /// It has, and this is to be shown.
    Done(Option<Message>),
    /// It had no room.
    Refused,
}

/// Publishes that were admitted together.
#[derive(Default)]
struct Batch {
    entries: VecDeque<Entry>,
    bytes: usize,
    receipt: Option<Receipt>,
    /// The keeper has something to do with one of them.
    is_kept: bool,
    /// The exchanges of a persistent session that begin with them.
    begun: Vec<(u16, Token)>,
    /// The connection's turn when it was handed over last.
    turn: u64,
}

impl Batch {
    /// Gives the verdicts to the entries that wait for one, in order. An
    /// admission that says too little has lost the rest.
    fn judge(&mut self, verdicts: Vec<Verdict>) {
        self.receipt = None;
        let mut verdicts = verdicts.into_iter();
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.verdict.is_none())
        {
            entry.verdict = Some(verdicts.next().unwrap_or(Verdict::Lost));
        }
    }

    /// The entries that the keeper is asked about: those that will be answered, up to
    /// the first that has to be asked about at the gateway again.
    fn owed_to_keeper(&mut self, v5: bool) -> impl Iterator<Item = &mut Entry> {
        let held = move |entry: &Entry| {
            entry.verdict == Some(Verdict::Busy) && (entry.qos == QoS::AtMostOnce || !v5)
        };
        self.entries
            .iter_mut()
            .take_while(move |entry| !held(entry))
            .filter(|entry| {
                let kept = matches!(entry.verdict, Some(Verdict::Accepted | Verdict::Duplicate));
                kept && matches!(entry.keep, Keep::Wanted)
            })
    }

    /// Notes what the keeper has done.
    fn kept(&mut self, v5: bool, answers: Vec<Kept>) {
        let mut answers = answers.into_iter();
        for entry in self.owed_to_keeper(v5) {
            entry.keep = match answers.next() {
                Some(Kept::Done(message)) => Keep::Done(message),
                Some(Kept::Refused) | None => Keep::Refused,
            };
        }
    }
}

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
            let one_more = publish.qos == QoS::ExactlyOnce && !self.remember(usize::from(is_new));
            if self.is_exceeded() || one_more {
                return Err(Error {
                    reason: reason::RECEIVE_MAXIMUM_EXCEEDED,
                    what: "more publishes in flight than the receive maximum",
                });
            }
            self.open += 1;
        }
        self.taken[publish.qos as usize] += 1;
        if refused {
            counters.topics_refused.add(1);
        }
        if publish.qos == QoS::ExactlyOnce
            && let Some((token, is_new)) = self.exchanges.begin(id, self.durable.is_some())
        {
            publish.delivery = Some(exchanges::delivery(&token, &publish));
            if is_new && let Some(durable) = &mut self.durable {
                durable.begun.push((id, token));
            }
        }
        if self.gathering.entries.is_empty() {
            self.gathering.entries.reserve(self.batch_len);
            self.to_admit.reserve(self.batch_len);
        }
        let bytes = bytes + ENTRY_BYTES;
        let taken = !refused && !denied && !excess;
        let qos = publish.qos;
        let owed = publish.retain || wanted.kept && qos != QoS::AtMostOnce;
        let is_kept = taken && owed || publish.delivery.is_some();
        let wanted = (wanted.live || owed) && taken;
        let may_be_held = !self.is_v5() || qos == QoS::AtMostOnce;
        let mut entry = Entry {
            id,
            qos,
            wanted,
            keep: if is_kept { Keep::Wanted } else { Keep::Nothing },
            publish: None,
            verdict: None,
        };
        self.gathering.is_kept |= is_kept;
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

    /// Hands what was gathered to the gateway, unless another batch waits there.
    pub(super) fn submit(&mut self) {
        if self.gathering.entries.is_empty() || self.admitting.is_some() {
            return;
        }
        // What was handed over in an earlier turn may have been turned away, and
        // is to be asked about first.
        let turn = self.publisher.turn.load(Relaxed);
        if self.pending.iter().any(|batch| batch.turn != turn) {
            return;
        }
        let [qos0, qos1, qos2] = std::mem::take(&mut self.taken);
        self.context.counters.publishes_in_qos0.add(qos0);
        self.context.counters.publishes_in_qos1.add(qos1);
        self.context.counters.publishes_in_qos2.add(qos2);
        let mut batch = std::mem::take(&mut self.gathering);
        batch.turn = turn;
        self.batch_len = batch.entries.len();
        if self.to_admit.is_empty() {
            self.pending.push_back(batch);
            return;
        }
        let publishes = std::mem::take(&mut self.to_admit);
        let future = match &mut self.durable {
            Some(durable) if !durable.begun.is_empty() => {
                let (session, begun) = (durable.session, std::mem::take(&mut durable.begun));
                batch.begun.clone_from(&begun);
                self.begin_and_admit(session, begun, publishes)
            }
            _ => self.context.admission.admit(self.publisher, publishes),
        };
        self.admitting = Some(Admitting {
            future,
            batch: Some(batch),
        });
        self.progress().now_or_never();
    }

    /// Notes exchanges on disk, and only then hands their messages over.
    #[expect(
        clippy::async_yields_async,
        reason = "the caller awaits the receipt later"
    )]
    fn begin_and_admit(
        &self,
        session: SessionId,
        begun: Vec<(u16, Token)>,
        publishes: Vec<Publish>,
    ) -> Admitted<'s> {
        let (context, publisher) = (self.context, self.publisher);
        let begin_and_admit = async move {
            let turn = publisher.turn.load(Relaxed);
            match context.fanout.keeper().begin(session, begun).await {
                Ok(()) => context.admission.admit(publisher, publishes).await,
                Err(refused) => {
                    let verdict = if refused == Refused::Full {
                        // What follows in this turn would overtake them.
                        publisher.turns_over.fetch_max(turn + 1, Relaxed);
                        Verdict::Busy
                    } else {
                        Verdict::Lost
                    };
                    let verdicts = vec![verdict; publishes.len()];
                    let receipt: Receipt = Box::pin(ready(verdicts));
                    receipt
                }
            }
        };
        Box::pin(begin_and_admit)
    }

    /// Resolves when something has come further: room, a receipt, or the time to
    /// ask again. Nothing is lost when it is dropped.
    pub(super) async fn progress(&mut self) {
        let v5 = self.is_v5();
        poll_fn(|context| {
            let mut moved = false;
            if let Some(waiting) = self.admitting.as_mut()
                && let Poll::Ready(receipt) = waiting.future.as_mut().poll(context)
            {
                let batch = self.admitting.take().and_then(|waiting| waiting.batch);
                match batch {
                    Some(mut batch) => {
                        batch.receipt = Some(receipt);
                        self.pending.push_back(batch);
                    }
                    None => {
                        if let Some(front) = self.pending.front_mut() {
                            front.receipt = Some(receipt);
                        }
                    }
                }
                moved = true;
            }
            if let Some(front) = self.pending.front_mut()
                && let Some(receipt) = front.receipt.as_mut()
                && let Poll::Ready(verdicts) = receipt.as_mut().poll(context)
            {
                front.judge(verdicts);
                moved = true;
            }
            if let Some(keeping) = self.keeping.as_mut()
                && let Poll::Ready(answers) = keeping.as_mut().poll(context)
                && let Some(front) = self.pending.front_mut()
            {
                self.keeping = None;
                match answers {
                    Ok(answers) => front.kept(v5, answers),
                    Err(_) => {
                        for entry in &mut front.entries {
                            entry.verdict = Some(Verdict::Lost);
                        }
                    }
                }
                moved = true;
            }
            if let Some(pause) = self.retry.as_mut()
                && self.admitting.is_none()
                && pause.as_mut().poll(context).is_ready()
            {
                self.retry = None;
                self.ask_again();
                moved = true;
            }
            if moved {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Hands the publishes of the front that found no room over once more. Their
    /// exchanges are noted again: where it was the note that found no room, nothing
    /// on disk tells their resend after a crash from a new message.
    fn ask_again(&mut self) {
        let session = self.durable.as_ref().map(|durable| durable.session);
        let Some(front) = self.pending.front_mut() else {
            return;
        };
        let (mut publishes, mut begun) = (Vec::new(), Vec::new());
        for entry in &mut front.entries {
            if entry.verdict == Some(Verdict::Busy)
                && let Some(publish) = &entry.publish
            {
                publishes.push(publish.clone());
                entry.verdict = None;
                if entry.qos == QoS::ExactlyOnce {
                    begun.extend(front.begun.iter().filter(|(id, _)| *id == entry.id));
                }
            }
        }
        front.turn = self.publisher.turn.fetch_add(1, Relaxed) + 1;
        let future = match session {
            Some(session) if !begun.is_empty() => self.begin_and_admit(session, begun, publishes),
            _ => self.context.admission.admit(self.publisher, publishes),
        };
        self.admitting = Some(Admitting {
            future,
            batch: None,
        });
    }

    /// Acknowledges everything whose turn it is and shows it to subscribers.
    /// With `ending`, publishes without room are given up, unacknowledged.
    pub(super) fn settle(&mut self, wire: &mut Wire, ending: bool) -> Result<(), Lost> {
        if ending {
            if let Some(give_up) = &self.give_up {
                give_up.cancel();
            }
            if self.retry.take().is_some() {
                self.retrying = false;
            }
        }
        let mut live = Vec::new();
        let mut result = Ok(());
        loop {
            while self.progress().now_or_never().is_some() {}
            let judged = |batch: &Batch| {
                batch.receipt.is_none() && batch.entries.iter().all(|one| one.verdict.is_some())
            };
            if self.retry.is_some() || !self.pending.front().is_some_and(judged) {
                break;
            }
            if self.keep_front() {
                continue;
            }
            if self.keeping.is_some() {
                break;
            }
            let Some(mut batch) = self.pending.pop_front() else {
                break;
            };
            result = self.acknowledge(&mut batch, wire, ending, &mut live);
            if result.is_err() {
                break;
            }
            if batch.entries.is_empty() {
                self.share.sub(batch.bytes);
                // What was handed over behind it may have found no room either, and
                // nothing may be handed over before that is known.
                self.retrying &= !self.pending.is_empty();
                self.pause = PAUSE_MIN;
            } else {
                self.pending.push_front(batch);
                self.retrying = true;
                self.retry = Some(Box::pin(sleep(self.pause)));
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                break;
            }
        }
        self.context.fanout.carry(live);
        result
    }

    /// Hands the front to the keeper, if there is something for it; whether it did.
    fn keep_front(&mut self) -> bool {
        let (v5, session) = (self.is_v5(), self.session);
        let durable = self.durable.as_ref().map(|durable| durable.session);
        let context = self.context;
        let Some(front) = self.pending.front_mut() else {
            return false;
        };
        if !front.is_kept || self.keeping.is_some() {
            return false;
        }
        let op = |entry: &mut Entry| Op {
            message: entry
                .publish
                .as_ref()
                .filter(|_| entry.wanted)
                .map(|publish| context.fanout.message(session, publish)),
            from: durable,
            exchange: (entry.qos == QoS::ExactlyOnce && durable.is_some()).then_some(entry.id),
        };
        let ops: Vec<Op> = front.owed_to_keeper(v5).map(op).collect();
        if ops.is_empty() {
            return false;
        }
        let give_up = self.give_up.get_or_insert_default().clone();
        let keeping = keeping::keep(&context.fanout, &context.counters, ops, !v5, give_up);
        self.keeping = Some(keeping);
        true
    }

    /// Exchanges that ended with a refusal since the last call.
    pub(super) fn take_abandoned(&mut self) -> Vec<(u16, Token)> {
        let durable = self.durable.as_mut();
        durable.map_or_else(Vec::new, |durable| std::mem::take(&mut durable.abandoned))
    }

    /// Answers the entries of a batch from the front up to the first that has
    /// to be asked about again.
    fn acknowledge(
        &mut self,
        batch: &mut Batch,
        wire: &mut Wire,
        ending: bool,
        live: &mut Vec<Message>,
    ) -> Result<(), Lost> {
        let counters = &self.context.counters;
        let (fanout, session, v5) = (&self.context.fanout, self.session, self.is_v5());
        let (mut accepted, mut duplicates, mut acknowledged, mut busy) = (0, 0, 0, 0);
        let mut result = Ok(());
        while let Some(entry) = batch.entries.front_mut() {
            let (code, text) = match entry.verdict.as_ref() {
                Some(verdict @ (Verdict::Accepted | Verdict::Duplicate)) => {
                    let is_new = *verdict == Verdict::Accepted;
                    let refused = matches!(entry.keep, Keep::Refused);
                    if refused && !v5 && entry.qos != QoS::AtMostOnce && ending {
                        // Not acknowledged: the client sends it again.
                        batch.entries.pop_front();
                        self.held -= 1;
                        continue;
                    }
                    accepted += usize::from(is_new);
                    duplicates += usize::from(!is_new);
                    // A duplicate too: after a crash nobody knows who has seen it.
                    match std::mem::replace(&mut entry.keep, Keep::Nothing) {
                        Keep::Nothing if entry.wanted => {
                            let publish = entry.publish.take();
                            live.extend(publish.map(|publish| fanout.message(session, &publish)));
                        }
                        Keep::Done(Some(message)) if fanout.is_wanted(message.topic_str()) => {
                            live.push(message);
                        }
                        _ => {}
                    }
                    if refused {
                        (reason::QUOTA_EXCEEDED, Some("no room for its subscribers"))
                    } else {
                        (reason::SUCCESS, None)
                    }
                }
                Some(Verdict::Returned) => (reason::SUCCESS, None),
                Some(Verdict::Refused { reason: code, text }) => {
                    counters.refused.add(1);
                    if let Some(held_back) = self.context.quiet.pass() {
                        tracing::warn!(
                            client.id = %super::short(&self.publisher.client_id),
                            reason = text,
                            held_back,
                            "a publish was refused"
                        );
                    }
                    (*code.max(&0x80), Some(*text))
                }
                Some(Verdict::Busy) => {
                    busy += 1;
                    if entry.publish.is_some() && (entry.qos == QoS::AtMostOnce || !self.is_v5()) {
                        if !ending {
                            break;
                        }
                        // Not acknowledged: the client sends it again, except at QoS 0.
                        counters.lost.add(usize::from(entry.qos == QoS::AtMostOnce));
                        batch.entries.pop_front();
                        self.held -= 1;
                        continue;
                    }
                    // The client hears of it: what it sends now is another turn.
                    self.publisher.turn.fetch_max(batch.turn + 1, Relaxed);
                    (reason::QUOTA_EXCEEDED, Some("no room at the moment"))
                }
                Some(Verdict::Lost) | None => {
                    // Nothing behind it is answered either.
                    counters.lost.add(self.held);
                    result = Err(Lost);
                    break;
                }
            };
            let (id, qos) = (entry.id, entry.qos);
            batch.entries.pop_front();
            self.held -= 1;
            if qos != QoS::AtMostOnce {
                acknowledged += 1;
                self.answer(wire, id, qos, code, text);
            }
        }
        counters.accepted.add(accepted);
        counters.duplicates.add(duplicates);
        counters.acknowledged.add(acknowledged);
        counters.busy.add(busy);
        result
    }

    fn answer(&mut self, wire: &mut Wire, id: u16, qos: QoS, code: u8, text: Option<&str>) {
        // 3.1.1 knows only one answer.
        let code = if self.is_v5() { code } else { reason::SUCCESS };
        let text = text.filter(|text| text.len() <= self.reason_text_max);
        let kind = if qos == QoS::ExactlyOnce {
            Kind::PubRec
        } else {
            Kind::PubAck
        };
        if kind == Kind::PubRec && code < 0x80 {
            self.exchanges.received(id);
        } else {
            if kind == Kind::PubRec {
                let over = self.forget(id);
                let token = over.and_then(|over| over.token);
                if let (Some(token), Some(durable)) = (token, &mut self.durable) {
                    durable.abandoned.push((id, token));
                }
            }
            self.open -= 1;
        }
        encode::ack(wire.output(), self.protocol(), kind, id, code, text);
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
