//! The turns of a session, until its end.

use std::pin::pin;

use tokio::{
    task::{coop::consume_budget, yield_now},
    time::{Duration, Instant, sleep_until},
};

use super::{End, FAR, Session, durable, packets::Taken, wire::Wire};
use crate::{fanout::Outbox, roster::Turn};

impl Session<'_> {
    /// The session's turns, until nothing that was taken is unanswered.
    pub(super) async fn live(
        &mut self,
        wire: &mut Wire,
        outbox: &Outbox,
        leave: impl Future<Output = ()>,
        silence_max: Option<Duration>,
    ) -> End {
        let counters = &self.context.counters;
        let mut leave = pin!(leave);
        let mut shutdown = pin!(self.context.shutdown.cancelled());
        let mut heard = Instant::now();
        // When the client is no longer who it was.
        let over = self.rights.ends().unwrap_or(heard + FAR);
        let mut alarm = pin!(sleep_until(over.min(heard + silence_max.unwrap_or(FAR))));
        let is_restricted = self.rights.is_restricted();
        // Since it was admitted, not since now: a reload may have come in between.
        let mut revised = pin!(self.rights.admitted_under().cancelled_owned());
        let mut end: Option<End> = None;
        let may_end = self.rights.ends().is_some();
        loop {
            // A socket that is always ready never lets the runtime have a turn.
            consume_budget().await;
            let mut taken = Taken::All;
            if may_end && end.is_none() && over <= Instant::now() {
                counters.sessions_revoked.add(1);
                end = Some(End::NotAuthorized(self.rights.expired()));
            }
            // First: what is answered may be what the next packet waits for.
            if let Err(why) = self.answer(wire) {
                end.get_or_insert(why);
            }
            if end.is_none() {
                match self.take(wire, &mut heard) {
                    Ok(how) => taken = how,
                    Err(why) => end = Some(why),
                }
            }
            self.inbound.submit();
            if self.inbound.settle(wire, end.is_some()).is_err() {
                return End::Lost;
            }
            let mut more = false;
            if end.is_none() {
                let durable = self.durable.as_deref_mut();
                more = self
                    .outbound
                    .pump(wire, durable, &self.context.fanout, counters)
                    || taken == Taken::UpToASubscribe;
            }
            if let Some(durable) = &mut self.durable {
                durable.submit();
            }
            if wire.write().is_err() {
                wire.close();
                end.get_or_insert(End::Closed);
            }
            self.note(wire);
            let blocked = self.inbound.is_blocked();
            match end {
                Some(end) if self.inbound.is_idle() => return end,
                None if taken == Taken::UpToAPublish && !blocked => continue,
                None if taken == Taken::UpToAnAnswer && !self.is_waiting() => continue,
                _ => wire.rest(),
            }
            let going = end.is_none();
            let more = more && !wire.is_congested();
            let read = going && taken == Taken::All && !blocked && !wire.is_congested();
            let is_late = taken == Taken::UpToALatePublish;
            let paused = is_late || taken == Taken::UpToAnAnswer;
            if blocked || paused {
                // The client may have spoken; we are the ones who do not listen.
                heard = Instant::now();
            }
            // A client that does not take our output may not hold a large packet for it.
            if blocked || paused || wire.is_congested() && !wire.holds_much() {
                wire.excuse();
            }
            let resume = self.pace.holds_until().filter(|_| is_late);
            for deadline in [wire.deadline(), resume].into_iter().flatten() {
                if deadline < alarm.deadline() {
                    alarm.as_mut().reset(deadline);
                }
            }
            tokio::select! {
                biased;
                () = &mut leave, if going => end = Some(End::TakenOver),
                () = &mut shutdown, if going => end = Some(End::Shutdown),
                // Before what the client sends, or one that never stops would not hear.
                () = &mut revised, if going && is_restricted => {
                    revised.set(self.rights.revision().cancelled_owned());
                    if let Some(why) = self.rights.objection(self.subscriptions.held()) {
                        counters.sessions_revoked.add(1);
                        end = Some(End::NotAuthorized(why));
                    }
                }
                () = self.inbound.progress() => {}
                () = durable::progress(&mut self.durable), if going => {}
                ready = wire.ready(read) => {
                    let came = ready.and_then(|()| if read { wire.read() } else { Ok(false) });
                    if came.is_err() {
                        wire.close();
                        end.get_or_insert(End::Closed);
                    }
                }
                () = outbox.filled(), if going => {}
                // Nobody tells us of what is in the outbox already; others first.
                () = yield_now(), if more => {}
                () = &mut alarm, if going => {
                    let now = Instant::now();
                    if blocked || paused {
                        heard = now;
                        wire.excuse();
                    }
                    // Bytes of a packet that is on its way are heard too.
                    heard = heard.max(wire.grown().unwrap_or(heard));
                    let silent = heard + silence_max.unwrap_or(FAR);
                    let stalled = wire.deadline();
                    if over <= now {
                        counters.sessions_revoked.add(1);
                        end = Some(End::NotAuthorized(self.rights.expired()));
                    } else if silent <= now {
                        end = Some(End::Silent);
                    } else if stalled.is_some_and(|deadline| deadline <= now) {
                        end = Some(End::Stalled);
                    } else {
                        let silent = silent.min(over);
                        alarm.as_mut().reset(stalled.map_or(silent, |one| one.min(silent)));
                    }
                }
            }
        }
    }

    /// Writes down what this turn did.
    fn note(&mut self, wire: &mut Wire) {
        let counters = &self.context.counters;
        let (bytes_in, bytes_out) = wire.take_counts();
        counters.bytes_in.add(bytes_in);
        counters.bytes_out.add(bytes_out);
        let in_queue = self.durable.as_ref().map_or(0, |one| one.in_flight());
        let turn = Turn {
            bytes_in,
            bytes_out,
            publishes_out: self.outbound.take_delivered(),
            in_flight_in: self.inbound.in_flight(),
            in_flight_out: self.outbound.in_flight() + in_queue,
            subscriptions: self.subscriptions.count(),
            taken: std::mem::take(&mut self.packets),
        };
        counters.packets_in.add(turn.taken.packets as usize);
        counters.answers.add(turn.taken.answers as usize);
        self.client.tally.note(turn);
    }
}
