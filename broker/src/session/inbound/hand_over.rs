//! From a batch to the gateway and back: handed over in order, asked about again where
//! there was no room, and moved on as answers come.

use std::{
    future::{poll_fn, ready},
    sync::atomic::Ordering::Relaxed,
    task::Poll,
};

use futures_util::FutureExt;

use super::{Admitting, Inbound, batch::Batch, owner};
use crate::{
    Admitted, Publish, QoS, Receipt, Verdict,
    keep::{Refused, SessionId, Token, Wish},
    session::Context,
};

impl<'s> Inbound<'s> {
    /// Hands what was gathered to the gateway, unless another batch waits there.
    pub(in crate::session) fn submit(&mut self) {
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
        let payload_bytes = std::mem::take(&mut self.taken_bytes);
        self.context.counters.payload_bytes_in.add(payload_bytes);
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
        if let Some(durable) = &mut self.durable {
            batch.begun = std::mem::take(&mut durable.begun);
        }
        let wishes = self.wishes(&batch);
        let future = self.hand_over(batch.begun.clone(), wishes, publishes);
        self.admitting = Some(Admitting {
            future,
            batch: Some(batch),
        });
        self.progress().now_or_never();
    }

    /// What of a batch the keeper is to be asked about first: nothing, unless it is likely
    /// to have no room.
    fn wishes(&self, batch: &Batch) -> Vec<Wish> {
        let shared = self.context.fanout.keeper().shared();
        if !batch.is_kept {
            return Vec::new();
        }
        let by = owner(self.context, self.publisher);
        let is_short = || batch.retains && shared.retained.is_short(batch.bytes, by);
        if shared.may_have_no_room() || is_short() {
            batch.wishes(by, self.protocol())
        } else {
            Vec::new()
        }
    }

    /// Hands publishes over: where the keeper is to have room, up to the first that it has
    /// none for, and their exchanges are on disk before.
    #[expect(
        clippy::async_yields_async,
        reason = "the caller awaits the receipt later"
    )]
    fn hand_over(
        &self,
        begun: Vec<(u16, Token)>,
        wishes: Vec<Wish>,
        mut publishes: Vec<Publish>,
    ) -> Admitted<'s> {
        let (context, publisher) = (self.context, self.publisher);
        if begun.is_empty() && wishes.is_empty() {
            return context.admission.admit(publisher, publishes);
        }
        let session = self.durable.as_ref().map(|durable| durable.session);
        Box::pin(async move {
            let turn = publisher.turn.load(Relaxed);
            let all = publishes.len();
            let count = match prepare(context, session, begun, wishes).await {
                Ok(None) => all,
                Ok(Some(count)) => count,
                Err(_) => return judged(Verdict::Lost, all),
            };
            if count < all {
                // What follows in this turn would overtake the rest.
                publisher.turns_over.fetch_max(turn + 1, Relaxed);
                publishes.truncate(count);
            }
            if count == 0 {
                return judged(Verdict::Busy, all);
            }
            let receipt = context.admission.admit(publisher, publishes).await;
            if count == all {
                return receipt;
            }
            let receipt: Receipt = Box::pin(async move {
                let mut verdicts = receipt.await;
                verdicts.resize(count, Verdict::Lost);
                verdicts.resize(all, Verdict::Busy);
                verdicts
            });
            receipt
        })
    }

    /// Resolves when something has come further: room, a receipt, or the time to
    /// ask again. Nothing is lost when it is dropped.
    pub(in crate::session) async fn progress(&mut self) {
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
        let front = self.pending.front();
        let wishes = front.map_or_else(Vec::new, |front| self.wishes(front));
        let future = self.hand_over(begun, wishes, publishes);
        self.admitting = Some(Admitting {
            future,
            batch: None,
        });
    }
}

/// Finds out how many from the front the keeper has room for, `None` for all, and notes
/// exchanges on disk.
async fn prepare(
    context: &Context,
    session: Option<SessionId>,
    begun: Vec<(u16, Token)>,
    wishes: Vec<Wish>,
) -> Result<Option<usize>, Refused> {
    let keeper = context.fanout.keeper();
    let mut count = None;
    if let Some(first) = wishes.first().map(|wish| wish.at) {
        count = match keeper.room(wishes).await {
            Err(Refused::Full) => Some(first),
            other => other?,
        };
        context
            .counters
            .refused_queue_full
            .add(usize::from(count.is_some()));
    }
    if let Some(session) = session.filter(|_| !begun.is_empty() && count != Some(0)) {
        match keeper.begin(session, begun).await {
            Err(Refused::Full) => count = Some(0),
            other => other?,
        }
    }
    Ok(count)
}

/// The same for all.
fn judged(verdict: Verdict, count: usize) -> Receipt {
    Box::pin(ready(vec![verdict; count]))
}
