//! A destination at Amazon that takes requests of several entries, each with an answer of
//! its own.
//!
//! Promises: one outcome per event; entries of a lane never overtake one another (see
//! [`super::sending`]); a service that refuses everything costs few events.

use std::{
    collections::HashSet,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Fault, Order,
    doubt::Doubt,
    sending::Sending,
    unit::{TooLarge, Unit},
};
use crate::forward::{
    ahead::Ahead,
    batch::{Batch, Item},
    destination::{Error, Outcome, Outcomes},
    refusals::{Refusals, probes},
};

/// What a request may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::forward) struct Limits {
    /// Entries, at most.
    pub(in crate::forward) records: usize,
    /// Bytes of them that count, at most.
    pub(in crate::forward) bytes: usize,
    /// Requests without an answer, at most.
    pub(in crate::forward) in_flight: usize,
    /// Whether a request has one entry of a partition key.
    pub(in crate::forward) order: Order,
}

/// What became of one entry of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::forward) enum Answer {
    /// It is kept there.
    Taken,
    /// There is no room for its partition key for so long, and why; others go on.
    Paced(Duration, String),
    /// Why it was not taken, while others may have been.
    Not(Fault),
}

/// A service that takes such requests.
pub(in crate::forward) trait Service: Debug + Send + Sync + 'static {
    /// What speaks to it; cheap to clone.
    type Client: Clone + Send + Sync + 'static;

    /// What a request may have.
    fn limits(&self) -> Limits;

    /// Entries for a batch, in order, and the events that fit into none.
    fn units(&self, items: &[Item]) -> (Vec<Unit>, TooLarge);

    /// The events of an entry one by one, where it can have several.
    fn apart(&self, _unit: &Unit, _items: &[Item]) -> Vec<Unit> {
        Vec::new()
    }

    /// Made at the first batch: finding credentials takes time, and may fail.
    fn client(&self) -> impl Future<Output = Result<&Self::Client, Error>> + Send;

    /// Says whether what was taken of a batch is kept, where an answer alone does not.
    ///
    /// # Errors
    /// When it is not, or nobody knows: then all of the batch goes again.
    fn confirm(&self, _client: &Self::Client) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// One request. Gives an answer for each of the entries, in order.
    fn put(
        &self,
        client: &Self::Client,
        items: &[Item],
        units: &[Arc<Unit>],
    ) -> impl Future<Output = Result<Vec<Answer>, Fault>> + Send;
}

/// Entries of a batch, and the events that fit into none.
type Entries = (Vec<Unit>, TooLarge);

/// See the module.
#[derive(Debug)]
pub(in crate::forward) struct Requests<S> {
    pub(super) service: Arc<S>,
    /// Entries of the next batch.
    ahead: Ahead<Entries>,
    refusals: Mutex<Refusals>,
    /// What fails without being to blame.
    doubt: Mutex<Doubt>,
}

impl<S: Service> Requests<S> {
    pub(in crate::forward) fn new(service: S) -> Self {
        Self {
            service: Arc::new(service),
            ahead: Ahead::default(),
            refusals: Mutex::default(),
            doubt: Mutex::default(),
        }
    }

    pub(in crate::forward) fn service(&self) -> &S {
        &self.service
    }

    /// Makes the entries of what is probably the next batch.
    pub(in crate::forward) fn prepare(&self, batch: Batch) {
        let service = self.service.clone();
        self.ahead.begin(batch, move |items| service.units(items));
    }

    /// Delivers the batch; single events of it where the service may be at fault.
    pub(in crate::forward) async fn deliver(&self, batch: Batch) -> Outcomes {
        let probing = self.refusals().is_probing(Instant::now())?;
        if probing {
            return self.probe(&batch).await;
        }
        let made = match self.ahead.take(&batch).await {
            Some(made) => made,
            None => self.units(&batch).await?,
        };
        self.put_all(&batch, made, false).await
    }

