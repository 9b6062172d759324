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
//! ([`super::aws`]). With [`Order::Relaxed`] requests are filled as they come.

mod aggregate;
mod shard;
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

use super::{
    aws::{self, Account, Answer, Fault, Order, Paces, Requests, Service, TooLarge, Unit},
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcomes},
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

/// What the service answers for a record whose shard has no room.
const THROUGHPUT_EXCEEDED: &str = "ProvisionedThroughputExceededException";

/// The Kinesis destination.
#[derive(Debug)]
pub(super) struct Kinesis(Requests<Stream>);

/// The stream.
#[derive(Debug)]
struct Stream {
    config: Config,
    client: OnceCell<Client>,
    paces: Mutex<Paces>,
}

impl Kinesis {
    pub(super) fn new(config: Config) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self(Requests::new(Stream {
            config,
            client: OnceCell::new(),
            paces: Mutex::default(),
        })))
    }
}

impl Stream {
    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, of: &PutRecordsResultEntry, now: Instant) -> Answer {
        let message = of.error_message().unwrap_or_default();
        match of.error_code() {
            None => {
                let shard = of.shard_id().unwrap_or_default();
                self.paces().taken(shard, now);
                Answer::Taken
            }
            Some(code @ THROUGHPUT_EXCEEDED) => {
                let shard = shard::named_in(message).unwrap_or_default();
                let wait = self.paces().refused(shard, now);
                Answer::Paced(wait, format!("{code}: {message}"))
            }
            Some(code) => Answer::Not(Fault::Unavailable(format!("{code}: {message}"))),
        }
    }
}

impl Service for Stream {
    type Client = Client;

    fn limits(&self) -> aws::Limits {
        aws::Limits {
            records: self.config.request_records,
            bytes: self.config.request_bytes,
            // Two requests at a time come in any order, also where all of it is taken.
            in_flight: match self.config.order {
                Order::Strict => self.config.in_flight,
                Order::Relaxed => 1,
            },
            order: self.config.order,
        }
    }

    fn units(&self, items: &[Item]) -> (Vec<Unit>, TooLarge) {
        unit::of_items(items, &self.config)
    }

    fn apart(&self, unit: &Unit, items: &[Item]) -> Vec<Unit> {
        unit::apart(unit, items)
    }

    async fn client(&self) -> Result<&Client, Error> {
        let made = self.client.get_or_try_init(|| async {
            let loaded = self.config.account.load().await?;
            Ok::<_, Error>(Client::new(&loaded))
        });
        made.await
    }

    async fn put(
        &self,
        client: &Client,
        _: &[Item],
        units: &[Arc<Unit>],
    ) -> Result<Vec<Answer>, Fault> {
        let entries: Result<Vec<_>, _> = units.iter().map(|unit| entry(unit)).collect();
        let request = client.put_records().set_records(Some(entries?));
        let request = match self.config.is_arn() {
            true => request.stream_arn(&self.config.stream),
            false => request.stream_name(&self.config.stream),
        };
        let answer = Box::pin(request.send()).await;
        let answer = answer.map_err(|error| aws::fault(&error))?;
        let now = Instant::now();
        let answers = answer.records.iter();
        Ok(answers.map(|of| self.answer(of, now)).collect())
    }
}

fn entry(unit: &Unit) -> Result<PutRecordsRequestEntry, Fault> {
    PutRecordsRequestEntry::builder()
        .partition_key(&*unit.key)
        .data(Blob::new(&*unit.data))
        .build()
        .map_err(|error| Fault::Refused(error.to_string()))
}

impl Destination for Kinesis {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: self.0.service().config.batch_records.max(1),
            batch_bytes: BATCH_BYTES,
            linger: self.0.service().config.linger,
            in_flight: 1,
        }
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.0.deliver(batch))
    }

    fn prepares(&self) -> bool {
        true
    }

    fn prepare(&self, batch: Batch) {
        self.0.prepare(batch);
    }
}

#[cfg(test)]
mod tests;
