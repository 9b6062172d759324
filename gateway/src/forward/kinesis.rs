//! An Amazon Kinesis data stream.
//!
//! Each event is `CloudEvents` JSON with its idempotency key inside (`eventkey`), under
//! its partition key; with `aggregate`, all events of one partition key in a batch are one
//! record in the format of Amazon's producer library. A stream cannot refuse a second
//! copy, so events arrive at least once.
//!
//! `PutRecords` promises no order among the records of one request, and takes some while it
//! refuses others. So a request has one record of each partition key at most, the next
//! one goes when that was taken, and where it was not taken those behind it wait
//! ([`sending`]). With [`Order::Relaxed`] requests are filled as they come.

mod aggregate;
mod pace;
mod sending;
mod unit;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws_sdk_kinesis::{
    Client,
    primitives::Blob,
    types::{PutRecordsRequestEntry, PutRecordsResultEntry},
};
use tokio::{sync::OnceCell, time::Instant};

use self::{
    pace::Paces,
    sending::Sending,
    unit::{TooLarge, Unit},
};
use super::{
    aws::{self, Account, Fault},
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcome, Outcomes},
    refusals::{Refusals, probes},
};

/// How events are put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The stream's name, or its ARN.
    pub stream: String,
    /// Whose it is, and where.
    pub account: Account,
    /// Put the events of one partition key in a batch together into one record.
    pub aggregate: bool,
    /// What is kept of the order.
    pub order: Order,
    /// Events that are worked on at once, at most.
    pub batch_records: usize,
    /// How long a batch may wait to fill.
    pub linger: Duration,
    /// Requests without an answer, at most.
    pub in_flight: usize,
    /// Records in a request, at most.
    pub request_records: usize,
    /// Bytes of the records in a request with their partition keys, at most.
    pub request_bytes: usize,
    /// Bytes of a record with its partition key, at most.
    pub record_bytes_max: usize,
}

/// What is kept of the order of a partition key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All of it.
    Strict,
    /// It is lost among records of one request, where some are refused.
    Relaxed,
}

impl Config {
    /// The configured defaults: what the service allows where nothing was raised.
    pub fn new(stream: impl Into<String>) -> Self {
        Self {
            stream: stream.into(),
            account: Account::default(),
            aggregate: false,
            order: Order::Strict,
            batch_records: 2_000,
            linger: Duration::from_millis(100),
            in_flight: 4,
            request_records: 500,
            request_bytes: 5 * 1024 * 1024,
            record_bytes_max: 1024 * 1024,
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        if self.record_bytes_max > self.request_bytes {
            let wrong = "record_bytes_max should be at most request_bytes";
            return Err(super::Error::Config(wrong.to_owned()));
        }
        Ok(())
    }

    fn is_arn(&self) -> bool {
        self.stream.starts_with("arn:")
    }
}

/// Bytes of stored records in a batch, about.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The Kinesis destination.
#[derive(Debug)]
pub(super) struct Kinesis {
    config: Arc<Config>,
    /// Made at the first batch: finding credentials takes time, and may fail.
    client: OnceCell<Client>,
    paces: Mutex<Paces>,
    refusals: Mutex<Refusals>,
}

impl Kinesis {
    pub(super) fn new(config: Config) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self {
            config: Arc::new(config),
            client: OnceCell::new(),
            paces: Mutex::default(),
            refusals: Mutex::default(),
        })
    }

    /// Delivers the batch; single records of it where the stream may be at fault.
    async fn deliver(&self, batch: Batch) -> Outcomes {
        let probing = self.refusals().is_probing(Instant::now())?;
        match probing {
            true => self.probe(&batch).await,
            false => self.put_all(&batch, false).await,
        }
    }

    /// Puts the first record of one partition key after the other by itself. One that is
    /// taken shows that the stream works, and those before it were to blame. If none is,
    /// the first one is given up, at most: good ones may be waiting behind it.
    async fn probe(&self, batch: &Batch) -> Outcomes {
        let mut outcomes = vec![None; batch.items.len()];
        let (_, too_large) = self.units(batch).await?;
        if !too_large.is_empty() {
            // They say nothing of the stream.
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
            let outcome = self.put_all(&alone, true).await?.into_iter().next();
            match &outcome {
                Some(Outcome::Permanent(reason)) => refused.push((at, reason.clone())),
                Some(Outcome::Acknowledged) => {
                    outcomes[at] = outcome;
                    for (at, reason) in refused {
                        outcomes[at] = Some(Outcome::Permanent(reason));
                    }
                    return Ok(self.put_rest(batch, outcomes).await);
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

    /// The stream took a record: those without an outcome go as ever.
    async fn put_rest(&self, batch: &Batch, mut outcomes: Vec<Option<Outcome>>) -> Vec<Outcome> {
        let open = batch.items.iter().zip(&outcomes);
        let open: Vec<Item> = open
            .filter(|(_, outcome)| outcome.is_none())
            .map(|(item, _)| item.clone())
            .collect();
        if open.is_empty() {
            return settled(outcomes);
        }
        let rest = Batch { items: open.into() };
        let rest = match self.put_all(&rest, true).await {
            Ok(rest) => rest,
            Err(error) => vec![Outcome::Unknown(error.to_string()); rest.items.len()],
        };
        let places = outcomes.iter_mut().filter(|outcome| outcome.is_none());
        for (place, outcome) in places.zip(rest) {
            *place = Some(outcome);
        }
        settled(outcomes)
    }

    /// Puts the batch. A stream that is `proven` to take records, or of which single ones
    /// show it, is not found to be at fault whatever it refuses.
    async fn put_all(&self, batch: &Batch, proven: bool) -> Outcomes {
        let client = self.client().await?;
        let (units, too_large) = self.units(batch).await?;
        Sending::new(self, batch, units, too_large, proven)
            .run(client)
            .await
    }

    async fn units(&self, batch: &Batch) -> Result<(Vec<Unit>, TooLarge), Error> {
        let (items, config) = (batch.items.clone(), self.config.clone());
        let units = tokio::task::spawn_blocking(move || unit::of_items(&items, &config)).await;
        units.map_err(|error| Error::unavailable(format!("encode a batch: {error}")))
    }

    async fn client(&self) -> Result<&Client, Error> {
        let made = self.client.get_or_try_init(|| async {
            let loaded = self.config.account.load().await?;
            Ok::<_, Error>(Client::new(&loaded))
        });
        made.await
    }

    /// One request. Gives an answer for each of the records.
    async fn put(
        &self,
        client: &Client,
        entries: Vec<PutRecordsRequestEntry>,
    ) -> Result<Vec<PutRecordsResultEntry>, Fault> {
        let count = entries.len();
        let request = client.put_records().set_records(Some(entries));
        let request = match self.config.is_arn() {
            true => request.stream_arn(&self.config.stream),
            false => request.stream_name(&self.config.stream),
        };
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|error| aws::fault(&error))?;
        let records = answer.records;
        match records.len() == count {
            true => Ok(records),
            false => Err(Fault::Unavailable(format!(
                "an answer about {} of {count} records",
                records.len()
            ))),
        }
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Unit {
    fn entry(&self) -> Result<PutRecordsRequestEntry, Fault> {
        PutRecordsRequestEntry::builder()
            .partition_key(&*self.key)
            .data(Blob::new(self.data.clone()))
            .build()
            .map_err(|error| Fault::Refused(error.to_string()))
    }
}

impl Destination for Kinesis {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: self.config.batch_records.max(1),
            batch_bytes: BATCH_BYTES,
            linger: self.config.linger,
            in_flight: 1,
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }
}

#[cfg(test)]
mod tests;
