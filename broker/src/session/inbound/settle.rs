//! From verdicts to acknowledgements, in the order of the publishes: what the keeper is
//! owed first, then the answer, then live subscribers.

use std::sync::atomic::Ordering::Relaxed;

use futures_util::FutureExt;
use tokio::time::{Duration, sleep};

use super::{
    Inbound, Lost, PAUSE_MIN,
    batch::{Batch, Entry, Keep},
    owner,
};
use crate::{
    QoS, Verdict,
    fanout::Message,
    keep::Op,
    packet::{Kind, encode, reason},
    session::{keeping, short, wire::Wire},
};

/// The longest pause between asking about a publish that found no room.
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Inbound<'_> {
    /// Acknowledges everything whose turn it is and shows it to subscribers.
    /// With `ending`, publishes without room are given up, unacknowledged.
    pub(in crate::session) fn settle(&mut self, wire: &mut Wire, ending: bool) -> Result<(), Lost> {
        if ending {
            // Also for what is handed to the keeper only after this.
            self.give_up.get_or_insert_default().cancel();
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
        let (context, publisher) = (self.context, self.publisher);
        let exchanges = &self.exchanges;
        let Some(front) = self.pending.front_mut() else {
            return false;
        };
        if !front.is_kept || self.keeping.is_some() {
            return false;
        }
        let by = owner(context, publisher);
        let is_taken = |entry: &Entry| {
            let verdict = entry.verdict.as_ref();
            matches!(verdict, Some(Verdict::Accepted | Verdict::Duplicate))
        };
        let op = |entry: &mut Entry| Op {
            message: entry
                .publish
                .as_ref()
                .filter(|_| entry.wanted && is_taken(entry))
                .map(|publish| context.fanout.message(session, publish)),
            from: durable,
            exchange: (entry.qos == QoS::ExactlyOnce && durable.is_some())
                .then(|| Some((entry.id, exchanges.token(entry.id)?)))
                .flatten(),
            by: Some(by),
        };
        let ops: Vec<Op> = front.owed_to_keeper(v5).map(op).collect();
        if ops.is_empty() {
            return false;
        }
        let give_up = self.give_up.get_or_insert_default().clone();
        let keeping = keeping::keep(&context.fanout, &context.counters, ops, give_up);
        self.keeping = Some(keeping);
        true
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
        let (fanout, session) = (&self.context.fanout, self.session);
        let (mut accepted, mut duplicates, mut acknowledged, mut busy) = (0, 0, 0, 0);
        let mut result = Ok(());
        while let Some(entry) = batch.entries.front_mut() {
            // Given up by the keeper: the connection is at its end.
            let is_unkept = matches!(entry.keep, Keep::Refused);
            let (code, text) = match entry.verdict.as_ref() {
                Some(verdict @ (Verdict::Accepted | Verdict::Duplicate)) => {
                    let is_new = *verdict == Verdict::Accepted;
                    accepted += usize::from(is_new);
                    duplicates += usize::from(!is_new);
                    // A duplicate too: after a crash nobody knows who has seen it.
                    match std::mem::replace(&mut entry.keep, Keep::Nothing) {
                        Keep::Nothing | Keep::Refused
                            if entry.wanted && !(is_unkept && entry.qos != QoS::AtMostOnce) =>
                        {
                            let publish = entry.publish.take();
                            live.extend(publish.map(|publish| fanout.message(session, &publish)));
                        }
                        Keep::Done(Some(message)) if fanout.is_wanted(message.topic_str()) => {
                            live.push(message);
                        }
                        _ => {}
                    }
                    (reason::SUCCESS, None)
                }
                Some(Verdict::Returned) => (reason::SUCCESS, None),
                Some(Verdict::Refused { reason: code, text }) => {
                    counters.refused.add(1);
                    if let Some(held_back) = self.context.quiet.pass() {
                        tracing::warn!(
                            client.id = %short(&self.publisher.client_id),
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
            // What is not acknowledged the client sends again.
            if qos != QoS::AtMostOnce && !is_unkept {
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
}
