//! What remains to be done, and said, when a session is over.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::time::{Duration, sleep};

use super::{Context, End, short, wire::Wire};
use crate::{
    Publish, Publisher, Verdict,
    auth::Rights,
    fanout::Room,
    keep::WillId,
    metrics::{Counter, Counters},
    packet::{Will, reason},
    registry::Seat,
};

/// How long a will is offered to a gateway that has no room, and how much of
/// that is left once the client's next connection waits for it.
const WILL_PATIENCE: Duration = Duration::from_secs(2);
const WILL_HURRY: Duration = Duration::from_millis(500);
const WILL_PAUSE: Duration = Duration::from_millis(100);

/// Publishes a will like any publish of its client; whether it was taken, or will never
/// be. While it is offered, the client cannot connect again, so that is short, and well
/// within the time that its CONNECT may take.
pub(super) async fn publish_will(
    context: &Context,
    publisher: &Arc<Publisher>,
    session: u64,
    will: &Will,
    kept: Option<WillId>,
    seat: &Seat,
) -> bool {
    let connect_timeout = context.config.connect_timeout;
    let patience = WILL_PATIENCE.min(connect_timeout / 4);
    let hurry = async {
        seat.asked_to_leave().await;
        sleep(WILL_HURRY.min(connect_timeout / 8)).await;
    };
    let offer = async {
        loop {
            let batch = vec![will.publish.clone()];
            let receipt = context.admission.admit(publisher, batch).await;
            match receipt.await.pop() {
                Some(Verdict::Busy) => {
                    publisher.turn.fetch_add(1, Relaxed);
                }
                verdict => return verdict,
            }
            tokio::select! {
                () = sleep(WILL_PAUSE) => {}
                () = context.shutdown.cancelled() => return None,
            }
        }
    };
    let verdict = tokio::select! {
        biased;
        verdict = offer => verdict,
        () = hurry => None,
        () = sleep(patience) => None,
    };
    match verdict {
        // After a crash nobody knows whether subscribers have seen a duplicate.
        Some(Verdict::Accepted | Verdict::Duplicate) => {
            context.counters.wills.add(1);
            Box::pin(show(context, publisher, session, &will.publish, kept)).await;
        }
        Some(Verdict::Returned) => context.counters.wills.add(1),
        Some(Verdict::Refused { .. }) => lose_will(context, publisher),
        _ => return false,
    }
    true
}

/// Counts and says that a will was not taken.
pub(super) fn lose_will(context: &Context, publisher: &Publisher) {
    context.counters.wills_lost.add(1);
    if let Some(held_back) = context.quiet.pass() {
        tracing::warn!(
            client.id = %short(&publisher.client_id),
            held_back,
            "a will was not taken"
        );
    }
}

/// Whether the client still has the right to its will, which may have been taken away
/// since CONNECT, and is still who it was.
pub(super) fn may_be_published(context: &Context, rights: &Rights, will: &Will) -> bool {
    let allowed = rights.is_valid() && rights.will(will);
    if !allowed {
        context.counters.publishes_denied.add(1);
    }
    allowed
}

async fn show(
    context: &Context,
    publisher: &Publisher,
    session: u64,
    publish: &Publish,
    kept: Option<WillId>,
) {
    let publishes = std::slice::from_ref(publish);
    let shown = context
        .fanout
        .show(session, None, publishes, Room::Owe(kept))
        .await;
    if shown.is_err()
        && let Some(held_back) = context.quiet.pass()
    {
        tracing::warn!(
            client.id = %short(&publisher.client_id),
            held_back,
            "persistent subscribers did not get a will: there is no room"
        );
    }
}

/// Counts and logs why a session ended.
pub(super) fn count(context: &Context, publisher: &Publisher, end: &End) {
    let counters = &context.counters;
    let client_id = short(&publisher.client_id);
    match end {
        End::Kicked => counters.kicked.add(1),
        End::TakenOver => counters.takeovers.add(1),
        End::Silent => counters.keep_alive_timeouts.add(1),
        End::Stalled => counters.packets_stalled.add(1),
        End::Illegal(error) => {
            counters.protocol_errors.add(1);
            match error.reason {
                reason::PACKET_TOO_LARGE => counters.packets_too_large.add(1),
                reason::RECEIVE_MAXIMUM_EXCEEDED => counters.receive_max_exceeded.add(1),
                reason::QUOTA_EXCEEDED => counters.memory_exceeded.add(1),
                _ => {}
            }
            if let Some(held_back) = context.quiet.pass() {
                tracing::warn!(client.id = %client_id, reason = error.what, held_back, "a client broke the protocol");
            }
            return;
        }
        End::DiskFull(what) => {
            counters.keep_full.add(1);
            if let Some(held_back) = context.quiet.pass() {
                tracing::warn!(client.id = %client_id, reason = *what, held_back, "a session ended because the disk is full");
            }
            return;
        }
        End::Lost => {
            if let Some(held_back) = context.quiet.pass() {
                tracing::warn!(client.id = %client_id, held_back, "a session ended unacknowledged");
            }
            return;
        }
        End::Disconnect { .. }
        | End::Removed
        | End::Closed
        | End::Shutdown
        | End::NotAuthorized(_) => {}
    }
    tracing::debug!(client.id = %client_id, end = ?end, "disconnected");
}

/// Adds what went over the wire since the last time.
pub(super) fn count_bytes(wire: &mut Wire, counters: &Counters) {
    let (read, written) = wire.take_counts();
    counters.bytes_in.add(read);
    counters.bytes_out.add(written);
}

/// Counts one up for as long as it lives.
#[derive(Debug)]
pub(crate) struct Gauge<'c>(&'c Counter);

impl<'c> Gauge<'c> {
    pub(crate) fn new(counter: &'c Counter) -> Self {
        counter.add(1);
        Self(counter)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}
