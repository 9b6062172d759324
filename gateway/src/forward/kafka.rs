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
//! One batch at a time, of which each partition gets one request or few: what is behind
//! a record that was refused goes out after it is known to be.

mod record;
mod security;
mod verdict;

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures_util::FutureExt as _;
use krafka::{
    CloseOptions, Compression,
    producer::{DeliveryHandle, Producer},
};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use self::verdict::Verdict;
use super::{
    batch::{Batch, Item},
    destination::{Destination, Error, Limits, Outcomes},
};
use crate::event::Key;

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
    /// Bytes of records in a batch for one partition before compression, about.
    pub batch_bytes: usize,
    /// How long a batch may wait to fill.
    pub linger: Duration,
    /// How long to wait for an answer before asking again.
    pub timeout: Duration,
    /// For connecting alone.
    pub connect_timeout: Duration,
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
/// What the producer holds at most. A batch of large records finds room too.
const BUFFER_BYTES: usize = 64 * 1024 * 1024;
/// How long the end waits for answers.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// The Kafka destination.
#[derive(Debug)]
pub(super) struct Kafka {
    config: Config,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    producer: Option<Producer>,
    /// Records that this producer still has, and that were not answered in time.
    open: HashMap<Key, DeliveryHandle>,
}

/// A record that was handed over, or was not.
enum Sent {
    Waiting(DeliveryHandle),
    Settled(Verdict),
}

impl Kafka {
    pub(super) fn new(config: Config) -> Result<Self, super::Error> {
        config.check()?;
        Ok(Self {
            config,
            line: Mutex::default(),
        })
    }

    async fn deliver(&self, batch: Batch) -> Outcomes {
        let mut line = self.line.lock().await;
        let deadline = Instant::now() + self.config.timeout;
        let mut verdicts = self.produce(&mut line, &batch.items, deadline).await?;
        let blamed: Vec<usize> = (0..verdicts.len())
            .filter(|at| verdicts[*at].is_blame())
            .collect();
        // A batch is refused as a whole: who is to blame shows when each stands alone.
        let mut stopped = None;
        for at in blamed.into_iter().filter(|_| batch.items.len() > 1) {
            verdicts[at] = match &stopped {
                Some(reason) => Verdict::Open(String::clone(reason)),
                None => {
                    let alone = &batch.items[at..=at];
                    self.produce(&mut line, alone, deadline).await?.remove(0)
                }
            };
            if !matches!(verdicts[at], Verdict::Kept | Verdict::Blame(_)) {
                stopped.get_or_insert_with(|| verdicts[at].reason().to_owned());
            }
        }
        self.conclude(&mut line, verdicts).await
    }

    /// Hands records to the producer, but those that it has already, and waits for answers.
    async fn produce(
        &self,
        line: &mut Line,
        items: &[Item],
        deadline: Instant,
    ) -> Result<Vec<Verdict>, Error> {
        let producer = match &line.producer {
            Some(producer) => producer,
            None => line.producer.insert(self.connect().await?),
        };
        let mut sent = Vec::with_capacity(items.len());
        for item in items {
            let key = item.record().key;
            if let Some(handle) = line.open.remove(&key) {
                sent.push(Sent::Waiting(handle));
                continue;
            }
            let record = record::of_event(item, &self.config.topic);
            sent.push(match producer.enqueue(record).await {
                Ok(handle) => Sent::Waiting(handle),
                Err(error) => Sent::Settled(Verdict::of(&error)),
            });
            if matches!(sent.last(), Some(Sent::Settled(verdict)) if !verdict.is_blame()) {
                break;
            }
        }
        // Only begun: it lets nothing wait for more. The answers are waited for below.
        drop(producer.flush().now_or_never());
        let mut verdicts = Vec::with_capacity(items.len());
        for (item, sent) in items.iter().zip(sent) {
            verdicts.push(match sent {
                Sent::Settled(verdict) => verdict,
                Sent::Waiting(mut handle) => match timeout_at(deadline, &mut handle).await {
                    Ok(answer) => Verdict::of_answer(&answer),
                    Err(_) => {
                        line.open.insert(item.record().key, handle);
                        Verdict::Open("no acknowledgement in time".to_owned())
                    }
                },
            });
        }
        let why = verdicts
            .last()
            .map_or("not begun", Verdict::reason)
            .to_owned();
        verdicts.resize_with(items.len(), || Verdict::Open(why.clone()));
        Ok(verdicts)
    }

    async fn connect(&self) -> Result<Producer, Error> {
        let config = &self.config;
        let mut client = krafka::Kafka::builder(config.brokers.join(","))
            .client_id(&config.client_id)
            .request_timeout(config.timeout)
            .connect_timeout(config.connect_timeout);
        if let Some(security) = security::of(config.tls.as_ref(), config.login.as_ref()) {
            client = client.security(security);
        }
        let connected = async {
            let client = Box::pin(client.connect()).await?;
            let settings = client
                .producer()
                .compression(config.compression)
                .batch_size(config.batch_bytes)
                .max_request_size(config.batch_bytes.max(REQUEST_BYTES_MAX))
                .buffer_memory(BUFFER_BYTES)
                .delivery_timeout(DELIVERY_TIMEOUT)
                .max_block(config.timeout)
                .metrics_push(false);
            let producer = Box::pin(settings.build()).await?;
            // A topic that is not there shows here.
            Box::pin(producer.partitions_for(&config.topic)).await?;
            Ok(producer)
        };
        Box::pin(connected)
            .await
            .map_err(|error| match Verdict::of(&error) {
                Verdict::Misconfigured(reason) | Verdict::Blame(reason) => {
                    Error::Misconfigured(reason)
                }
                verdict => Error::unavailable(verdict.reason().to_owned()),
            })
    }

    async fn conclude(&self, line: &mut Line, verdicts: Vec<Verdict>) -> Outcomes {
        if verdicts
            .iter()
            .any(|verdict| matches!(verdict, Verdict::Lost(_)))
        {
            // This session is over; the next one knows nothing of what it had.
            self.end(line).await;
        }
        let first = |is: fn(&Verdict) -> bool| verdicts.iter().find(|verdict| is(verdict));
        let is_known = |verdict: &Verdict| matches!(verdict, Verdict::Kept | Verdict::Blame(_));
        if !verdicts.iter().any(is_known) {
            if let Some(Verdict::Misconfigured(reason)) =
                first(|verdict| matches!(verdict, Verdict::Misconfigured(_)))
            {
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

/// What a request may have where a batch is smaller: those of several partitions.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

impl Destination for Kafka {
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

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            let mut line = self.line.lock().await;
            self.end(&mut line).await;
        })
    }
}

#[cfg(test)]
mod tests;
