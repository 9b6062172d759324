//! Publishes on their way to the keeper, after the gateway has them and before their
//! acknowledgement.

use std::{future::Future, pin::Pin, sync::Arc};

use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    fanout::Fanout,
    keep::{Kept, Op, Refused},
    metrics::Counters,
};

/// Pauses between asking for room again.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Resolves to one answer for each, in order.
pub(super) type Keeping = Pin<Box<dyn Future<Output = Result<Vec<Kept>, Refused>> + Send>>;

/// Hands publishes to the keeper. What finds no room is asked about again until it does,
/// or until `give_up`; everything behind it waits. The gateway has them, so no other answer
/// would be true.
pub(super) fn keep(
    fanout: &Arc<Fanout>,
    counters: &Arc<Counters>,
    ops: Vec<Op>,
    give_up: CancellationToken,
) -> Keeping {
    let keeper = fanout.keeper().clone();
    let counters = Arc::clone(counters);
    Box::pin(async move {
        let mut rest = ops;
        let mut answers = Vec::with_capacity(rest.len());
        let mut pause = PAUSE_MIN;
        loop {
            let count = rest.len();
            // They share what is large.
            let again = rest.clone();
            let mut kept = match keeper.publish(rest).await {
                Ok(kept) => kept,
                Err(Refused::Full) => vec![Kept::Refused; count],
                Err(refused) => return Err(refused),
            };
            let refused = |one: &Kept| matches!(one, Kept::Refused);
            let Some(first) = kept.iter().position(refused) else {
                answers.append(&mut kept);
                return Ok(answers);
            };
            counters.refused_queue_full.add(1);
            if give_up.is_cancelled() {
                answers.append(&mut kept);
                return Ok(answers);
            }
            if first > 0 {
                pause = PAUSE_MIN;
            }
            answers.extend(kept.drain(..first));
            rest = again;
            rest.drain(..first);
            tokio::select! {
                () = give_up.cancelled() => {}
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    })
}
