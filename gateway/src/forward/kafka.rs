//! A topic of Apache Kafka, and of what speaks its protocol.
//!
//! Each event is one record: `CloudEvents` JSON under its partition key, with its attributes
//! and the idempotency key in headers. The producer is idempotent and waits for all
//! replicas in sync: within one connection of the producer ("session") the brokers
//! themselves refuse a second copy, and keep the order of a partition.
//!
//! So what was handed to the producer stays there until a broker has answered, however
//! long that takes: when the engine hands over a batch again because no answer came in
//! time, its records are not sent anew but waited for on ([`Line::open`]). A new session
//! begins with a new start of the gateway, or when the brokers end the old one; only then
//! a record can be there twice, with the same key.
//!
//! A batch goes in rounds ([`rounds`]), so that what is behind a record that was refused
//! goes out after it is known to be.
//!
//! Where it is to be so, a batch is a transaction instead, and a new start makes no copy
//! either ([`transactional`]).

mod probing;
mod record;
mod rounds;
pub(crate) mod security;
mod session;
mod transactional;
mod verdict;

use std::{collections::HashMap, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use krafka::{
    CloseOptions, Compression, Record,
    producer::{DeliveryHandle, Producer},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use self::{record::Made, session::Patience, transactional::Transactional, verdict::Verdict};
use super::{
    ahead::Ahead,
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcomes},
    refusals::Refusals,
};
use crate::{clock::Clock, event::Key};

pub use security::{Login, Mechanism, Tls};

/// How events are produced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `HOST:PORT` of brokers that tell where the others are.
    pub brokers: Vec<String>,
    /// The topic; it must be there.
    pub topic: String,
    /// Encrypts, if it is there.
    pub tls: Option<Tls>,
    /// Who we are, if anybody asks.
    pub login: Option<Login>,
    /// The name that brokers have for us in their logs and quotas.
    pub client_id: String,
    /// How record batches are compressed.
    pub compression: Compression,
    /// Records that are worked on at once, at most.
    pub batch_records: usize,
    /// Bytes of records in a round before compression, about.
    pub batch_bytes: usize,
    /// How long a batch may wait to fill.
    pub linger: Duration,
    /// How long to wait for an answer before asking again.
    pub timeout: Duration,
    /// For connecting alone.
    pub connect_timeout: Duration,
    /// A batch is a transaction, if they are there.
    pub transactions: Option<Transactions>,
}

/// What transactions need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transactions {
    /// `transactional.id`: who we are to the brokers over all starts.
    pub id: String,
    /// The directory where what a transaction has is written down.
    pub notes: PathBuf,
}

impl Transactions {
    /// The same, by this name.
    #[must_use]
    pub(super) fn known_as(self, id: String) -> Self {
        Self { id, ..self }
    }
}

impl Config {
    /// The configured defaults, producing to `topic`.
    pub fn new(brokers: Vec<String>, topic: impl Into<String>) -> Self {
        Self {
            brokers,
            topic: topic.into(),
            tls: None,
            login: None,
            client_id: "penstock".to_owned(),
            compression: Compression::Lz4,
            batch_records: 2_000,
            batch_bytes: 900 * 1024,
            linger: Duration::ZERO,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            transactions: None,
        }
    }

    /// Bytes of a request, at most; and so of a record.
    fn request_bytes_max(&self) -> usize {
        self.batch_bytes.max(REQUEST_BYTES_MAX)
    }

    /// Why no request can hold it.
    fn too_large(&self, record: &Record) -> Option<String> {
        let (bytes, most) = (record.estimated_size(), self.request_bytes_max());
        let reason = || format!("a record of {bytes} bytes, and a request takes {most}");
        (bytes > most).then(reason)
    }

    /// The same of an event; most are so small that nobody has to look.
    fn too_large_event(&self, item: &Item) -> Option<String> {
        match record::is_smaller(item, self.request_bytes_max()) {
            true => None,
            false => self.too_large(&record::of_event(item, &self.topic)),
        }
    }

    pub(super) fn check(&self) -> Result<(), super::Error> {
        let wrong = |what: &str| Err(super::Error::Config(what.to_owned()));
        if self.brokers.is_empty() {
            return wrong("brokers: at least one address is needed");
        }
        if self.connect_timeout > self.timeout {
            return wrong("connect_timeout should be at most timeout");
        }
        Ok(())
    }
}

/// Bytes of stored records in a batch, about.
const BATCH_BYTES: usize = 1024 * 1024;
/// The producer gives nothing up: that is the engine's to decide.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long the end waits for answers.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// What a request may have where a round is smaller: one large record.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;
/// Records have the time of their sending, and retention goes by it.
const CLOCK_UNSET: &str = "the clock of this machine is not set, and the topic's retention would delete at once what it dates";