    /// Puts the first event of one partition key after the other by itself. One that is
    /// taken shows that the service works, and those before it were to blame. If none is,
    /// the first one is given up, at most: good ones may be waiting behind it.
    async fn probe(&self, batch: &Batch) -> Outcomes {
        let mut outcomes = vec![None; batch.items.len()];
        let (_, too_large) = self.units(batch).await?;
        if !too_large.is_empty() {
            // They say nothing of the service.
            for (at, reason) in too_large {
                outcomes[at] = Some(Outcome::Permanent(reason));
            }
            return Ok(settled(outcomes));
        }
        let mut refused = Vec::new();
        for at in probes(&batch.items) {
            let alone = Batch {
                items: [batch.items[at].clone()].into(),
            };
            let made = self.units(&alone).await?;
            let outcome = self.put_all(&alone, made, true).await?.into_iter().next();
            match &outcome {
                Some(Outcome::Permanent(reason)) => refused.push((at, reason.clone())),
                Some(Outcome::Acknowledged) => {
                    outcomes[at] = outcome;
                    for (at, reason) in refused {
                        outcomes[at] = Some(Outcome::Permanent(reason));
                    }
                    return Ok(self.put_rest(batch, outcomes).await);
                }
                Some(Outcome::Throttled { .. }) => {
                    // It has no room for anything now, and says nothing of what was refused.
                    outcomes[at] = outcome;
                    return Ok(settled(outcomes));
                }
                _ => outcomes[at] = outcome,
            }
        }
        if refused.is_empty() {
            return Ok(settled(outcomes));
        }
        let count = batch.items.len();
        self.refusals().none_taken(refused, count, Instant::now())
    }

    /// The service took an event: those without an outcome go as ever, but for those behind
    /// one of their partition key that was not taken.
    async fn put_rest(&self, batch: &Batch, mut outcomes: Vec<Option<Outcome>>) -> Vec<Outcome> {
        let known = batch.items.iter().zip(&outcomes);
        let waits = |outcome: &Option<Outcome>| {
            let done = |known| matches!(known, &Outcome::Acknowledged | &Outcome::Permanent(_));
            outcome.as_ref().is_some_and(|known| !done(known))
        };
        let waiting: HashSet<&str> = known
            .filter(|(_, outcome)| waits(outcome))
            .map(|(item, _)| item.partition_key())
            .collect();
        for (item, outcome) in batch.items.iter().zip(&mut outcomes) {
            if outcome.is_none() && waiting.contains(item.partition_key()) {
                *outcome = Some(Outcome::Behind);
            }
        }
        let open = batch.items.iter().zip(&outcomes);
        let open: Vec<Item> = open
            .filter(|(_, outcome)| outcome.is_none())
            .map(|(item, _)| item.clone())
            .collect();
        if open.is_empty() {
            return settled(outcomes);
        }
        let rest = Batch { items: open.into() };
        let put = async {
            let made = self.units(&rest).await?;
            self.put_all(&rest, made, true).await
        };
        let rest_outcomes = match put.await {
            Ok(outcomes) => outcomes,
            Err(error) => vec![Outcome::Unknown(error.to_string()); rest.items.len()],
        };
        let places = outcomes.iter_mut().filter(|outcome| outcome.is_none());
        for (place, outcome) in places.zip(rest_outcomes) {
            *place = Some(outcome);
        }
        settled(outcomes)
    }

    /// Puts the batch. A service that is `proven` to take events, or of which single ones
    /// show it, is not found to be at fault whatever it refuses.
    async fn put_all(&self, batch: &Batch, made: Entries, proven: bool) -> Outcomes {
        let client = self.service.client().await?;
        let (units, too_large) = made;
        let outcomes = Sending::new(self, batch, units, too_large, proven)
            .run(client)
            .await?;
        if outcomes.contains(&Outcome::Acknowledged) {
            self.service.confirm(client).await?;
        }
        Ok(outcomes)
    }

    async fn units(&self, batch: &Batch) -> Result<Entries, Error> {
        let (items, service) = (batch.items.clone(), self.service.clone());
        let units = tokio::task::spawn_blocking(move || service.units(&items)).await;
        units.map_err(|error| Error::unavailable(format!("encode a batch: {error}")))
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    pub(super) fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As above.
    pub(super) fn doubt(&self) -> MutexGuard<'_, Doubt> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has no outcome comes again by itself.
fn settled(outcomes: Vec<Option<Outcome>>) -> Vec<Outcome> {
    let waits = || Outcome::Unknown("waits for another record after refusals".to_owned());
    let outcomes = outcomes.into_iter();
    outcomes
        .map(|outcome| outcome.unwrap_or_else(waits))
        .collect()
}
