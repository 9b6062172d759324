//! Batches that are taken or refused in one request: what is refused whole is halved until
//! the record that is to blame stands alone, and where everything is refused the
//! destination may be at fault rather than the records ([`Refusals`]).

use std::{sync::MutexGuard, time::Duration};

use tokio::time::Instant;

use super::{
    batch::{Batch, Item},
    destination::{Error, Outcome, Outcomes},
    refusals::{Refusals, probes},
};

/// What became of a request that was answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// One outcome per record.
    Outcomes(Vec<Outcome>),
    /// Nothing was taken, and a record in it is to blame.
    Refused(String),
    /// Nothing was taken, for now.
    Throttled(Option<Duration>),
}

impl Reply {
    /// All of so many records were taken.
    #[cfg(any(feature = "kafka", feature = "postgres"))]
    pub(super) fn taken(records: usize) -> Self {
        Self::Outcomes(vec![Outcome::Acknowledged; records])
    }
}

/// A destination whose requests have many records.
pub(super) trait Post: Sync {
    /// Sends these records in one request.
    fn post(&self, part: &Batch) -> impl Future<Output = Result<Reply, Error>> + Send;

    /// What was refused lately.
    fn refusals(&self) -> MutexGuard<'_, Refusals>;

    /// What the first requests have, the last first.
    fn parts(&self, batch: &Batch) -> Vec<Batch> {
        vec![batch.clone()]
    }

    /// Delivers all of a batch to a destination that has just taken a record.
    fn deliver_proven(&self, batch: &Batch) -> impl Future<Output = Outcomes> + Send {
        deliver_all(self, batch, true)
    }
}

/// Delivers the batch; single records of it where the destination may be at fault.
#[cfg(any(feature = "kafka", feature = "postgres"))]
pub(super) async fn deliver(to: &impl Post, batch: &Batch) -> Outcomes {
    let probing = to.refusals().is_probing(Instant::now())?;
    match probing {
        true => probe(to, batch).await,
        false => deliver_all(to, batch, false).await,
    }
}

/// Posts the batch, or its parts if it is refused whole. Parts go in order,
/// so that what is known is always the beginning. A destination that has just been
/// `proven` to take records is not at fault whatever it refuses.
pub(super) async fn deliver_all<P: Post + ?Sized>(to: &P, batch: &Batch, proven: bool) -> Outcomes {
    let mut outcomes = Vec::with_capacity(batch.items.len());
    let before = to.refusals().clone();
    let mut parts = to.parts(batch);
    while let Some(part) = parts.pop() {
        match to.post(&part).await {
            Ok(Reply::Outcomes(known)) => outcomes.extend(known),
            Ok(Reply::Refused(reason)) if part.items.len() == 1 => {
                outcomes.push(Outcome::Permanent(reason));
            }
            Ok(Reply::Refused(_)) => {
                let (first, second) = part.halves();
                parts.extend([second, first]);
                continue;
            }
            Ok(Reply::Throttled(retry_after)) => {
                outcomes.resize(batch.items.len(), Outcome::Throttled { retry_after });
                break;
            }
            Err(error) if outcomes.is_empty() => return Err(error),
            Err(error) => {
                outcomes.resize(batch.items.len(), Outcome::Unknown(error.to_string()));
                break;
            }
        }
        let answered = outcomes.len() - part.items.len();
        let mut refusals = to.refusals();
        for (item, outcome) in part.items.iter().zip(&outcomes[answered..]) {
            refusals.add(item.partition_key(), outcome);
        }
        if !proven
            && refusals.are_too_many()
            && outcomes.iter().all(is_refused)
            && let Some(Outcome::Permanent(reason)) = outcomes.last()
        {
            // None of this batch is given up: it may not be to blame.
            return Err(refusals.begin(before, reason, Instant::now()));
        }
    }
    Ok(outcomes)
}

/// Posts the first record of one partition key after the other by itself. One
/// that is taken shows that the destination works, and those before it were to
/// blame. If none is, the first one is given up, at most: good ones may be
/// waiting behind it.
pub(super) async fn probe<P: Post + ?Sized>(to: &P, batch: &Batch) -> Outcomes {
    let mut refused = Vec::new();
    for at in probes(&batch.items) {
        let alone = Batch {
            items: [batch.items[at].clone()].into(),
        };
        let outcome = match to.post(&alone).await? {
            Reply::Outcomes(known) => known.into_iter().next(),
            Reply::Refused(reason) => Some(Outcome::Permanent(reason)),
            Reply::Throttled(retry_after) => Some(Outcome::Throttled { retry_after }),
        };
        match outcome {
            Some(Outcome::Permanent(reason)) => refused.push((at, reason)),
            Some(Outcome::Acknowledged) => {
                *to.refusals() = Refusals::default();
                return Ok(deliver_rest(to, batch, refused, at).await);
            }
            Some(Outcome::Transient(reason) | Outcome::Unknown(reason)) => {
                return Err(Error::unavailable(reason));
            }
            Some(throttled @ Outcome::Throttled { .. }) => {
                return Ok(vec![throttled; batch.items.len()]);
            }
            Some(Outcome::Behind | Outcome::Paced { .. }) | None => break,
        }
    }
    to.refusals()
        .none_taken(refused, batch.items.len(), Instant::now())
}

/// The destination took the record at `taken`, and refused some before it: the
/// others go as ever.
async fn deliver_rest<P: Post + ?Sized>(
    to: &P,
    batch: &Batch,
    refused: Vec<(usize, String)>,
    taken: usize,
) -> Vec<Outcome> {
    let mut outcomes = vec![None; batch.items.len()];
    outcomes[taken] = Some(Outcome::Acknowledged);
    for (at, reason) in refused {
        outcomes[at] = Some(Outcome::Permanent(reason));
    }
    let open = batch.items.iter().zip(&outcomes);
    let open: Vec<Item> = open
        .filter(|(_, outcome)| outcome.is_none())
        .map(|(item, _)| item.clone())
        .collect();
    let rest = if open.is_empty() {
        Vec::new()
    } else {
        let rest = Batch { items: open.into() };
        to.deliver_proven(&rest)
            .await
            .unwrap_or_else(|error| vec![Outcome::Unknown(error.to_string()); rest.items.len()])
    };
    let mut rest = rest.into_iter();
    outcomes
        .into_iter()
        .map(|known| {
            known
                .or_else(|| rest.next())
                .expect("one for each that was open")
        })
        .collect()
}

/// Whether the record will never be taken.
pub(super) const fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Permanent(_))
}