/// The Kafka destination.
#[derive(Debug)]
pub(super) struct Kafka {
    config: Config,
    clock: Arc<dyn Clock>,
    line: Mutex<Line>,
    /// Records of the next batch.
    ahead: Ahead<Vec<Record>>,
}

#[derive(Debug, Default)]
struct Line {
    producer: Option<Producer>,
    /// Records that this producer still has, and that were not answered in time.
    open: HashMap<Key, DeliveryHandle>,
    refusals: Refusals,
    patience: Patience,
}

/// What `config` asks for.
pub(super) fn destination(
    config: Config,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Destination>, super::Error> {
    config.check()?;
    Ok(match config.transactions.clone() {
        Some(transactions) => Arc::new(Transactional::new(config, transactions, clock)),
        None => Arc::new(Kafka::new(config, clock)),
    })
}

impl Kafka {
    fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        Self {
            config,
            clock,
            line: Mutex::default(),
            ahead: Ahead::default(),
        }
    }

    /// Delivers the batch; single records of it where the topic may be at fault.
    async fn deliver(&self, batch: Batch) -> Outcomes {
        if self.clock.now().is_unset() {
            return Err(Error::unavailable(CLOCK_UNSET.to_owned()));
        }
        let made = self.ahead.take(&batch).await;
        let mut made = Made::of_batch(&batch, &self.config.topic, made).await;
        let mut line = self.line.lock().await;
        let probing = line.refusals.is_probing(Instant::now())?;
        if line.producer.is_none() {
            let producer = self.connect(&mut line.patience).await?;
            line.producer = Some(producer);
        }
        // What the producer has already comes before anything else.
        if probing && line.open.is_empty() {
            return self.probe(&mut line, &batch, &mut made).await;
        }
        let verdicts = self
            .deliver_all(&mut line, &batch.items, &mut made, false)
            .await?;
        self.conclude(&mut line, verdicts).await
    }

    async fn connect(&self, patience: &mut Patience) -> Result<Producer, Error> {
        let config = &self.config;
        let begun = async {
            let client = Box::pin(session::client(config).connect()).await?;
            let settings = session::producer(&client, config).delivery_timeout(DELIVERY_TIMEOUT);
            Box::pin(settings.build()).await
        };
        // By itself the client tries to become a producer for as long as it may deliver.
        let Ok(begun) = timeout(config.timeout, Box::pin(begun)).await else {
            return Err(Error::unavailable(session::NOT_IN_TIME.to_owned()));
        };
        let connected = async {
            let producer = begun?;
            // A topic that is unknown shows here, after looking for it for `timeout`.
            Box::pin(producer.partitions_for(&config.topic)).await?;
            Ok(producer)
        };
        let producer = Box::pin(connected)
            .await
            .map_err(|error| patience.not_begun(&error))?;
        patience.begun();
        Ok(producer)
    }

    async fn conclude(&self, line: &mut Line, verdicts: Vec<Verdict>) -> Outcomes {
        if verdicts
            .iter()
            .any(|verdict| matches!(verdict, Verdict::Lost(_)))
        {
            // This session is over; the next one knows nothing of what it had.
            self.end(line).await;
        }
        let misconfigured = verdicts
            .iter()
            .find(|verdict| matches!(verdict, Verdict::Misconfigured(_)));
        if misconfigured.is_some() && line.open.is_empty() {
            // A producer that met such an error may repeat it for good, and has nothing
            // that anybody waits for.
            self.end(line).await;
        }
        if !verdicts.iter().any(Verdict::is_known) {
            if let Some(Verdict::Misconfigured(reason)) = misconfigured {
                return Err(Error::Misconfigured(reason.clone()));
            }
            if let Some(verdict) = verdicts.first() {
                return Err(Error::unavailable(verdict.reason().to_owned()));
            }
        }
        Ok(verdicts.into_iter().map(Verdict::into_outcome).collect())
    }

    async fn end(&self, line: &mut Line) {
        line.open.clear();
        if let Some(producer) = line.producer.take() {
            let within = CloseOptions::new().timeout(CLOSE_WITHIN);
            if let Err(error) = producer.close_with(within).await {
                tracing::debug!(%error, "the producer did not end in order");
            }
        }
    }
}

impl Config {
    fn limits(&self) -> Limits {
        Limits {
            batch_records: self.batch_records.max(1),
            batch_bytes: BATCH_BYTES,
            linger: self.linger,
            in_flight: 1,
        }
    }
}

impl Destination for Kafka {
    fn limits(&self) -> Limits {
        self.config.limits()
    }

    fn prepares(&self) -> bool {
        true
    }

    fn prepare(&self, batch: Batch) {
        let topic = self.config.topic.clone();
        self.ahead
            .begin(batch, move |items| record::of_events(items, &topic));
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.deliver(batch))
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let mut line = self.line.lock().await;
            self.end(&mut line).await;
        })
    }
}

#[cfg(test)]
mod tests;
