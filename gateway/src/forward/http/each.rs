//! Requests of one event each: several at a time, one per partition key.
//!
//! The records of a key go one after the other, each after the answer to the one before,
//! so that their order is kept whatever becomes of others. The first answer that is not
//! about its own record ends the batch: what was not sent by then was not tried.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use futures_util::{StreamExt as _, stream};

use super::Http;
use crate::forward::{
    batch::{Batch, Item},
    destination::{Error, Outcome, Outcomes},
    halving::{Post as _, Reply, is_refused},
};

/// What is known of a batch on its way.
struct Answers {
    outcomes: Vec<Option<Outcome>>,
    end: Option<End>,
}

/// Why nothing more is sent.
enum End {
    Throttled(Outcome),
    Failed(Error),
    /// Record after record was refused.
    Refusing(String),
}

impl Http {
    pub(super) async fn deliver_each(&self, batch: &Batch, proven: bool) -> Outcomes {
        let before = self.refusals().clone();
        let answers = Mutex::new(Answers {
            outcomes: vec![None; batch.items.len()],
            end: None,
        });
        stream::iter(queues(batch))
            .map(|queue| self.deliver_queue(batch, queue, proven, &answers))
            .buffer_unordered(self.config.in_flight.max(1))
            .for_each(|()| std::future::ready(()))
            .await;
        let Answers { outcomes, end } =
            answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let rest = match end {
            None => Outcome::Unknown("not sent".to_owned()),
            Some(End::Throttled(throttled)) => throttled,
            Some(End::Failed(error)) if outcomes.iter().all(Option::is_none) => return Err(error),
            Some(End::Failed(error)) => Outcome::Unknown(error.to_string()),
            Some(End::Refusing(reason)) => {
                if outcomes.iter().flatten().all(is_refused) {
                    // None of this batch is given up: it may not be to blame.
                    let now = tokio::time::Instant::now();
                    return Err(self.refusals().begin(before, &reason, now));
                }
                Outcome::Unknown(reason)
            }
        };
        let known = outcomes.into_iter();
        Ok(known
            .map(|known| known.unwrap_or_else(|| rest.clone()))
            .collect())
    }

    /// Sends the records of one partition key, until something ends the batch.
    async fn deliver_queue(
        &self,
        batch: &Batch,
        queue: Vec<usize>,
        proven: bool,
        answers: &Mutex<Answers>,
    ) {
        // Nothing that holds the lock panics, so a poisoned one is as good.
        let answers = || answers.lock().unwrap_or_else(PoisonError::into_inner);
        for at in queue {
            if answers().end.is_some() {
                return;
            }
            let item = &batch.items[at];
            let alone = Batch {
                items: [item.clone()].into(),
            };
            let outcome = match self.post(&alone).await {
                Ok(Reply::Outcomes(known)) => known.into_iter().next(),
                Ok(Reply::Refused(reason)) => Some(Outcome::Permanent(reason)),
                Ok(Reply::Throttled(retry_after)) => Some(Outcome::Throttled { retry_after }),
                Err(error) => {
                    answers().end.get_or_insert(End::Failed(error));
                    return;
                }
            };
            let Some(outcome) = outcome else {
                return;
            };
            if matches!(outcome, Outcome::Throttled { .. }) {
                answers().end.get_or_insert(End::Throttled(outcome));
                return;
            }
            let too_many = self.count(item, &outcome);
            let mut answers = answers();
            if let (true, false, Outcome::Permanent(reason)) = (too_many, proven, &outcome) {
                let reason = reason.clone();
                answers.end.get_or_insert(End::Refusing(reason));
            }
            let goes_on = !matches!(outcome, Outcome::Transient(_));
            answers.outcomes[at] = Some(outcome);
            if !goes_on {
                // Those behind it wait with it; others go on.
                for later in behind(batch, at) {
                    answers.outcomes[later] = Some(Outcome::Behind);
                }
                return;
            }
        }
    }

    /// Counts what became of a record; whether too many were refused in a row.
    fn count(&self, item: &Item, outcome: &Outcome) -> bool {
        let mut refusals = self.refusals();
        refusals.add(item.partition_key(), outcome);
        refusals.are_too_many()
    }
}

/// The later records of the same partition key.
fn behind(batch: &Batch, at: usize) -> impl Iterator<Item = usize> {
    let key = batch.items[at].partition_key();
    let later = at + 1..batch.items.len();
    later.filter(move |later| batch.items[*later].partition_key() == key)
}

/// The places of each partition key's records, in order; the keys in the order of their
/// first ones.
fn queues(batch: &Batch) -> Vec<Vec<usize>> {
    let mut queues: Vec<Vec<usize>> = Vec::new();
    let mut of_key: HashMap<&str, usize> = HashMap::new();
    for (at, item) in batch.items.iter().enumerate() {
        let queue = *of_key.entry(item.partition_key()).or_insert(queues.len());
        match queues.get_mut(queue) {
            Some(queue) => queue.push(at),
            None => queues.push(vec![at]),
        }
    }
    queues
}
